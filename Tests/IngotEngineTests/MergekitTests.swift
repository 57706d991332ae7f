import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// What is said about mergekit (`ingot check --mergekit`, docs/mergekit.md), and that Ingot does what is said there.
@Suite struct MergekitTests {
  /// A recipe over directories `@base`, `@a`, `@b` that meets one check, and the subjects that are named.
  struct Meeting: CustomTestStringConvertible, Sendable {
    var check: String
    var recipe: String
    var subjects: [String] = []
    var testDescription: String { check }
  }

  private static func vectors(_ method: String, _ settings: String = "", dtype: String = "float32", more: String = "") -> String {
    "{merge_method: \(method), base_model: '@base', dtype: \(dtype), parameters: {weight: 1\(settings)}, models: [{model: '@a'}, {model: '@b'}]\(more)}"
  }

  static let meetings: [Meeting] = [
    Meeting(
      check: "unknown-keys", recipe: vectors("task_arithmetic", ", consensus_method: count", more: ", colour: red"),
      subjects: ["parameters.consensus_method", "colour"]),
    Meeting(check: "single-condition", recipe: vectors("task_arithmetic", ", lambda: {value: 0.5}"), subjects: ["lambda"]),
    Meeting(
      check: "donor-by-chance",
      recipe: "{merge_method: linear, dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}, {model: '@b'}]}"),
    Meeting(check: "trimmed-to-nothing", recipe: vectors("breadcrumbs", ", density: 0.5"), subjects: ["model.layers.0.attn.weight"]),
    Meeting(check: "nothing-kept", recipe: vectors("ties", ", density: 0.05"), subjects: ["model.layers.0.attn.weight"]),
    Meeting(check: "row-of-one", recipe: vectors("della", ", density: 0.5"), subjects: ["model.scale"]),
    Meeting(
      check: "embedding-rows",
      recipe: "{merge_method: karcher, base_model: '@base', dtype: float32, models: [{model: '@short'}]}",
      subjects: ["model.embed_tokens.weight", "lm_head.weight"]),
    Meeting(
      check: "layer-types",
      recipe:
        "{merge_method: passthrough, dtype: float32, base_model: '@base', slices: [{sources: [{model: '@base', layer_range: [0, 2]}]}, {sources: [{model: '@base', layer_range: [1, 2]}]}]}",
      subjects: ["layer_types"]),
    Meeting(
      check: "tied-head",
      recipe: "{merge_method: linear, base_model: '@tied', dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}]}",
      subjects: ["lm_head.weight"]),
    Meeting(
      check: "bert",
      recipe: "{merge_method: linear, base_model: '@bert', dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}]}",
      subjects: ["@bert"]),
    Meeting(
      check: "own-parameters", recipe: vectors("ties", ", scope: model", more: ", seed: 3"), subjects: ["seed", "scope"]),
    Meeting(check: "dtype-names", recipe: vectors("task_arithmetic", dtype: "fp32"), subjects: ["dtype"]),
    Meeting(check: "16-bit-rounding", recipe: vectors("task_arithmetic", dtype: "bfloat16")),
    Meeting(
      check: "16-bit-rounding",
      recipe: "{merge_method: linear, base_model: '@half', parameters: {weight: 1}, models: [{model: '@half'}]}"),
    Meeting(check: "random-masks", recipe: vectors("dare_ties", ", density: [1, 0.5]")),
    Meeting(check: "equal-magnitudes", recipe: vectors("ties", ", density: [{value: 0.5, filter: mlp}, {value: 1}]")),
    Meeting(
      check: "equal-magnitudes",
      recipe:
        "{merge_method: ties, base_model: '@base', dtype: float32, parameters: {weight: 1}, modules: {text_decoder: {parameters: {density: 0.5}, models: [{model: '@a'}]}}}"
    ),
    Meeting(
      check: "equal-magnitudes", recipe: vectors("ties", more: ", tensors: [{match: '*mlp*', parameters: {density: 0.5}}]")),
    Meeting(check: "rows-of-della", recipe: vectors("della_linear", ", density: 0.5"), subjects: ["model.conv.weight"]),
    Meeting(check: "integers", recipe: vectors("task_arithmetic"), subjects: ["model.position_ids"]),
    Meeting(
      check: "float64",
      recipe: "{merge_method: linear, base_model: '@double', parameters: {weight: 1}, models: [{model: '@double'}]}",
      subjects: ["w"]),
    Meeting(
      check: "float32-fusion", recipe: "{merge_method: arcee_fusion, base_model: '@base', dtype: bfloat16, models: [{model: '@a'}]}"),
    Meeting(
      check: "float32-ramplus",
      recipe: "{merge_method: ramplus_tl, base_model: '@base', dtype: bfloat16, models: [{model: '@a'}, {model: '@b'}]}"),
    Meeting(
      check: "nothing-selected",
      recipe:
        "{merge_method: sce, base_model: '@base', dtype: float32, parameters: {select_topk: 0.1}, models: [{model: '@a'}, {model: '@b'}]}",
      subjects: ["model.scale"]),
    Meeting(
      check: "leading-one",
      recipe:
        "{merge_method: nuslerp, dtype: float32, parameters: {weight: 1, nuslerp_flatten: false}, models: [{model: '@a'}, {model: '@b'}]}",
      subjects: ["model.row.weight"]),
    Meeting(
      check: "zero-rows", recipe: vectors("task_arithmetic", more: ", tokenizer: {source: base, tokens: {x: {source: {kind: zero}}}}"),
      subjects: ["x"]),
    Meeting(
      check: "token-without-source",
      recipe: vectors("task_arithmetic", more: ", tokenizer: {source: base, tokens: {a: {force: true}, b: {source: '@b'}}}"),
      subjects: ["a"]),
    Meeting(check: "absent-token", recipe: vectors("task_arithmetic", more: ", tokenizer_source: '@other'"), subjects: ["only"]),
    Meeting(check: "token-beyond-rows", recipe: vectors("task_arithmetic", more: ", tokenizer_source: base"), subjects: ["@a"]),
    Meeting(check: "numbers-by-chance", recipe: vectors("task_arithmetic", more: ", tokenizer_source: union")),
    Meeting(check: "configured-tokens", recipe: vectors("task_arithmetic", more: ", tokenizer_source: '@b'"), subjects: ["@b"]),
    Meeting(check: "sentencepiece", recipe: vectors("task_arithmetic", more: ", tokenizer_source: '@piece'"), subjects: ["@piece"]),
    Meeting(
      check: "adapter-cache",
      recipe: "{merge_method: linear, dtype: float32, parameters: {weight: 1}, models: [{model: '@base+@lora'}]}",
      subjects: ["@base+@lora"]),
    Meeting(
      check: "adapter-chain",
      recipe:
        "{merge_method: linear, dtype: float32, parameters: {weight: 1}, models: [{model: '@base+@lora'}, {model: '@base+@lora+@lora'}]}",
      subjects: ["@base+@lora+@lora"]),
    Meeting(
      check: "unnamed-modules",
      recipe:
        "{merge_method: linear, base_model: '@seeing', dtype: float32, parameters: {weight: 1}, modules: {text_decoder: {models: [{model: '@seeing'}]}}}",
      subjects: ["vision_tower.blocks.0.w.weight"]),
  ]

