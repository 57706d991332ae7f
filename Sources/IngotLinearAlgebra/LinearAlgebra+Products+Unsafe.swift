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
      c.scale(by: beta)
      return
    }
    unsafe Element.gemm(
      opB.letter, opA.letter, try int32(n), try int32(m), try int32(inner), alpha, y, try int32(b.stride), x, try int32(a.stride), beta, z,
      try int32(c.stride))
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
      c.scale(by: beta)
      return
    }
    unsafe Element.syrk(
      side == .plain ? Letter.n : Letter.t, try int32(n), try int32(k), alpha, x, try int32(a.stride), beta, z, try int32(c.stride))
  }

  /// The f64 Gram matrix of an f32 matrix, widened in panels of at most 4 MiB: (AᵀA, or A Aᵀ with `.transposed`), both triangles.
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
    let length = min(k, max(1, LinearAlgebra.panelElements / max(n, 1)))
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

  /// Elements of a panel that is widened to f64 at once.
  static var panelElements: Int { 1 << 19 }
}
