import IngotErrors
import IngotLinearAlgebra
import Testing

/// Leading singular triplets: both routes against the f64 SVD, and when which is taken.
@Suite struct TripletTests {
  let algebra: LinearAlgebra
  let workspace: MatrixWorkspace

  init() throws {
    algebra = try LinearAlgebra.load()
    workspace = try MatrixWorkspace(capacity: 256 << 20)
  }

  /// Σ uⱼ σⱼ vⱼᵀ of the `count` leading triplets by the f64 SVD, and the values, descending.
  private func truncation(_ a: Matrix<Float>, _ count: Int) throws -> (Matrix<Double>, Matrix<Double>) {
    let x: Matrix<Double> = try workspace.matrix(a.rows, a.columns)
    let u: Matrix<Double> = try workspace.matrix(a.rows, a.rank)
    let v: Matrix<Double> = try workspace.matrix(a.rank, a.columns)
    let values: Matrix<Double> = try workspace.vector(a.rank)
    x.copy(a)
    try algebra.svd(x, u: u, values: values, v: v, workspace)
    u.scaleColumns(by: values)
    try algebra.multiply(u.columns(0..<count), v.rows(0..<count), into: x)
    return (x, values)
  }

  private func check(_ a: Matrix<Float>, count: Int, route: TripletReport.Route?, tolerance: Double) throws {
    let triplets = try workspace.triplets(count, rows: a.rows, columns: a.columns)
    // The need found by measuring is enough, to the byte.
    let measured = MatrixWorkspace.measuring()
    let shape: Matrix<Float> = try measured.matrix(a.rows, a.columns)
    let room = try measured.triplets(count, rows: a.rows, columns: a.columns)
    let before = measured.peak
    try algebra.singularTriplets(shape, into: room, measured)
    let report = try algebra.singularTriplets(a, into: triplets, try MatrixWorkspace(capacity: measured.peak - before))
    if let route { #expect(report.route == route) }
    #expect(report.residual < 2e-5)
    let (expected, values) = try truncation(a, count)
    let (left, right): (Matrix<Double>, Matrix<Double>) = (
      try workspace.matrix(count, a.rows), try workspace.matrix(count, a.columns)
    )
    left.copy(triplets.left)
    right.copy(triplets.right)
    for j in 0..<count { #expect(abs(triplets.values[j] - values[count - 1 - j]) <= 1e-6 * values[0]) }
    // The vectors one by one, for the methods that need more than their span.
    for vectors in [left, right] {
      let unit: Matrix<Double> = try workspace.matrix(count, count)
      try algebra.gram(vectors, .transposed, into: unit)
      for j in 0..<count { unit[j, j] -= triplets.values[j] > 0 ? 1 : 0 }
      #expect(unit.norm / Double(count).squareRoot() < tolerance)
    }
    left.scaleRows(by: triplets.values)
    let found: Matrix<Double> = try workspace.matrix(a.rows, a.columns)
    try algebra.multiply(left, .transposed, right, into: found)
    #expect(found.relativeDistance(expected) < tolerance)
  }

  @Test(arguments: [(120, 120, 120), (120, 120, 40), (200, 90, 90), (90, 200, 60), (60, 60, 6), (3, 40, 3)])
  func gaussianMatrices(_ m: Int, _ n: Int, _ count: Int) throws {
    let a: Matrix<Float> = try workspace.random(m, n, seed: 30)
    try check(a, count: count, route: 10 * count > min(m, n) ? .single : .double, tolerance: 1e-5)
  }

  /// What f32 would leave inexact is found again in f64.
  @Test func smallValuesOfAFlatSpectrum() throws {
    let a = try matrix(160, 160) { $0 < 150 ? 1 + Double($0 % 7) / 10 : 1e-4 * Double(1 + $0 - 150) }
    try check(a, count: 160, route: .single, tolerance: 1e-5)
    try check(a, count: 155, route: .single, tolerance: 1e-5)
  }

  /// As differences of bf16 weights have: f32 would mix the floor's directions.
  @Test(arguments: [(160, 128), (128, 128), (128, 160)], [128, 40])
  func fewStrongDirectionsOverAFloorAreFoundApart(_ shape: (Int, Int), _ count: Int) throws {
    for floor in [0.01, 1e-4] {
      let a = try matrix(shape.0, shape.1) { $0 < 5 ? 10 - Double($0) : floor * (2 - Double($0) / 128) }
      try check(a, count: count, route: .single, tolerance: 2e-5)
      let triplets = try workspace.triplets(count, rows: shape.0, columns: shape.1)
      #expect(try algebra.singularTriplets(a, into: triplets, workspace).strong == 5)
      // The floor's part by itself, which the strong ones would hide.
      let weak = triplets.part(0..<count - 5)
      let (expected, strong) = (try truncation(a, count).0, try truncation(a, 5).0)
      expected.add(strong, times: -1)
      let left: Matrix<Double> = try workspace.matrix(count - 5, shape.0)
      let right: Matrix<Double> = try workspace.matrix(count - 5, shape.1)
      left.copy(weak.left)
      right.copy(weak.right)
      left.scaleRows(by: weak.values)
      let found: Matrix<Double> = try workspace.matrix(shape.0, shape.1)
      try algebra.multiply(left, .transposed, right, into: found)
      #expect(found.relativeDistance(expected) < 1e-4)
    }
  }

  @Test func spectraThatFallTakeTheDoubleRoute() throws {
    // Strong directions, but no floor.
    let falling = try matrix(140, 112) { $0 < 4 ? 10 - Double($0) : 0.5 / Double(1 + $0 * $0) }
    try check(falling, count: 112, route: .double, tolerance: 1e-4)
    // Flat, but for one direction in four.
    try check(try matrix(80, 80) { $0 < 60 ? 2 - Double($0) / 100 : 1e-3 }, count: 80, route: .double, tolerance: 1e-5)
  }

  @Test func valuesBelowTheToleranceAreLeftOut() throws {
    let a = try matrix(120, 96) { $0 < 90 ? 1 + Double($0) / 90 : 0 }
    let triplets = try workspace.triplets(96, rows: 120, columns: 96)
    try algebra.singularTriplets(a, into: triplets, workspace)
    for j in 0..<6 {
      #expect(triplets.values[j] == 0)
      #expect(triplets.left.rows(j..<j + 1).norm == 0 && triplets.right.rows(j..<j + 1).norm == 0)
    }
    for j in 6..<96 { #expect(triplets.values[j] > 0.9) }
    triplets.clear(below: 1.5)
    #expect((0..<96).allSatisfy { triplets.values[$0] == 0 || triplets.values[$0] > 1.5 })
  }

  @Test(arguments: [Float(0), 1e-25, 1e-12, 1e18]) func scalesThatF32GramsDoNotHold(_ scale: Float) throws {
    let a: Matrix<Float> = try workspace.random(50, 40, seed: 31)
    a.scale(by: scale)
    if scale == 0 {
      let triplets = try workspace.triplets(40, rows: 50, columns: 40)
      #expect(try algebra.singularTriplets(a, into: triplets, workspace).route == .double)
      #expect(triplets.values.norm == 0 && triplets.left.norm == 0 && triplets.right.norm == 0)
    } else {
      try check(a, count: 40, route: scale == 1e-12 ? nil : .double, tolerance: 1e-5)
    }
  }

  /// A matrix with these singular values.
  private func matrix(_ m: Int, _ n: Int, values: (Int) -> Double) throws -> Matrix<Float> {
    let r = min(m, n)
    let a: Matrix<Double> = try workspace.random(m, n, seed: 32)
    let u: Matrix<Double> = try workspace.matrix(m, r)
    let v: Matrix<Double> = try workspace.matrix(r, n)
    let sigma: Matrix<Double> = try workspace.vector(r)
    try algebra.svd(a, u: u, values: sigma, v: v, workspace)
    for j in 0..<r { sigma[j] = values(j) }
    u.scaleColumns(by: sigma)
    try algebra.multiply(u, v, into: a)
    let made: Matrix<Float> = try workspace.matrix(m, n)
    made.copy(a)
    return made
  }
}
