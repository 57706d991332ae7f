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
  /// The vectors of the longer side are divided by the values, so those of value σ carry an error of 6e-8 σ₁ / σ; in a product with the
  /// values that is 6e-8 σ₁. A is not changed.
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
      // Below this share the eigenvectors one by one are cheaper than all of them by halving.
      if 10 * count <= size {
        let some: Matrix<Double> = try workspace.matrix(count, size)
        try topEigen(gram, values: values, vectors: some, workspace)
        near.copy(some)
      } else {
        let all: Matrix<Double> = try workspace.vector(size)
        try eigen(gram, values: all, workspace)
        near.copy(gram.rows(size - count..<size))
        for j in 0..<count { values[j] = all[size - count + j] }
      }
      let largest = count > 0 ? values[count - 1].squareRoot() : 0
      // The vectors of the longer side: V Aᵀ of a tall matrix, Uᵀ A of a wide one, divided by the values.
      if isTall { try multiply(near, a, .transposed, into: far) } else { try multiply(near, a, into: far) }
      for j in 0..<count {
        let value = values[j] > 0 ? values[j].squareRoot() : 0
        let isKept = value > rangeTolerance * largest && value > 0
        values[j] = isKept ? value : 0
        far.rows(j..<j + 1).scale(by: isKept ? Float(1 / value) : 0)
        if !isKept { near.rows(j..<j + 1).fill(0) }
      }
    }
  }
}

extension MatrixWorkspace {
  /// Room for `count` triplets of an m × n matrix.
  package func triplets(_ count: Int, rows: Int, columns: Int) throws(IngotError) -> SingularTriplets {
    SingularTriplets(left: try matrix(count, rows), values: try vector(count), right: try matrix(count, columns))
  }
}
