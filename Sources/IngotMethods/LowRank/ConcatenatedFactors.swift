internal import IngotErrors

/// All factors side by side: the exact Σ weight · scale · B A. Ranks add. PEFT's `cat`.
struct ConcatenatedFactors: LowRankMerge {
  static let method = LowRankMethod(
    name: "cat", summary: "The exact sum of the changes; ranks add", paper: "", options: [],
    make: { (_) throws(IngotError) in ConcatenatedFactors() })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int { ranks.reduce(0, +) }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    try algebra.stacked(terms)
  }
}
