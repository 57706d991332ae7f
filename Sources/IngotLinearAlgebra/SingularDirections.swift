internal import IngotErrors

/// Some singular directions of a matrix A in f64, A vₖ = σₖ uₖ, in ascending order of the values: those far above its others, or far below.
///
/// A few of them keep f32 from all the others: differences of 16-bit weights have strong directions over a floor of rounding, and a few values
/// far below that. With these apart f32 will do for the rest. `near` holds as rows the vectors of the shorter side, `far` those of the longer one.
struct SingularDirections {
  let near: Matrix<Double>
  let far: Matrix<Double>
  let values: Matrix<Double>

  var count: Int { values.count }

  func part(_ range: Range<Int>) -> SingularDirections {
    SingularDirections(near: near.rows(range), far: far.rows(range), values: values.columns(range))
  }
}

extension MatrixWorkspace {
  func directions(_ count: Int, of a: Matrix<Float>) throws(IngotError) -> SingularDirections {
    SingularDirections(near: try matrix(count, a.rank), far: try matrix(count, max(a.rows, a.columns)), values: try vector(count))
  }
}

extension LinearAlgebra {
  /// Orthonormal rows that span those of `x`.
  func orthonormalise<Element: MatrixElement>(rows x: Matrix<Element>, _ workspace: MatrixWorkspace) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let columns: Matrix<Element> = try workspace.matrix(x.columns, x.rows)
      let r: Matrix<Element> = try workspace.matrix(x.rows, x.rows)
      columns.copyTransposed(x)
      try qr(columns, r: r, workspace)
      x.copyTransposed(columns)
    }
  }

  /// The singular directions of A within the span of the orthonormal rows of `basis`: Rayleigh–Ritz on A itself rather than on its Gram matrix.
  func directions(
    of a: Matrix<Float>, in basis: Matrix<Double>, into found: SingularDirections, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let p = basis.rows
    try workspace.scope { () throws(IngotError) in
      let images: Matrix<Double> = try workspace.matrix(p, found.far.columns)
      let square: Matrix<Double> = try workspace.matrix(p, p)
      try widened(basis, a, isTall: a.rows >= a.columns, into: images, workspace)
      try accumulateGram(images, .transposed, into: square)
      try eigen(square, values: found.values, workspace)
      try multiply(square, basis, into: found.near)
      try multiply(square, images, into: found.far)
    }
    for k in 0..<(a.isMeasured ? 0 : p) {
      let row = found.far.rows(k..<k + 1)
      found.values[k] = row.norm
      row.scale(by: found.values[k] > 0 ? 1 / found.values[k] : 0)
    }
  }

  /// The directions of the largest singular values, `found.count` at the most, by subspace iteration. The last ones have not converged: those
  /// of five times the last value are good to about 1e-8.
  func strongDirections(of a: Matrix<Float>, into found: SingularDirections, _ workspace: MatrixWorkspace) throws(IngotError) {
    let (p, isTall) = (found.count, a.rows >= a.columns)
    try workspace.scope { () throws(IngotError) in
      let basis: Matrix<Double> = try workspace.matrix(p, a.rank)
      try workspace.scope { () throws(IngotError) in
        let near: Matrix<Float> = try workspace.matrix(p, a.rank)
        let far: Matrix<Float> = try workspace.matrix(p, found.far.columns)
        near.fillStart()
        for _ in 0..<5 {
          try orthonormalise(rows: near, workspace)
          if isTall { try multiply(near, a, .transposed, into: far) } else { try multiply(near, a, into: far) }
          if isTall { try multiply(far, a, into: near) } else { try multiply(far, a, .transposed, into: near) }
        }
        basis.copy(near)
      }
      for _ in 0..<2 {
        try orthonormalise(rows: basis, workspace)
        try widened(basis, a, isTall: isTall, into: found.far, workspace)
        try widened(found.far, a, isTall: !isTall, into: basis, workspace)
      }
      try orthonormalise(rows: basis, workspace)
      try directions(of: a, in: basis, into: found, workspace)
    }
  }

  /// rest = A − Σ σₖ uₖ vₖᵀ, in f64 until it is rounded.
  func subtract(
    _ directions: SingularDirections, from a: Matrix<Float>, into rest: Matrix<Float>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let isTall = a.rows >= a.columns
    let (left, right) = isTall ? (directions.far, directions.near) : (directions.near, directions.far)
    let length = min(a.rows, Self.panelLength(a.columns))
    try workspace.scope { () throws(IngotError) in
      let panel: Matrix<Double> = try workspace.matrix(length, a.columns)
      let scaled: Matrix<Double> = try workspace.matrix(right.rows, right.columns)
      scaled.copy(right)
      scaled.scaleRows(by: directions.values)
      for start in Swift.stride(from: 0, to: a.rows, by: max(length, 1)) {
        let range = start..<min(start + length, a.rows)
        let part = panel.rows(0..<range.count)
        part.copy(a.rows(range))
        try multiply(left.columns(range), .transposed, scaled, into: part, alpha: -1, beta: 1)
        rest.rows(range).copy(part)
      }
    }
  }
}
