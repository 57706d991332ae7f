internal import IngotErrors

/// The exact sum, brought to a smaller rank by its singular value decomposition: the best approximation of that rank. PEFT's `svd`.
///
/// The decomposition is that of a core of rank × rank (thin QR of the stacked factors); no matrix of the weight's size is made.
struct TruncatedSum: LowRankMerge {
  /// Nil: the largest rank among the inputs.
  let rule: RankRule?

  static let method = LowRankMethod(
    name: "svd", summary: "The best approximation of the sum of the changes at a given rank", paper: "", options: [.rank],
    make: { (options) throws(IngotError) in TruncatedSum(rule: options.rank) })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    max(1, (rule ?? .fixed(ranks.max() ?? 1)).bound(min(ranks.reduce(0, +), outputs, inputs)))
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let rule = rule ?? .fixed(terms.reduce(1) { max($0, $1.factors.rank) })
    return try algebra.truncated(try algebra.svd(try algebra.stacked(terms)), rule)
  }
}
