internal import IngotErrors

extension PolarWork {
  /// As `halley` for a matrix with a few singular values below `least` of the largest: these are lifted among the others, which changes no singular
  /// vector, and the directions of those within the tolerance, for which P has nothing, are taken out of the result. Nil where there are too many.
  ///
  /// `gram` is A's Gram matrix (lower triangle; destroyed), `factor` its Cholesky factor, `largest` a bound of its singular values.
  func halleyOfLifted(
    _ gram: Matrix<Double>, _ factor: Matrix<Double>, largest: Double, least: Double
  ) throws(IngotError) -> PolarReport? {
    try workspace.scope { () throws(IngotError) -> PolarReport? in
      let found = try workspace.directions(min(32, max(size / 8, 1)), of: a)
      let top = try largestValue(gram, found.count)
      try weakDirections(factor, into: found)
      let count = found.count
      let few = workspace.isMeasuring ? count : (0..<count).count { found.values[$0] < least * largest }
      // Directions of values below 1e-10 have no vectors on the longer side in f64.
      guard
        workspace.isMeasuring || (few < count && found.values[count - 1] >= 3 * least * largest && found.values[0] > 1e-10 * largest)
      else { return nil }
      let weak = found.part(0..<few)
      let lift = 0.1 * largest
      let start: Matrix<Float> = try workspace.matrix(a.rows, a.columns)
      start.copy(a)
      try add(weak, weights: { lift - weak.values[$0] }, to: start)
      try workspace.scope { () throws(IngotError) in
        let rows: Matrix<Double> = try workspace.matrix(few, size)
        let weights: Matrix<Double> = try workspace.vector(few)
        for k in 0..<(workspace.isMeasuring ? 0 : few) { weights[k] = max(lift * lift - weak.values[k] * weak.values[k], 0).squareRoot() }
        rows.copy(weak.near)
        rows.scaleRows(by: weights)
        try algebra.accumulateGram(rows, into: gram, beta: 1)
      }
      let rest = workspace.isMeasuring ? 1 : 0.7 * found.values[few] / largest
      guard let residual = try iterate(from: start, gram, largest: largest, least: max(rest, 1e-5), into: p) else { return nil }
      let dropped = workspace.isMeasuring ? few : (0..<few).count { weak.values[$0] <= tolerance * top }
      try add(weak.part(0..<dropped), weights: { _ in -1 }, to: p)
      let condition = workspace.isMeasuring ? 1 : top / found.values[dropped]
      return PolarReport(route: .halley, nuclearNorm: p.dot(a), rank: size - dropped, condition: condition, residual: residual)
    }
  }

  /// The directions of the least singular values, by subspace iteration with the inverse of the Gram matrix, and a step that corrects what rounding
  /// of that matrix has done to them: its residual comes from products with A itself. Those below a third of the last value are good to about 1e-6.
  private func weakDirections(_ factor: Matrix<Double>, into found: SingularDirections) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let basis: Matrix<Double> = try workspace.matrix(found.count, size)
      basis.fillStart()
      for _ in 0..<6 {
        try algebra.orthonormalise(rows: basis, workspace)
        try algebra.solve(basis, factor: factor)
      }
      let residual: Matrix<Double> = try workspace.matrix(found.count, size)
      let squares: Matrix<Double> = try workspace.vector(found.count)
      for step in 0...2 {
        try algebra.orthonormalise(rows: basis, workspace)
        try algebra.directions(of: a, in: basis, into: found, workspace)
        if step == 2 { break }
        // basis = V − (AᵀA V − V σ²) G⁻¹
        for k in 0..<found.count { squares[k] = found.values[k] * found.values[k] }
        try workspace.scope { () throws(IngotError) in
          let images: Matrix<Double> = try workspace.matrix(found.count, found.far.columns)
          images.copy(found.far)
          images.scaleRows(by: found.values)
          try algebra.widened(images, a, isTall: side == .transposed, into: residual, workspace)
        }
        basis.copy(found.near)
        basis.scaleRows(by: squares)
        residual.add(basis, times: -1)
        try algebra.solve(residual, factor: factor)
        basis.copy(found.near)
        basis.add(residual, times: -1)
      }
    }
  }

  /// σ₁ to about a hundredth, from below: Rayleigh–Ritz on `count` vectors after a few steps of subspace iteration with the Gram matrix.
  private func largestValue(_ gram: Matrix<Double>, _ count: Int) throws(IngotError) -> Double {
    try workspace.scope { () throws(IngotError) -> Double in
      let x: Matrix<Double> = try workspace.matrix(count, size)
      let y: Matrix<Double> = try workspace.matrix(count, size)
      let square: Matrix<Double> = try workspace.matrix(count, count)
      let values: Matrix<Double> = try workspace.vector(count)
      y.fillStart()
      for _ in 0..<4 {
        x.copy(y)
        try algebra.orthonormalise(rows: x, workspace)
        try algebra.multiply(x, bySymmetric: gram, into: y)
      }
      try algebra.multiply(x, y, .transposed, into: square)
      try algebra.eigen(square, values: values, workspace)
      return workspace.isMeasuring ? 1 : max(values[count - 1], 0).squareRoot()
    }
  }

  /// target += Σ weights[k] uₖ vₖᵀ.
  private func add(_ directions: SingularDirections, weights: (Int) -> Double, to target: Matrix<Float>) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let near: Matrix<Float> = try workspace.matrix(directions.count, directions.near.columns)
      let far: Matrix<Float> = try workspace.matrix(directions.count, directions.far.columns)
      near.copy(directions.near)
      far.copy(directions.far)
      for k in 0..<(workspace.isMeasuring ? 0 : directions.count) { near.rows(k..<k + 1).scale(by: Float(weights(k))) }
      let (left, right) = side == .plain ? (far, near) : (near, far)
      try algebra.multiply(left, .transposed, right, into: target, alpha: 1, beta: 1)
    }
  }
}
