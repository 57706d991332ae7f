package import IngotErrors

// SAFETY: shapes are checked before each call, and a matrix holds (rows − 1) · stride + columns elements.

/// One half of a square matrix with its diagonal.
package enum Triangle: Sendable, Hashable {
  case lower
  case upper

  /// By columns, as LAPACK reads the memory, the halves change places.
  var letter: CChar { self == .lower ? Letter.u : Letter.l }
}

extension LinearAlgebra {
  /// The Cholesky factor of a symmetric positive definite S = L Lᵀ, in place of its lower triangle, or S = RᵀR in place of the upper one; the
  /// other triangle is not read and stays.
  ///
  /// False when S is not positive definite: its contents are then undefined.
  package func cholesky<Element: MatrixElement>(_ s: Matrix<Element>, _ triangle: Triangle = .lower) throws(IngotError) -> Bool {
    try require(s.rows == s.columns, "a Cholesky factorisation of a \(s.rows) × \(s.columns) matrix was asked for")
    guard let base = unsafe s.base, s.rows > 0 else { return true }
    let info = unsafe Element.potrf(triangle.letter, try int32(s.rows), base, try int32(s.stride))
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

  /// Solves S x = b for one row x = b, in place, given `cholesky`'s factor of S in its lower triangle, or in the upper one.
  package func solve<Element: MatrixElement>(
    vector x: Matrix<Element>, factor: Matrix<Element>, _ triangle: Triangle = .lower
  ) throws(IngotError) {
    try require(
      factor.rows == factor.columns && x.rows == 1 && x.columns == factor.rows,
      "a vector of \(x.count) cannot be solved with a factor of \(factor.rows) × \(factor.columns)")
    guard let base = unsafe x.base, let other = unsafe factor.base, x.count > 0 else { return }
    let (n, lead) = (try int32(factor.rows), try int32(factor.stride))
    let order = triangle == .lower ? [Letter.t, Letter.n] : [Letter.n, Letter.t]
    for transposition in order { unsafe Element.trsv(triangle.letter, transposition, n, other, lead, base) }
  }

  /// B ← L⁻ᵀ B, given `cholesky`'s factor L in a lower triangle, or the same R⁻¹ B with its transpose R in an upper one.
  package func divide<Element: MatrixElement>(
    _ b: Matrix<Element>, onLeftBy factor: Matrix<Element>, _ triangle: Triangle = .lower
  ) throws(IngotError) {
    try require(
      factor.rows == factor.columns && b.rows == factor.rows,
      "columns of \(b.rows) cannot be divided by a factor of \(factor.rows) × \(factor.columns)")
    guard let base = unsafe b.base, let other = unsafe factor.base, b.count > 0 else { return }
    // By columns Bᵀ is divided from the right by L, or by Rᵀ.
    unsafe Element.trsm(
      Letter.r, triangle.letter, triangle == .lower ? Letter.t : Letter.n, try int32(b.columns), try int32(b.rows), other,
      try int32(factor.stride), base, try int32(b.stride))
  }

  /// B ← B L⁻ᵀ, given `cholesky`'s factor L: turns the columns of B into orthonormal ones when L Lᵀ = BᵀB.
  /// With the transpose R in an upper triangle, B ← B R⁻¹.
  package func divide<Element: MatrixElement>(
    _ b: Matrix<Element>, byTransposeOf factor: Matrix<Element>, _ triangle: Triangle = .lower
  ) throws(IngotError) { try divide(b, factor, triangle, triangle == .lower ? Letter.t : Letter.n) }

  /// B ← B L⁻¹, given `cholesky`'s factor L.
  package func divide<Element: MatrixElement>(_ b: Matrix<Element>, byFactor factor: Matrix<Element>) throws(IngotError) {
    try divide(b, factor, .lower, Letter.n)
  }

  private func divide<Element: MatrixElement>(
    _ b: Matrix<Element>, _ factor: Matrix<Element>, _ triangle: Triangle, _ transposition: CChar
  ) throws(IngotError) {
    try require(
      factor.rows == factor.columns && b.columns == factor.rows,
      "rows of \(b.columns) cannot be divided by a factor of \(factor.rows) × \(factor.columns)")
    guard let base = unsafe b.base, let other = unsafe factor.base, b.count > 0 else { return }
    // By columns Bᵀ is solved for from the left; the memory of L holds Lᵀ in its upper triangle, that of R Rᵀ in its lower one.
    unsafe Element.trsm(
      Letter.l, triangle.letter, transposition, try int32(b.columns), try int32(b.rows), other, try int32(factor.stride), base,
      try int32(b.stride))
  }

  /// S⁻¹ in place of `cholesky`'s factor of S, both triangles filled.
  package func invert<Element: MatrixElement>(factor s: Matrix<Element>) throws(IngotError) {
    try invertLower(factor: s)
    s.mirrorLowerTriangle()
  }

  /// As `invert`, but only the lower triangle is written.
  package func invertLower<Element: MatrixElement>(factor s: Matrix<Element>) throws(IngotError) {
    try require(s.rows == s.columns, "the inverse of a \(s.rows) × \(s.columns) matrix was asked for")
    guard let base = unsafe s.base, s.rows > 0 else { return }
    try check(unsafe Element.potri(try int32(s.rows), base, try int32(s.stride)), "potri")
  }
}
