internal import IngotErrors
internal import IngotLinearAlgebra

/// One adapter out of those of tasks that came one after the other: B ← B + (Bᵢ − B)/√i, and A is the last task's.
///
/// "Merge before Forget: A Single LoRA Continual Learning via Continual Merging" (Qiao and Mahdavi 2025, arXiv 2512.23017). The step 1/√i is our
/// reading of its time-aware scaling. Meant for adapters each of which was trained from the one before it.
struct ContinualMerge: LowRankMerge {
  static let method = LowRankMethod(
    name: "sequential", summary: "Tasks in order: B moves by 1/√i towards that of task i, A is the last task's", paper: "arXiv 2512.23017",
    options: [], make: { (_) throws(IngotError) in ContinualMerge() })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    try LowRankAlgebra.requireEqual(ranks, for: "sequential")
    return ranks.first ?? 1
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let result = try algebra.empty(outputs: outputs, inputs: inputs, rank: terms.first?.factors.rank ?? 1)
    result.b.fill(0)
    for (index, term) in terms.enumerated() {
      let step = 1 / Double(index + 1).squareRoot()
      result.b.scale(by: 1 - step)
      result.b.add(term.factors.b, times: step * term.coefficient)
      result.a.copy(term.factors.a)
    }
    return result
  }
}
