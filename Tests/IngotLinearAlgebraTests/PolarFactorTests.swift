import IngotErrors
import IngotLinearAlgebra
import Testing

/// The cheap routes of the polar factor against the f64 SVD, and what they measure.
@Suite struct PolarFactorTests {
  let algebra: LinearAlgebra
  let workspace: MatrixWorkspace

  init() throws {
    algebra = try LinearAlgebra.load()
    workspace = try MatrixWorkspace(capacity: 256 << 20)
  }

  /// A matrix with these singular values.
  private func matrix(_ m: Int, _ n: Int, values: (Int) -> Double, seed: UInt64) throws -> Matrix<Float> {
    let r = min(m, n)
    let a: Matrix<Double> = try workspace.random(m, n, seed: seed)
    let u: Matrix<Double> = try workspace.matrix(m, r)
    let v: Matrix<Double> = try workspace.matrix(r, n)
    let sigma: Matrix<Double> = try workspace.vector(r)
    try algebra.svd(a, u: u, values: sigma, v: v, workspace)
    for j in 0..<r { sigma[j] = values(j) }
    u.scaleColumns(by: sigma)
    let dense: Matrix<Double> = try workspace.matrix(m, n)
    try algebra.multiply(u, v, into: dense)
    let made: Matrix<Float> = try workspace.matrix(m, n)
    made.copy(dense)
    return made
  }

