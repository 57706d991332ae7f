package import IngotErrors

// SAFETY: shapes are checked before each call, and a matrix holds (rows − 1) · stride + columns elements.

extension LinearAlgebra {
  /// The Cholesky factor of a symmetric positive definite S = L Lᵀ, in place of its lower triangle; the upper one is not read and stays.
  ///
  /// False when S is not positive definite: its contents are then undefined.
  package func cholesky<Element: MatrixElement>(_ s: Matrix<Element>) throws(IngotError) -> Bool {
    try require(s.rows == s.columns, "a Cholesky factorisation of a \(s.rows) × \(s.columns) matrix was asked for")
    guard let base = unsafe s.base, s.rows > 0 else { return true }
    let info = unsafe Element.potrf(try int32(s.rows), base, try int32(s.stride))
    if info < 0 { try check(info, "potrf") }
    return info == 0
  }

  /// Solves X S = B for each row of B, in place, given `cholesky`'s factor of S.
  package func solve<Element: MatrixElement>(_ b: Matrix<Element>, factor: Matrix<Element>) throws(IngotError) {
    try require(
      factor.rows == factor.columns && b.columns == factor.rows,
      "rows of \(b.columns) cannot be solved with a factor of \(factor.rows) × \(factor.columns)")
    guard let base = unsafe b.base, let other = unsafe factor.base, b.count > 0 else { return }
    try check(
      unsafe Element.potrs(
        try int32(factor.rows), try int32(b.rows), other, try int32(factor.stride), base, try int32(b.stride)), "potrs")
  }

  /// B ← B L⁻ᵀ, given `cholesky`'s factor L: turns the columns of B into orthonormal ones when L Lᵀ = BᵀB.
  package func divide<Element: MatrixElement>(_ b: Matrix<Element>, byTransposeOf factor: Matrix<Element>) throws(IngotError) {
    try divide(b, factor, Letter.t)
  }

  /// B ← B L⁻¹, given `cholesky`'s factor L.
  package func divide<Element: MatrixElement>(_ b: Matrix<Element>, byFactor factor: Matrix<Element>) throws(IngotError) {
    try divide(b, factor, Letter.n)
  }

  private func divide<Element: MatrixElement>(
    _ b: Matrix<Element>, _ factor: Matrix<Element>, _ transposition: CChar
  ) throws(IngotError) {
    try require(
      factor.rows == factor.columns && b.columns == factor.rows,
      "rows of \(b.columns) cannot be divided by a factor of \(factor.rows) × \(factor.columns)")
    guard let base = unsafe b.base, let other = unsafe factor.base, b.count > 0 else { return }
    // By columns Bᵀ is solved for with L or Lᵀ from the left; the memory of L holds Lᵀ in its upper triangle.
    unsafe Element.trsm(
      Letter.l, transposition, try int32(b.columns), try int32(b.rows), other, try int32(factor.stride), base, try int32(b.stride))
  }

  /// S⁻¹ in place of `cholesky`'s factor of S, both triangles filled.
  package func invert<Element: MatrixElement>(factor s: Matrix<Element>) throws(IngotError) {
    try require(s.rows == s.columns, "the inverse of a \(s.rows) × \(s.columns) matrix was asked for")
    guard let base = unsafe s.base, s.rows > 0 else { return }
    try check(unsafe Element.potri(try int32(s.rows), base, try int32(s.stride)), "potri")
    s.mirrorLowerTriangle()
  }
}
