import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Averages and coefficients: published and worked-out numbers, what is read and copied, and what is refused.
@Suite struct AverageTests {
  private func tensor(_ values: [Double], _ name: String = "w") -> [TestTensor] { [TestTensor(name, .f32, [values.count], values)] }

  private func agree(_ found: TestTensor?, _ expected: [Double], _ tolerance: Double = 2e-6) -> Bool {
    guard let found else { return false }
    return found.count == expected.count && zip(found.values, expected).allSatisfy { abs($0 - $1) <= tolerance * max(1, abs($1)) }
  }

  /// A merge of models a, b, c with these parameters of their own; `base` where the method needs one.
  private func recipe(_ method: String, _ own: [String] = ["", "", ""], global: String = "", hasBase: Bool = false) -> String {
    let list = zip(MethodCase.models, own).map { "{model: \($0)\($1.isEmpty ? "" : ", parameters: {\($1)}")}" }.joined(separator: ", ")
    return "merge_method: \(method)\n\(hasBase ? "base_model: base\n" : "")models: [\(list)]\nparameters: {\(global)}\n"
  }

  private func weights(_ recipe: String, _ models: [String: [TestTensor]]) throws -> [Double] {
    let found = try merge(recipe: recipe, models: models).report.findings.filter { $0.finding.name == "weight" }.map(\.finding)
    return found.sorted { ($0.model ?? 0) < ($1.model ?? 0) }.map(\.value)
  }

