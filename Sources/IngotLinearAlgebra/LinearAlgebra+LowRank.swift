package import IngotErrors

extension LinearAlgebra {
  /// The thin SVD of Δ = B A from its factors alone, without forming Δ: B is m × ρ, A is ρ × n, ρ ≤ min(m, n).
  ///
  /// B = Q R and Aᵀ = K T by thin QR; the SVD of the ρ × ρ core R Tᵀ gives Δ = (Q Û) diag(values) (V̂ Kᵀ). `u` is m × ρ, `values` ρ descending, `v`
  /// ρ × n. Cost 4 (m + n) ρ² + O(ρ³). For a sum of low-rank matrices stack their factors: the ranks add. B and A are not changed.
  package func lowRankSVD<Element: MatrixElement>(
    _ b: Matrix<Element>, _ a: Matrix<Element>, u: Matrix<Element>, values: Matrix<Element>, v: Matrix<Element>,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (m, n, rank) = (b.rows, a.columns, b.columns)
    try require(a.rows == rank, "factors of \(m) × \(rank) and \(a.rows) × \(n) have no product")
    try require(rank <= min(m, n), "factors of rank \(rank) are no low-rank form of a \(m) × \(n) matrix")
    try require(
      u.rows == m && u.columns == rank && values.count == rank && v.rows == rank && v.columns == n,
      "the SVD of a \(m) × \(n) matrix of rank \(rank) was asked for with factors of \(u.rows) × \(u.columns) and \(v.rows) × \(v.columns)")
    try workspace.scope { () throws(IngotError) in
      let q: Matrix<Element> = try workspace.matrix(m, rank)
      let k: Matrix<Element> = try workspace.matrix(n, rank)
      let r: Matrix<Element> = try workspace.matrix(rank, rank)
      let t: Matrix<Element> = try workspace.matrix(rank, rank)
      let core: Matrix<Element> = try workspace.matrix(rank, rank)
      q.copy(b)
      k.copyTransposed(a)
      try qr(q, r: r, workspace)
      try qr(k, r: t, workspace)
      try multiply(r, t, .transposed, into: core)
      // r and t have done their work and take the factors of the core.
      try svd(core, u: r, values: values, v: t, workspace)
      try multiply(q, r, into: u)
      try multiply(t, k, .transposed, into: v)
    }
  }
}
