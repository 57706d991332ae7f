internal import IngotErrors
internal import IngotLinearAlgebra

/// B = Σ √|c| Bᵢ and A = Σ sgn(c) √|c| Aᵢ with c = weight · scale, as PEFT's `linear`.
///
/// The factors are summed, not the products: the result has cross terms Bᵢ Aⱼ. `svd` at full rank and `cat` are the sum of the products.
struct LinearFactors: LowRankMerge {
  static let method = LowRankMethod(
    name: "linear", summary: "Sum the factors, each times the root of its weight; one rank, with cross terms", paper: "", options: [],
    make: { (_) throws(IngotError) in LinearFactors() })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    try LowRankAlgebra.requireEqual(ranks, for: "linear")
    return ranks.first ?? 1
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let result = try algebra.empty(outputs: outputs, inputs: inputs, rank: terms.first?.factors.rank ?? 1)
    result.b.fill(0)
    result.a.fill(0)
    for term in terms {
      let root = abs(term.coefficient).squareRoot()
      result.b.add(term.factors.b, times: root)
      result.a.add(term.factors.a, times: term.coefficient < 0 ? -root : root)
    }
    return result
  }
}
