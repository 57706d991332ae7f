package import IngotErrors
package import IngotLinearAlgebra

/// A matrix of low rank as a product: ΔW = B Aᵀ with B of one row per output and A of one row per input; both have a column for each unit.
///
/// A PEFT adapter's lora_B is B, its lora_A is Aᵀ. It borrows a workspace.
package struct LowRank {
  /// outputs × rank.
  package let b: Matrix<Double>
  /// inputs × rank.
  package let a: Matrix<Double>

  package init(b: Matrix<Double>, a: Matrix<Double>) {
    self.b = b
    self.a = a
  }

  package var outputs: Int { b.rows }
  package var inputs: Int { a.rows }
  package var rank: Int { min(b.columns, a.columns) }
}

/// One adapter's part of a merge: its factors, and weight · scale, the coefficient of its change in an exact sum.
package struct LowRankTerm {
  package let factors: LowRank
  package let weight: Double
  package let scale: Double
  package var coefficient: Double { weight * scale }

  package init(_ factors: LowRank, weight: Double, scale: Double) {
    self.factors = factors
    self.weight = weight
    self.scale = scale
  }
}

/// The singular value decomposition of a low-rank matrix: U diag(values) Vᵀ with orthonormal columns in U (outputs × p) and V (inputs × p).
package struct LowRankSVD {
  package let u: Matrix<Double>
  /// Descending.
  package let values: Matrix<Double>
  package let v: Matrix<Double>
}

/// How many singular triplets are kept.
package enum RankRule: Sendable, Hashable {
  case fixed(Int)
  /// The least rank that keeps this share of the sum of the squares, 0 < share ≤ 1.
  case energy(Double)
  /// The least rank whose remainder has a spectral norm of at most this share of the whole's, 0 ≤ share < 1.
  case spectral(Double)
  case all

  /// The rank for singular values in descending order. `total` is the sum of all squares where more values exist than are given. Values below
  /// `precision` of the largest are not there.
  package func rank(_ values: [Double], total: Double? = nil, precision: Double? = nil) -> Int {
    let floor = (values.first ?? 0) * (precision ?? Double(max(values.count, 1)) * 0x1p-52)
    let present = values.prefix { $0 > floor }.count
    switch self {
    case .all: return present
    case .fixed(let rank): return min(rank, present)
    case .energy(let share):
      let wanted = share * (total ?? values.reduce(0) { $0 + $1 * $1 })
      var sum = 0.0
      for (index, value) in values.prefix(present).enumerated() {
        sum += value * value
        if sum >= wanted { return index + 1 }
      }
      return present
    case .spectral(let share):
      let limit = share * (values.first ?? 0)
      return values.prefix(present).prefix { $0 > limit }.count
    }
  }

  /// The most that `rank` can give for a matrix of at most this rank.
  package func bound(_ most: Int) -> Int {
    if case .fixed(let rank) = self { return min(rank, most) }
    return most
  }
}

