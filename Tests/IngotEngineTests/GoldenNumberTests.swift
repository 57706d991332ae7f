import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// What of elementwise.json no other suite looks at, and that every number of it is looked at by one.
@Suite struct GoldenNumberTests {
  private let golden: ElementwiseGolden

  init() throws { golden = try ElementwiseGolden() }

  private func tensor(_ values: [Double], _ shape: [Int]? = nil) -> [TestTensor] {
    [TestTensor("w", .f32, shape ?? [values.count], values)]
  }

  private func agree(_ found: [Double], _ expected: [Double]) -> Bool {
    !expected.isEmpty && found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-6 }
  }

  private var base: [Double] { golden.tensors["base"]?[0].values ?? [] }

  /// Base plus a task vector.
  private func added(_ name: String) -> [Double] { zip(base, golden.numbers(name)).map { $0 + $1 } }

  /// A merge of models with parameters each, named as in the golden file where `models` is left out.
  private func run(
    _ method: String, _ list: [(String, String)], global: String = "", base: String? = "base", models: [String: [TestTensor]]? = nil,
    seed: UInt64 = 0
  ) throws -> (values: [Double], findings: [Finding]) {
    let own = list.map { "{model: \($0.0), parameters: {\($0.1)}}" }.joined(separator: ", ")
    let lead = base.map { "base_model: \($0)\n" } ?? ""
    var options = PlanOptions()
    options.seed = seed
    let result = try merge(
      recipe: "merge_method: \(method)\n\(lead)models: [\(own)]\nparameters: {\(global)}\n", models: models ?? golden.tensors, plan: options
    )
    return (result.tensors["w"]?.values ?? [], result.report.findings.map(\.finding))
  }

  private func finding(_ name: String, model: Int? = nil, in findings: [Finding]) -> Double {
    findings.first { $0.name == name && (model == nil || $0.model == model) }?.value ?? .nan
  }

  @Test func averages() throws {
    let three = [("a", "weight: 0.5"), ("b", "weight: 0.3"), ("c", "weight: 0.2")]
    #expect(agree(try run("linear", three, base: nil).values, golden.numbers("linear_w")))
    let two = [("a", "weight: 2"), ("b", "weight: 1")]
    #expect(agree(try run("linear", two, base: nil).values, golden.numbers("linear_norm_w2")))
    #expect(agree(try run("linear", two, global: "normalize: false", base: nil).values, golden.numbers("linear_unnorm_w2")))
    let deltas = golden.tensors.filter { $0.key != "base" }.sorted { $0.key < $1.key }.flatMap { _, tensors in
      zip(tensors[0].values, base).map { $0 - $1 }
    }
    #expect(deltas == golden.numbers("task_vectors"))
  }

  @Test func spheres() throws {
    let plane = ["x": tensor([3, 0]), "y": tensor([0, 4])]
    for (t, name) in [("0.5", "slerp_xy_.5"), ("0.25", "slerp_xy_.25")] {
      #expect(agree(try run("slerp", [("y", "")], global: "t: \(t)", base: "x", models: plane).values, golden.numbers(name)))
    }
    #expect(agree(try run("slerp", [("b", "")], global: "t: 0.3", base: "a").values, golden.numbers("slerp_AB_.3")))
    let even = try run("multislerp", [("x", "weight: 1"), ("y", "weight: 1")], base: nil, models: plane).values
    #expect(agree(even, golden.numbers("multislerp_xy_1_1")))
    let uneven = try run("multislerp", [("x", "weight: 3"), ("y", "weight: 1")], base: nil, models: plane).values
    #expect(agree(uneven, golden.numbers("multislerp_xy_3_1")))
    let all = ["a", "b", "c"].map { ($0, "weight: 1") }
    #expect(agree(try run("multislerp", all, base: nil).values, golden.numbers("multislerp_ABC")))
    #expect(agree(try run("multislerp", all).values, golden.numbers("multislerp_base_ABC")))
    #expect(agree(try run("karcher", ["a", "b", "c"].map { ($0, "") }, base: nil).values, golden.numbers("karcher_ABC")))
    let shared = try run("karcher", [("x", "share: 3"), ("y", "share: 1")], base: nil, models: plane).values
    #expect(agree(shared, golden.numbers("karcher_xy_3_1")))
    // What does not count is not there.
    let alone = try run("karcher", [("x", "share: 2"), ("y", "share: 0")], base: nil, models: plane).values
    #expect(agree(alone, [3, 0]))
    let none = #expect(throws: IngotError.self) {
      _ = try run("karcher", [("x", "share: 0"), ("y", "share: 0")], base: nil, models: plane)
    }
    #expect(none?.status == .recipe && none?.message.contains("share") == true)
  }

  @Test func taskArithmetic() throws {
    let all = ["a", "b", "c"].map { ($0, "weight: 1") }
    #expect(agree(try run("task_arithmetic", all, global: "lambda: 0.3").values, golden.numbers("ta_lam0.3")))
    #expect(agree(try run("task_arithmetic", [("a", "weight: -0.5")]).values, golden.numbers("ta_negate_A_.5")))
    let analogy = [("c", "weight: 1"), ("b", "weight: 1"), ("a", "weight: -1")]
    #expect(agree(try run("task_arithmetic", analogy).values, golden.numbers("ta_analogy_C+B-A")))
  }

  @Test func ties() throws {
    func models(_ weights: [String]) -> [(String, String)] { zip(["a", "b", "c"], weights).map { ($0, "weight: \($1), density: 0.5") } }
    let even = try run("ties", models(["1", "1", "1"])).values
    for name in ["ties_mk_w111", "ties_refcode_tau"] { #expect(agree(even, added(name)), "\(name)") }
    let signs = zip(even, base).map { $0 - $1 < 0 ? -1.0 : 1.0 }
    #expect(signs == golden.numbers("ties_sign"))
    #expect(agree(try run("ties", models(["1", "1", "1"]), global: "normalize: false").values, added("ties_sum_tau")))
    let halves = models(["1", "0.5", "0.5"])
    #expect(agree(try run("ties", halves).values, added("ties_mk_w_1_.5_.5")))
    #expect(agree(try run("ties", halves, global: "normalize: false").values, added("ties_mk_w_1_.5_.5_nonorm")))
  }

  /// Of the terms of the elected sign the largest, and one element more than the density says, as the authors' code keeps.
  @Test func tiesOfTheAuthors() throws {
    let all = ["a", "b", "c"].map { ($0, "weight: 1, density: 0.5") }
    #expect(agree(try run("ties", all, global: "reducer: max").values, added("ties_max_tau")))
    #expect(agree(try run("ties", all, global: "kept_count: authors").values, added("ties_refcode_tau")))
    for ties in ["hash", "ge"] {
      for (row, model) in ["a", "b", "c"].enumerated() {
        let own = "kept_count: authors, scope: model, ties: \(ties)"
        let found = try run("ties", [(model, "weight: 1, density: 0.5")], global: own).values
        let expected = golden.numbers("ties_trim50_refcode")[6 * row..<6 * row + 6]
        #expect(agree(zip(found, base).map { $0 - $1 }, Array(expected)), "\(model)")
      }
    }
    let error = #expect(throws: IngotError.self) {
      let recipe = "merge_method: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, reducer: max}\nnumerics: stepwise\n"
      _ = try merge(recipe: recipe, models: golden.tensors)
    }
    #expect(error?.status == .recipe && error?.message.contains("reducer: max") == true)
  }

  /// What a comparison says of two fine-tunes are numbers of model kinship.
  @Test func differencesOfFineTunes() throws {
    let scratch = try Scratch()
    for (name, tensors) in golden.tensors { try scratch.model(name, tensors) }
    func model(_ name: String) throws -> ProvidedModel { try LocalModels(environment: [:]).open(named: scratch(name)) }
    var (cosines, distances): ([Double], [Double]) = ([], [])
    for (a, b) in [("a", "b"), ("a", "c"), ("b", "c")] {
      let found = try #require(try Engine().compare(model(a), model(b), base: model("base")).tensors.first)
      cosines.append(try #require(found.taskVectors?.cosine))
      distances.append((found.values?.rms ?? .nan) * 6.0.squareRoot())
    }
    #expect(agree(cosines, golden.numbers("kin_cs")) && agree(distances, golden.numbers("kin_ed")))
  }

  /// The trimmed task vectors themselves: TIES of one model, cut into tensors of four and of two elements.
  @Test func trimsByTensor() throws {
    let parts = golden.tensors.mapValues { tensors in
      [("first", 0..<4), ("second", 4..<6)].map { name, range in
        TestTensor(name, .f32, [range.count], range.map { tensors[0].value($0) })
      }
    }
    for (row, model) in ["a", "b", "c"].enumerated() {
      let recipe = "merge_method: ties\nbase_model: base\nmodels: [{model: \(model), parameters: {weight: 1, density: 0.5}}]\n"
      let found = try merge(recipe: recipe, models: parts).tensors
      let values = (found["first"]?.values ?? []) + (found["second"]?.values ?? [])
      let expected = golden.numbers("ties_trim50_per_tensor_4_2")[6 * row..<6 * row + 6]
      #expect(agree(zip(values, base).map { $0 - $1 }, Array(expected)))
    }
  }

  /// The published masks, which a seed was found to draw.
  @Test func drawnMasks() throws {
    let (dare, della): (UInt64, UInt64) = (645_695, 8794)
    for (row, model) in ["a", "b", "c"].enumerated() {
      // The other models stand before it with no weight, so that its draws are those of its place.
      let own = ["a", "b", "c"].map { ($0, "weight: \($0 == model ? 1 : 0), density: 0.5") }
      func deltas(_ method: String, _ global: String, _ seed: UInt64) throws -> [Double] {
        zip(try run(method, own, global: global, seed: seed).values, base).map { $0 - $1 }
      }
      let range = 6 * row..<6 * row + 6
      let scaled = try deltas("dare_linear", "rescale_rule: inverse_keep", dare)
      #expect(agree(scaled, Array(golden.numbers("dare_p.5_scaled")[range])))
      #expect(agree(try deltas("dare_linear", "", dare), Array(golden.numbers("dare_mk_l1_scaled")[range])))
      let sampled = try deltas("della_linear", "epsilon: 0.2, rescale_rule: inverse_keep, normalize: false", della)
      #expect(agree(sampled, Array(golden.numbers("della_rescaled_paper")[range])))
      let (mask, keep) = (golden.numbers("della_mask")[range], golden.numbers("della_keepprob")[range])
      let task = golden.numbers("task_vectors")[range]
      #expect(agree(sampled, zip(task, zip(mask, keep)).map { $0 * $1.0 / $1.1 }))
    }
    let all = ["a", "b", "c"].map { ($0, "weight: 1, density: 0.5") }
    let summed = try run("dare_linear", all, global: "rescale_rule: inverse_keep, lambda: 0.3", seed: dare)
    #expect(agree(summed.values, golden.numbers("dare_ta_lam.3")))
    let matched = try run("dare_linear", all, seed: dare).findings
    #expect(agree((0..<3).map { finding("rescale", model: $0, in: matched) }, golden.numbers("dare_mk_l1_factor")))
    let fused = try run("della", all, global: "epsilon: 0.2, rescale_rule: inverse_keep, lambda: 1.1", seed: della).values
    #expect(agree(fused, golden.numbers("della_model")))
    #expect(agree(fused, added("della_fused_lam1.1")))
  }

  @Test func trimsOfOutliers() throws {
    for (row, model) in ["a", "b", "c"].enumerated() {
      let found = try run("breadcrumbs", [(model, "weight: 1, density: 0.5, gamma: 0.17")]).values
      let expected = golden.numbers("breadcrumbs_mk_d.5_g.17")[6 * row..<6 * row + 6]
      #expect(agree(zip(found, base).map { $0 - $1 }, Array(expected)))
    }
  }

  @Test func modelStock() throws {
    let offsets = [[0.4, 0.1, -0.2, 0.3, 0.1, 0.2], [0.3, 0.2, -0.1, 0.1, -0.1, 0.3], [0.2, -0.1, -0.3, 0.4, 0.2, 0.1]]
    var models = ["base": tensor(base)]
    for (name, offset) in zip(["a", "b", "c"], offsets) { models[name] = tensor(zip(base, offset).map { $0 + $1 }) }
    for (names, numbers, scalars) in [(["a", "b"], "stock2", "stock2_cos_t"), (["a", "b", "c"], "stock3", "stock3_cos_t")] {
      let found = try run("model_stock", names.map { ($0, "") }, models: models)
      #expect(agree(found.values, golden.numbers(numbers)))
      #expect(abs(finding("t", in: found.findings) - golden.numbers(scalars)[1]) <= 2e-6)
    }
    // The mean of the pairs' cosines.
    let pairs = golden.numbers("stock3_cos_pairs")
    #expect(abs(pairs.reduce(0, +) / 3 - golden.numbers("stock3_cos_t")[0]) <= 2e-6)
    #expect(abs(pairs[0] - golden.numbers("stock2_cos_t")[0]) <= 2e-6)
  }

  @Test func scoresThatAreReported() throws {
    let all = ["a", "b", "c"].map { ($0, "") }
    let sce = try run("sce", all, global: "select_topk: 0.5")
    #expect(agree(sce.values, added("sce_tau")))
    #expect(agree((0..<3).map { finding("weight", model: $0, in: sce.findings) }, golden.numbers("sce_w")))
    let selected = zip(sce.values, base).map { $0 == $1 ? 0.0 : 1 }
    #expect(selected == golden.numbers("sce_sel"))
    let least = zip(golden.numbers("sce_var"), selected).filter { $0.1 == 1 }.map(\.0).min() ?? 0
    #expect(abs(finding("variance_threshold", in: sce.findings) - least) <= 2e-6)
    let pcb = try run("pcb", all, global: "pcb_ratio: 0.5, pcb_clip: 0.0001").findings
    for model in 0..<3 {
      let sizes = golden.numbers("pcb_clamped")[6 * model..<6 * model + 6].map(abs)
      #expect(abs(finding("low", model: model, in: pcb) - (sizes.min() ?? 0)) <= 2e-6)
      #expect(abs(finding("high", model: model, in: pcb) - (sizes.max() ?? 0)) <= 2e-6)
    }
    let ram = ["base": tensor([0, 0, 0, 0, 0, 0]), "a": tensor([0.2, 0, 0.1, 0, 0, 0.3]), "b": tensor([0, 0, -0.3, 0.4, 0, 0.1])]
    let factors = try run("ramplus_tl", [("a", ""), ("b", "")], models: ram).findings
    #expect(agree((0..<2).map { finding("factor", model: $0, in: factors) }, Array(golden.numbers("ramplus_rho_lam")[2..<4])))
  }

  @Test func masksAndSigns() throws {
    let all = ["a", "b", "c"].map { ($0, "") }
    let counts = golden.numbers("tall_count")
    for least in 1...3 {
      let found = try run("consensus", all, global: "consensus_k: \(least)").values
      let expected = zip(base, zip(golden.numbers("tall_mtl"), counts)).map { $1.1 >= Double(least) ? $0 + $1.0 : $0 }
      #expect(agree(found, expected), "\(least)")
    }
    let elected = try run("emr", all).values
    #expect(zip(elected, base).map { $0 < $1 ? -1.0 : 1 } == golden.numbers("emr_sign"))
  }

  @Test func fusion() throws {
    let models = ["base": tensor([1, 2, 3, 0, 0, 0], [2, 3]), "a": tensor([1, 2.5, 3, 0.2, 0, -0.4], [2, 3])]
    let found = try run("arcee_fusion", [("a", "")], models: models)
    #expect(agree(found.values, golden.numbers("fusion_out")))
    #expect(abs(finding("threshold", in: found.findings) - golden.numbers("fusion_thr")[0]) <= 2e-6)
    let importance = golden.numbers("fusion_imp")
    let (rows, differences) = (golden.numbers("fusion_kl"), [0, 0.5, 0, 0.2, 0, 0.4])
    #expect(agree(differences.enumerated().map { rows[$0.offset / 3] * $0.element }, importance))
    // What reaches the threshold is what was taken over.
    let threshold = golden.numbers("fusion_thr")[0]
    let other = models["a"]?[0].values ?? []
    for (index, value) in found.values.enumerated() where differences[index] != 0 {
      #expect((importance[index] >= threshold - 1e-8) == (abs(value - other[index]) < 1e-6), "\(index)")
    }
  }

  @Test func channelFactors() throws {
    var models = ["base": [0.0, 0, 0, 0, 0, 0], "a": [1, 1, 1, 1, 1, 1]].mapValues { [TestTensor("m.weight", .f32, [2, 3], $0)] }
    models["norms"] = [TestTensor("m", .f32, [3], [0.5, 2, 1])]
    let recipe = "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {side: norms, omega: 0.4, base_model: base}\n"
    let found = try #require(try merge(recipe: recipe, models: models).tensors["m.weight"]).values
    #expect(agree(found, golden.numbers("aim_factor") + golden.numbers("aim_factor")))
  }

  @Test func oneSingularValue() throws {
    let name = MatrixMethodTests.weight
    let models = ["base": [0.0, 0, 0, 0], "a": [2.0, 0, 0, 1]].mapValues { [TestTensor(name, .f32, [2, 2], $0)] }
    let recipe = "merge_method: twin_svd\nbase_model: base\nmodels: [{model: a}]\nparameters: {task: 1, lambda: 0, density: 0.5}\n"
    #expect(agree(try #require(try merge(recipe: recipe, models: models).tensors[name]).values, golden.numbers("twin_svd_r1")))
  }

  // MARK: Every number

  /// What is checked in no merge, and why.
  static let unused: [String: String] = [
    "pcb_scale": "an intermediate; the merge made of it is checked",
    "widen_dmag": "an intermediate; the merge made of it is checked", "widen_ddir": "an intermediate; the merge made of it is checked",
    "widen_rank_m": "an intermediate; the merge made of it is checked", "widen_rank_d": "an intermediate; the merge made of it is checked",
    "widen_score": "an intermediate; the merge made of it is checked",
    "widen_1d_score": "an intermediate; the merge made of it is checked",
    "ffg_score*1e6": "an intermediate; the merge made of it is checked",
    "ffg_mask_rho.5": "an intermediate; the merge made of it is checked",
    "rcp_sens": "an intermediate; the merge made of it is checked", "rcp_pen": "an intermediate; the merge made of it is checked",
    "compeft_sigma": "the one magnitude of compeft_tau", "compeft_signs": "the signs of compeft_tau",
    "compeft_entropy_golomb_k0.05": "bounds of a size, which PackTests has",
    "compeft_entropy_golomb_k0.1": "bounds of a size, which PackTests has",
    "compeft_entropy_golomb_k0.2": "bounds of a size, which PackTests has",
    "kin_pcc": "no merge: model kinship's correlation, which nothing computes yet",
    "kin_mergeN_pcc": "no merge: model kinship's correlation, which nothing computes yet",
  ]

  /// A name that no test has between quotes is on the list above, and nothing else is.
  @Test func everyNumberIsUsed() throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    var text = ""
    for file in try FileManager.default.contentsOfDirectory(atPath: folder.path) where file.hasSuffix(".swift") {
      var own = try String(contentsOf: folder.appendingPathComponent(file), encoding: .utf8)
      if file == "GoldenNumberTests.swift", let end = own.range(of: "// MARK: Every number") { own = String(own[..<end.lowerBound]) }
      text += own
    }
    let names = golden.results.keys.filter { !text.contains("\"\($0)\"") && !$0.hasPrefix("tall_mask_") }
    #expect(Set(names) == Set(Self.unused.keys), "\(Set(names).symmetricDifference(Self.unused.keys).sorted())")
  }
}
