import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// The numbers of the papers' own code for small examples, as elementwise.json holds them.
@Suite struct TaskVectorGoldenTests {
  static let split = [("first", [Int](0..<2)), ("second", [Int](2..<6))]

  static func recipe(
    _ method: String, _ models: [String] = ["a", "b", "c"], parameters: String = "", global: String = ""
  ) -> String {
    let list = models.map { "{model: \($0)\(parameters.isEmpty ? "" : ", parameters: {\(parameters)}")}" }.joined(separator: ", ")
    return "merge_method: \(method)\nbase_model: base\nmodels: [\(list)]\nparameters: {\(global)}\n"
  }

  private func output(
    _ method: String, _ tensors: [String: [TestTensor]], _ models: [String] = ["a", "b", "c"], parameters: String = "", global: String = ""
  ) throws -> [Double] {
    let result = try merge(recipe: Self.recipe(method, models, parameters: parameters, global: global), models: tensors)
    return try #require(result.tensors["w"]).values
  }

  private func agree(_ found: [Double], _ expected: [Double]) -> Bool {
    !expected.isEmpty && found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-6 }
  }

  /// Base plus task vector.
  private func added(_ golden: ElementwiseGolden, _ delta: [Double]) -> [Double] {
    zip(golden.tensors["base"]?[0].values ?? [], delta).map { $0 + $1 }
  }

  @Test func magmax() throws {
    let golden = try ElementwiseGolden()
    #expect(agree(try output("magmax", golden.tensors, global: "lambda: 0.5"), golden.numbers("magmax_model_.5")))
    #expect(agree(try output("magmax", golden.tensors), added(golden, golden.numbers("magmax_tau"))))
  }

  @Test func consensusOfTwo() throws {
    let golden = try ElementwiseGolden()
    #expect(agree(try output("consensus", golden.tensors, global: "lambda: 0.3"), golden.numbers("consensus_model_k2_a.3")))
    #expect(agree(try output("consensus", golden.tensors), added(golden, golden.numbers("consensus_k2_tau"))))
  }

  @Test func reconstructionOfTasks() throws {
    let golden = try ElementwiseGolden()
    #expect(agree(try output("consensus", golden.tensors, global: "task: 1"), golden.numbers("tall_recon_A_.4")))
    let sum = golden.numbers("tall_mtl")
    for threshold in ["0.2", "0.4", "0.6"] {
      let masks = golden.numbers("tall_mask_\(threshold)")
      for task in 0..<3 {
        let expected = added(golden, zip(sum, masks[6 * task..<6 * task + 6]).map { $0 * $1 })
        let found = try output("consensus", golden.tensors, parameters: "tall_lambda: \(threshold)", global: "task: \(task + 1)")
        #expect(agree(found, expected), "\(threshold), task \(task + 1)")
      }
    }
  }

  @Test func electMaskRescale() throws {
    let golden = try ElementwiseGolden()
    #expect(agree(try output("emr", golden.tensors), added(golden, golden.numbers("emr_unified"))))
    #expect(agree(try output("emr", golden.tensors, global: "task: 1"), golden.numbers("emr_model_A")))
    let (unified, masks, factors) = (golden.numbers("emr_unified"), golden.numbers("emr_masks"), golden.numbers("emr_rescale"))
    for task in 0..<3 {
      let kept = zip(unified, masks[6 * task..<6 * task + 6]).map { $0 * $1 }
      let expected = added(golden, kept.map { $0 * factors[task] })
      #expect(agree(try output("emr", golden.tensors, global: "task: \(task + 1)"), expected), "task \(task + 1)")
    }
  }

  /// Cut into two tensors the paper's factor is the same, and that of the authors' script another.
  @Test(arguments: [("model", "emr_rescale"), ("tensor_means", "emr_rescale_mean_of_tensors")])
  func rescaleOverTensors(_ rescaler: String, _ name: String) throws {
    let golden = try ElementwiseGolden()
    let parts = golden.tensors.mapValues { tensors in
      Self.split.map { name, places in TestTensor(name, .f32, [places.count], places.map { tensors[0].value($0) }) }
    }
    for (task, factor) in golden.numbers(name).enumerated() {
      let recipe = Self.recipe("emr", global: "task: \(task + 1), rescaler: \(rescaler)")
      let report = try merge(recipe: recipe, models: parts).report
      let found = report.findings.first { $0.finding.name == "rescale" && $0.finding.model == task }?.finding.value
      #expect(abs((found ?? 0) - factor) <= 2e-6)
    }
  }

  @Test func competition() throws {
    let golden = try ElementwiseGolden()
    let raw = try output("pcb", golden.tensors, global: "pcb_ratio: 0.5, pcb_clip: 0.0001")
    #expect(agree(raw, golden.numbers("pcb_model_lam1")))
    #expect(agree(raw, added(golden, golden.numbers("pcb_tau"))))
    let vision = try output("pcb", golden.tensors, global: "pcb_ratio: 0.5, pcb_clip: 0.0001, pcb_variant: vision")
    #expect(agree(vision, added(golden, golden.numbers("pcb_tau_vision_variant"))))
    // The cuts and tops are order statistics of β, which are golden numbers too.
    let recipe = Self.recipe("pcb", global: "pcb_ratio: 0.5, pcb_clip: 0.0001")
    let findings = try merge(recipe: recipe, models: golden.tensors).report.findings.map(\.finding)
    for model in 0..<3 {
      let scores = golden.numbers("pcb_beta")[6 * model..<6 * model + 6].sorted()
      for (name, value) in [("cut", scores[3]), ("top", scores[5])] {
        let found = findings.first { $0.name == name && $0.model == model }?.value
        #expect(abs((found ?? 0) - value) <= 2e-6 * abs(value), "\(name) of \(model): \(found ?? 0)")
      }
    }
  }

  @Test func disentangledWeights() throws {
    let golden = try ElementwiseGolden()
    func models(_ name: String, transposed: Bool) -> [String: [TestTensor]] {
      let matrices: [String: [Double]] = [
        "base": [3, 0, 1, 4, 2, 0], "a": [3.3, 0.5, 1, 4.4, 2, 0.2], "b": [3, 0, 1.5, 4, 3, 0],
      ]
      return matrices.mapValues { values in
        let rows: [Double] = transposed ? [0, 3, 1, 4, 2, 5].map { values[$0] } : values
        return [TestTensor(name, .f32, transposed ? [3, 2] : [2, 3], rows)]
      }
    }
    let recipe = Self.recipe("widen", ["a", "b"])
    for name in ["w", "lm_head.weight"] {
      let found = try #require(try merge(recipe: recipe, models: models(name, transposed: false)).tensors[name])
      #expect(agree(found.values, golden.numbers("widen_out")), "\(name)")
    }
    // Of an embedding a token, which is a row, is what counts as a column.
    let name = "model.embed_tokens.weight"
    let found = try #require(try merge(recipe: recipe, models: models(name, transposed: true)).tensors[name])
    #expect(agree([0, 2, 4, 1, 3, 5].map { found.value($0) }, golden.numbers("widen_out")))
  }

  @Test func disentangledVectors() throws {
    let golden = try ElementwiseGolden()
    let models = ["base": [1.0, 1, 1], "a": [1.3, 1, 1], "b": [1, 0.6, 1.1]].mapValues { [TestTensor("w", .f32, [3], $0)] }
    #expect(agree(try output("widen", models, ["a", "b"]), golden.numbers("widen_1d_out")))
  }

  /// Of the trimmed rows of the TIES example only element 3 is undecided at a slack of 0.4.
  @Test func slack() throws {
    let golden = try ElementwiseGolden()
    let parameters = "weight: 1, density: 0.5"
    var expected = golden.numbers("ties_mean_tau")
    #expect(agree(try output("ties_sv", golden.tensors, parameters: parameters, global: "slack: 0"), added(golden, expected)))
    expected[3] = (0.4375 + 0.3125 - 0.5) / 3
    #expect(agree(try output("ties_sv", golden.tensors, parameters: parameters, global: "slack: 0.4"), added(golden, expected)))
    // Everything that is there.
    let trimmed = golden.numbers("ties_trim50_paper")
    for index in 0..<6 {
      let terms: [Double] = (0..<3).map { trimmed[6 * $0 + index] }.filter { $0 != 0 }
      expected[index] = terms.isEmpty ? 0 : terms.reduce(0, +) / Double(terms.count)
    }
    #expect(agree(try output("ties_sv", golden.tensors, parameters: parameters, global: "slack: 1"), added(golden, expected)))
    // The last model's 0.25 and −0.5 reach 0.6 times the merged 0.375, and its 0.4375 is what is merged anyway.
    expected = golden.numbers("ties_mean_tau")
    (expected[0], expected[3]) = (0.25, -0.5)
    #expect(
      agree(try output("ties_sv", golden.tensors, parameters: parameters, global: "slack: 0.4, protect: 3"), added(golden, expected)))
  }

  @Test func selectionForWeightsAlone() throws {
    let golden = try ElementwiseGolden()
    let authors = added(golden, golden.numbers("sce_tau_authors_repo"))
    #expect(agree(try output("sce", golden.tensors, global: "select_topk: 0.5, sce_apply_mask: false"), authors))
    #expect(agree(try output("sce", golden.tensors, global: "select_topk: 0.5, sce_apply_mask: true"), golden.numbers("sce_model")))
    let paper = Self.recipe("sce", global: "select_topk: 0.5") + "preset: paper\n"
    #expect(agree(try #require(try merge(recipe: paper, models: golden.tensors).tensors["w"]).values, authors))
  }

  /// mergekit's floor would make equal weights of differences this small.
  @Test func smallDifferencesWeighToo() throws {
    let golden = try ElementwiseGolden()
    let small = golden.tensors.mapValues { tensors in
      [TestTensor("w", .f32, [6], zip(tensors[0].values, golden.tensors["base"]?[0].values ?? []).map { ($0 - $1) * 0x1p-12 })]
    }
    let found = try output("sce", small, global: "select_topk: 0.5, sce_apply_mask: false").map { $0 * 0x1p12 }
    #expect(agree(found, golden.numbers("sce_tau_authors_repo")))
  }

  @Test func breadcrumbsByRow() throws {
    let golden = try ElementwiseGolden()
    let found = try output(
      "breadcrumbs", golden.tensors, parameters: "weight: 1, density: 0.5, gamma: 0.17", global: "lambda: 0.2, scope: row")
    #expect(agree(found, golden.numbers("breadcrumbs_model_a.2")))
    // The three task vectors as rows of one tensor: each by itself.
    let base: [Double] = golden.tensors["base"]?[0].values ?? []
    let bases: [Double] = base + base + base
    var tuned: [Double] = []
    for name in ["a", "b", "c"] { tuned += golden.tensors[name]?[0].values ?? [] }
    let rows: [String: [TestTensor]] = [
      "base": [TestTensor("w", .f32, [3, 6], bases)], "a": [TestTensor("w", .f32, [3, 6], tuned)],
    ]
    let deltas = try output("breadcrumbs", rows, ["a"], parameters: "weight: 1, density: 0.5, gamma: 0.17", global: "scope: row")
    #expect(agree(zip(deltas, bases).map { $0 - $1 }, golden.numbers("breadcrumbs_ref_b.5_g.17")))
  }

  @Test func modelWisePruning() throws {
    let golden = try ElementwiseGolden()
    let found = try output("hi_merging", golden.tensors, ["a"], parameters: "weight: 1, prune: 0.2, scale: 0.9")
    #expect(agree(found, added(golden, golden.numbers("hi_modelwise_A_p.2_s.9"))))
  }

  /// A layer in conflict is that of a recipe with other numbers there; all other tensors are as without contributions.
  @Test func layersInConflict() throws {
    var random = SplitMix(12)
    var models: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b"] {
      models[name] = (0..<4).map { layer in
        TestTensor(
          layer == 3 ? "model.norm.weight" : "model.layers.\(layer).mlp.up_proj.weight", .f32, [60], (0..<60).map { _ in random.normal() })
      }
    }
    func output(_ a: String, _ b: String) throws -> (tensors: [String: TestTensor], report: RunReport) {
      let list = [("a", a), ("b", b)].map { "{model: \($0), parameters: {weight: 0.5\($1)}}" }.joined(separator: ", ")
      let result = try merge(recipe: "merge_method: hi_merging\nbase_model: base\nmodels: [\(list)]\n", models: models)
      return (result.tensors, result.report)
    }
    let names = (0..<3).map { "model.layers.\($0).mlp.up_proj.weight" } + ["model.norm.weight"]
    let plain = try output("", "")
    // Layer 0 is fine, in layer 1 the second model does harm, in layer 2 both do and the first contributes least.
    let judged = try output(
      ", contribution: [0.5, 0.5, 0.1], merged_contribution: [0.6, 0.2, -0.1]",
      ", contribution: [0.5, 0.4, 0.3], merged_contribution: [0, -0.1, -0.2]")
    #expect(judged.tensors[names[0]]?.hasBytes(of: plain.tensors[names[0]]) == true)
    #expect(judged.tensors[names[3]]?.hasBytes(of: plain.tensors[names[3]]) == true)
    let weakened = try output("", ", prune: 0.2, scale: 0.81")
    #expect(judged.tensors[names[1]]?.hasBytes(of: weakened.tensors[names[1]]) == true)
    #expect(judged.tensors[names[1]]?.hasBytes(of: plain.tensors[names[1]]) == false)
    let alone = try output(", prune: 1", "")
    #expect(judged.tensors[names[2]]?.hasBytes(of: alone.tensors[names[2]]) == true)
    func found(_ name: String, _ tensor: String) -> Double? {
      judged.report.findings.first { $0.tensor == tensor && $0.finding.name == name }?.finding.value
    }
    for (name, values) in [("conflict", [0.5, 0.8, 0.7]), ("conflict_severe", [0, 0, 1]), ("conflict_models", [0, 1, 1])] {
      for (layer, value) in values.enumerated() { #expect(abs((found(name, names[layer]) ?? .nan) - value) < 1e-9, "\(name) \(layer)") }
    }
    #expect(found("conflict", names[3]) == nil)
    for (a, b) in [(", contribution: 0.5", ""), (", contribution: 0.5, merged_contribution: 1", ", contribution: 0.5")] {
      let error = #expect(throws: IngotError.self) { _ = try output(a, b) }
      #expect(error?.status == .recipe && error?.message.contains("merged_contribution") == true)
    }
  }

  /// TALL masks of what TIES sums up.
  @Test func consensusOverTIES() throws {
    let golden = try ElementwiseGolden()
    let merged = golden.numbers("ties_sum_tau")
    let tasks = golden.numbers("task_vectors")
    for least in 0...3 {
      let expected = (0..<6).map { index in
        let count = (0..<3).count { abs(tasks[6 * $0 + index]) > 0.4 * abs(merged[index] - tasks[6 * $0 + index]) }
        return count >= least ? merged[index] : 0
      }
      let found = try output("consensus", golden.tensors, parameters: "density: 0.5", global: "merge: ties, consensus_k: \(least)")
      #expect(agree(found, added(golden, expected)), "\(least)")
    }
    let own = (0..<6).map { abs(tasks[$0]) > 0.4 * abs(merged[$0] - tasks[$0]) ? merged[$0] : 0 }
    let found = try output("consensus", golden.tensors, parameters: "density: 0.5", global: "merge: ties, scope: model, task: 1")
    #expect(agree(found, added(golden, own)))
  }

  /// BitDelta's numbers for one model, and a vote of two.
  @Test func oneBitOfEach() throws {
    let golden = try ElementwiseGolden()
    let tensors = golden.tensors.mapValues { [TestTensor("w", .f32, [2, 3], $0[0].values)] }
    for task in ["", "task: 1"] {
      #expect(agree(try output("onebit", tensors, ["a"], global: task), golden.numbers("bitdelta_model")))
    }
    // What is not quantised is TIES without a trim; an axis alone never is.
    let ties = try output("ties", tensors, parameters: "weight: 1")
    #expect(agree(try output("onebit", tensors, parameters: "quantized: false"), ties))
    #expect(agree(try output("onebit", golden.tensors), ties))
    let base = golden.tensors["base"]?[0].values ?? []
    let alpha = golden.numbers("bitdelta_alpha")[0]
    let signs = golden.numbers("bitdelta_bits").map { $0 == 1 ? alpha : -alpha }
    let others = try output("onebit", tensors, ["b", "c"])
    let expected = base.indices.map { base[$0] + signs[$0] + 0.5 * (others[$0] - base[$0]) }
    #expect(agree(try output("onebit", tensors, global: "task: 1, lambda: 0.5"), expected))
  }

  @Test func sharedAndExclusive() throws {
    let golden = try ElementwiseGolden()
    let tensors = golden.tensors.mapValues { [TestTensor("w", .f32, [2, 3], $0[0].values)] }
    #expect(agree(try output("twin", tensors), golden.numbers("twin_shared")))
    let own = try output("twin", tensors, parameters: "density: 0.5", global: "task: 1")
    #expect(agree(zip(own, golden.numbers("twin_shared")).map { $0 - $1 }, golden.numbers("twin_excl_A_top50")))
    let weights = golden.numbers("twin_router")
    let list = zip(["a", "b", "c"], weights).map { "{model: \($0), parameters: {weight: \($1)}}" }.joined(separator: ", ")
    for (models, global) in [(tensors, "density: 1"), (golden.tensors, "density: 0.1")] {
      // One axis is not compressed.
      let recipe = "merge_method: twin\nbase_model: base\nmodels: [\(list)]\nparameters: {\(global)}\n"
      #expect(agree(try #require(try merge(recipe: recipe, models: models).tensors["w"]).values, golden.numbers("twin_model_dense")))
    }
  }

  @Test func conflictDegrees() throws {
    let golden = try ElementwiseGolden()
    let models = [
      "base": [1.0, -2, 0.5, 0, 3, -1], "a": [1.4, -1.9, 0.3, 0.3, 3.1, -0.8], "b": [1.3, -1.8, 0.4, 0.1, 2.9, -0.7],
    ].mapValues { values in (0..<2).map { TestTensor("model.layers.\($0).w", .f32, [6], values) } }
    for (form, value) in zip(["count", "mass"], golden.numbers("signconf_A2B2")) {
      let recipe = Self.recipe("mediator", ["a", "b"], global: "conflict_form: \(form), conflict_density: 1")
      let findings = try merge(recipe: recipe, models: models).report.findings.map(\.finding)
      for layer in 0..<2 {
        let found = try #require(findings.first { $0.name == "averaged model.layers.\(layer)" }).value
        #expect(abs(found - value) <= 2e-6, "\(form): \(found)")
      }
    }
  }
}
