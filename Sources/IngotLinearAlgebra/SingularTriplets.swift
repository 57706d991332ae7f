package import IngotErrors

/// Leading singular triplets of a matrix A: A ≈ Uᵀ diag(values) V with the vectors as rows, in ascending order of the values.
package struct SingularTriplets {
  /// count × m: row j is the left vector of value j.
  package let left: Matrix<Float>
  package let values: Matrix<Double>
  /// count × n: row j is the right vector of value j.
  package let right: Matrix<Float>

  /// Some of them, in the same memory.
  package func part(_ range: Range<Int>) -> SingularTriplets {
    SingularTriplets(left: left.rows(range), values: values.columns(range), right: right.rows(range))
  }
}

extension LinearAlgebra {
  /// The `left.rows` leading singular triplets of A, from the f64 Gram matrix of the shorter side.
  ///
  /// `left` is count × m, `values` count, `right` count × n. Values up to `rangeTolerance` · σ₁ count as zero: their value and both vectors become 0.
  /// The vectors of the longer side are A times those of the shorter, divided by the values: in f32 where no kept value is below 1e-3 σ₁, else in
  /// f64, so that those of the least values are good to about 1e-16 (σ₁ / σ)², or f32's 6e-8. A is not changed.
  package func singularTriplets(
    _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double = 1e-6, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let size = a.rank
    let count = triplets.left.rows
    let (left, right, values) = (triplets.left, triplets.right, triplets.values)
    try require(
      count <= size && left.columns == a.rows && right.rows == count && right.columns == a.columns && values.count == count,
      "\(count) singular triplets of a \(a.rows) × \(a.columns) matrix were asked for in \(left.rows) × \(left.columns) and \(right.rows) × \(right.columns)"
    )
    let isTall = a.rows >= a.columns
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(size, size)
      try self.gram(widening: a, isTall ? .plain : .transposed, into: gram, workspace)
      let (near, far) = isTall ? (right, left) : (left, right)
      let vectors: Matrix<Double>
      // Below this share the eigenvectors one by one are cheaper than all of them by halving.
      if 10 * count <= size {
        let some: Matrix<Double> = try workspace.matrix(count, size)
        try topEigen(gram, values: values, vectors: some, workspace)
        vectors = some
      } else {
        let all: Matrix<Double> = try workspace.vector(size)
        try eigen(gram, values: all, workspace)
        vectors = gram.rows(size - count..<size)
        for j in 0..<count { values[j] = all[size - count + j] }
      }
      let largest = count > 0 ? values[count - 1].squareRoot() : 0
      near.copy(vectors)
      var isSpread = a.isMeasured
      for j in 0..<count {
        let value = values[j] > 0 ? values[j].squareRoot() : 0
        let isKept = value > rangeTolerance * largest && value > 0
        values[j] = isKept ? value : 0
        if !isKept {
          near.rows(j..<j + 1).fill(0)
        } else if value < 1e-3 * largest {
          isSpread = true
        }
      }
      // The vectors of the longer side: V Aᵀ of a tall matrix, Uᵀ A of a wide one, divided by the values.
      if isSpread {
        try widened(vectors, a, isTall: isTall, values: values, into: far, workspace)
      } else {
        if isTall { try multiply(near, a, .transposed, into: far) } else { try multiply(near, a, into: far) }
        for j in 0..<count { far.rows(j..<j + 1).scale(by: values[j] > 0 ? Float(1 / values[j]) : 0) }
      }
    }
  }

  /// far = diag(1 / values) vectors Aᵀ (or A of a wide matrix) in f64, in panels; rows of value 0 become 0.
  private func widened(
    _ vectors: Matrix<Double>, _ a: Matrix<Float>, isTall: Bool, values: Matrix<Double>, into far: Matrix<Float>,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (count, size) = (vectors.rows, vectors.columns)
    let length = min(far.columns, max(1, Self.panelElements / max(size, 1)))
    let inverses: Matrix<Double> = try workspace.vector(count)
    for j in 0..<count where values[j] > 0 { inverses[j] = 1 / values[j] }
    let part: Matrix<Double> = isTall ? try workspace.matrix(length, size) : try workspace.matrix(size, length)
    let product: Matrix<Double> = try workspace.matrix(count, length)
    for start in Swift.stride(from: 0, to: far.columns, by: max(length, 1)) {
      let range = start..<min(start + length, far.columns)
      let to = product.columns(0..<range.count)
      if isTall {
        let from = part.rows(0..<range.count)
        from.copy(a.rows(range))
        try multiply(vectors, from, .transposed, into: to)
      } else {
        let from = part.columns(0..<range.count)
        from.copy(a.columns(range))
        try multiply(vectors, from, into: to)
      }
      to.scaleRows(by: inverses)
      far.columns(range).copy(to)
    }
  }
}

extension MatrixWorkspace {
  /// Room for `count` triplets of an m × n matrix.
  package func triplets(_ count: Int, rows: Int, columns: Int) throws(IngotError) -> SingularTriplets {
    SingularTriplets(left: try matrix(count, rows), values: try vector(count), right: try matrix(count, columns))
  }
}
