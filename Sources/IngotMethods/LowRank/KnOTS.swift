internal import IngotErrors
internal import IngotLinearAlgebra

/// "Model merging with SVD to tie the Knots" (Stoica et al. 2024, arXiv 2410.19735): the changes are brought into one basis, the left singular
/// vectors of [ΔW₁ … ΔW_T], and merged there entry by entry.
///
/// With [B₁ … B_T] = Q R and Aᵢ = Qᵢ Kᵢ the decomposition is that of the core [R₁ K₁ᵀ …], whose sides are sums of ranks; the aligned parts
/// ΣVᵢ come from it by one product each. Entries are weighted before they are pruned and elected. The published code trims over all tensors at
/// once; here each module is trimmed for itself, which is the same where nothing is trimmed (density 1, the default).
struct KnOTS: LowRankMerge {
  let name: String
  let entries: EntryMerge
  let rule: RankRule?

  private static let paper = "arXiv 2410.19735"

  static let sum = LowRankMethod(
    name: "knots", summary: "The sum of the changes in their common basis, at its numerical rank or a given one", paper: paper,
    options: [.rank],
    make: { (options) throws(IngotError) in
      KnOTS(name: "knots", entries: EntryMerge(prunings: [], combination: .sum), rule: options.rank)
    })

  static let ties = LowRankMethod(
    name: "knots_ties", summary: "TIES in the common basis of the changes", paper: paper, options: [.rank, .density],
    make: { (options) throws(IngotError) in
      KnOTS(
        name: "knots_ties",
        entries: EntryMerge(
          prunings: [.magnitude(options.density ?? 1)], combination: .disjointMean(.total, even: .majority)), rule: options.rank)
    })

  static let dareTies = LowRankMethod(
    name: "knots_dare", summary: "DARE, then TIES in the common basis of the changes", paper: paper, options: [.rank, .density, .drop],
    make: { (options) throws(IngotError) in
      KnOTS(
        name: "knots_dare",
        entries: EntryMerge(
          prunings: [.random(options.drop ?? 0.1), .magnitude(options.density ?? 1)],
          combination: .disjointMean(.total, even: .majority)), rule: options.rank)
    })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int {
    let most = min(ranks.reduce(0, +), outputs)
    return max(1, rule?.bound(min(most, inputs)) ?? most)
  }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let workspace = algebra.workspace
    let stack: Matrix<Double> = try workspace.matrix(outputs, terms.reduce(0) { $0 + $1.factors.rank })
    var first = 0
    for term in terms {
      stack.columns(first..<first + term.factors.rank).copy(term.factors.b)
      first += term.factors.rank
    }
    let left = try algebra.orthonormal(stack)
    var rights: [(q: Matrix<Double>, r: Matrix<Double>)] = []
    for term in terms { rights.append(try algebra.orthonormal(term.factors.a)) }
    let core: Matrix<Double> = try workspace.matrix(left.r.rows, rights.reduce(0) { $0 + $1.r.rows })
    first = 0
    var column = 0
    for (term, right) in zip(terms, rights) {
      let block = left.r.columns(first..<first + term.factors.rank)
      try algebra.algebra.multiply(
        block, .plain, right.r, .transposed, into: core.columns(column..<column + right.r.rows), alpha: term.coefficient)
      first += term.factors.rank
      column += right.r.rows
    }
    try algebra.requireFinite(core)
    let p = core.rank
    let (u, values, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
      try workspace.matrix(core.rows, p), try workspace.matrix(1, p), try workspace.matrix(p, core.columns)
    )
    try algebra.algebra.svd(core, u: u, values: values, v: v, workspace)
    let kept = workspace.isMeasuring ? p : max(1, RankRule.all.rank((0..<p).map { values[$0] }))
    v.scaleRows(by: values)
    let result = try algebra.empty(outputs: outputs, inputs: inputs, rank: kept)
    try algebra.algebra.multiply(left.q, .plain, u.columns(0..<kept), .plain, into: result.b)
    try workspace.scope { () throws(IngotError) in
      var parts: [Matrix<Double>] = []
      var column = 0
      for right in rights {
        let part: Matrix<Double> = try workspace.matrix(inputs, kept)
        let block = v.part(rows: 0..<kept, columns: column..<column + right.r.rows)
        try algebra.algebra.multiply(right.q, .plain, block, .transposed, into: part)
        parts.append(part)
        column += right.r.rows
      }
      try entries.merge(parts, weights: parts.map { _ in 1 }, into: result.a, key: key, workspace)
    }
    guard let rule else { return result }
    return try algebra.truncated(try algebra.svd(result), rule)
  }
}
