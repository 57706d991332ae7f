import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotTensors
import Testing

/// DOGE, SVC, MaTS, DOP's iteration and Custom Diffusion: worked numbers, identities, degenerate and bad input. The numbers were computed in float64
/// from the papers' formulas.
@Suite struct SubspaceMethodTests {
  typealias Rows = [[Double]]
  static let weight = MatrixMethodTests.weight
  static let module = String(weight.dropLast(7))

  static func run(_ method: String, _ tasks: [Rows], _ parameters: String = "") throws -> [Double] {
    try MatrixMethodTests.run(method, tasks, parameters)
  }

  static func agree(_ found: [Double], _ expected: Rows, _ tolerance: Double = 2e-6) -> Bool {
    MatrixMethodTests.agree(found, expected, tolerance)
  }

  static let d1: Rows = [
    [3, -1, 0, 2, 1, 0, -2], [0, 2, 1, -1, 0, 3, 1], [1, 0, -3, 1, 2, 0, 0], [2, 1, 0, 0, -1, 1, 4], [0, -2, 1, 3, 0, 1, 0],
    [1, 1, 2, 0, -2, 0, 1],
  ]
  static let d2: Rows = [
    [1, 0, 2, -2, 0, 1, 0], [2, -3, 0, 1, 1, 0, 2], [0, 1, 1, 0, -1, 2, -4], [-1, 0, 3, 2, 0, 1, 1], [1, 2, 0, -1, 3, 0, -2],
    [0, 1, -1, 2, 1, 5, 0],
  ]

  private func finding(_ name: String, _ report: RunReport) -> Double? { report.findings.first { $0.finding.name == name }?.finding.value }

  private static func transposed(_ rows: Rows) -> Rows { (rows.first ?? []).indices.map { column in rows.map { $0[column] } } }

  // MARK: DOGE

  @Test func dogeByAdam() throws {
    let found = try Self.run("doge", [Self.d1, Self.d2], "lr: 0.01")
    let expected: Rows = [
      [0.0491710686, 0, 0.0384399201, 0.0548365563, 0, 0, 0.0151363638],
      [0.038433174, -0.0588775989, 0, 0, 0, 0.0522214581, -0.0126594232],
      [0, 0, -0.0488834344, 0, 0.0372398281, 0.0384216577, -0.0512819231],
      [0.042055393, 0, 0.0447961589, 0.0383834761, 0, 0, 0.0561186009],
      [0, 0.0520395775, 0, 0.0492054599, 0.044805221, 0, -0.038297984],
      [0, 0, -0.0137762722, 0.0384093963, 0.0137196811, 0.0576568737, 0],
    ]
    #expect(Self.agree(found, expected, 1e-5), "\(found)")
  }

  /// The minimum without the projection: its loss is zero, and long descent gets there.
  @Test func dogeClosedForm() throws {
    let found = try Self.run("doge", [Self.d1, Self.d2], "doge_solver: closed_form")
    let expected: Rows = [
      [2.2453058038, 0, 1.0616990885, -0.0952380952, 0, 0, -1.1135568281],
      [1.3197874896, -1.2688172043, 0, 0, 0, 2.2538389139, 1.9986153785],
      [0, 0, -1.5823764648, 0, 0.8272306798, 1.2588782199, -2.5177564397],
      [0.5068299905, 0, 1.2019428153, 0.8012952102, 0, 0, 2.310324408],
      [0, -0.2372881356, 0, 1.9280779152, 2.374934037, 0, -1.583289358],
      [0, 0, 0.7892075906, 1.0775635581, -0.7892075906, 2.6939088952, 0],
    ]
    #expect(Self.agree(found, expected, 1e-5), "\(found)")
  }