  /// The models of the meetings.
  static func write(_ scratch: Scratch) throws {
    func more(_ value: Double) -> [TestTensor] {
      [
        TestTensor("model.scale", .f32, [3, 1], [value, 1, 2]), TestTensor("model.conv.weight", .f32, [2, 3, 4], [value]),
        TestTensor("model.position_ids", .i64, [2], [0, 1]), TestTensor("model.row.weight", .f32, [1, 4], [value, 1, 3, 2]),
      ]
    }
    let types = #", "layer_types": ["full_attention", "full_attention"]"#
    for (name, value) in [("base", 0.25), ("a", 0.5), ("b", -0.75)] {
      try scratch.model(name, languageModel(layers: 2, value: value) + more(value), config: languageConfig(layers: 2, more: types))
    }
    try scratch.model("short", languageModel(layers: 2, rows: 8, value: 1) + more(1), config: languageConfig(layers: 2, rows: 8))
    try scratch.model("tied", languageModel(layers: 2, value: 1, head: false) + more(1), config: languageConfig(layers: 2, ties: true))
    try scratch.model(
      "bert", languageModel(layers: 2, value: 1) + more(1),
      config: languageConfig(layers: 2).replacingOccurrences(of: "\"llama\"", with: "\"bert\""))
    try scratch.model("half", languageModel(layers: 2, value: 1, dtype: .bf16), config: languageConfig(layers: 2))
    try scratch.model("double", [TestTensor("w", .f64, [2], [1, 2])], config: "{}")
    func tokenizer(_ tokens: String) -> String.UTF8View { #"{"model": {"type": "BPE", "vocab": {\#(tokens)}, "merges": []}}"#.utf8 }
    try scratch.write("base/tokenizer.json", tokenizer(#""a": 0, "b": 1, "far": 2"#))
    try scratch.write("a/tokenizer.json", tokenizer(#""a": 0, "c": 1, "d": 2, "far": 12"#))
    try scratch.write("b/tokenizer.json", tokenizer(#""b": 0, "a": 1"#))
    try scratch.model("piece", languageModel(layers: 2, value: 1) + more(1), config: languageConfig(layers: 2))
    try scratch.model("other", languageModel(layers: 2, value: 1) + more(1), config: languageConfig(layers: 2))
    try scratch.write("other/tokenizer.json", tokenizer(#""a": 0, "only": 1"#))
    // A piece "a", and a trainer's description that says BPE.
    try scratch.write("piece/tokenizer.model", [10, 3, 10, 1, 0x61, 18, 2, 24, 2] as [UInt8])
    let lora = ["A", "B"].map {
      TestTensor("base_model.model.model.layers.0.mlp.lora_\($0).weight", .f32, $0 == "A" ? [1, 8] : [8, 1], [1])
    }
    try scratch.model("lora", lora)
    try scratch.write("lora/adapter_model.safetensors", try #require(scratch.read("lora/model.safetensors")))
    try scratch.write("lora/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#.utf8)
    let parts = ["language_model.model.layers.0.w.weight", "vision_tower.blocks.0.w.weight"]
    try scratch.model("seeing", parts.map { TestTensor($0, .f32, [2], [1, 2]) }, config: "{}")
  }

  private func report(_ scratch: Scratch, _ text: String, sawModels: Bool = true) throws -> [MergekitReport.Finding] {
    let recipe = try Recipe(text.replacingOccurrences(of: "@", with: scratch.path + "/"))
    return try MergekitReport(recipe, models: sawModels ? LocalModels(environment: [:]) : nil).findings
  }

  @Test(arguments: meetings) func findsWhatARecipeMeets(_ item: Meeting) throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    let finding = try #require(try report(scratch, item.recipe).first { $0.name == item.check })
    for subject in item.subjects { #expect(finding.subjects.contains(subject.replacingOccurrences(of: "@", with: scratch.path + "/"))) }
    if item.subjects.isEmpty { #expect(finding.subjects.isEmpty) }
  }

  @Test func everyCheckIsMet() {
    let met = Set(Self.meetings.map(\.check))
    // Methods that mergekit lacks are named by their own names: `ownMethods` has the test.
    #expect(Set(MergekitReport.checkNames.map(\.name)) == met.union(["own-methods", "sampled-quartiles", "several-documents"]))
  }

  @Test func largeTensorsAreSampledThere() throws {
    let scratch = try Scratch()
    let header = #"{"w": {"dtype": "BF16", "shape": [1001, 1000], "data_offsets": [0, 2002000]}}"#
    let count = UInt8(header.utf8.count)
    let bytes = [count, 0, 0, 0, 0, 0, 0, 0] + Array(header.utf8) + [UInt8](repeating: 0, count: 2_002_000)
    for name in ["m", "n"] {
      try scratch.model(name, [TestTensor("w", .f32, [1], [1])], config: "{}")
      try scratch.write("\(name)/model.safetensors", bytes)
    }
    let findings = try report(scratch, "{merge_method: arcee_fusion, base_model: '@m', dtype: float32, models: [{model: '@n'}]}")
    #expect(findings.first { $0.name == "sampled-quartiles" }?.subjects == ["w"])
  }

  @Test func everyDocumentIsChecked() throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    let text = """
      {name: first, merge_method: ties, base_model: '@base', dtype: float32, parameters: {weight: 1, density: 0.5}, models: [{model: '@a'}]}
      ---
      {merge_method: slerp, base_model: '@base', dtype: float32, seed: 4, parameters: {t: 0.5}, models: [{model: first}]}
      """
    for sawModels in [true, false] {
      let findings = try report(scratch, text, sawModels: sawModels)
      #expect(findings.first { $0.name == "equal-magnitudes" }?.document == "first")
      #expect(findings.first { $0.name == "own-parameters" }.map { $0.document == nil && $0.subjects == ["seed"] } == true)
      #expect(findings.first { $0.name == "several-documents" }?.subjects == ["first"])
    }
  }

  /// What is saved in another type is cast to it there, too.
  @Test(arguments: ["arcee_fusion", "ramplus_tl"]) func namedOutputTypesAreKept(_ method: String) throws {
    let scratch = try Scratch()
    for name in ["base", "a"] {
      try scratch.model(name, languageModel(layers: 1, value: 1, dtype: .bf16), config: languageConfig(layers: 1))
    }
    let known = method == "ramplus_tl" ? "float32-ramplus" : "float32-fusion"
    func isFound(_ types: String, sawModels: Bool) throws -> Bool {
      let text = "{merge_method: \(method), base_model: '@base', \(types)models: [{model: '@a'}]}"
      return try report(scratch, text, sawModels: sawModels).contains { $0.name == known }
    }
    for sawModels in [true, false] {
      #expect(try isFound("dtype: bfloat16, ", sawModels: sawModels))
      #expect(try !isFound("dtype: float32, ", sawModels: sawModels))
      #expect(try !isFound("dtype: bfloat16, out_dtype: bfloat16, ", sawModels: sawModels))
      // Without a dtype it is the models'.
      #expect(try isFound("", sawModels: sawModels) == sawModels)
    }
  }

  /// What lies beside a side file says nothing of it.
  @Test func sideFilesAreOpenedAsAPlanOpensThem() throws {
    let scratch = try Scratch()
    for name in ["m", "n"] {
      try scratch.model(name, [TestTensor("w", .f32, [2], [1, 2])], config: "{}")
      try scratch.model(
        "side-" + name, [TestTensor("w", .f32, [2], [1, 1])], config: #"{"quantization_config": {"quant_method": "other"}}"#)
    }
    let text = "{merge_method: fisher, models: [{model: '@m', side: {fisher: '@side-m'}}, {model: '@n', side: {fisher: '@side-n'}}]}"
    #expect(try report(scratch, text).contains { $0.name == "own-methods" })
    #expect(throws: IngotError.self) { _ = try LocalModels(environment: [:]).open(named: scratch.path + "/side-m").readable() }
  }

  /// A recipe about which there is nothing to say.
  @Test func saysNothingWithoutReason() throws {
    let scratch = try Scratch()
    for name in ["base", "a"] { try scratch.model(name, languageModel(layers: 2, value: 1), config: languageConfig(layers: 2)) }
    let plain = "{merge_method: task_arithmetic, base_model: '@base', dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}]}"
    #expect(try report(scratch, plain).isEmpty)
    #expect(try report(scratch, plain, sawModels: false).isEmpty)
    for method in ["ties", "breadcrumbs", "della", "dare_ties"] {
      let findings = try report(scratch, plain.replacingOccurrences(of: "task_arithmetic", with: method))
      #expect(findings.isEmpty, "\(method) at density 1: \(findings.map(\.name))")
    }
  }

  @Test func ownMethods() throws {
    // The names of mergekit 0.1.5; any other method is ours alone.
    let theirs: Set<String> = [
      "linear", "slerp", "nuslerp", "multislerp", "karcher", "passthrough", "model_stock", "arcee_fusion", "nearswap", "sce", "ram",
      "ramplus_tl", "task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
    ]
    for method in MethodRegistry.catalog.methods {
      let required = method.parameters.filter(\.isRequired).map { "\($0.name): 0.5" }.joined(separator: ", ")
      let models = (0..<max(method.models.lowerBound - (method.base == .none ? 1 : 0), 1)).map { "{model: m\($0)}" }.joined(separator: ", ")
      let text = "{merge_method: \(method.name), base_model: base, parameters: {\(required)}, models: [\(models)]}"
      guard let recipe = try? Recipe(text) else { continue }
      let names = try MergekitReport(recipe, models: nil).findings.map(\.name)
      #expect(names.contains("own-methods") == !theirs.contains(method.name), "\(method.name)")
    }
  }

  /// Every check is a heading of the document, and says there what it says here.
  @Test func everyCheckIsDocumented() throws {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    let text = try String(contentsOf: root.appendingPathComponent("docs/mergekit.md"), encoding: .utf8)
    let named = text.split(separator: "\n").compactMap { $0.wholeMatch(of: /\| `([a-z0-9-]+)` \|.*/).map { String($0.1) } }
    #expect(Set(named) == Set(MergekitReport.checkNames.map(\.name)))
    #expect(named.count == Set(named).count)
    // Differences on purpose stand before the bugs.
    let bugs = Set(MergekitReport.checkNames.filter { $0.kind == .bug }.map(\.name))
    #expect(Set(named.suffix(bugs.count)) == bugs)
  }

  // MARK: - What Ingot does where mergekit has a bug

  @Test func aConditionMayStandAlone() throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    let alone = try scratch.merge(
      "{merge_method: linear, dtype: float32, models: [{model: '@a', parameters: {weight: {value: 0.5}}}, {model: '@b', parameters: {weight: 1}}]}",
      to: "alone")
    let listed = try scratch.merge(
      "{merge_method: linear, dtype: float32, models: [{model: '@a', parameters: {weight: [{value: 0.5}]}}, {model: '@b', parameters: {weight: 1}}]}",
      to: "listed")
    #expect(alone.report.digests == listed.report.digests)
  }

  @Test func theDonorIsTheFirstModel() throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    for (first, second) in [("a", "b"), ("b", "a")] {
      for name in ["a", "b"] { try scratch.write("\(name)/generation_config.json", "{\"from\": \"\(name)\"}".utf8) }
      try scratch.merge(
        "{merge_method: linear, dtype: float32, parameters: {weight: 1}, models: [{model: '@\(first)'}, {model: '@\(second)'}]}",
        to: first + second)
      #expect(scratch.text("\(first)\(second)/generation_config.json") == "{\"from\": \"\(first)\"}")
    }
  }

  /// gamma × elements below 1: the kept share is kept.
  @Test(arguments: ["breadcrumbs", "breadcrumbs_ties"]) func smallTensorsAreNotTrimmedToNothing(_ method: String) throws {
    let base = TestTensor("w", .f32, [4])
    let tuned = TestTensor("w", .f32, [4], [4, -3, 2, -1])
    let result = try merge(
      recipe: "{merge_method: \(method), base_model: base, models: [{model: a, parameters: {weight: 1, density: 0.5, gamma: 0.01}}]}",
      models: ["base": [base], "a": [tuned]])
    #expect(result.tensors["w"]?.values == [4, -3, 0, 0])
  }

  @Test func rowsOfOneElementAreDrawn() throws {
    let count = 2000
    let base = TestTensor("w", .f32, [count, 1])
    let tuned = TestTensor("w", .f32, [count, 1], [Double](repeating: 1, count: count))
    let result = try merge(
      recipe:
        "{merge_method: della_linear, base_model: base, parameters: {rescale: false}, models: [{model: a, parameters: {weight: 1, density: 0.5}}]}",
      models: ["base": [base], "a": [tuned]])
    let kept = try #require(result.tensors["w"]).values.count { $0 == 1 }
    #expect(abs(kept - count / 2) < 150 && result.tensors["w"]?.values.allSatisfy { $0 == 0 || $0 == 1 } == true)
  }

  @Test func headsAreNotIgnoredByLoaders() throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    try scratch.merge("{merge_method: linear, base_model: '@tied', dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}]}")
    #expect(try scratch.tensors()["lm_head.weight"] != nil)
    #expect(scratch.text("OUT/config.json")?.contains("\"tie_word_embeddings\": false") == true)
  }

  @Test func layerTypesFollowTheLayers() throws {
    let scratch = try Scratch()
    try scratch.model(
      "m", languageModel(layers: 2, value: 1),
      config: languageConfig(layers: 2, more: #", "layer_types": ["full_attention", "sliding_attention"]"#))
    let slice = { (range: String) in "{sources: [{model: '@m', layer_range: \(range)}]}" }
    try scratch.merge("{merge_method: passthrough, slices: [\(slice("[0, 2]")), \(slice("[1, 2]"))]}")
    let config = try #require(scratch.text("OUT/config.json")).filter { !$0.isWhitespace }
    #expect(config.contains(#""layer_types":["full_attention","sliding_attention","sliding_attention"]"#))
  }

  /// A method's mistake is found before models are: no file of this recipe exists.
  @Test func misspeltMethodsAreFoundFirst() {
    let error = #expect(throws: IngotError.self) { _ = try Recipe("{merge_method: tie, models: [{model: /nowhere}]}") }
    #expect(error?.hint == "did you mean ties?")
  }

  @Test func weightsThatSumToZeroAreRefused() throws {
    let one = TestTensor("w", .f32, [2], [1, 2])
    let error = #expect(throws: IngotError.self) {
      _ = try merge(
        recipe: "{merge_method: linear, models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]}",
        models: ["a": [one], "b": [one]])
    }
    #expect(error?.status == .recipe)
  }

  /// Nothing of an earlier output stays in a replaced directory.
  @Test func replacedDirectoriesHoldNothingOld() throws {
    let scratch = try Scratch()
    try Self.write(scratch)
    let recipe = "{merge_method: linear, dtype: float32, parameters: {weight: 1}, models: [{model: '@a'}, {model: '@b'}]}"
    try scratch.merge(recipe, shardSize: 512)
    try #require(scratch.files("OUT").keys.count { $0.hasSuffix(".safetensors") } > 1)
    var options = DirectoryOptions.quick
    options.force = true
    try scratch.merge(recipe, options: options)
    #expect(scratch.files("OUT").keys.filter { $0.contains("safetensors") } == ["model.safetensors"])
  }
}
