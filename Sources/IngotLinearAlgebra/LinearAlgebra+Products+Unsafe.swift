package import IngotErrors

// SAFETY: shapes are checked before each call, and a matrix holds (rows − 1) · stride + columns elements.

/// Whether an operand is taken as it is or transposed.
package enum Transposition: Sendable, Hashable {
  case plain
  case transposed

  var letter: CChar { self == .plain ? Letter.n : Letter.t }
}

extension LinearAlgebra {
  /// C = alpha · A · B + beta · C.
  package func multiply<Element: MatrixElement>(
    _ a: Matrix<Element>, _ b: Matrix<Element>, into c: Matrix<Element>, alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) { try multiply(a, .plain, b, .plain, into: c, alpha: alpha, beta: beta) }

  /// C = alpha · Aᵀ · B + beta · C with `.transposed`.
  package func multiply<Element: MatrixElement>(
    _ a: Matrix<Element>, _ opA: Transposition, _ b: Matrix<Element>, into c: Matrix<Element>, alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) { try multiply(a, opA, b, .plain, into: c, alpha: alpha, beta: beta) }

  /// C = alpha · A · Bᵀ + beta · C with `.transposed`.
  package func multiply<Element: MatrixElement>(
    _ a: Matrix<Element>, _ b: Matrix<Element>, _ opB: Transposition, into c: Matrix<Element>, alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) { try multiply(a, .plain, b, opB, into: c, alpha: alpha, beta: beta) }

  /// C = alpha · op(A) · op(B) + beta · C. A beta of 0 does not read C. Operands may not share memory with C.
  package func multiply<Element: MatrixElement>(
    _ a: Matrix<Element>, _ opA: Transposition, _ b: Matrix<Element>, _ opB: Transposition, into c: Matrix<Element>,
    alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) {
    let (m, inner) = opA == .plain ? (a.rows, a.columns) : (a.columns, a.rows)
    let (other, n) = opB == .plain ? (b.rows, b.columns) : (b.columns, b.rows)
    try require(
      inner == other && c.rows == m && c.columns == n,
      "a product of \(m) × \(inner) and \(other) × \(n) was asked for in \(c.rows) × \(c.columns)")
    guard let x = unsafe a.base, let y = unsafe b.base, let z = unsafe c.base, m > 0, n > 0 else { return }
    if inner == 0 {
      if beta == 0 { c.fill(0) } else { c.scale(by: beta) }
      return
    }
    unsafe Element.gemm(
      opB.letter, opA.letter, try int32(n), try int32(m), try int32(inner), alpha, y, try int32(b.stride), x, try int32(a.stride), beta, z,
      try int32(c.stride))
  }

  /// C = B · S for a symmetric S of which only the lower triangle is read; or S · B with `.left`.
  package func multiply<Element: MatrixElement>(
    _ b: Matrix<Element>, bySymmetric s: Matrix<Element>, on side: Side = .right, into c: Matrix<Element>
  ) throws(IngotError) {
    try require(
      s.rows == s.columns && (side == .right ? b.columns : b.rows) == s.rows && b.rows == c.rows && b.columns == c.columns,
      "a product of \(b.rows) × \(b.columns) and a symmetric \(s.rows) × \(s.columns) was asked for in \(c.rows) × \(c.columns)")
    guard let x = unsafe b.base, let y = unsafe s.base, let z = unsafe c.base, b.count > 0 else { return }
    // By columns both products are transposed: the symmetric matrix changes sides.
    unsafe Element.symm(
      side == .right ? Letter.l : Letter.r, try int32(b.columns), try int32(b.rows), 1, y, try int32(s.stride), x, try int32(b.stride), 0,
      z,
      try int32(c.stride))
  }

  /// Where a factor stands in a product.
  package enum Side: Sendable, Hashable {
    case left
    case right
  }

  /// y = S x for a symmetric S of which only the lower triangle is read, and rows x and y.
  package func multiply<Element: MatrixElement>(
    symmetric s: Matrix<Element>, vector x: Matrix<Element>, into y: Matrix<Element>
  ) throws(IngotError) {
    try require(
      s.rows == s.columns && x.rows == 1 && y.rows == 1 && x.columns == s.rows && y.columns == s.rows,
      "a product of a symmetric \(s.rows) × \(s.columns) and a vector of \(x.count) was asked for in \(y.count)")
    guard let base = unsafe s.base, let from = unsafe x.base, let to = unsafe y.base, s.rows > 0 else { return }
    unsafe Element.symv(try int32(s.rows), base, try int32(s.stride), from, to)
  }

  /// C = alpha · Aᵀ A + beta · C (or A Aᵀ with `.transposed`): symmetric, both triangles filled.
  package func gram<Element: MatrixElement>(
    _ a: Matrix<Element>, _ side: Transposition = .plain, into c: Matrix<Element>, alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) {
    try accumulateGram(a, side, into: c, alpha: alpha, beta: beta)
    c.mirrorLowerTriangle()
  }

  /// As `gram`, but only the lower triangle of C is read and written: for sums over several A.
  package func accumulateGram<Element: MatrixElement>(
    _ a: Matrix<Element>, _ side: Transposition = .plain, into c: Matrix<Element>, alpha: Element = 1, beta: Element = 0
  ) throws(IngotError) {
    let (n, k) = side == .plain ? (a.columns, a.rows) : (a.rows, a.columns)
    try require(c.rows == n && c.columns == n, "a Gram matrix of \(n) × \(n) was asked for in \(c.rows) × \(c.columns)")
    guard let x = unsafe a.base, let z = unsafe c.base, n > 0 else { return }
    if k == 0 {
      if beta == 0 { c.fill(0) } else { c.scale(by: beta) }
      return
    }
    unsafe Element.syrk(
      side == .plain ? Letter.n : Letter.t, try int32(n), try int32(k), alpha, x, try int32(a.stride), beta, z, try int32(c.stride))
  }

  /// The f64 Gram matrix of an f32 matrix, widened in panels: (AᵀA, or A Aᵀ with `.transposed`), both triangles.
  package func gram(
    widening a: Matrix<Float>, _ side: Transposition = .plain, into c: Matrix<Double>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    c.fill(0)
    try accumulateGram(widening: a, side, into: c, workspace)
    c.mirrorLowerTriangle()
  }

  /// C += alpha · AᵀA (or A Aᵀ with `.transposed`) in f64, lower triangle only.
  package func accumulateGram(
    widening a: Matrix<Float>, _ side: Transposition = .plain, alpha: Double = 1, into c: Matrix<Double>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (n, k) = side == .plain ? (a.columns, a.rows) : (a.rows, a.columns)
    let length = min(k, LinearAlgebra.panelLength(n))
    try workspace.scope { () throws(IngotError) in
      // Both kinds keep the shape of `a`, so that a panel is a plain widened copy.
      let whole: Matrix<Double> = side == .plain ? try workspace.matrix(length, n) : try workspace.matrix(n, length)
      for start in Swift.stride(from: 0, to: k, by: max(length, 1)) {
        let range = start..<min(start + length, k)
        let panel = side == .plain ? whole.rows(0..<range.count) : whole.columns(0..<range.count)
        panel.copy(side == .plain ? a.rows(range) : a.columns(range))
        try accumulateGram(panel, side, into: c, alpha: alpha, beta: 1)
      }
    }
  }

  /// Rows of `width` elements that are widened to f64 at once: 4 MiB, and enough for products to run at full speed.
  static func panelLength(_ width: Int) -> Int { max(256, (1 << 19) / max(width, 1)) }
}