  private func check(_ a: Matrix<Float>, expecting route: PolarRoute?, rank: Int, tolerance: Double) throws {
    let reference: Matrix<Float> = try workspace.matrix(a.rows, a.columns)
    let exact = try algebra.polar(a, into: reference, route: .svd, workspace)
    #expect(exact.rank == rank)
    let measured = MatrixWorkspace.measuring()
    let shape: Matrix<Float> = try measured.matrix(a.rows, a.columns)
    let base = measured.peak
    _ = try algebra.polar(shape, into: shape, measured)
    // The need found by measuring is enough, to the byte.
    let exactly = try MatrixWorkspace(capacity: measured.peak - base)
    let p: Matrix<Float> = try workspace.matrix(a.rows, a.columns)
    let report = try algebra.polar(a, into: p, exactly)
    if let route { #expect(report.route == route) }
    #expect(report.rank == rank)
    #expect(report.residual < 1e-4)
    #expect(p.relativeDistance(reference) < tolerance)
    #expect(abs(report.nuclearNorm - exact.nuclearNorm) <= 1e-5 * exact.nuclearNorm)
    // ‖A‖_* = ⟨P, A⟩.
    #expect(abs(p.dot(a) - exact.nuclearNorm) <= 1e-5 * exact.nuclearNorm)
  }

  @Test(arguments: [(64, 64), (96, 64), (64, 96), (200, 40), (40, 200), (1, 30), (30, 1)])
  func gaussianMatricesTakeTheIteration(_ shape: (Int, Int)) throws {
    let a: Matrix<Float> = try workspace.random(shape.0, shape.1, seed: 20)
    try check(a, expecting: .halley, rank: min(shape.0, shape.1), tolerance: 1e-5)
  }

  @Test(arguments: [1.0, 1e-3, 1e3]) func theScaleOfTheInputDoesNotMatter(_ scale: Double) throws {
    let a = try matrix(80, 50, values: { scale * (1 - Double($0) / 60) }, seed: 21)
    try check(a, expecting: .halley, rank: 50, tolerance: 1e-5)
  }

  @Test(arguments: [1e2, 1e4, 1e5]) func illConditionedMatricesStayAccurate(_ condition: Double) throws {
    // A geometric spectrum by repeated multiplication.
    let step = 1 / HalleyRoot.root(condition, 59)
    var values = [1.0]
    for _ in 1..<60 { values.append((values.last ?? 1) * step) }
    try check(try matrix(60, 60, values: { values[$0] }, seed: 22), expecting: nil, rank: 60, tolerance: 1e-4)
    try check(try matrix(150, 60, values: { values[$0] }, seed: 23), expecting: nil, rank: 60, tolerance: 1e-4)
  }

  /// Two values within the range tolerance, two above it that f32 alone would lose, then a floor under a few strong directions.
  @Test(arguments: [(96, 96), (100, 96), (96, 120)]) func fewSmallValuesAreFoundOneByOne(_ shape: (Int, Int)) throws {
    let small = [5e-7, 7e-7, 2.5e-6, 6e-6]
    let a = try matrix(
      shape.0, shape.1, values: { $0 < 6 ? 1 - Double($0) / 20 : $0 < 92 ? 1e-2 - 1e-4 * Double($0) : small[95 - $0] }, seed: 25)
    try check(a, expecting: .halley, rank: 94, tolerance: 1e-5)
    // A tolerance of the caller's own moves the border.
    let (p, reference): (Matrix<Float>, Matrix<Float>) = (try workspace.matrix(shape.0, shape.1), try workspace.matrix(shape.0, shape.1))
    let exact = try algebra.polar(a, into: reference, route: .svd, rangeTolerance: 1e-4, workspace)
    let report = try algebra.polar(a, into: p, rangeTolerance: 1e-4, workspace)
    #expect(report.route == .halley && report.rank == 92 && exact.rank == 92)
    #expect(p.relativeDistance(reference) < 1e-5)
  }

  @Test func manySmallValuesTakeTheEigenvectors() throws {
    let a = try matrix(96, 96, values: { $0 < 60 ? 1 : 4e-6 * (1 + Double($0) / 96) }, seed: 26)
    try check(a, expecting: .eigen, rank: 96, tolerance: 1e-2)
  }

  @Test(arguments: [(60, 60), (90, 40), (40, 90)]) func rankDeficientMatricesGiveAPartialIsometry(_ shape: (Int, Int)) throws {
    let a = try matrix(shape.0, shape.1, values: { $0 < 12 ? 2 - Double($0) / 10 : 0 }, seed: 24)
    try check(a, expecting: .eigen, rank: 12, tolerance: 1e-5)
  }

  /// A tall matrix by the inverse root of its Gram matrix, panel by panel.
  private func checkInverseRoot(_ a: Matrix<Float>, tolerance: Double) throws {
    let n = a.columns
    let reference: Matrix<Float> = try workspace.matrix(a.rows, n)
    let exact = try algebra.polar(a, into: reference, route: .svd, workspace)
    func root(_ gram: Matrix<Double>, _ narrow: Matrix<Float>, _ own: MatrixWorkspace) throws(IngotError) -> InverseRoot {
      try InverseRoot(of: gram, narrow: narrow, rangeTolerance: 1e-6, algebra, own)
    }
    let measured = MatrixWorkspace.measuring()
    _ = try root(try measured.matrix(n, n), try measured.matrix(n, n), measured)
    let exactly = try MatrixWorkspace(capacity: measured.peak)
    let gram: Matrix<Double> = try exactly.matrix(n, n)
    gram.fill(0)
    try algebra.accumulateGram(widening: a, into: gram, workspace)
    let found = try root(gram, try exactly.matrix(n, n), exactly)
    let p: Matrix<Float> = try workspace.matrix(a.rows, n)
    for start in stride(from: 0, to: a.rows, by: 50) {
      let range = start..<min(start + 50, a.rows)
      try found.apply(to: a.rows(range), into: p.rows(range), workspace)
    }
    #expect(p.relativeDistance(reference) < tolerance)
    #expect(abs(found.report.nuclearNorm - exact.nuclearNorm) <= 1e-5 * exact.nuclearNorm)
    #expect(found.report.residual < 1e-4)
  }

  @Test func inverseRootsOfTallMatrices() throws {
    try checkInverseRoot(try workspace.random(210, 60, seed: 40), tolerance: 1e-5)
    try checkInverseRoot(try workspace.random(64, 64, seed: 41), tolerance: 1e-4)
    // More columns than one panel of the square matrices has.
    try checkInverseRoot(try workspace.random(900, 530, seed: 42), tolerance: 1e-5)
    try checkInverseRoot(try matrix(150, 60, values: { 2 - Double($0) / 40 }, seed: 43), tolerance: 1e-5)
    try checkInverseRoot(
      try matrix(150, 60, values: { $0 < 8 ? 3 - Double($0) / 4 : 2e-3 * (1 + Double($0) / 60) }, seed: 44), tolerance: 1e-4)
    // Null directions stay out: small integers, which f32 rounds to no other rank.
    let b: Matrix<Float> = try workspace.random(150, 12, seed: 45)
    let c: Matrix<Float> = try workspace.random(12, 60, seed: 46)
    for factor in [b, c] { for i in 0..<factor.rows { for j in 0..<factor.columns { factor[i, j] = (2 * factor[i, j]).rounded() } } }
    let product: Matrix<Float> = try workspace.matrix(150, 60)
    try algebra.multiply(b, c, into: product)
    // The Gram matrix knows of them up to its rounding, about 1e-15 λ₁ against a δ of 1e-12 λ₁.
    try checkInverseRoot(product, tolerance: 2e-3)
    let zero: Matrix<Float> = try workspace.matrix(30, 9)
    zero.fill(0)
    try checkInverseRootOfZero(zero)
  }

  private func checkInverseRootOfZero(_ a: Matrix<Float>) throws {
    let gram: Matrix<Double> = try workspace.matrix(a.columns, a.columns)
    gram.fill(0)
    let root = try InverseRoot(of: gram, narrow: try workspace.matrix(a.columns, a.columns), rangeTolerance: 1e-6, algebra, workspace)
    let p: Matrix<Float> = try workspace.matrix(a.rows, a.columns)
    p.fill(.nan)
    try root.apply(to: a, into: p, workspace)
    #expect(p.norm == 0 && root.report.rank == 0 && root.report.nuclearNorm == 0)
  }

  @Test func zeroGivesZero() throws {
    let a: Matrix<Float> = try workspace.matrix(8, 5)
    a.fill(0)
    let p: Matrix<Float> = try workspace.matrix(8, 5)
    for route in PolarRoute.allCases where route != .halley {
      p.fill(.nan)
      let report = try algebra.polar(a, into: p, route: route, workspace)
      #expect(report.rank == 0 && report.nuclearNorm == 0)
      #expect(p.norm == 0)
    }
  }
}

/// The n-th root by bisection, for spectra of a given condition.
enum HalleyRoot {
  static func root(_ value: Double, _ n: Int) -> Double {
    var (low, high) = (1.0, value)
    for _ in 0..<200 {
      let middle = (low + high) / 2
      if (0..<n).reduce(1.0, { product, _ in product * middle }) < value { low = middle } else { high = middle }
    }
    return low
  }
}