/// The algebra of low-rank products. Nothing here makes a matrix of outputs × inputs.
///
/// Costs are of the order (outputs + inputs) · rank². Every matrix comes from `workspace`; results live in it too, so callers open the scope.
/// Thread rule: as `LinearAlgebra` and `MatrixWorkspace`.
package struct LowRankAlgebra {
  package let algebra: LinearAlgebra
  package let workspace: MatrixWorkspace

  package init(_ algebra: LinearAlgebra, _ workspace: MatrixWorkspace) {
    self.algebra = algebra
    self.workspace = workspace
  }

  package func empty(outputs: Int, inputs: Int, rank: Int) throws(IngotError) -> LowRank {
    LowRank(b: try workspace.matrix(outputs, rank), a: try workspace.matrix(inputs, rank))
  }

  /// Σ coefficient · B Aᵀ exactly, as the factors side by side: ranks add. The coefficients go into A.
  package func stacked(_ terms: [LowRankTerm]) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try Self.shape(of: terms)
    let result = try empty(outputs: outputs, inputs: inputs, rank: terms.reduce(0) { $0 + $1.factors.rank })
    var first = 0
    for term in terms {
      let range = first..<first + term.factors.rank
      result.b.columns(range).copy(term.factors.b)
      let part = result.a.columns(range)
      part.copy(term.factors.a)
      part.scale(by: term.coefficient)
      first = range.upperBound
    }
    return result
  }

  /// Throws `.shape` unless all terms have one shape and there is one.
  package static func shape(of terms: [LowRankTerm]) throws(IngotError) -> (outputs: Int, inputs: Int) {
    guard let first = terms.first?.factors else { throw IngotError(.shape, "nothing to combine") }
    for term in terms where term.factors.outputs != first.outputs || term.factors.inputs != first.inputs {
      throw IngotError(
        .shape,
        "the adapters change a weight of [\(first.outputs), \(first.inputs)] and one of [\(term.factors.outputs), \(term.factors.inputs)]",
        hint: "are these adapters of one model?")
    }
    return (first.outputs, first.inputs)
  }

  /// X = Q R with orthonormal columns in Q and p = min(rows, columns). X stays as it is.
  package func orthonormal(_ x: Matrix<Double>) throws(IngotError) -> (q: Matrix<Double>, r: Matrix<Double>) {
    guard x.rows >= x.columns else {
      let identity: Matrix<Double> = try workspace.matrix(x.rows, x.rows)
      identity.fill(0)
      identity.addToDiagonal(1)
      return (identity, x)
    }
    let q: Matrix<Double> = try workspace.matrix(x.rows, x.columns)
    q.copy(x)
    let r: Matrix<Double> = try workspace.matrix(x.columns, x.columns)
    try algebra.qr(q, r: r, workspace)
    return (q, r)
  }

  /// The SVD by thin QR factorisations of both factors and an SVD of the core R_B R_Aᵀ, which is rank × rank.
  package func svd(_ product: LowRank) throws(IngotError) -> LowRankSVD {
    let left = try orthonormal(product.b)
    let right = try orthonormal(product.a)
    let core: Matrix<Double> = try workspace.matrix(left.r.rows, right.r.rows)
    try algebra.multiply(left.r, .plain, right.r, .transposed, into: core)
    let p = core.rank
    let (u, values, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
      try workspace.matrix(core.rows, p), try workspace.matrix(1, p), try workspace.matrix(p, core.columns)
    )
    try requireFinite(core)
    try algebra.svd(core, u: u, values: values, v: v, workspace)
    let whole: LowRankSVD = .init(
      u: try workspace.matrix(product.outputs, p), values: values, v: try workspace.matrix(product.inputs, p))
    try algebra.multiply(left.q, .plain, u, .plain, into: whole.u)
    try algebra.multiply(right.q, .plain, v, .transposed, into: whole.v)
    return whole
  }

  /// The singular values alone, descending.
  package func spectrum(_ product: LowRank) throws(IngotError) -> [Double] {
    try workspace.scope { () throws(IngotError) in
      let values = try svd(product).values
      return (0..<values.count).map { values[$0] }
    }
  }

  /// ‖B Aᵀ‖ by tr((BᵀB)(AᵀA)): the Frobenius norm.
  package func norm(_ product: LowRank) throws(IngotError) -> Double {
    try workspace.scope { () throws(IngotError) in max(0, try inner(product, product)).squareRoot() }
  }

  /// ⟨B Aᵀ, D Cᵀ⟩ by Σ (BᵀD) ∘ (AᵀC).
  package func inner(_ x: LowRank, _ y: LowRank) throws(IngotError) -> Double {
    try workspace.scope { () throws(IngotError) in
      let left: Matrix<Double> = try workspace.matrix(x.rank, y.rank)
      let right: Matrix<Double> = try workspace.matrix(x.rank, y.rank)
      try algebra.multiply(x.b, .transposed, y.b, .plain, into: left)
      try algebra.multiply(x.a, .transposed, y.a, .plain, into: right)
      return left.dot(right)
    }
  }

  /// The best approximation of the rank that `rule` gives, with √σ in both factors. `total` as in `RankRule.rank`.
  ///
  /// A rank of 0 (nothing is changed) becomes 1, of zeros.
  package func truncated(_ decomposition: LowRankSVD, _ rule: RankRule) throws(IngotError) -> LowRank {
    let values = (0..<decomposition.values.count).map { decomposition.values[$0] }
    let rank = workspace.isMeasuring ? rule.bound(values.count) : rule.rank(values)
    let result = try empty(outputs: decomposition.u.rows, inputs: decomposition.v.rows, rank: max(rank, 1))
    result.b.copy(decomposition.u)
    result.a.copy(decomposition.v)
    let roots: Matrix<Double> = try workspace.vector(max(rank, 1))
    for index in 0..<rank { roots[index] = values[index].squareRoot() }
    result.b.scaleColumns(by: roots)
    result.a.scaleColumns(by: roots)
    return result
  }

  func requireFinite(_ x: Matrix<Double>) throws(IngotError) {
    guard x.isFinite else {
      throw IngotError(.nonFinite, "the factors have values that are NaN, infinite or too large to multiply")
    }
  }
}
