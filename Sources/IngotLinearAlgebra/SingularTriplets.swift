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

  /// Makes values up to `floor` zero, and their vectors.
  package func clear(below floor: Double) {
    for j in 0..<values.count where values[j] <= floor {
      values[j] = 0
      left.rows(j..<j + 1).fill(0)
      right.rows(j..<j + 1).fill(0)
    }
  }
}

/// How singular triplets were found, and what is known of them.
package struct TripletReport: Sendable, Hashable {
  package enum Route: Sendable, Hashable {
    /// Eigenvectors of the f32 Gram matrix, those of small values refined in f64, and a few strong ones found by themselves.
    case single
    /// Eigenvectors of the f64 Gram matrix.
    case double
  }
  package var route: Route
  /// ‖U Uᵀ − I‖_F / √count of the kept vectors of the longer side; 0 where it is not measured.
  package var residual: Double
  /// Directions far above the others that were found apart from them.
  package var strong: Int

  package init(route: Route, residual: Double, strong: Int = 0) {
    self.route = route
    self.residual = residual
    self.strong = strong
  }
}

extension LinearAlgebra {
  /// The `left.rows` leading singular triplets of A, from the Gram matrix of the shorter side.
  ///
  /// `left` is count × m, `values` count, `right` count × n. Values up to `rangeTolerance` · σ₁ count as zero: their value and both vectors become 0.
  /// Where the spectrum is flat enough for it the Gram matrix and its eigenvectors are in f32 (`singleTriplets`), else in f64. The vectors of the
  /// longer side are A times those of the shorter, divided by the values: in f32 those of values above 1e-3 σ₁ (0.1 σ₁ where `isExact` also rules out
  /// the f32 eigensolver), in f64 the others, so that those of the least values are good to about 1e-16 (σ₁ / σ)², or f32's 6e-8. A is not changed.
  @discardableResult package func singularTriplets(
    _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double = 1e-6, isExact: Bool = false,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) -> TripletReport {
    let count = triplets.left.rows
    let (left, right, values) = (triplets.left, triplets.right, triplets.values)
    try require(
      count <= a.rank && left.columns == a.rows && right.rows == count && right.columns == a.columns && values.count == count,
      "\(count) singular triplets of a \(a.rows) × \(a.columns) matrix were asked for in \(left.rows) × \(left.columns) and \(right.rows) × \(right.columns)"
    )
    if !isExact, let report = try singleTriplets(a, into: triplets, rangeTolerance: rangeTolerance, workspace), !a.isMeasured {
      return report
    }
    try doubleTriplets(a, into: triplets, rangeTolerance: rangeTolerance, weakShare: isExact ? 0.1 : 1e-3, workspace)
    return TripletReport(route: .double, residual: 0)
  }

  private func doubleTriplets(
    _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double, weakShare: Double, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let size = a.rank
    let count = triplets.left.rows
    let values = triplets.values
    let isTall = a.rows >= a.columns
    let (near, far) = isTall ? (triplets.right, triplets.left) : (triplets.left, triplets.right)
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(size, size)
      gram.fill(0)
      try accumulateGram(widening: a, isTall ? .plain : .transposed, into: gram, workspace)
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
      let largest = count > 0 ? max(values[count - 1], 0).squareRoot() : 0
      near.copy(vectors)
      // Values ascend: the first ones are the small ones.
      var small = a.isMeasured ? count : 0
      for j in 0..<count {
        let value = values[j] > 0 ? values[j].squareRoot() : 0
        let isKept = value > rangeTolerance * largest && value > 0
        values[j] = isKept ? value : 0
        if !isKept { near.rows(j..<j + 1).fill(0) }
        if value < weakShare * largest { small = j + 1 }
      }
      // The vectors of the longer side: V Aᵀ of a tall matrix, Uᵀ A of a wide one, divided by the values.
      if small > 0 {
        let part = 0..<small
        try widened(vectors.rows(part), a, isTall: isTall, values: values.columns(part), into: far.rows(part), workspace)
      }
      let (from, to) = (near.rows(small..<count), far.rows(small..<count))
      if isTall { try multiply(from, a, .transposed, into: to) } else { try multiply(from, a, into: to) }
      for j in small..<count { far.rows(j..<j + 1).scale(by: values[j] > 0 ? Float(1 / values[j]) : 0) }
    }
  }

  /// far = diag(1 / values) vectors Aᵀ (or A of a wide matrix) in f64, in panels; rows of value 0 become 0. Without values, the products.
  func widened<Element: MatrixElement>(
    _ vectors: Matrix<Double>, _ a: Matrix<Float>, isTall: Bool, values: Matrix<Double>? = nil, into far: Matrix<Element>,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (count, size) = (vectors.rows, vectors.columns)
    let length = min(far.columns, Self.panelLength(size))
    let inverses: Matrix<Double> = try workspace.vector(count)
    if let values { for j in 0..<count where values[j] > 0 { inverses[j] = 1 / values[j] } }
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
      if values != nil { to.scaleRows(by: inverses) }
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
