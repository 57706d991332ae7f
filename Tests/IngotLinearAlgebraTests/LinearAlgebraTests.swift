import IngotErrors
import IngotLinearAlgebra
import Testing

/// Every operation against plain loops, by rows, with strides, in both types.
@Suite struct LinearAlgebraTests {
  let algebra: LinearAlgebra
  let workspace: MatrixWorkspace

  init() throws {
    algebra = try LinearAlgebra.load()
    workspace = try MatrixWorkspace(capacity: 64 << 20)
  }

  private func products<Element: MatrixElement>(_ type: Element.Type, tolerance: Double) throws {
    for opA in [Transposition.plain, .transposed] {
      for opB in [Transposition.plain, .transposed] {
        let wideA: Matrix<Element> = opA == .plain ? try workspace.random(5, 9, seed: 1) : try workspace.random(7, 9, seed: 1)
        let wideB: Matrix<Element> = opB == .plain ? try workspace.random(7, 8, seed: 2) : try workspace.random(4, 8, seed: 2)
        let a = opA == .plain ? wideA.columns(1..<8) : wideA.columns(2..<7)
        let b = opB == .plain ? wideB.columns(3..<7) : wideB.columns(1..<8)
        let c: Matrix<Element> = try workspace.random(5, 4, seed: 3)
        let before: Matrix<Element> = try workspace.matrix(5, 4)
        before.copy(c)
        try algebra.multiply(a, opA, b, opB, into: c, alpha: 2, beta: 0.5)
        for i in 0..<5 {
          for j in 0..<4 {
            #expect(abs(Double(c[i, j]) - 2 * a.product(opA, b, opB, i, j) - 0.5 * Double(before[i, j])) < tolerance)
          }
        }
      }
    }
  }

  @Test func productsOfEveryTransposition() throws {
    try products(Float.self, tolerance: 1e-4)
    try products(Double.self, tolerance: 1e-12)
  }

  /// A product over no elements is zero, whatever lay in its place.
  @Test func productsOverNothing() throws {
    let c: Matrix<Float> = try workspace.matrix(3, 4)
    let (a, b): (Matrix<Float>, Matrix<Float>) = (try workspace.matrix(3, 0), try workspace.matrix(0, 4))
    c.fill(.nan)
    try algebra.multiply(a, b, into: c)
    #expect(c.norm == 0)
    c.fill(1)
    try algebra.multiply(a, b, into: c, beta: 2)
    #expect(c[2, 3] == 2)
    let square: Matrix<Float> = try workspace.matrix(3, 3)
    square.fill(.nan)
    try algebra.gram(a, .transposed, into: square)
    #expect(square.norm == 0)
  }