  @Test func goldenNumbers() throws {
    let golden = try ElementwiseGolden()
    func result(_ recipe: String) throws -> TestTensor? { try merge(recipe: recipe, models: golden.tensors).tensors["w"] }
    let losses = ["loss: 2", "loss: 2.5", "loss: 1.5"]
    let steps = ["steps: 100", "steps: 200", "steps: 300"]
    #expect(agree(try result(recipe("uniform_soup")), golden.numbers("avg3")))
    #expect(agree(try result(recipe("swa")), golden.numbers("avg3")))
    #expect(agree(try result(recipe("lm_cocktail", losses)), golden.numbers("cocktail")))
    #expect(agree(try result(recipe("metrics_weighted", losses, global: "penalty: 2")), golden.numbers("mwa_loss_p2_merge")))
    #expect(agree(try result(recipe("varm", hasBase: true)), golden.numbers("varm_model")))
    #expect(agree(try result(recipe("varm", global: "granularity: model", hasBase: true)), golden.numbers("varm_model")))
    func near(_ found: [Double], _ name: String) -> Bool {
      let expected = golden.numbers(name)
      return found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= 1e-7 }
    }
    #expect(near(try weights(recipe("lm_cocktail", losses), golden.tensors), "cocktail_w"))
    for (penalty, name) in [(1, "mwa_loss_p1"), (2, "mwa_loss_p2")] {
      #expect(near(try weights(recipe("metrics_weighted", losses, global: "penalty: \(penalty)"), golden.tensors), name))
    }
    for (penalty, name) in [(1, "mwa_step_p1"), (2, "mwa_step_p2")] {
      #expect(near(try weights(recipe("metrics_weighted", steps, global: "metric: steps, penalty: \(penalty)"), golden.tensors), name))
    }
    #expect(near(try weights(recipe("varm", hasBase: true), golden.tensors), "varm_w"))
  }

  @Test(
    arguments: [
      ("ema", "beta: 0.9", "ema_.9"), ("ema", "beta: 0.9, bias_correction: true", "ema_zero_init_bias_corrected"), ("swa", "", "swa"),
      ("lawa", "window: 2", "lawa_k2"), ("wma", "", "wma"),
    ]) func goldenSeries(_ method: String, _ global: String, _ name: String) throws
  {
    let values = ["x1": 1.0, "x2": 2, "x3": 4, "x4": 8]
    let list = values.keys.sorted().map { "{model: \($0)}" }.joined(separator: ", ")
    let result = try merge(
      recipe: "merge_method: \(method)\nmodels: [\(list)]\nparameters: {\(global)}\n", models: values.mapValues { tensor([$0]) })
    #expect(agree(result.tensors["w"], try ElementwiseGolden().numbers(name)))
  }

  @Test func goldenAdapters() throws {
    let golden = try ElementwiseGolden()
    let (first, second) = ("layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight")
    let models = [
      "one": tensor([0.1, -0.5, 0.3, 0.2], first) + tensor([1, 2], second),
      "two": tensor([0.4, 0.1, -0.2, 0.6], first) + tensor([3, -1], second),
    ]
    let recipe = """
      merge_method: evo_merging
      models:
        - {model: one, parameters: {weight: 0.8, density: 0.5}}
        - {model: two, parameters: {weight: -0.4, density: 1}}
      """
    let result = try merge(recipe: recipe, models: models)
    #expect(agree(result.tensors[first], golden.numbers("evo_A_m")))
    #expect(agree(result.tensors[second], golden.numbers("evo_B_m")))
    // One element stays at the least, and none of a model that is dropped.
    let least = recipe.replacingOccurrences(of: "0.5", with: "0.001").replacingOccurrences(of: "density: 1", with: "density: 0")
    #expect(agree(try merge(recipe: least, models: models).tensors[first], [0, -0.4, 0, 0]))
    // Without weights the mean.
    let plain = "merge_method: evo_merging\nmodels: [{model: one}, {model: two}]\n"
    #expect(agree(try merge(recipe: plain, models: models).tensors[second], [2, 0.5]))
  }

  // MARK: One linear combination

  /// Every pattern of 16 bits comes back where all models are alike, but those whose sum is beyond f32.
  @Test(
    arguments: ["uniform_soup", "swa", "lawa", "wma", "ema", "metrics_weighted", "lm_cocktail", "sparse_soup", "varm", "layer_swap"],
    [DType.bf16, .f16]) func identicalModelsReturnThemselves(_ method: String, _ dtype: DType) throws
  {
    let tensor = PropertyTests.patterns(dtype)
    for index in 0..<tensor.count where abs(tensor.value(index)) > 0x1p125 { tensor.set(index, 1) }
    let own = MethodRegistry.catalog.method(method)?.parameter("loss") == nil ? "" : "loss: 2.5"
    let count = method == "layer_swap" ? 2 : 3
    let text = recipe(method, [String](repeating: own, count: count), hasBase: method == "varm")
    let found = try merge(recipe: text, models: ["base": [tensor], "a": [tensor], "b": [tensor], "c": [tensor]])
    #expect(tensor.hasBytes(of: found.tensors["w"]))
  }

  /// Sums of small multiples of a power of two are exact, so that the order of the models leaves no trace where they count alike.
  @Test(arguments: ["uniform_soup", "swa", "metrics_weighted", "lm_cocktail"]) func orderOfModelsDoesNotMatter(_ method: String) throws {
    var random = SplitMix(8)
    var models: [String: [TestTensor]] = [:]
    for name in MethodCase.models {
      models[name] = [TestTensor("w", .f32, [50, 41], (0..<50 * 41).map { _ in Double(Int(random.next() % 65) - 32) / 64 })]
    }
    let own = ["uniform_soup", "swa"].contains(method) ? "" : "loss: 2"
    var outputs: [TestTensor] = []
    for order in [["a", "b", "c"], ["c", "a", "b"]] {
      let list = order.map { "{model: \($0), parameters: {\(own)}}" }.joined(separator: ", ")
      outputs.append(try #require(try merge(recipe: "merge_method: \(method)\nmodels: [\(list)]\n", models: models).tensors["w"]))
    }
    #expect(zip(outputs[0].values, outputs[1].values).allSatisfy { abs($0 - $1) <= 1e-7 })
  }

  /// Checkpoints that count nothing are not read, so that what is in them does not matter; a single one is copied, bytes and all.
  @Test func unusedCheckpointsAreNotRead() throws {
    var models = ["a": tensor([.nan, 1]), "b": tensor([1, 2]), "c": tensor([3, 6])]
    var result = try merge(recipe: recipe("lawa", global: "window: 2"), models: models)
    #expect(result.tensors["w"]?.values == [2, 4])
    #expect(result.plan.tensors[0].inputs.map(\.model) == [1, 2])
    result = try merge(recipe: recipe("lawa", global: "window: 1"), models: models)
    #expect(result.tensors["w"]?.values == [3, 6])
    guard case .copy = result.plan.jobs[0].work else {
      Issue.record("not copied")
      return
    }
    result = try merge(recipe: recipe("ema", global: "beta: 0"), models: models)
    #expect(result.tensors["w"]?.values == [3, 6])
    // Another type of output: still the one input alone.
    result = try merge(recipe: recipe("lawa", global: "window: 1") + "dtype: bfloat16\n", models: models)
    #expect(result.tensors["w"]?.values == [3, 6] && result.plan.tensors[0].inputs.count == 1)
    models["a"] = tensor([5, 7])
    result = try merge(recipe: recipe("lawa", global: "window: 9"), models: models)
    #expect(result.tensors["w"]?.values == [3, 5])
    let single = try merge(recipe: "merge_method: uniform_soup\nmodels: [{model: b}]\n", models: models)
    #expect(single.tensors["w"]?.values == [1, 2])
  }

  /// p of 0 is the mean; a large one takes the best alone, without an overflow.
  @Test func penalties() throws {
    let models = ["a": tensor([1]), "b": tensor([2]), "c": tensor([6])]
    for (own, metric) in [(["loss: 2e-30", "loss: 3", "loss: 1e20"], "loss"), (["steps: 9", "steps: 0", "steps: 1"], "steps")] {
      let mean = try merge(recipe: recipe("metrics_weighted", own, global: "metric: \(metric), penalty: 0"), models: models)
      #expect(agree(mean.tensors["w"], [3]))
      let best = try merge(recipe: recipe("metrics_weighted", own, global: "metric: \(metric), penalty: 1000"), models: models)
      #expect(best.tensors["w"]?.values == [1])
    }
  }

  @Test(
    arguments: [
      ("metrics_weighted", ["loss: 1", "loss: 0", "loss: 2"], "", "softmax"),
      ("metrics_weighted", ["loss: 1", "", "loss: 2"], "", "loss"),
      ("metrics_weighted", ["steps: 0", "steps: 0", "steps: 0"], "metric: steps", "steps"),
      ("metrics_weighted", ["loss: 1", "loss: 1", "loss: 2"], "metric: steps", "steps"),
      ("lm_cocktail", ["loss: 1", "", "loss: 2"], "", "loss"),
      ("lm_cocktail", ["fixed_weight: 0.2", "fixed_weight: 0.3", "fixed_weight: 0.5"], "", "loss"),
      ("lm_cocktail", ["fixed_weight: 0.8", "fixed_weight: 0.3", "loss: 1"], "", "fixed_weight"),
    ]) func refusesWithoutAMeasure(_ method: String, _ own: [String], _ global: String, _ word: String) throws
  {
    let models = ["a": tensor([1]), "b": tensor([2]), "c": tensor([6])]
    let error = #expect(throws: IngotError.self) { _ = try merge(recipe: recipe(method, own, global: global), models: models) }
    #expect(error?.status == .recipe)
    #expect((error?.message ?? "" + (error?.hint ?? "")).contains(word) || error?.hint?.contains(word) == true, "\(error?.message ?? "")")
  }

  /// The fine-tuned model's share, then the others by loss.
  @Test func fixedWeights() throws {
    let models = ["a": tensor([4]), "b": tensor([2]), "c": tensor([6])]
    let text = recipe("lm_cocktail", ["fixed_weight: 0.5", "loss: 2", "loss: 2"])
    #expect(agree(try merge(recipe: text, models: models).tensors["w"], [4]))
    #expect(try weights(text, models) == [0.5, 0.25, 0.25])
  }

  /// The weights of a chain: worked out by hand; without coefficients the mean, and a link of 0 forgets what was before it, unread.
  @Test func chains() throws {
    let models = ["a": tensor([1]), "b": tensor([2]), "c": tensor([6])]
    let text = recipe("merge_chain", ["", "coefficient: 0.6", "coefficient: 0.75"])
    let found = try weights(text, models)
    #expect(zip(found, [0.45, 0.3, 0.25]).allSatisfy { abs($0 - $1) < 1e-12 } && found.count == 3)
    #expect(agree(try merge(recipe: text, models: models).tensors["w"], [0.45 + 0.6 + 1.5]))
    #expect(agree(try merge(recipe: recipe("merge_chain"), models: models).tensors["w"], [3]))
    let afresh = try merge(recipe: recipe("merge_chain", ["", "coefficient: 0", "coefficient: 0.5"]), models: models)
    #expect(afresh.tensors["w"]?.values == [4] && afresh.plan.tensors[0].inputs.map(\.model) == [1, 2])
  }

  // MARK: Layer swapping

  private static func layered(_ layers: Int, _ value: Double) -> [TestTensor] {
    languageModel(layers: layers, value: value)
  }

  @Test func layersAreSwapped() throws {
    let models = ["fr": Self.layered(8, 1), "maths": Self.layered(8, 2)]
    let text = """
      merge_method: layer_swap
      models: [{model: fr}, {model: maths}]
      parameters: {bottom: 2, top: 1, bottom_transition: 1, top_transition: 1}
      """
    let result = try merge(recipe: text, models: models)
    let shares: [Double] = [1, 1, 0.5, 0, 0, 0, 0.5, 1]
    for (layer, share) in shares.enumerated() {
      let name = "model.layers.\(layer).mlp.weight"
      let found = try #require(result.tensors[name])
      #expect(found.value(0) == share * 1 + (1 - share) * 2 + Double(layer + 1) / 64)
      let planned = try #require(result.plan.tensors.firstIndex { $0.name == name })
      let job = try #require(result.plan.jobs.first { $0.tensors == [planned] })
      if case .copy = job.work { #expect(share != 0.5) } else { #expect(share == 0.5) }
      #expect(result.plan.tensors[planned].inputs.count == (share == 0.5 ? 2 : 1))
    }
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
      #expect(models["fr"]?.first { $0.name == name }?.hasBytes(of: result.tensors[name]) == true)
    }
    let other = try merge(
      recipe: text.replacingOccurrences(
        of: "bottom: 2,", with: "bottom: 2, embedding_source: task, head_source: average, rest_source: task, transition_weight: 0.25,"),
      models: models)
    #expect(other.tensors["model.embed_tokens.weight"]?.value(0) == 2)
    #expect(other.tensors["lm_head.weight"]?.value(0) == 0.25 * 1.5 + 0.75 * 2.5)
    #expect(other.tensors["model.norm.weight"]?.value(0) == 2)
    #expect(other.tensors["model.layers.2.mlp.weight"]?.value(0) == 1.75 + 3.0 / 64)
  }

  @Test func moreLayersThanThereAre() throws {
    let models = ["fr": Self.layered(4, 1), "maths": Self.layered(4, 2)]
    for global in ["bottom: 3, top: 2", "bottom: 5, top: 0", "bottom: 4611686018427387904", "bottom: 2, top: 1, bottom_transition: 2"] {
      let error = #expect(throws: IngotError.self) {
        _ = try merge(
          recipe: "merge_method: layer_swap\nmodels: [{model: fr}, {model: maths}]\nparameters: {\(global)}\n", models: models)
      }
      #expect(error?.status == .recipe && error?.message.contains("the 4 there are") == true, "\(error?.message ?? "")")
    }
    // Exactly as many is fine.
    let all = try merge(
      recipe: "merge_method: layer_swap\nmodels: [{model: fr}, {model: maths}]\nparameters: {bottom: 1, top: 1}\n", models: models)
    #expect(all.tensors["model.layers.1.mlp.weight"]?.value(0) == 1.5 + 2.0 / 64)
  }

  // MARK: Sparse soups

  @Test func pruningMasksAreChecked() throws {
    let two = ["a": tensor([0, 2, -0.0, -4]), "b": tensor([0, 4, 0, -2])]
    let text = "merge_method: sparse_soup\nmodels: [{model: a}, {model: b}]\n"
    let result = try merge(recipe: text, models: two)
    #expect(result.tensors["w"]?.values == [0, 3, 0, -3])
    #expect(result.report.findings.filter { $0.finding.name == "sparsity" }.map(\.finding.value) == [0.5])
    #expect(!result.report.findings.contains { $0.finding.name == "mismatched" })
    let three = two.merging(["c": tensor([1, 2, 0, 0])]) { first, _ in first }
    let error = #expect(throws: IngotError.self) { _ = try merge(recipe: recipe("sparse_soup"), models: three) }
    #expect(error?.subject == "w")
    #expect(error?.message.contains("2 of 4") == true && error?.message.contains("a and c") == true, "\(error?.message ?? "")")
    let warned = try merge(recipe: recipe("sparse_soup", global: "check: warn"), models: three)
    #expect(agree(warned.tensors["w"], [1.0 / 3, 8.0 / 3, 0, -2]))
    let found = warned.report.findings.filter { $0.finding.name == "mismatched" }.map(\.finding)
    #expect(found.map(\.value) == [2] && found.map(\.model) == [2])
  }

  /// Masks that are tensors of their own come from the first model, and filters exempt what no mask covers.
  @Test func masksAndFilters() throws {
    let models = ["a": tensor([1, 0], "w_mask") + tensor([0, 2], "bias"), "b": tensor([0, 1], "w_mask") + tensor([1, 0], "bias")]
    let text = "merge_method: sparse_soup\nmodels: [{model: a}, {model: b}]\n"
    #expect(throws: IngotError.self) { _ = try merge(recipe: text, models: models) }
    let filtered = text + "parameters: {check: [{filter: bias, value: warn}, {value: error}]}\n"
    let result = try merge(recipe: filtered, models: models)
    #expect(result.tensors["w_mask"]?.values == [1, 0] && result.tensors["bias"]?.values == [0.5, 1])
  }

  // MARK: VaRM

  /// Two layers of two modules: what shares weights follows the granularity.
  @Test func granularities() throws {
    func model(_ values: [Double]) -> [TestTensor] {
      let names = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm"]
      return (0..<2).flatMap { layer in
        names.enumerated().map { TestTensor("model.layers.\(layer).\($1).weight", .f32, [1], [values[4 * layer + $0]]) }
      } + [TestTensor("model.norm.weight", .f32, [1], [values[8]])]
    }
    let zero = [Double](repeating: 0, count: 9)
    let first: [Double] = [1, 2, 1, 1, 3, 1, 1, 2, 1]
    let second: [Double] = [1, 1, 3, 1, 1, 1, 2, 1, 1]
    let models = ["base": model(zero), "a": model(first), "b": model(second)]
    func result(_ granularity: String) throws -> [Double] {
      let text = "merge_method: varm\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {granularity: \(granularity)}\n"
      let found = try merge(recipe: text, models: models).tensors
      return models["base"]!.map { found[$0.name]?.value(0) ?? .nan }
    }
    /// Tensors of one group, by index.
    func expected(_ groups: [[Int]]) -> [Double] {
      var values = zero
      for group in groups {
        let a = group.reduce(0) { $0 + first[$1] * first[$1] }
        let b = group.reduce(0) { $0 + second[$1] * second[$1] }
        for index in group { values[index] = (a * first[index] + b * second[index]) / (a + b) }
      }
      return values
    }
    func same(_ found: [Double], _ wanted: [Double]) -> Bool { zip(found, wanted).allSatisfy { abs($0 - $1) < 1e-6 } }
    #expect(same(try result("tensor"), expected((0..<9).map { [$0] })))
    #expect(same(try result("element"), expected((0..<9).map { [$0] })))
    #expect(same(try result("module"), expected([[0, 1], [2], [3], [4, 5], [6], [7], [8]])))
    #expect(same(try result("layer"), expected([[0, 1, 2, 3], [4, 5, 6, 7], [8]])))
    #expect(same(try result("model"), expected([Array(0..<9)])))
  }

  /// What nobody changed stays, and so does what changed by next to nothing.
  @Test(arguments: ["tensor", "model", "element"]) func noChange(_ granularity: String) throws {
    let base = [1.5, -0.0, 0, -2]
    let text = recipe("varm", global: "granularity: \(granularity)", hasBase: true)
    let models = ["base": tensor(base), "a": tensor(base), "b": tensor(base), "c": tensor(base)]
    let found = try merge(recipe: text, models: models)
    #expect(models["base"]?.first?.hasBytes(of: found.tensors["w"]) == true)
    let moved = ["base": tensor([0]), "a": tensor([1e-12]), "b": tensor([0]), "c": tensor([2e-12])]
    let small = try #require(try merge(recipe: text, models: moved).tensors["w"]).value(0)
    #expect(abs(small - (granularity == "element" ? 1e-12 : 1.8e-12)) < 1e-15)
  }

  @Test(arguments: ["granularity: element, temperature: 2", "granularity: element, measure: signed"])
  func contradictions(_ global: String) throws {
    let golden = try ElementwiseGolden()
    let error = #expect(throws: IngotError.self) {
      _ = try merge(recipe: recipe("varm", global: global, hasBase: true), models: golden.tensors)
    }
    #expect(error?.status == .recipe && error?.message.contains("element") == true)
  }
}
