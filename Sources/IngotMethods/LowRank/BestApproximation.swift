package import IngotErrors
package import IngotLinearAlgebra
internal import IngotTensors

/// The best approximation of low rank of a whole matrix, by the Gram matrix of its shorter side or by random projection.
///
/// *exact*: the eigenvectors of Δᵀ Δ (or Δ Δᵀ) in f64. Directions below 2⁻²⁴ of the largest are rounding of f32 and are left out.
/// *projected* (Halko, Martinsson and Tropp 2011, arXiv 0909.4061): Δ Ω with 16 columns more than the rank, two power steps with a QR
/// factorisation at each half. Its error is above the best one by 1 to 2 % for flat spectra and by much less for falling ones. Ω is uniform on
/// (−1, 1) by Philox, keyed by seed and module.
package struct BestApproximation {
  package struct Result {
    /// √σ in both factors.
    package var factors: LowRank
    /// ‖Δ − B Aᵀ‖ / ‖Δ‖; nil for Δ = 0.
    package var error: Double?
    /// ‖B Aᵀ‖.
    package var norm: Double
  }

  /// Columns beyond the rank, and power steps.
  private static let (oversampling, powerSteps) = (16, 2)
  /// A shorter side up to which the exact way is quick anyway.
  private static let smallSide = 256
  /// Rows of a matrix that are widened to f64 at once.
  private static let panelElements = 1 << 19
  private static let precision = 0x1p-24

  /// Which singular values count, and the most that rules other than a fixed rank keep.
  package let rule: RankRule
  package let cap: Int
  package let isExact: Bool

  package init(rule: RankRule, cap: Int, isExact: Bool) {
    self.rule = rule
    self.cap = cap
    self.isExact = isExact
  }

  /// The most that the rank can be.
  package func bound(rows: Int, columns: Int) -> Int {
    let most = rule.bound(min(rows, columns))
    if case .fixed = rule { return max(1, most) }
    return max(1, min(most, cap))
  }

  /// Approximates `delta`, which stays as it is.
  package func factor(_ delta: Matrix<Float>, key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> Result {
    let count = bound(rows: delta.rows, columns: delta.columns)
    let width = count + Self.oversampling
    let isSmall = delta.rank <= Self.smallSide || 3 * width >= delta.rank
    let total = delta.dot(delta)
    guard total.isFinite else { throw IngotError(.nonFinite, "the difference has values that are NaN or infinite") }
    let result = try algebra.empty(outputs: delta.rows, inputs: delta.columns, rank: count)
    let values =
      isExact || isSmall
      ? try exact(delta, into: result, algebra) : try projected(delta, into: result, width: width, key, algebra)
    let rank = algebra.workspace.isMeasuring ? count : min(count, rule.rank(values, total: total, precision: Self.precision))
    let kept = LowRank(b: result.b.columns(0..<max(rank, 1)), a: result.a.columns(0..<max(rank, 1)))
    if rank == 0 {
      kept.b.fill(0)
      kept.a.fill(0)
    }
    let square = values.prefix(rank).reduce(0) { $0 + $1 * $1 }
    // Singular values and the sum of the squares are known to about 1e-7 of the largest.
    let share = total > 0 ? max(0, total - square) / total : 0
    return Result(factors: kept, error: total > 0 ? (share < 1e-12 ? 0 : share.squareRoot()) : nil, norm: square.squareRoot())
  }

  // MARK: Exact

  /// Fills the factors and gives the singular values, descending.
  private func exact(_ delta: Matrix<Float>, into result: LowRank, _ low: LowRankAlgebra) throws(IngotError) -> [Double] {
    let isTall = delta.rows >= delta.columns
    let side = delta.rank
    let count = result.rank
    let (workspace, algebra) = (low.workspace, low.algebra)
    return try workspace.scope { () throws(IngotError) in
      let vectors: Matrix<Double> = try workspace.matrix(count, side)
      let squares: Matrix<Double> = try workspace.matrix(1, count)
      try workspace.scope { () throws(IngotError) in
        let gram: Matrix<Double> = try workspace.matrix(side, side)
        try algebra.gram(widening: delta, isTall ? .plain : .transposed, into: gram, workspace)
        if workspace.isMeasuring || gram.dot(gram) > 0 {
          try algebra.topEigen(gram, values: squares, vectors: vectors, workspace)
        } else {
          squares.fill(0)
          vectors.fill(0)
        }
      }
      // Ascending there, descending here.
      let values = (0..<count).map { max(0, squares[count - 1 - $0]).squareRoot() }
      let (near, far) = isTall ? (result.a, result.b) : (result.b, result.a)
      for index in 0..<count { near.columns(index..<index + 1).copyTransposed(vectors.rows(count - 1 - index..<count - index)) }
      try product(delta, near, into: far, isTall: isTall, low)
      let (roots, inverses): (Matrix<Double>, Matrix<Double>) = (try workspace.vector(count), try workspace.vector(count))
      for index in 0..<count {
        let root = values[index].squareRoot()
        roots[index] = root
        inverses[index] = root > 0 ? 1 / root : 0
      }
      near.scaleColumns(by: roots)
      far.scaleColumns(by: inverses)
      return values
    }
  }

  /// far = Δ near, or Δᵀ near, in f64, a panel of rows at a time.
  private func product(
    _ delta: Matrix<Float>, _ near: Matrix<Double>, into far: Matrix<Double>, isTall: Bool, _ low: LowRankAlgebra
  ) throws(IngotError) {
    try low.workspace.scope { () throws(IngotError) in
      let length = max(1, min(delta.rows, Self.panelElements / max(delta.columns, 1)))
      let panel: Matrix<Double> = try low.workspace.matrix(length, delta.columns)
      if !isTall { far.fill(0) }
      for start in stride(from: 0, to: delta.rows, by: length) {
        let range = start..<min(start + length, delta.rows)
        let part = panel.rows(0..<range.count)
        part.copy(delta.rows(range))
        if isTall {
          try low.algebra.multiply(part, .plain, near, .plain, into: far.rows(range))
        } else {
          try low.algebra.multiply(part, .transposed, near.rows(range), .plain, into: far, beta: 1)
        }
      }
    }
  }

  // MARK: Projected

  private func projected(
    _ delta: Matrix<Float>, into result: LowRank, width: Int, _ key: DrawKey, _ low: LowRankAlgebra
  ) throws(IngotError) -> [Double] {
    let (workspace, algebra) = (low.workspace, low.algebra)
    return try workspace.scope { () throws(IngotError) in
      let left: Matrix<Float> = try workspace.matrix(delta.rows, width)
      let right: Matrix<Float> = try workspace.matrix(delta.columns, width)
      let r: Matrix<Float> = try workspace.matrix(width, width)
      Self.draw(right, key)
      try algebra.multiply(delta, .plain, right, .plain, into: left)
      for _ in 0..<Self.powerSteps {
        try algebra.qr(left, r: r, workspace)
        try algebra.multiply(delta, .transposed, left, .plain, into: right)
        try algebra.qr(right, r: r, workspace)
        try algebra.multiply(delta, .plain, right, .plain, into: left)
      }
      try algebra.qr(left, r: r, workspace)
      try algebra.multiply(delta, .transposed, left, .plain, into: right)
      // Δ ≈ Q (Δᵀ Q)ᵀ.
      let whole = try low.empty(outputs: delta.rows, inputs: delta.columns, rank: width)
      whole.b.copy(left)
      whole.a.copy(right)
      let found = try low.svd(whole)
      let kept = try low.truncated(found, .fixed(result.rank))
      result.b.fill(0)
      result.a.fill(0)
      result.b.copy(kept.b)
      result.a.copy(kept.a)
      return (0..<result.rank).map { found.values[$0] }
    }
  }

  private static func draw(_ matrix: Matrix<Float>, _ key: DrawKey) {
    let seed = (UInt32(truncatingIfNeeded: key.seed), UInt32(truncatingIfNeeded: key.seed >> 32))
    let stream = (UInt32(truncatingIfNeeded: key.stream), UInt32(truncatingIfNeeded: key.stream >> 32))
    unsafe matrix.withElements { values in
      for first in stride(from: 0, to: values.count, by: 4) {
        let block = UInt64(first / 4)
        let words = Philox.block(
          counter: (UInt32(truncatingIfNeeded: block), UInt32(truncatingIfNeeded: block >> 32), stream.0, stream.1), key: seed)
        func put(_ offset: Int, _ word: UInt32) {
          // SAFETY: checked against the count. The upper 24 bits are what f32 holds.
          if first + offset < values.count { unsafe values[first + offset] = (Float(word >> 8) + 0.5) * 0x1p-23 - 1 }
        }
        put(0, words.0)
        put(1, words.1)
        put(2, words.2)
        put(3, words.3)
      }
    }
  }
}