  @Test func gramMatricesAreSymmetricAndWidenInPanels() throws {
    let wide: Matrix<Double> = try workspace.random(6, 11, seed: 4)
    let a = wide.columns(2..<9)
    for side in [Transposition.plain, .transposed] {
      let n = side == .plain ? 7 : 6
      let gram: Matrix<Double> = try workspace.matrix(n, n)
      try algebra.gram(a, side, into: gram)
      let other: Transposition = side == .plain ? .transposed : .plain
      for i in 0..<n { for j in 0..<n { #expect(abs(gram[i, j] - a.product(other, a, side, i, j)) < 1e-12) } }
      // More elements than one panel holds.
      let long: Matrix<Float> = side == .plain ? try workspace.random(60_000, 12, seed: 5) : try workspace.random(12, 60_000, seed: 5)
      let widened: Matrix<Double> = try workspace.matrix(12, 12)
      try algebra.gram(widening: long, side, into: widened, workspace)
      let check: Matrix<Double> = try workspace.matrix(long.rows, long.columns)
      check.copy(long)
      let direct: Matrix<Double> = try workspace.matrix(12, 12)
      try algebra.gram(check, side, into: direct)
      #expect(widened.relativeDistance(direct) < 1e-13)
    }
  }

  @Test func choleskySolvesAndInverts() throws {
    let a: Matrix<Double> = try workspace.random(20, 6, seed: 6)
    let s: Matrix<Double> = try workspace.matrix(6, 6)
    try algebra.gram(a, into: s)
    let factor: Matrix<Double> = try workspace.matrix(6, 6)
    factor.copy(s)
    #expect(try algebra.cholesky(factor))
    for i in 0..<6 {
      for j in 0...i { #expect(abs((0...j).reduce(0.0) { $0 + factor[i, $1] * factor[j, $1] } - s[i, j]) < 1e-10) }
    }
    let x: Matrix<Double> = try workspace.random(3, 6, seed: 7)
    let b: Matrix<Double> = try workspace.matrix(3, 6)
    try algebra.multiply(x, s, into: b)
    try algebra.solve(b, factor: factor)
    #expect(b.distance(x) < 1e-10)
    // The columns of A L⁻ᵀ are orthonormal.
    let q: Matrix<Double> = try workspace.matrix(20, 6)
    q.copy(a)
    try algebra.divide(q, byTransposeOf: factor)
    let unit: Matrix<Double> = try workspace.matrix(6, 6)
    try algebra.gram(q, into: unit)
    unit.addToDiagonal(-1)
    #expect(unit.norm < 1e-12)
    // A L⁻ᵀ L⁻¹ = A S⁻¹.
    try algebra.divide(q, byFactor: factor)
    try algebra.invert(factor: factor)
    let solved: Matrix<Double> = try workspace.matrix(20, 6)
    try algebra.multiply(a, factor, into: solved)
    #expect(solved.distance(q) < 1e-11)
    #expect(factor[1, 4] == factor[4, 1])
  }

  @Test func oneTriangleIsEnough() throws {
    let a: Matrix<Double> = try workspace.random(20, 7, seed: 13)
    let s: Matrix<Double> = try workspace.matrix(7, 7)
    try algebra.gram(a, into: s)
    // Nothing may be read of the other half.
    let lower: Matrix<Double> = try workspace.matrix(7, 7)
    let upper: Matrix<Double> = try workspace.matrix(7, 7)
    for i in 0..<7 {
      for j in 0..<7 {
        lower[i, j] = j <= i ? s[i, j] : .nan
        upper[i, j] = j >= i ? s[i, j] : .nan
      }
    }
    let (trace, squares) = lower.lowerMoments
    #expect(abs(trace - (0..<7).reduce(0) { $0 + s[$1, $1] }) < 1e-12 && abs(squares - s.dot(s)) < 1e-9)
    let wide: Matrix<Double> = try workspace.random(3, 7, seed: 14)
    let tall: Matrix<Double> = try workspace.random(7, 3, seed: 15)
    let product: Matrix<Double> = try workspace.matrix(3, 7)
    try algebra.multiply(wide, bySymmetric: lower, into: product)
    let other: Matrix<Double> = try workspace.matrix(7, 3)
    try algebra.multiply(tall, bySymmetric: lower, on: .left, into: other)
    let x: Matrix<Double> = try workspace.random(1, 7, seed: 16)
    let y: Matrix<Double> = try workspace.matrix(1, 7)
    try algebra.multiply(symmetric: lower, vector: x, into: y)
    for i in 0..<7 {
      for j in 0..<3 {
        #expect(abs(product[j, i] - wide.product(.plain, s, .plain, j, i)) < 1e-12)
        #expect(abs(other[i, j] - s.product(.plain, tall, .plain, i, j)) < 1e-12)
      }
      #expect(abs(y[0, i] - x.product(.plain, s, .plain, 0, i)) < 1e-12)
    }
    #expect(try algebra.cholesky(lower))
    #expect(try algebra.cholesky(upper, .upper))
    for i in 0..<7 { for j in 0...i { #expect(abs(lower[i, j] - upper[j, i]) < 1e-12) } }
    for (factor, triangle) in [(lower, Triangle.lower), (upper, .upper)] {
      y.copy(x)
      try algebra.solve(vector: y, factor: factor, triangle)
      let b: Matrix<Double> = try workspace.matrix(7, 3)
      b.copy(tall)
      try algebra.divide(b, onLeftBy: factor, triangle)
      for i in 0..<7 {
        #expect(abs(y.product(.plain, s, .plain, 0, i) - x[0, i]) < 1e-10)
        // R b = tall for the upper factor R.
        for j in 0..<3 { #expect(abs((i..<7).reduce(0.0) { $0 + upper[i, $1] * b[$1, j] } - tall[i, j]) < 1e-10) }
      }
    }
  }

  @Test func whatIsNotPositiveDefiniteSaysSo() throws {
    let s: Matrix<Float> = try workspace.made([[1, 2], [2, 1]])
    #expect(try !algebra.cholesky(s))
  }

  @Test func eigenvectorsAreRows() throws {
    let a: Matrix<Double> = try workspace.random(30, 12, seed: 8)
    let s: Matrix<Double> = try workspace.matrix(12, 12)
    try algebra.gram(a, into: s)
    let vectors: Matrix<Double> = try workspace.matrix(12, 12)
    vectors.copy(s)
    let values: Matrix<Double> = try workspace.vector(12)
    try algebra.eigen(vectors, values: values, workspace)
    for i in 1..<12 { #expect(values[i] >= values[i - 1]) }
    let scaled: Matrix<Double> = try workspace.matrix(12, 12)
    scaled.copy(vectors)
    scaled.scaleRows(by: values)
    let back: Matrix<Double> = try workspace.matrix(12, 12)
    try algebra.multiply(vectors, .transposed, scaled, into: back)
    #expect(back.distance(s) < 1e-11)
    let top: Matrix<Double> = try workspace.matrix(3, 12)
    let topValues: Matrix<Double> = try workspace.vector(3)
    let spent: Matrix<Double> = try workspace.matrix(12, 12)
    spent.copy(s)
    try algebra.topEigen(spent, values: topValues, vectors: top, workspace)
    for k in 0..<3 {
      #expect(abs(topValues[k] - values[9 + k]) < 1e-11)
      #expect(abs(abs(top.rows(k..<k + 1).dot(vectors.rows(9 + k..<10 + k))) - 1) < 1e-11)
    }
  }

  @Test func qrOfATallMatrix() throws {
    let a: Matrix<Float> = try workspace.random(17, 5, seed: 9)
    let q: Matrix<Float> = try workspace.matrix(17, 5)
    q.copy(a)
    let r: Matrix<Float> = try workspace.matrix(5, 5)
    try algebra.qr(q, r: r, workspace)
    let back: Matrix<Float> = try workspace.matrix(17, 5)
    try algebra.multiply(q, r, into: back)
    #expect(back.distance(a) < 1e-5)
    let unit: Matrix<Float> = try workspace.matrix(5, 5)
    try algebra.gram(q, into: unit)
    unit.addToDiagonal(-1)
    #expect(unit.norm < 1e-5)
    #expect(r[3, 1] == 0)
  }

  @Test(arguments: [(9, 5), (5, 9), (6, 6), (1, 7), (7, 1)]) func singularValues(_ shape: (Int, Int)) throws {
    let (m, n) = shape
    let a: Matrix<Double> = try workspace.random(m, n, seed: 10)
    let spent: Matrix<Double> = try workspace.matrix(m, n)
    spent.copy(a)
    let r = min(m, n)
    let u: Matrix<Double> = try workspace.matrix(m, r)
    let v: Matrix<Double> = try workspace.matrix(r, n)
    let values: Matrix<Double> = try workspace.vector(r)
    try algebra.svd(spent, u: u, values: values, v: v, workspace)
    for i in 1..<max(r, 1) { #expect(values[i] <= values[i - 1]) }
    u.scaleColumns(by: values)
    let back: Matrix<Double> = try workspace.matrix(m, n)
    try algebra.multiply(u, v, into: back)
    #expect(back.distance(a) < 1e-12)
  }

  @Test func lowRankSVDNeedsNoDenseMatrix() throws {
    let b: Matrix<Double> = try workspace.random(40, 3, seed: 11)
    let a: Matrix<Double> = try workspace.random(3, 25, seed: 12)
    let u: Matrix<Double> = try workspace.matrix(40, 3)
    let v: Matrix<Double> = try workspace.matrix(3, 25)
    let values: Matrix<Double> = try workspace.vector(3)
    try algebra.lowRankSVD(b, a, u: u, values: values, v: v, workspace)
    let dense: Matrix<Double> = try workspace.matrix(40, 25)
    try algebra.multiply(b, a, into: dense)
    #expect(abs(values.norm - dense.norm) < 1e-10)
    u.scaleColumns(by: values)
    let back: Matrix<Double> = try workspace.matrix(40, 25)
    try algebra.multiply(u, v, into: back)
    #expect(back.relativeDistance(dense) < 1e-13)
  }

  @Test func shapesThatDoNotFitAreErrors() throws {
    let a: Matrix<Float> = try workspace.matrix(3, 4)
    let b: Matrix<Float> = try workspace.matrix(3, 4)
    let c: Matrix<Float> = try workspace.matrix(3, 3)
    #expect(throws: IngotError.self) { try algebra.multiply(a, b, into: c) }
    #expect(throws: IngotError.self) { try algebra.gram(a, into: c) }
    #expect(throws: IngotError.self) { _ = try algebra.cholesky(a) }
    #expect(throws: IngotError.self) { try algebra.multiply(a, bySymmetric: c, into: b) }
    #expect(throws: IngotError.self) { try algebra.multiply(symmetric: c, vector: a, into: b) }
    #expect(throws: IngotError.self) { try algebra.solve(vector: a, factor: c) }
    #expect(throws: IngotError.self) { try algebra.divide(a.rows(0..<2), onLeftBy: c) }
    #expect(throws: IngotError.self) { try algebra.qr(a, r: c, workspace) }
    #expect(throws: IngotError.self) { _ = try algebra.polar(a, into: c, workspace) }
  }

  @Test func memoryThatDoesNotFitIsAnError() throws {
    let small = try MatrixWorkspace(capacity: 1 << 16)
    #expect { _ = try small.matrix(1000, 1000, of: Double.self) } throws: { ($0 as? IngotError)?.status == .memory }
    #expect { _ = try small.matrix(1 << 33, 1, of: Float.self) } throws: { ($0 as? IngotError)?.status == .unsupported }
    #expect { _ = try small.matrix(1 << 30, 1 << 30, of: Float.self) } throws: { ($0 as? IngotError)?.status == .memory }
  }

  @Test func theThreadCountIsRestored() throws {
    let before = algebra.library.threads
    try algebra.withThreads(1) { () throws(IngotError) in #expect(algebra.library.threads == 1) }
    #expect(algebra.library.threads == before)
    // A phase that fails ends too: one of several threads would wait for it.
    #expect(throws: IngotError.self) {
      try algebra.withThreads(1) { () throws(IngotError) in throw IngotError(.internalError, "a phase that fails") }
    }
    try algebra.withThreads(2) { () throws(IngotError) in #expect(algebra.library.threads == 2) }
    #expect(!algebra.library.core.isEmpty)
  }
}