  /// One threshold for all matrices: a tensor of small values loses everything to one of large values, and the share is that of both together.
  @Test func dogeKeepsTheLargestOfTheWholeModel() throws {
    func model(_ large: Double, _ small: Double) -> [TestTensor] {
      [
        TestTensor("model.layers.0.a.weight", .f32, [4, 8], (0..<32).map { large * Double($0 + 1) }),
        TestTensor("model.layers.0.b.weight", .f32, [8, 8], (0..<64).map { small * Double($0 + 1) }),
        TestTensor("model.layers.0.b.bias", .f32, [3], [large, large, large]),
      ]
    }
    for (density, kept) in [(0.25, 24), (0, 0), (1, 96), (0.999, 95)] {
      let result = try merge(
        recipe: "merge_method: doge\nbase_model: base\nmodels: [{model: a}]\nparameters: {iterations: 0, density: \(density)}\n",
        models: ["base": model(0, 0), "a": model(1, 0x1p-12)])
      let tensors = [try #require(result.tensors["model.layers.0.a.weight"]), try #require(result.tensors["model.layers.0.b.weight"])]
      #expect(tensors.reduce(0) { $0 + $1.values.count { $0 != 0 } } == kept)
      if density == 0.25 { #expect(tensors[0].values.prefix(8).allSatisfy { $0 == 0 } && tensors[0].value(8) > 0) }
      #expect(finding("kept_share", result.report) == Double(kept) / 96)
      // λ τ / ‖τ‖ without a correction; other tensors keep the base.
      if density == 1 {
        let norm = (1...32).reduce(0.0) { $0 + Double($1 * $1) }.squareRoot()
        #expect(abs(tensors[0].value(31) - 0.07 * 32 / norm) < 1e-7)
      }
      #expect(result.tensors["model.layers.0.b.bias"]?.values == [0, 0, 0])
    }
    // Equal magnitudes at the threshold all stay, whatever their sign.
    let equal: Rows = [[1, -1, 1, -1]]
    #expect(try Self.run("doge", [equal], "density: 0.5, iterations: 0").allSatisfy { $0 != 0 })
  }

  @Test func dogeIsScaledByItsParameters() throws {
    let once = try Self.run("doge", [Self.d1, Self.d2], "iterations: 0, density: 1")
    // Without a correction Σ λ τ / ‖τ‖.
    let norms = [Self.d1, Self.d2].map { $0.joined().reduce(0) { $0 + $1 * $1 }.squareRoot() }
    let expected = zip(Self.d1, Self.d2).map { zip($0, $1).map { 0.07 * ($0 / norms[0] + $1 / norms[1]) } }
    #expect(Self.agree(once, expected))
    let double = try Self.run("doge", [Self.d1, Self.d2], "iterations: 0, density: 1, weight: 2")
    #expect(zip(once, double).allSatisfy { abs(2 * $0 - $1) < 1e-6 })
    // A task of zeros takes no part.
    let zero = Self.d1.map { $0.map { _ in 0.0 } }
    let alone = try Self.run("doge", [Self.d1], "lr: 0.01, subspace: 0")
    #expect(Self.agree(try Self.run("doge", [Self.d1, zero], "lr: 0.01, subspace: 0"), [alone], 1e-6))
    let error = #expect(throws: IngotError.self) {
      _ = try merge(
        recipe: """
          merge_method: doge
          base_model: base
          models: [{model: a}]
          parameters: {lambda: [{filter: x, value: 1}, {value: 2}]}
          """,
        models: [
          "base": [TestTensor("x.weight", .f32, [2, 2]), TestTensor("y.weight", .f32, [2, 2])],
          "a": [TestTensor("x.weight", .f32, [2, 2], [1, 2, 3, 4]), TestTensor("y.weight", .f32, [2, 2], [1, 2, 3, 4])],
        ])
    }
    #expect(error?.status == .recipe && error?.message.contains("lambda") == true)
  }

  // MARK: SVC

  @Test func svc() throws {
    let found = try Self.run("svc", [[[2, 0], [0, 1]], [[1, 0], [0, 3]]])
    #expect(Self.agree(found, [[1.3333333333, 0], [0, 1.5]]), "\(found)")
    let expected: Rows = [
      [3.6286301813, -1.0678983013, 1.8909136132, -0.2257288149, 0.7943480097, 0.5271237711, -1.7309476704],
      [1.6203445693, -1.1452665537, 0.4933881565, -0.3446289366, 1.0705081031, 2.2308714774, 2.2579260678],
      [0.7667388114, 1.0082774932, -1.8032685731, 0.9346613685, 0.6823439439, 1.8947911857, -3.1481431682],
      [0.6385001953, 0.8090916382, 2.243700574, 1.5929105843, -0.7382226802, 1.0695769212, 3.5882441308],
      [0.6955079483, -0.0429149859, 0.9769990878, 1.8340693088, 2.7841704688, 0.6603264196, -1.6083537314],
      [0.437205942, 1.8183483071, 0.4244799309, 1.5396988538, -1.0201687078, 3.9867469957, 0.3517004366],
    ]
    #expect(Self.agree(try Self.run("svc", [Self.d1, Self.d2]), expected, 1e-5))
  }

  /// A merge that is given, of whatever method: the same numbers as where it is the sum; tensors that are no matrices stay the merge's.
  @Test func svcOfAGivenMerge() throws {
    let sum = zip(Self.d1, Self.d2).map { zip($0, $1).map { 0.5 * $0 + 2 * $1 } }
    func model(_ rows: Rows, _ bias: Double) -> [TestTensor] {
      [MatrixMethodTests.tensor(rows), TestTensor("model.norm.bias", .f32, [2], [bias, -bias])]
    }
    let zero = sum.map { $0.map { _ in 0.0 } }
    let models = ["base": model(zero, 0), "merged": model(sum, 3), "a": model(Self.d1, 1), "b": model(Self.d2, 2)]
    let result = try merge(
      recipe: "merge_method: svc\nbase_model: base\nmodels: [{model: merged}, {model: a}, {model: b}]\nparameters: {calibrate: first}\n",
      models: models)
    let expected: Rows = [
      [2.2983029722, -0.180057116, 2.8573443182, -2.3020714661, 0.1115112734, 1.427580512, -0.5853600965],
      [2.7016901757, -3.5279145525, 0.0882890024, 1.1759646788, 1.3549246043, 0.9294143474, 2.7820905523],
      [0.372408611, 1.0874214807, 0.5000909244, 0.587246005, -0.7809889701, 2.6422860438, -5.4559425435],
      [-0.7697701001, 0.4324098687, 4.3799739436, 2.7330196613, -0.3744867339, 1.4738110143, 2.4516113956],
      [1.2609800454, 2.0772004496, 0.3059014429, -0.1752863027, 4.1669101384, 0.2901944633, -2.5723021616],
      [0.3658258606, 1.7519818808, -0.9188613687, 2.4818487045, 0.7378280202, 6.72237783, 0.369062795],
    ]
    #expect(Self.agree(try #require(result.tensors[Self.weight]).values, expected, 1e-5))
    #expect(result.tensors["model.norm.bias"]?.values == [3, -3])
    let factors = [finding("least_factor", result.report), finding("largest_factor", result.report)].compactMap { $0 }
    #expect(factors.count == 2 && factors[0] > 0 && factors[0] <= factors[1] && factors[1] <= 1)
    let byWeights = try merge(
      recipe: """
        merge_method: svc
        base_model: base
        models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 2}}]
        """, models: models)
    #expect(Self.agree(try #require(byWeights.tensors[Self.weight]).values, expected, 1e-5))
    let error = #expect(throws: IngotError.self) { _ = try Self.run("svc", [Self.d1], "calibrate: first") }
    #expect(error?.status == .recipe)
    #expect(throws: IngotError.self) { _ = try Self.run("svc", [Self.d1, Self.d2], "svc_alpha: 0") }
  }

  /// Nothing is scaled up: one task, and tasks that have nothing in common.
  @Test func svcLeavesWhatDoesNotPileUp() throws {
    #expect(Self.agree(try Self.run("svc", [Self.d1]), Self.d1, 1e-5))
    let (one, other): (Rows, Rows) = ([[2, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]])
    #expect(Self.agree(try Self.run("svc", [one, other]), [[2, 0, 0], [0, 1, 0]]))
    // Tall and wide matrices alike: along its columns a tall one is calibrated by other vectors, so only its invariants hold.
    let tall = try Self.run("svc", [Self.transposed(Self.d1), Self.transposed(Self.d1)])
    #expect(Self.agree(tall, Self.transposed(Self.d1), 1e-5))
  }

  // MARK: MaTS

  static func mats(
    _ parameters: String, grams: [Rows], outputs: [Rows] = [], weights: [Rows], base: Rows? = nil, packed: Bool = false,
    suffix: String = "", outputSuffix: String? = nil
  ) throws -> (values: [Double], report: RunReport) {
    func gram(_ rows: Rows, _ suffix: String) -> TestTensor {
      let n = rows.count
      let values = packed ? (0..<n).flatMap { i in (i..<n).map { rows[i][$0] } } : rows.flatMap { $0 }
      return TestTensor(module + suffix, .f32, packed ? [values.count] : [n, n], values)
    }
    var models: [String: [TestTensor]] = [:]
    var list: [String] = []
    for (index, rows) in weights.enumerated() {
      models["m\(index)"] = [MatrixMethodTests.tensor(rows), TestTensor("model.norm.weight", .f32, [2], [Double(index), 1])]
      models["g\(index)"] = [gram(grams[index], suffix)]
      var side = "gram: g\(index)"
      if outputs.indices.contains(index) {
        models["o\(index)"] = [gram(outputs[index], outputSuffix ?? suffix)]
        side += ", output_gram: o\(index)"
      }
      list.append("{model: m\(index), side: {\(side)}}")
    }
    if let base { models["base"] = [MatrixMethodTests.tensor(base), TestTensor("model.norm.weight", .f32, [2], [0, 1])] }
    let result = try merge(
      recipe: "merge_method: mats\n\(base == nil ? "" : "base_model: base\n")models: [\(list.joined(separator: ", "))]\n"
        + "parameters: {\(parameters)}\n", models: models)
    #expect(try #require(result.tensors["model.norm.weight"]).values == [Double(weights.count - 1) / 2, 1])
    return (try #require(result.tensors[weight]).values, result.report)
  }

  static let g1: Rows = [[2, 1], [1, 2]]
  static let g2: Rows = [[1, 0], [0, 3]]
  static let o1: Rows = [[2, 0], [0, 1]]
  static let o2: Rows = [[1, 1], [1, 2]]
  static let r1: Rows = [[1, 2], [0, 1]]
  static let r2: Rows = [[3, 0], [1, -1]]

  @Test(arguments: [("cg", 0.0, false), ("exact", 2, false), ("cg", 0, true), ("exact", 2, true)])
  func matsNumbers(_ solver: String, _ route: Double, _ packed: Bool) throws {
    let found = try Self.mats(
      "mats_solver: \(solver), tolerance: 1.0e-12", grams: [Self.g1, Self.g2], outputs: [Self.o1, Self.o2], weights: [Self.r1, Self.r2],
      packed: packed)
    #expect(Self.agree(found.values, [[1.7659279778, 0.9293628809], [1.311634349, -1.012465374]]), "\(found.values)")
    #expect(finding("route", found.report) == route)
    #expect((finding("residual", found.report) ?? 1) < 1e-9)
    let half = try Self.mats(
      "mats_solver: \(solver), reduce_non_diagonal_ratio: 0.5", grams: [Self.g1, Self.g2], outputs: [Self.o1, Self.o2],
      weights: [Self.r1, Self.r2], packed: packed)
    #expect(Self.agree(half.values, [[1.610719755, 1.0006125574], [0.8915773354, -0.743338438]], 1e-5), "\(half.values)")
  }

  /// Stopped early, from either start.
  @Test func matsStops() throws {
    let two = try Self.mats(
      "iterations: 2", grams: [Self.g1, Self.g2], outputs: [Self.o1, Self.o2], weights: [Self.r1, Self.r2])
    #expect(Self.agree(two.values, [[2.026768746, 0.8219766715], [1.201039687, -0.9651333275]]), "\(two.values)")
    #expect(finding("steps", two.report) == 2)
    let zero: Rows = [[0, 0], [0, 0]]
    let one = try Self.mats(
      "iterations: 1, initialization: task_arithmetic", grams: [Self.g1, Self.g2], outputs: [Self.o1, Self.o2],
      weights: [Self.r1, Self.r2], base: zero)
    #expect(Self.agree(one.values, [[1.9336289931, 0.6652114661], [0.8869031945, -0.9944748574]]), "\(one.values)")
    let none = try Self.mats("iterations: 0, initialization: base", grams: [Self.g1, Self.g2], weights: [Self.r1, Self.r2], base: Self.r2)
    #expect(none.values == Self.r2.flatMap { $0 })
  }

  /// Without output factors the equations are RegMean's.
  @Test(arguments: ["cg", "exact"]) func matsWithoutOutputsIsRegMean(_ solver: String) throws {
    let found = try Self.mats("mats_solver: \(solver), tolerance: 1.0e-12", grams: [Self.g1, Self.g2], weights: [Self.r1, Self.r2])
    #expect(Self.agree(found.values, [[2.1428571429, 0.5714285714], [0.7857142857, -0.3571428571]]), "\(found.values)")
    if solver == "exact" { #expect(finding("route", found.report) == 1 && finding("steps", found.report) == 1) }
  }

  /// Of three models, of one, of equal ones; where no model looks, the start stays; a ridge holds to it.
  @Test(arguments: ["cg", "exact"]) func matsIdentities(_ solver: String) throws {
    let same = try Self.mats(
      "mats_solver: \(solver)", grams: [Self.g1, Self.g2, Self.g1], outputs: [Self.o2, Self.o1, Self.o1],
      weights: [Self.r1, Self.r1, Self.r1])
    #expect(Self.agree(same.values, Self.r1))
    #expect(Self.agree(try Self.mats("mats_solver: \(solver)", grams: [Self.g1], outputs: [Self.o2], weights: [Self.r2]).values, Self.r2))
    let half: Rows = [[1, 0], [0, 0]]
    let singular = try Self.mats(
      "mats_solver: \(solver)", grams: [half, half], outputs: [Self.o1, Self.o2], weights: [Self.r1, Self.r2])
    // The second column has no equation and keeps the mean; the first is (O₁ + O₂)⁻¹ (O₁ w₁ + O₂ w₂).
    #expect(Self.agree(singular.values, [[1.625, 1], [1.125, 0]], 1e-5), "\(singular.values)")
    let zero: Rows = [[0, 0], [0, 0]]
    let nothing = try Self.mats("mats_solver: \(solver)", grams: [zero, zero], outputs: [zero, zero], weights: [Self.r1, Self.r2])
    #expect(Self.agree(nothing.values, [[2, 1], [0.5, 0]]))
    let held = try Self.mats(
      "mats_solver: \(solver), ridge: 1.0e6", grams: [Self.g1, Self.g2], outputs: [Self.o1, Self.o2], weights: [Self.r1, Self.r2])
    #expect(Self.agree(held.values, [[2, 1], [0.5, 0]], 1e-4), "\(held.values)")
    #expect((finding("ridge", held.report) ?? 0) > 1e6)
  }

  /// Of weights that are stored as [in, out]: 3 inputs and 2 outputs, against the same weights stored as [out, in].
  @Test(arguments: [false, true], ["cg", "exact"]) func matsOfTransposedWeights(_ packed: Bool, _ solver: String) throws {
    let grams: [Rows] = [
      [[4, 1, 0], [1, 3, 1], [0, 1, 2]], [[1, 0, 1], [0, 2, 0], [1, 0, 5]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
    ]
    let outputs: [Rows] = [Self.o1, Self.o2, [[1, 0], [0, 0]]]
    let weights: [Rows] = [[[1, 2, -1], [0, 1, 3]], [[3, 0, 1], [1, -1, 0]], [[2, 2, 2], [-1, 0, 1]]]
    let base: Rows = [[0.5, 1, 0], [0, 0, 2]]
    for parameters in ["", "ridge: 0.01", "iterations: 1, initialization: task_arithmetic", "reduce_non_diagonal_ratio: 0.5"] {
      for count in 1...3 {
        for outputs in [[], outputs] {
          func run(_ weights: [Rows], _ base: Rows, _ suffix: String) throws -> (values: [Double], report: RunReport) {
            try Self.mats(
              "mats_solver: \(solver)" + (parameters.isEmpty ? "" : ", " + parameters), grams: Array(grams.prefix(count)),
              outputs: Array(outputs.prefix(count)), weights: weights, base: base, packed: packed, suffix: suffix)
          }
          let plain = try run(Array(weights.prefix(count)), base, "")
          let turned = try run(weights.prefix(count).map(Self.transposed), Self.transposed(base), ".transposed")
          let expected = Self.transposed([Array(plain.values[..<3]), Array(plain.values[3...])])
          #expect(Self.agree(turned.values, expected), "\(parameters) \(count): \(turned.values) \(expected)")
          #expect(finding("route", turned.report) == finding("route", plain.report))
        }
      }
    }
    let square = Array(grams.prefix(2)).map { $0.prefix(2).map { Array($0.prefix(2)) } }
    let error = #expect(throws: IngotError.self) {
      _ = try Self.mats(
        "", grams: square, outputs: [Self.o1, Self.o2], weights: [Self.r1, Self.r2], suffix: ".transposed", outputSuffix: "")
    }
    #expect(error?.status == .shape && error?.message.contains("stored as") == true, "\(String(describing: error))")
  }

  @Test func matsRefusesBadSides() throws {
    let weights = [Self.r1, Self.r2]
    for (grams, outputs) in [
      ([Self.g1, [[.nan, 0], [0, 1]]], [Self.o1, Self.o2]), ([Self.g1, Self.g2], [Self.o1, [[1, 0], [0, -1]]]),
      ([Self.g1, Self.g2], [Self.o1]), ([Self.g1, Self.g2], [Self.o1, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]),
    ] as [([Rows], [Rows])] {
      #expect(throws: IngotError.self) { _ = try Self.mats("", grams: grams, outputs: outputs, weights: weights) }
    }
    let noBase = #expect(throws: IngotError.self) {
      _ = try Self.mats("initialization: base", grams: [Self.g1, Self.g2], weights: weights)
    }
    #expect(noBase?.status == .recipe)
    #expect(throws: IngotError.self) { _ = try Self.mats("weight: -1", grams: [Self.g1, Self.g2], weights: weights) }
    #expect(throws: IngotError.self) { _ = try Self.mats("weight: 0", grams: [Self.g1, Self.g2], weights: weights) }
  }

  // MARK: DOP's iteration

  @Test func dopByAdam() throws {
    let (p, q): (Rows, Rows) = ([[2, 0], [0, 1]], [[0, 1], [1, 0]])
    let paper = try Self.run("dop", [p, q], "dop_solver: adam")
    #expect(Self.agree(paper, [[1.0199080185, 0.4801997076], [0.4801997076, 0.5197264526]], 1e-5), "\(paper)")
    let faster = try Self.run("dop", [p, q], "dop_solver: adam, lr: 0.01")
    #expect(Self.agree(faster, [[1.878552634, 0.0909172924], [0.0909172924, 0.800005303]], 1e-5), "\(faster)")
    let weighed = try Self.run("dop", [p, q], "dop_solver: adam, lr: 0.01, mgda: true, ema_beta: 0.9")
    #expect(Self.agree(weighed, [[1.3892432799, 0.4129499603], [0.4129499603, 0.3625722267]], 1e-4), "\(weighed)")
    #expect(throws: IngotError.self) { _ = try Self.run("dop", [p, q], "mgda: true") }
  }

  @Test func dopInPartsOfTheSubspaces() throws {
    let (x, y): (Rows, Rows) = ([[3, 1, 0], [0, 2, 1]], [[1, 0, -1], [2, 1, 0]])
    let leading = try Self.run("dop", [x, y], "svd_epsilon: 0.7")
    #expect(
      Self.agree(leading, [[2.8420955017, 1.2511333203, 0.1322607055], [0.450151153, 1.2840738872, 0.6229536859]], 1e-5), "\(leading)")
    let outputs = try Self.run("dop", [x, y], "dop_space: u")
    #expect(
      Self.agree(outputs, [[2.9368421053, 0.9684210526, -0.0315789474], [0.2652631579, 1.7326315789, 0.7326315789]], 1e-5), "\(outputs)")
    let inputs = try Self.run("dop", [x, y], "dop_space: v")
    #expect(Self.agree(inputs, [[3.1578947368, -0.1052631579, 2], [-0.5789473684, 4.0526315789, -3]], 1e-4), "\(inputs)")
    let descended = try Self.run("dop", [x, y], "dop_solver: adam, lr: 0.01, svd_epsilon: 0.7")
    #expect(
      Self.agree(descended, [[2.8347389378, 1.2798542922, 0.0425169804], [0.4680088832, 1.2006223109, 0.8790433105]], 1e-4), "\(descended)")
    // A rank of one leaves nothing below any share: the mean of the two stays.
    let flat: Rows = [[1, 1, 1], [2, 2, 2]]
    let free = try Self.run("dop", [flat, flat.map { $0.map { -3 * $0 } }], "svd_epsilon: 0.99999")
    #expect(Self.agree(free, flat.map { $0.map { -$0 } }))
  }

  // MARK: Custom Diffusion

  static func custom(
    _ parameters: String, words: [Rows], captions: Rows?, weights: [Rows], base: Rows
  ) throws -> (values: [Double], report: RunReport) {
    var models = [
      "base": [MatrixMethodTests.tensor(base), TestTensor("model.norm.weight", .f32, [2], [5, 6])],
      "captions": [
        TestTensor(
          captions == nil ? "other" : module, .f32, [captions?.count ?? 1, captions?.count ?? 1], (captions ?? [[1]]).flatMap { $0 })
      ],
    ]
    var list: [String] = []
    for (index, rows) in weights.enumerated() {
      models["m\(index)"] = [MatrixMethodTests.tensor(rows), TestTensor("model.norm.weight", .f32, [2], [Double(index), 1])]
      models["w\(index)"] = [TestTensor(module, .f32, [words[index].count, words[index].first?.count ?? 0], words[index].flatMap { $0 })]
      list.append("{model: m\(index), side: {features: w\(index)}}")
    }
    let result = try merge(
      recipe:
        "merge_method: custom_diffusion\nbase_model: base\nside: {regularization: captions}\nmodels: [\(list.joined(separator: ", "))]\n"
        + "parameters: {\(parameters)}\n", models: models)
    #expect(result.tensors["model.norm.weight"]?.values == [5, 6])
    return (try #require(result.tensors[weight]).values, result.report)
  }

  static let w0: Rows = [[1, 0, 2], [0, 1, -1]]
  static let a1: Rows = [[2, 0, 2], [1, 1, -1]]
  static let a2: Rows = [[1, 1, 2], [0, 3, 0]]
  static let captions: Rows = [[2, 1, 0], [1, 3, 0], [0, 0, 1]]

  private static func times(_ weight: [Double], _ word: [Double]) -> [Double] {
    (0..<weight.count / word.count).map { row in
      var sum = 0.0
      for (column, value) in word.enumerated() { sum += weight[row * word.count + column] * value }
      return sum
    }
  }

  @Test func customDiffusion() throws {
    let words: [Rows] = [[[1, 0, 1]], [[0, 2, 1]]]
    let found = try Self.custom("ridge: 0", words: words, captions: Self.captions, weights: [Self.a1, Self.a2], base: Self.w0)
    #expect(
      Self.agree(found.values, [[0.9473684211, 0.4736842105, 3.0526315789], [-0.8421052632, 2.5789473684, 0.8421052632]]), "\(found.values)"
    )
    #expect((finding("residual", found.report) ?? 1) < 1e-12)
    // What the words are given is what their own models give them, with a ridge too.
    for ridge in ["0", "1.0e-6", "0.5"] {
      let values = try Self.custom("ridge: \(ridge)", words: words, captions: Self.captions, weights: [Self.a1, Self.a2], base: Self.w0)
        .values
      for (word, own) in [(words[0][0], Self.a1), (words[1][0], Self.a2)] {
        let expected = Self.times(own.flatMap { $0 }, word)
        #expect(zip(Self.times(values, word), expected).allSatisfy { abs($0 - $1) < 1e-5 }, "\(ridge)")
      }
    }
    // A model that is the base asks for nothing; λ takes part of the way.
    let same = try Self.custom("", words: words, captions: Self.captions, weights: [Self.w0, Self.w0], base: Self.w0)
    #expect(same.values == Self.w0.flatMap { $0 })
    let half = try Self.custom("ridge: 0, lambda: 0.5", words: words, captions: Self.captions, weights: [Self.a1, Self.a2], base: Self.w0)
    let flat = Self.w0.flatMap { $0 }
    #expect(half.values.indices.allSatisfy { abs(half.values[$0] - (flat[$0] + found.values[$0]) / 2) < 1e-6 })
  }

  /// One word of two models gets the mean of what they give it; no captions at all, and captions of one direction, are no reason to fail.
  @Test func customDiffusionOfDependentWords() throws {
    let word: Rows = [[1, 2, 0]]
    let found = try Self.custom("", words: [word, word], captions: Self.captions, weights: [Self.a1, Self.a2], base: Self.w0)
    let (one, other) = (Self.times(Self.a1.flatMap { $0 }, word[0]), Self.times(Self.a2.flatMap { $0 }, word[0]))
    let mean = zip(one, other).map { ($0 + $1) / 2 }
    #expect(zip(Self.times(found.values, word[0]), mean).allSatisfy { abs($0 - $1) < 1e-5 }, "\(found.values)")
    #expect(finding("rank", found.report) == 1 && (finding("residual", found.report) ?? 0) > 0.1)
    for captions in [[[0, 0, 0], [0, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]]] as [Rows] {
      for ridge in ["0", "1.0e-6"] {
        let odd = try Self.custom(
          "ridge: \(ridge)", words: [word, [[0, 1, 1]]], captions: captions, weights: [Self.a1, Self.a2], base: Self.w0)
        #expect(odd.values.allSatisfy { $0.isFinite })
        #expect(zip(Self.times(odd.values, word[0]), one).allSatisfy { abs($0 - $1) < 1e-3 }, "\(odd.values)")
        #expect((finding("ridge", odd.report) ?? 0) > 0)
      }
    }
  }

  @Test func customDiffusionRefusesBadSides() throws {
    let weights = [Self.a1, Self.a2]
    let words: [Rows] = [[[1, 0, 1]], [[0, 2, 1]]]
    let indefinite: Rows = [[1, 3, 0], [3, 1, 0], [0, 0, 1]]
    for (words, captions) in [
      ([[[1, 0]], words[1]], Self.captions), (words, [[1, 0], [0, 1]]), (words, indefinite),
      ([[[.infinity, 0, 0]], words[1]], Self.captions),
      (words, nil),
    ] as [([Rows], Rows?)] {
      #expect(throws: IngotError.self) { _ = try Self.custom("", words: words, captions: captions, weights: weights, base: Self.w0) }
    }
  }
}
