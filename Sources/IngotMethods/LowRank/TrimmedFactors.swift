internal import IngotErrors
internal import IngotLinearAlgebra

/// PEFT's `ties`, `dare_linear`, `dare_ties` and `magnitude_prune`: A and B are pruned and merged each for itself, entry by entry, with the
/// weights of `linear`. The votes of `ties` are on the factors as they are, before the weights.
struct TrimmedFactors: LowRankMerge {
  let name: String
  let entries: EntryMerge

  private static func named(
    _ name: String, _ summary: String, paper: String, options: Set<LowRankOptions.Name>,
    _ make: @escaping @Sendable (LowRankOptions) -> EntryMerge
  ) -> LowRankMethod {
    LowRankMethod(
      name: name, summary: summary, paper: paper, options: options,
      make: { (options) throws(IngotError) in TrimmedFactors(name: name, entries: make(options)) })
  }

  static let ties = named(
    "ties", "TIES on the entries of the factors: keep the largest, elect signs, average those that agree", paper: "arXiv 2306.01708",
    options: [.density, .majority]
  ) {
    EntryMerge(
      prunings: [.magnitude($0.density ?? 0.5)], combination: .disjointMean($0.majority ?? .total, even: .positive))
  }

  static let dareLinear = named(
    "dare_linear", "Drop entries of the factors at random, rescale the others, and sum", paper: "arXiv 2311.03099", options: [.density]
  ) { EntryMerge(prunings: [.random(1 - ($0.density ?? 0.5))], combination: .sum) }

  static let dareTies = named(
    "dare_ties", "Drop entries of the factors at random, rescale the others, elect signs, average those that agree",
    paper: "arXiv 2311.03099", options: [.density, .majority]
  ) {
    EntryMerge(
      prunings: [.random(1 - ($0.density ?? 0.5))], combination: .disjointMean($0.majority ?? .total, even: .positive))
  }

  static let magnitudePrune = named(
    "magnitude_prune", "Keep the largest entries of the factors and sum", paper: "", options: [.density]
  ) { EntryMerge(prunings: [.magnitude($0.density ?? 0.5)], combination: .sum) }

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    try LowRankAlgebra.requireEqual(ranks, for: name)
    return ranks.first ?? 1
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let result = try algebra.empty(outputs: outputs, inputs: inputs, rank: terms.first?.factors.rank ?? 1)
    let roots = terms.map { abs($0.coefficient).squareRoot() }
    let signed = zip(terms, roots).map { $0.coefficient < 0 ? -$1 : $1 }
    try merge(terms.map(\.factors.b), roots, into: result.b, key, algebra)
    // The draws of A are others than those of B.
    try merge(terms.map(\.factors.a), signed, into: result.a, DrawKey(seed: key.seed, stream: key.stream ^ (1 << 63)), algebra)
    return result
  }

  private func merge(
    _ parts: [Matrix<Double>], _ weights: [Double], into result: Matrix<Double>, _ key: DrawKey, _ algebra: LowRankAlgebra
  ) throws(IngotError) {
    for part in parts { try algebra.requireFinite(part) }
    try algebra.workspace.scope { () throws(IngotError) in
      var copies: [Matrix<Double>] = []
      for part in parts {
        let copy: Matrix<Double> = try algebra.workspace.matrix(part.rows, part.columns)
        copy.copy(part)
        copies.append(copy)
      }
      try entries.merge(copies, weights: weights, into: result, key: key, algebra.workspace)
    }
  }
}
