import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Matrix methods on whole recipes: published and worked numbers, identities, degenerate inputs, memory.
@Suite struct MatrixMethodTests {
  static let methods = MethodRegistry.all.filter { $0 is any MatrixMethod.Type || $0 is any ModelMatrixMethod.Type }.map {
    $0.descriptor.name
  }
  /// Those that need nothing beside the models.
  static let plain = methods.filter { MethodRegistry.catalog.method($0)?.sideInputs.isEmpty == true }
  static let weight = "model.layers.0.mlp.down_proj.weight"

  static func tensor(_ rows: [[Double]], _ name: String = weight, _ dtype: DType = .f32) -> TestTensor {
    TestTensor(name, dtype, [rows.count, rows.first?.count ?? 0], rows.flatMap { $0 })
  }

  /// Merges task matrices on a base of zeros.
  static func run(_ method: String, _ tasks: [[[Double]]], _ parameters: String = "", base: [[Double]]? = nil) throws -> [Double] {
    var models: [String: [TestTensor]] = [:]
    for (index, task) in tasks.enumerated() { models["m\(index)"] = [tensor(task)] }
    models["base"] = [tensor(base ?? tasks[0].map { $0.map { _ in 0.0 } })]
    let list = tasks.indices.map { "{model: m\($0)}" }.joined(separator: ", ")
    let recipe = "merge_method: \(method)\nbase_model: base\nmodels: [\(list)]\nparameters: {\(parameters)}\n"
    let result = try merge(recipe: recipe, models: models)
    return try #require(result.tensors[weight]).values
  }

  static func agree(_ found: [Double], _ expected: [[Double]], _ tolerance: Double = 2e-6) -> Bool {
    let flat = expected.flatMap { $0 }
    return found.count == flat.count && zip(found, flat).allSatisfy { abs($0 - $1) <= tolerance * max(1, abs($1)) }
  }

  static let t1: [[Double]] = [[4, 1, 0, 0], [0, 3, 1, 0], [0, 0, 2, 1], [1, 0, 0, 1]]
  static let t2: [[Double]] = [[1, 0, 2, 0], [0, 1, 0, -1], [3, 0, 0, 1], [0, 2, 0, 1]]
  static let w1: [[Double]] = [[2, 1, 0], [0, 1, 1]]
  static let w2: [[Double]] = [[1, 0, -1], [1, 2, 0]]

  // MARK: Worked numbers (computed in float64 from the papers' formulas)

  @Test(arguments: ["auto", "eigen", "svd"]) func isoC(_ route: String) throws {
    let found = try Self.run("iso_c", [[[3, 1, 0], [1, 2, -1]], [[1, -1, 2], [2, 0, 1]]], "route: \(route)")
    let expected = [[2.7427813527, -1.1141720291, 2.2070196982], [2.0570860145, 2.8569533818, -1.1141720291]]
    #expect(Self.agree(found, expected), "\(found)")
  }

  @Test func isoCTS() throws {
    let found = try Self.run("iso_cts", [Self.t1, Self.t2], "common_space_fraction: 0.5")
    let expected = [
      [2.9797868819, -0.4324390745, 2.2146160053, -1.8019382108], [-1.2733044673, 3.4761214815, 1.6065702221, -0.9653220594],
      [0.4469968847, 0.0925380019, 2.2362270355, 3.4653367118], [2.552919591, 2.2223078068, -2.1751634637, 1.0150137226],
    ]
    #expect(Self.agree(found, expected), "\(found)")
  }

  @Test func tsvM() throws {
    let found = try Self.run("tsv_m", [Self.t1, Self.t2])
    let expected = [
      [3.7169949139, 0.8266844106, -0.0998342092, -1.6454029484], [-0.1995292501, 2.5051406419, 1.7639140259, -1.2585372008],
      [1.036692638, -0.2734856252, 1.8857244281, 2.6229376924], [0.6451347254, 1.4730865569, -1.481803198, 1.0223766636],
    ]
    #expect(Self.agree(found, expected), "\(found)")
  }

  @Test func rtsvmWithoutItsStatisticsIsTSVM() throws {
    let tsvm = try Self.run("tsv_m", [Self.t1, Self.t2])
    #expect(try Self.run("r_tsvm", [Self.t1, Self.t2], "outlier_mode: none, sparsity_factor: 0") == tsvm)
  }

  @Test func wudiClosedForm() throws {
    let found = try Self.run("wudi", [Self.w1, Self.w2], "solver: closed_form")
    #expect(Self.agree(found, [[3.05, -0.95, 1.5], [-0.95, 3.05, -1.5]]), "\(found)")
    // Gradient flow that runs long enough gets there too.
    let late = try Self.run("wudi", [Self.w1, Self.w2], "solver: spectral, time: 100000")
    #expect(Self.agree(late, [[3.05, -0.95, 1.5], [-0.95, 3.05, -1.5]]), "\(late)")
    let start = try Self.run("wudi", [Self.w1, Self.w2], "solver: spectral, time: 0")
    #expect(Self.agree(start, [[3, 1, -1], [1, 3, 1]]))
  }

