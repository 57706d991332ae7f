internal import IngotErrors
internal import IngotLinearAlgebra

/// The sum of the changes after each adapter's inputs were projected off those of the adapters before it, so that no two use the same inputs.
///
/// Orthogonal Adaptation (Po et al. 2023, arXiv 2312.02432) trains adapters in disjoint parts of one orthogonal basis, so that their plain sum
/// does not interfere; that sum is `cat`. This is our rule for adapters that were not trained so: Aⱼ ← Aⱼ (I − Q Qᵀ) with Q the
/// inputs of the earlier ones. The order of the adapters matters, and the first one stays as it is.
struct OrthogonalSubspaces: LowRankMerge {
  let rule: RankRule?

  static let method = LowRankMethod(
    name: "orthogonal", summary: "The sum of the changes, each projected off the inputs that the adapters before it use",
    paper: "after arXiv 2312.02432", options: [.rank], make: { (options) throws(IngotError) in OrthogonalSubspaces(rule: options.rank) })

  /// Directions of a projected factor below this share of its norm are rounding.
  private static let tolerance = 1e-10

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    let sum = ranks.reduce(0, +)
    return max(1, rule?.bound(min(sum, outputs, inputs)) ?? sum)
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    _ = try LowRankAlgebra.shape(of: terms)
    let result = try algebra.stacked(terms)
    try algebra.requireFinite(result.a)
    let workspace = algebra.workspace
    try workspace.scope { () throws(IngotError) in
      let basis: Matrix<Double> = try workspace.matrix(result.inputs, min(result.inputs, result.rank))
      var filled = 0
      var first = 0
      for term in terms {
        let range = first..<first + term.factors.rank
        first = range.upperBound
        let part = result.a.columns(range)
        let norm = part.norm
        // The second pass takes away what the rounding of the first left.
        for _ in 0..<2 { try project(part, off: basis.columns(0..<filled), algebra) }
        filled += try extend(basis, from: filled, with: part, norm: norm, algebra)
      }
    }
    guard let rule else { return result }
    return try algebra.truncated(try algebra.svd(result), rule)
  }

  private func project(_ part: Matrix<Double>, off basis: Matrix<Double>, _ algebra: LowRankAlgebra) throws(IngotError) {
    guard basis.columns > 0 else { return }
    try algebra.workspace.scope { () throws(IngotError) in
      let coefficients: Matrix<Double> = try algebra.workspace.matrix(basis.columns, part.columns)
      try algebra.algebra.multiply(basis, .transposed, part, .plain, into: coefficients)
      try algebra.algebra.multiply(basis, .plain, coefficients, .plain, into: part, alpha: -1, beta: 1)
    }
  }

  /// Adds the directions of `part` to the basis; gives their number.
  private func extend(
    _ basis: Matrix<Double>, from filled: Int, with part: Matrix<Double>, norm: Double, _ algebra: LowRankAlgebra
  ) throws(IngotError) -> Int {
    try algebra.workspace.scope { () throws(IngotError) in
      let p = part.rank
      let copy: Matrix<Double> = try algebra.workspace.matrix(part.rows, part.columns)
      copy.copy(part)
      let (u, values, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
        try algebra.workspace.matrix(part.rows, p), try algebra.workspace.matrix(1, p), try algebra.workspace.matrix(p, part.columns)
      )
      try algebra.algebra.svd(copy, u: u, values: values, v: v, algebra.workspace)
      let room = basis.columns - filled
      let found = algebra.workspace.isMeasuring ? p : (0..<p).prefix { values[$0] > Self.tolerance * norm }.count
      let count = min(found, room)
      basis.columns(filled..<filled + count).copy(u.columns(0..<count))
      return count
    }
  }
}