  @Test func wudiAdam() throws {
    let small = try Self.run("wudi", [Self.w1, Self.w2])
    #expect(
      Self.agree(
        small, [[2.9970021044, 0.9970019128, -0.9970012749], [0.9970019128, 2.9970021044, 0.9970012749]], 1e-5), "\(small)")
    let large = try Self.run("wudi", [Self.w1, Self.w2], "lr: 0.01")
    #expect(
      Self.agree(large, [[2.3490433516, -0.250517862, 0.6507345138], [-0.250517862, 2.3490433516, -0.6507345138]], 1e-4), "\(large)")
  }

  @Test func optMerge() throws {
    let full = try Self.run("optmerge", [Self.w1, Self.w2])
    #expect(
      Self.agree(full, [[2.9970020682, 0.9970017839, -0.9970003982], [0.9970017839, 2.9970020682, 0.9970003982]], 1e-5), "\(full)")
    let lora = try Self.run("optmerge", [Self.w1, Self.w2], "variant: lora, lr: 0.0001")
    #expect(
      Self.agree(lora, [[1.6119371977, 0.4406870039, -0.4256331398], [0.4406870039, 1.6119371977, 0.4256331398]], 1e-5), "\(lora)")
  }

  @Test(arguments: [
    (0.5, 1.3587659003, [[2.2078858465, 1.4719238977, 0], [0, 1.4719238977, 2.2078858465], [0.7359619488, 0, 0.7359619488]]),
    (0.9, 1.2737572480, [[2.3552368434, 0, 0], [0, 1.5701578956, 2.3552368434], [0.7850789478, 0, 0.7850789478]]),
  ]) func opcm(_ alpha: Double, _ lambda: Double, _ expected: [[Double]]) throws {
    func model(_ matrix: [[Double]], _ bias: [Double]) -> [TestTensor] {
      [Self.tensor(matrix), TestTensor("model.norm.bias", .f32, [3], bias)]
    }
    let zero = [[0.0, 0, 0], [0, 0, 0], [0, 0, 0]]
    for budget in [1 << 23, 256 << 20] {
      var options = EngineOptions()
      options.memoryBudget = budget
      let result = try merge(
        recipe: "merge_method: opcm\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {projection_alpha: \(alpha)}\n",
        models: [
          "base": model(zero, [0, 0, 0]), "a": model([[3, 0, 0], [0, 2, 0], [0, 0, 1]], [1, 0, 0]),
          "b": model([[1, 2, 0], [0, 1, 3], [1, 0, 1]], [0, 2, 0]),
        ], options: options)
      let found = try #require(result.tensors[Self.weight]).values
      #expect(Self.agree(found, expected), "\(found)")
      #expect(Self.agree(try #require(result.tensors["model.norm.bias"]).values, [[1 / lambda, 2 / lambda, 0]]))
      let reported = try #require(result.report.findings.first { $0.finding.name == "lambda" }).finding.value
      #expect(abs(reported - lambda) < 1e-6)
    }
  }

  @Test func dop() throws {
    let found = try Self.run("dop", [[[2, 0], [0, 1]], [[0, 1], [1, 0]]])
    #expect(Self.agree(found, [[1.8823529412, 0.0909090909], [0.0909090909, 0.8]]), "\(found)")
    // Where neither model has anything, the mean of the two stays.
    let apart = try Self.run("dop", [[[2, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], "merged_weight: 0.5")
    #expect(Self.agree(apart, [[9.0 / 5, 0, 0], [0, 0, 0]]), "\(apart)")
  }

  /// By hand: the shared part is half of the sum; of τ₁ − that, whose singular values are those of a diagonal, the larger stays.
  @Test func twinBySingularValues() throws {
    let tasks: [[[Double]]] = [[[6, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 2, 0]]]
    // Shared [[3, 0, 0], [0, 1, 0]]; own parts [[3, 0, 0], [0, -1, 0]] and [[-3, 0, 0], [0, 1, 0]].
    let half = "lambda: 0.5, density: 0.5"
    #expect(Self.agree(try Self.run("twin_svd", tasks, "lambda: 0.5"), [[3, 0, 0], [0, 1, 0]]))
    #expect(Self.agree(try Self.run("twin_svd", tasks, half + ", task: 1"), [[6, 0, 0], [0, 1, 0]]))
    #expect(Self.agree(try Self.run("twin_svd", tasks, half + ", task: 2"), [[0, 0, 0], [0, 1, 0]]))
    // At least one value stays; with all of them it is the model itself.
    #expect(Self.agree(try Self.run("twin_svd", tasks, "lambda: 0.5, density: 0, task: 1"), [[6, 0, 0], [0, 1, 0]]))
    #expect(Self.agree(try Self.run("twin_svd", tasks, "lambda: 0.5, density: 1, task: 1"), tasks[0]))
    let mixed = try Self.run("twin_svd", tasks, "lambda: 0.5, density: 1, weight: 0.25")
    #expect(Self.agree(mixed, [[3, 0, 0], [0, 1, 0]]), "\(mixed)")
    #expect(throws: IngotError.self) { _ = try Self.run("twin_svd", tasks, "task: 1, weight: 0.5") }
    #expect(throws: IngotError.self) { _ = try Self.run("twin_svd", tasks, "task: 3") }
  }

  /// Of random matrices against the truncation of an independent decomposition: what is left out is at right angles to what is kept, and no
  /// other approximation of that rank is nearer than the sum of the squares left out says.
  @Test func twinApproximatesBest() throws {
    var random = SplitMix(19)
    let own = (0..<12).map { _ in (0..<20).map { _ in random.normal() } }
    let found = try Self.run("twin_svd", [own], "lambda: 0, task: 1, density: 0.34")
    let kept = (0..<12).map { Array(found[20 * $0..<20 * $0 + 20]) }
    // Rank 4: power iteration with deflation gives the four largest values.
    var left = own
    for _ in 0..<4 {
      var v = (0..<20).map { _ in random.normal() }
      for _ in 0..<300 {
        let u = left.map { row in zip(row, v).reduce(0) { $0 + $1.0 * $1.1 } }
        v = (0..<20).map { j in (0..<12).reduce(0) { $0 + left[$1][j] * u[$1] } }
        let size = v.reduce(0) { $0 + $1 * $1 }.squareRoot()
        v = v.map { $0 / size }
      }
      let u = left.map { row in zip(row, v).reduce(0) { $0 + $1.0 * $1.1 } }
      for i in 0..<12 { for j in 0..<20 { left[i][j] -= u[i] * v[j] } }
    }
    for i in 0..<12 { for j in 0..<20 { #expect(abs(kept[i][j] - (own[i][j] - left[i][j])) < 1e-5) } }
  }

  /// Norms and embeddings keep their own parts whole.
  @Test func twinOfOtherTensors() throws {
    let names = ["model.norm.weight": [3], "model.embed_tokens.weight": [2, 3]]
    func model(_ seed: UInt64) -> [TestTensor] {
      var random = SplitMix(seed)
      return names.sorted { $0.key < $1.key }.map { name, shape in
        TestTensor(name, .f32, shape, (0..<shape.reduce(1, *)).map { _ in random.normal() })
      }
    }
    let models = ["base": model(1), "a": model(2), "b": model(3)]
    let recipe = "merge_method: twin_svd\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {density: 0.1, task: 2}\n"
    let found = try merge(recipe: recipe, models: models).tensors
    for tensor in models["b"] ?? [] { #expect(Self.agree(try #require(found[tensor.name]).values, [tensor.values], 1e-6)) }
    let matrix = try merge(recipe: recipe.replacing("density: 0.1", with: "density: 0.1, embeddings: matrix"), models: models).tensors
    let name = "model.embed_tokens.weight"
    #expect(matrix[name]?.values != found[name]?.values)
  }

  // MARK: Identities

  @Test(arguments: plain) func theBaseAloneIsTheResultOfNoTasks(_ method: String) throws {
    let base = [[0.5, -1.25, 3], [2, 0.125, -0.75]]
    let found = try Self.run(method, [base, base], base: base)
    #expect(Self.agree(found, base, 0), "\(found)")
  }

  @Test(arguments: ["tsv_m", "wudi", "opcm", "dop"]) func oneModelKeepsItsTaskVector(_ method: String) throws {
    let found = try Self.run(method, [Self.t1], method == "wudi" ? "solver: closed_form" : "")
    #expect(Self.agree(found, Self.t1), "\(found)")
  }

  @Test(arguments: plain.filter { $0 != "opcm" && $0 != "dop" }) func theOrderOfModelsDoesNotMatter(_ method: String) throws {
    let forth = try Self.run(method, [Self.t1, Self.t2])
    let back = try Self.run(method, [Self.t2, Self.t1])
    #expect(zip(forth, back).allSatisfy { abs($0 - $1) < 1e-5 }, "\(forth) \(back)")
  }

  @Test func isoCIsHomogeneous() throws {
    let once = try Self.run("iso_c", [Self.t1, Self.t2])
    let half = try Self.run("iso_c", [Self.t1, Self.t2], "weight: 0.5")
    #expect(zip(once, half).allSatisfy { abs($0 - 2 * $1) < 1e-5 })
    let scaled = try Self.run("iso_c", [Self.t1, Self.t2], "lambda: 0.5")
    #expect(zip(scaled, half).allSatisfy { abs($0 - $1) < 1e-6 })
  }

  // MARK: Degenerate inputs

  @Test(arguments: plain) func dependentTasksGiveFiniteResults(_ method: String) throws {
    let rankOne = (0..<5).map { i in (0..<7).map { j in Double((i + 1) * (j - 3)) / 8 } }
    for tasks in [
      [Self.t1, Self.t1], [rankOne, rankOne], [rankOne, rankOne.map { $0.map { -$0 } }], [Self.w1, Self.w1.map { $0.map { _ in 0 } }],
    ] {
      let found = try Self.run(method, tasks)
      #expect(found.allSatisfy { $0.isFinite }, "\(found)")
    }
    // A matrix of one row or one column, and more models than the shorter side.
    for tasks in [[[[1.0, 2, 3]], [[0, 1, -1]], [[2, 2, 2]]], [[[1], [2], [3]], [[0], [1], [-1]], [[2], [2], [2]]]] as [[[[Double]]]] {
      let found = try Self.run(method, tasks)
      #expect(found.allSatisfy { $0.isFinite }, "\(found)")
    }
  }

  @Test func duplicateTasksAreTheirLeadingHalfInTSVM() throws {
    // diag(4, 3, 2, 1) twice: two triplets each, the shared directions once, with twice the strength shared by two.
    let diagonal = (0..<4).map { i in (0..<4).map { j in i == j ? Double(4 - i) : 0 } }
    let found = try Self.run("tsv_m", [diagonal, diagonal])
    #expect(Self.agree(found, [[4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), "\(found)")
  }

  @Test(arguments: plain) func valuesThatAreNotFiniteAreRefused(_ method: String) throws {
    #expect { _ = try Self.run(method, [Self.t1, [[.nan, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]) } throws: {
      ($0 as? IngotError)?.status == .nonFinite && ($0 as? IngotError)?.subject == Self.weight
    }
  }

  /// A mask of `concrete` on every task matrix, by documents that are computed while TSV-M reads them.
  @Test(arguments: ["tsv_m", "iso_c", "opcm"]) func masksBeforeMatrixMethods(_ method: String) throws {
    let mask: [[Double]] = [[1, 0.5, 0, 1], [0.25, 1, 1, 0], [1, 1, 0.5, 0.5], [0, 1, 0.25, 1]]
    let mean = mask.joined().reduce(0, +) / 16
    func masked(_ rows: [[Double]]) -> [[Double]] { zip(rows, mask).map { zip($0, $1).map { $0 * $1 / mean } } }
    let documents = ["a", "b"].map {
      "name: \($0)_masked\nmerge_method: concrete\nbase_model: base\nside: {mask: mask}\nmodels: [{model: \($0)}]\n"
        + "parameters: {lambda: 1, mask_values: shares}\ndtype: float32\n---\n"
    }
    let result = try merge(
      recipe: documents.joined() + "merge_method: \(method)\nbase_model: base\nmodels: [{model: a_masked}, {model: b_masked}]\n",
      models: [
        "base": [Self.tensor(mask.map { $0.map { _ in 0 } })], "a": [Self.tensor(Self.t1)], "b": [Self.tensor(Self.t2)],
        "mask": [Self.tensor(mask)],
      ])
    #expect(result.plan.stages.count == 2 && result.plan.storedStages.isEmpty)
    let expected = try Self.run(method, [masked(Self.t1), masked(Self.t2)])
    #expect(Self.agree(try #require(result.tensors[Self.weight]).values, [expected], 1e-5))
    #expect(try Self.run(method, [Self.t1, Self.t2]) != expected)
  }

  /// Magnitudes at both ends of f32, also where a difference or a sum leaves it: an error or finite numbers, and neither NaN nor the base in their place.
  @Test(arguments: plain) func extremeValues(_ method: String) throws {
    let small = method == "doge" || method == "wudi" || method == "optmerge" ? "iterations: 3" : ""
    for size in [3e37, 1e30, 1e15, 1e-15, 1e-30, 1e-35] {
      let (a, b) = (Self.t1.map { $0.map { $0 * size } }, Self.t2.map { $0.map { $0 * size } })
      do {
        let found = try Self.run(method, [a, b], small)
        #expect(found.allSatisfy { $0.isFinite }, "\(size): \(found)")
        if size >= 1e-15 { #expect(found.contains { $0 != 0 }, "\(size)") }
      } catch let error as IngotError {
        #expect(size >= 1e15 && error.subject == Self.weight, "\(size): \(error)")
      }
    }
    let far = Self.t1.map { $0.map { _ in 3e38 } }
    #expect(throws: IngotError.self) { _ = try Self.run(method, [far, far], small, base: far.map { $0.map { -$0 } }) }
  }

  // MARK: The rest rule

  @Test(arguments: [("average", 2.0), ("task_arithmetic", 4), ("base", 0)]) func theRestRule(_ rule: String, _ expected: Double) throws {
    let names = ["model.norm.weight": [3], "model.embed_tokens.weight": [2, 3], "model.conv.weight": [1, 3, 1]]
    func model(_ value: Double) -> [TestTensor] {
      names.map { TestTensor($0.key, .f32, $0.value, [Double](repeating: value, count: $0.value.reduce(1, *))) }
    }
    let result = try merge(
      recipe: "merge_method: iso_c\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {rest: \(rule)}\n",
      models: ["base": model(0), "a": model(1), "b": model(3)])
    for name in names.keys { #expect(try #require(result.tensors[name]).values.allSatisfy { $0 == expected }, "\(name)") }
    // As a matrix of rank one the embedding keeps its only direction, with half of the strength: σ̄ divides by both.
    let matrix = try merge(
      recipe: "merge_method: iso_c\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {embeddings: matrix}\n",
      models: ["base": model(0), "a": model(1), "b": model(3)])
    #expect(try #require(matrix.tensors["model.embed_tokens.weight"]).values.allSatisfy { abs($0 - 2) < 1e-6 })
  }

  // MARK: RegMean

  static func regmean(
    _ parameters: String, grams: [[[Double]]], weights: [[[Double]]], packed: Bool = false, turned: Bool = false
  ) throws -> [Double] {
    var models: [String: [TestTensor]] = [:]
    var list: [String] = []
    for (index, pair) in zip(grams, weights).enumerated() {
      models["m\(index)"] = [tensor(pair.1), TestTensor("model.norm.weight", .f32, [2], [Double(index), 1])]
      let n = pair.0.count
      let values = packed ? (0..<n).flatMap { i in (i..<n).map { pair.0[i][$0] } } : pair.0.flatMap { $0 }
      models["g\(index)"] = [
        TestTensor(String(weight.dropLast(7)) + (turned ? ".transposed" : ""), .f32, packed ? [values.count] : [n, n], values)
      ]
      list.append("{model: m\(index), side: {gram: g\(index)}}")
    }
    let recipe = "merge_method: regmean\nmodels: [\(list.joined(separator: ", "))]\nparameters: {\(parameters)}\n"
    let result = try merge(recipe: recipe, models: models)
    #expect(try #require(result.tensors["model.norm.weight"]).values == [Double(grams.count - 1) / 2, 1])
    return try #require(result.tensors[weight]).values
  }

  static let g1: [[Double]] = [[2, 1], [1, 2]]
  static let g2: [[Double]] = [[1, 0], [0, 3]]
  static let r1: [[Double]] = [[1, 2], [0, 1]]
  static let r2: [[Double]] = [[3, 0], [1, -1]]

  @Test(arguments: [false, true]) func regmeanNumbers(_ packed: Bool) throws {
    let pure = try Self.regmean(
      "reduce_non_diagonal_ratio: 1, ridge: 0", grams: [Self.g1, Self.g2], weights: [Self.r1, Self.r2], packed: packed)
    #expect(Self.agree(pure, [[2.1428571429, 0.5714285714], [0.7857142857, -0.3571428571]]), "\(pure)")
    let shrunk = try Self.regmean(
      "reduce_non_diagonal_ratio: 0.5, ridge: 0", grams: [Self.g1, Self.g2], weights: [Self.r1, Self.r2], packed: packed)
    #expect(Self.agree(shrunk, [[1.8813559322, 0.7118644068], [0.5423728814, -0.2542372881]]), "\(shrunk)")
  }

  /// Of a weight that is stored as [in, out]: 3 inputs and 2 outputs, against the same weights stored as [out, in].
  @Test(arguments: [false, true], ["", "ridge: 0", "reduce_non_diagonal_ratio: 1"])
  func regmeanOfTransposedWeights(_ packed: Bool, _ parameters: String) throws {
    let g: [[[Double]]] = [
      [[4, 1, 0], [1, 3, 1], [0, 1, 2]], [[1, 0, 1], [0, 2, 0], [1, 0, 5]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
    ]
    let w: [[[Double]]] = [[[1, 2, -1], [0, 1, 3]], [[3, 0, 1], [1, -1, 0]], [[2, 2, 2], [-1, 0, 1]]]
    func transposed(_ matrix: [[Double]]) -> [[Double]] { (0..<matrix[0].count).map { j in matrix.map { $0[j] } } }
    // The third is singular: the way by eigenvectors.
    for (models, grams) in [([0, 1], [0, 1]), ([0, 1, 2], [0, 1, 2]), ([0, 1], [2, 2])] {
      let (own, seen) = (models.map { w[$0] }, grams.map { g[$0] })
      let plain = try Self.regmean(parameters, grams: seen, weights: own, packed: packed)
      let turned = try Self.regmean(parameters, grams: seen, weights: own.map(transposed), packed: packed, turned: true)
      #expect(Self.agree(turned, transposed([Array(plain[..<3]), Array(plain[3...])])))
    }
  }

  /// Of 700 rows in panels, against the whole weight: of definite and singular sums, of packed matrices, without ridge and with a model that does not count.
  @Test(arguments: ["", "ridge: 0", "reduce_non_diagonal_ratio: 1, ridge: 0"], [false, true])
  func regmeanInPanels(_ parameters: String, _ packed: Bool) throws {
    let g: [[[Double]]] = [
      [[4, 1, 0], [1, 3, 1], [0, 1, 2]], [[1, 0, 1], [0, 2, 0], [1, 0, 5]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
    ]
    func row(_ i: Int, _ model: Int) -> [Double] { (0..<3).map { j in Double((i * 37 + j * 11 + model * 5) % 29) / 8 - 1 } }
    let w: [[[Double]]] = (0..<3).map { model in (0..<700).map { i in row(i, model) } }
    for (models, grams) in [([0, 1], [0, 1]), ([0, 1, 2], [0, 1, 2]), ([0, 1], [2, 2]), ([0], [0])] {
      let (own, seen) = (models.map { w[$0] }, grams.map { g[$0] })
      let first = parameters.isEmpty ? "" : parameters + ", "
      let whole = try Self.regmean(first + "panels: never", grams: seen, weights: own, packed: packed)
      let panels = try Self.regmean(first + "panels: always", grams: seen, weights: own, packed: packed)
      #expect(whole.count == 2100 && zip(whole, panels).allSatisfy { abs($0 - $1) < 2e-6 })
    }
    // A weight that is stored as [in, out] is whole in memory.
    let turned: [[[Double]]] = [w[0], w[1]].map { Array($0.prefix(3)) }
    let (whole, panels) = (
      try Self.regmean("panels: never", grams: Array(g.prefix(2)), weights: turned, turned: true),
      try Self.regmean("panels: always", grams: Array(g.prefix(2)), weights: turned, turned: true)
    )
    #expect(whole == panels)
  }

  @Test func regmeanRefusesGramsOfRowsBesideOthers() throws {
    let tensors = { (value: Double) in [TestTensor(Self.weight, .f32, [2, 2], [value, 0, 1, 2])] }
    let module = String(Self.weight.dropLast(7))
    let unit = { (name: String, n: Int) in [TestTensor(name, .f32, [n, n], [1])] }
    let recipe = "merge_method: regmean\nmodels: [{model: a, side: {gram: ga}}, {model: b, side: {gram: gb}}]\n"
    for (name, n, words) in [(module + ".transposed", 2, "are of the rows"), (module + ".transposed", 3, "[2, 2] or [3]")] {
      let error = try #require(throws: IngotError.self) {
        _ = try merge(
          recipe: recipe, models: ["a": tensors(1), "b": tensors(2), "ga": unit(module, 2), "gb": unit(name, n)])
      }
      #expect(error.status == .shape && error.message.contains(words), "\(error)")
    }
  }

  @Test func regmeanIdentities() throws {
    // Equal models, one model, multiples of the identity, no inputs at all, and a singular sum: the mean stays where no model looks.
    #expect(Self.agree(try Self.regmean("", grams: [Self.g1, Self.g2], weights: [Self.r1, Self.r1]), Self.r1))
    #expect(Self.agree(try Self.regmean("", grams: [Self.g1], weights: [Self.r1]), Self.r1))
    let unit: [[Double]] = [[1, 0], [0, 1]]
    let triple: [[Double]] = [[3, 0], [0, 3]]
    #expect(Self.agree(try Self.regmean("ridge: 0", grams: [unit, triple], weights: [Self.r1, Self.r2]), [[2.5, 0.5], [0.75, -0.5]]))
    let zero: [[Double]] = [[0, 0], [0, 0]]
    #expect(Self.agree(try Self.regmean("ridge: 0", grams: [zero, zero], weights: [Self.r1, Self.r2]), [[2, 1], [0.5, 0]]))
    let half: [[Double]] = [[1, 0], [0, 0]]
    #expect(
      Self.agree(
        try Self.regmean("ridge: 0", grams: [half, triple.map { [$0[0], 0] }], weights: [Self.r1, Self.r2]), [[2.5, 1], [0.75, 0]]))
  }

  @Test func regmeanRefusesBadGrams() throws {
    #expect(throws: IngotError.self) { _ = try Self.regmean("", grams: [Self.g1, [[.nan, 0], [0, 1]]], weights: [Self.r1, Self.r2]) }
    #expect(throws: IngotError.self) { _ = try Self.regmean("", grams: [Self.g1, [[-1, 0], [0, 1]]], weights: [Self.r1, Self.r2]) }
    #expect(throws: IngotError.self) {
      _ = try Self.regmean("", grams: [Self.g1, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]], weights: [Self.r1, Self.r2])
    }
  }

  // MARK: The engine's part

  static let models: [String: [TestTensor]] = {
    var random = SplitMix(3)
    var models: [String: [TestTensor]] = [:]
    for model in ["base", "a", "b", "c"] {
      models[model] = [([61, 40], "q"), ([40, 90], "k"), ([33, 33], "v")].map { shape, name in
        let values = (0..<shape[0] * shape[1]).map { _ in Double(Int64(random.next() >> 44)) / 524_288 - 1 }
        return TestTensor("model.layers.0.self_attn.\(name)_proj.weight", name == "k" ? .bf16 : .f32, shape, values)
      }
    }
    return models
  }()

  /// The least budget that a plan runs in.
  static func leastMemory(_ recipe: String, _ models: [String: [TestTensor]]) throws -> Int {
    let parsed = try Recipe.parse(Array(recipe.utf8), origin: "recipe.yml", catalog: MethodRegistry.catalog)
    var views: [String: [TensorView]] = [:]
    for (name, tensors) in models { views[name] = try tensors.map { try $0.view } }
    return try Plan.make(parsed, models: MemoryModels(views)).leastMemory
  }

  @Test(arguments: plain) func bytesDependOnNeitherThreadsNorBudget(_ method: String) throws {
    let parameters = method == "doge" ? "parameters: {iterations: 6, lr: 0.01}\n" : ""
    let recipe = "merge_method: \(method)\nbase_model: base\nmodels: [{model: a}, {model: b}, {model: c}]\n\(parameters)"
    var expected: [String: [Double]] = [:]
    for set in InstructionSet.available {
      for (threads, isLeast) in [(1, false), (3, false), (2, true)] {
        var options = EngineOptions()
        options.threads = threads
        options.instructionSet = set.name
        if isLeast { options.memoryBudget = try Self.leastMemory(recipe, Self.models) }
        let result = try merge(recipe: recipe, models: Self.models, options: options)
        #expect(result.report.peakMemory <= options.memoryBudget)
        #expect(!result.report.findings.isEmpty)
        let found = result.tensors.mapValues(\.values)
        if expected.isEmpty { expected = found }
        #expect(found == expected, "\(set) \(threads)")
      }
    }
  }

  /// A matrix of many panels, whose output items end inside rows; and one that is wide, and is whole in memory whatever `panels` says.
  static func long(_ rows: Int, _ columns: Int) -> [String: [TestTensor]] {
    var models: [String: [TestTensor]] = [:]
    var random = SplitMix(6)
    for name in ["base", "a", "b", "c"] {
      let values = (0..<rows * columns).map { _ in Double(Int64(random.next() >> 44)) / 524_288 - 1 }
      models[name] = [TestTensor(weight, .f32, [rows, columns], values)]
    }
    return models
  }
  static let tall = long(5003, 67)
  static let wide = long(67, 203)

  private static func run(
    _ method: String, _ parameters: String, on models: [String: [TestTensor]], _ dtype: DType = .f32, inLeastMemory: Bool = false
  ) throws -> [Double] {
    let recipe =
      "merge_method: \(method)\nbase_model: base\nmodels: [{model: a}, {model: b}, {model: c}]\n"
      + "parameters: {\(parameters)}\ndtype: \(dtype == .f32 ? "float32" : "bfloat16")\n"
    var options = EngineOptions()
    if inLeastMemory { options.memoryBudget = try leastMemory(recipe, models) }
    let result = try merge(recipe: recipe, models: models, options: options)
    #expect(result.report.peakMemory <= options.memoryBudget)
    return try #require(result.tensors[weight]).values
  }

  @Test(
    arguments: [
      ("iso_c", "", .f32), ("iso_c", "", .bf16), ("iso_c", "route: halley", .f32), ("tsv_m", "", .f32),
      ("tsv_m", "lambda: 0.5, range_tolerance: 0.3", .f32), ("r_tsvm", "", .f32), ("iso_cts", "", .f32),
      ("iso_cts", "common_space_fraction: 0, weight: 0.5", .f32), ("svc", "", .f32), ("svc", "calibrate: first", .f32), ("opcm", "", .f32),
      ("opcm", "", .bf16), ("opcm", "projection_alpha: 0.9", .f32),
    ] as [(String, String, DType)]) func panelsGiveWhatTheWholeMatrixGives(_ method: String, _ parameters: String, _ dtype: DType) throws
  {
    let first = parameters.isEmpty ? "" : parameters + ", "
    let (never, always) = (first + "panels: never", first + "panels: always")
    let whole = try Self.run(method, never, on: Self.tall, dtype)
    let panels = try Self.run(method, always, on: Self.tall, dtype, inLeastMemory: true)
    let base = try #require(Self.tall["base"]?.first).values
    let (apart, size) = zip(zip(whole, panels), base).reduce((0.0, 0.0)) { sums, next in
      let ((one, other), start) = next
      return (sums.0 + (one - other) * (one - other), sums.1 + (one - start) * (one - start))
    }
    #expect(whole.count == panels.count && size > 0)
    #expect((apart / size).squareRoot() <= (dtype == .f32 ? 1e-4 : 1e-2), "\((apart / size).squareRoot())")
    #expect(try Self.run(method, always, on: Self.wide, dtype) == Self.run(method, never, on: Self.wide, dtype))
  }

  @Test(arguments: ["iso_c", "tsv_m", "r_tsvm", "iso_cts", "svc", "opcm"]) func panelsOfFewRowsAndOfNothing(_ method: String) throws {
    // Square, a single column, fewer rows than a panel, one task, more tasks than columns, tasks of zeros and equal ones.
    let column = [[1.0], [2], [3]]
    for tasks in [
      [Self.t1, Self.t2], [column, column.reversed()], [Self.t1], [column, [[0.0], [1], [-1]], [[2.0], [2], [2]]],
      [Self.t1.map { $0.map { _ in 0.0 } }], [Self.t1, Self.t1],
    ] as [[[[Double]]]] {
      let parameters = method == "r_tsvm" ? "outlier_sigma: 0.5, " : ""
      let whole = try Self.run(method, tasks, parameters + "panels: never")
      let panels = try Self.run(method, tasks, parameters + "panels: always")
      #expect(zip(whole, panels).allSatisfy { abs($0 - $1) <= 1e-5 * max(1, abs($0)) }, "\(whole) \(panels)")
    }
    #expect {
      _ = try Self.run(method, [Self.t1, [[.nan, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], "panels: always")
    } throws: {
      ($0 as? IngotError)?.status == .nonFinite && ($0 as? IngotError)?.subject == Self.weight
    }
  }

  @Test func panelsAndTheSVDContradict() throws {
    let error = #expect(throws: IngotError.self) { _ = try Self.run("iso_c", [Self.t1], "panels: always, route: svd") }
    #expect(error?.status == .recipe && error?.message.contains("panels") == true)
  }

  /// An embedding of 128k × 8k, whose bytes in f32 are 4 GiB, with four models.
  @Test func memoryOfPanels() throws {
    func request(_ descriptor: MethodDescriptor, _ rows: Int, _ columns: Int) -> MethodRequest {
      var values: [String: ParameterValue] = ["embeddings": .text("matrix")]
      for parameter in descriptor.parameters where !parameter.isPerModel && values[parameter.name] == nil {
        values[parameter.name] = parameter.default
      }
      return MethodRequest(
        inputs: (0..<5).map { .init(model: "m\($0)", ordinal: $0, isBase: $0 == 0) },
        segments: [
          .init(
            name: "model.embed_tokens.weight", shape: Shape([rows, columns]), parameters: values,
            modelParameters: (0..<5).map { _ in ["weight": .number(1)] }, streams: (0..<5).map(UInt64.init))
        ], seed: 0)
    }
    func bytes<Method: MatrixMethod>(_: Method.Type, _ rows: Int, _ columns: Int) throws -> Int {
      let method = try Method(request(Method.descriptor, rows, columns))
      #expect(method.streams(rows: rows, columns: columns) == (rows * columns >= 1 << 25))
      return try method.memory(5, rows: rows, columns: columns, held: 1 << 20)
    }
    let (m, n) = (128 << 10, 8 << 10)
    #expect(try bytes(IsoC.self, m, n) < 1000 << 20)
    #expect(try bytes(IsoC.self, 1024, 1024) > 12 << 20)
    // As docs/matrix-methods.md has it, and a few panels of 512 rows.
    let panels = 8 * 512 * 8 * n
    #expect(try bytes(TSVM.self, m, n) < 40 * n * n + panels)
    #expect(try bytes(RTSVM.self, m, n) < 40 * n * n + panels)
    #expect(try bytes(IsoCTS.self, m, n) < 42 * n * n + panels)
    #expect(try bytes(SVC.self, m, n) < 40 * n * n + panels)
    let opcm = try OPCM(request(OPCM.descriptor, m, n))
    #expect(opcm.streams(rows: m, columns: n))
    #expect(try opcm.memory(5, rows: m, columns: n, isMatrix: true, held: 1 << 20) < 57 * n * n + panels)
  }

  @Test func aMatrixThatDoesNotFitTheBudgetIsRefusedWithItsBytes() throws {
    var options = EngineOptions()
    options.memoryBudget = 8 << 20
    let base = TestTensor("model.layers.0.mlp.up_proj.weight", .bf16, [1024, 1024], [Double](repeating: 0, count: 1 << 20))
    #expect {
      _ = try merge(
        recipe: "merge_method: iso_c\nbase_model: base\nmodels: [{model: a}]\n", models: ["base": [base], "a": [base]], options: options)
    } throws: {
      guard let error = $0 as? IngotError else { return false }
      return error.status == .memory && error.message.contains("the matrix model.layers.0.mlp.up_proj.weight needs")
    }
  }
}
