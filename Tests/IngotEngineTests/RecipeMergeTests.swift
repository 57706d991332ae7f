import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Recipes end to end over model directories.
@Suite struct RecipeMergeTests {
  @Test func modelsForm() throws {
    let scratch = try Scratch()
    try scratch.model(
      "a", languageModel(layers: 2, value: 1), config: languageConfig(layers: 2),
      extra: [
        "tokenizer.json": "{}", "assets/logo.txt": "x", "modeling.py": "pass", "README.md": "---\nlicense: mit\n---\n", "old.bin": "w",
        ".hidden": "no", "generation_config.json": "{\"a\": 1}",
      ])
    try scratch.model(
      "b", languageModel(layers: 2, value: 3), config: languageConfig(layers: 2),
      extra: ["b-only.txt": "no", "README.md": "---\nlicense: apache-2.0\n---\n"])
    let recipe =
      "merge_method: linear\nmodels:\n- {model: @a, parameters: {weight: 1}}\n- {model: @b, parameters: {weight: 3}}\ndtype: bfloat16\n"
    let (plan, report) = try scratch.merge(recipe)
    let tensors = try scratch.tensors()
    #expect(Set(tensors.keys) == Set(languageModel(layers: 2, value: 0).map(\.name)))
    #expect(tensors["model.norm.weight"]?.values == [Double](repeating: 2.5, count: 8))
    #expect(tensors.values.allSatisfy { $0.dtype == .bf16 })
    #expect(report.bytesWritten == plan.bytesWritten)
    // What comes along, and what does not.
    let files = scratch.files("OUT")
    #expect(
      Set(files.keys) == [
        "model.safetensors", "config.json", "tokenizer.json", "assets/logo.txt", "modeling.py", "generation_config.json", "README.md",
        "mergekit_config.yml", "ingot.json",
      ])
    #expect(scratch.text("OUT/tokenizer.json") == "{}")
    #expect(plan.notices.contains { $0.message.contains("modeling.py") })
    let config = try JSON.parse(try #require(scratch.text("OUT/config.json")), origin: "config.json")
    #expect(config["torch_dtype"]?.asString == "bfloat16")
    #expect(config["num_hidden_layers"]?.asInt == 2)
    // The recipe as given, a card that says what the model is, and the record.
    #expect(scratch.text("OUT/mergekit_config.yml") == recipe.replacingOccurrences(of: "@", with: scratch.path + "/"))
    let card = try #require(scratch.text("OUT/README.md"))
    #expect(card.contains("base_model_relation: merge") && card.contains("mit") && card.contains("apache-2.0"))
    #expect(!card.contains(scratch.path))
    let record = try JSON.parse(try #require(scratch.text("OUT/ingot.json")), origin: "ingot.json")
    #expect(record["plan_digest"]?.asString == plan.digest.description)
    #expect(record["tensors"]?.asObject?.keys.count == plan.tensors.count)
    try Verification(directory: scratch("OUT")).requireIntact()
    #expect(!scratch.exists("OUT.partial"))
  }

  /// A second merge of the same recipe gives the same bytes in every file but the record.
  @Test func repeats() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 2, value: 1), config: languageConfig(layers: 2))
    try scratch.model("b", languageModel(layers: 2, value: 3), config: languageConfig(layers: 2))
    let recipe = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"
    try scratch.merge(recipe, to: "one")
    try scratch.merge(recipe, to: "two")
    #expect(scratch.output("one") == scratch.output("two"))
  }

  @Test func shardedOutput() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 4, value: 1), config: languageConfig(layers: 4), shards: 3)
    try scratch.model("b", languageModel(layers: 4, value: 3), config: languageConfig(layers: 4))
    let recipe = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"
    let (plan, _) = try scratch.merge(recipe, shardSize: 700)
    #expect(plan.files.count > 2)
    let names = Set(scratch.files("OUT").keys)
    #expect(names.contains("model.safetensors.index.json") && !names.contains("model.safetensors"))
    let count = String(format: "%05d", plan.files.count)
    for number in 1...plan.files.count { #expect(names.contains("model-\(String(format: "%05d", number))-of-\(count).safetensors")) }
    let index = try JSON.parse(try #require(scratch.text("OUT/model.safetensors.index.json")), origin: "index")
    #expect(index[path: "metadata.total_size"]?.asInt == plan.bytesWritten)
    // The same tensors as in one file.
    try scratch.merge(recipe, to: "whole", shardSize: 0)
    let (sharded, whole) = (try scratch.tensors(), try scratch.tensors("whole"))
    #expect(sharded.count == whole.count)
    for (name, tensor) in whole { #expect(tensor.hasBytes(of: sharded[name])) }
    try Verification(directory: scratch("OUT")).requireIntact()
  }

  // MARK: Layers

  @Test func frankenmerge() throws {
    let scratch = try Scratch()
    let types = #", "layer_types": ["a0", "a1", "a2"], "mlp_only_layers": [2]"#
    try scratch.model("a", languageModel(layers: 3, value: 1), config: languageConfig(layers: 3, more: types))
    let other = types.replacingOccurrences(of: "a", with: "b").replacingOccurrences(of: "lbyer", with: "layer")
    try scratch.model("b", languageModel(layers: 3, value: 2), config: languageConfig(layers: 3, more: other))
    let recipe = """
      merge_method: passthrough
      slices:
      - sources: [{model: @a, layer_range: [0, 2]}]
      - sources: [{model: @b, layer_range: [1, 3]}]
      - sources: [{model: @a, layer_range: [2, 3]}]
      """
    let (plan, report) = try scratch.merge(recipe)
    let tensors = try scratch.tensors()
    let a = languageModel(layers: 3, value: 1), b = languageModel(layers: 3, value: 2)
    func source(_ tensors: [TestTensor], _ name: String) -> TestTensor? { tensors.first { $0.name == name } }
    let origins = [(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]
    #expect(tensors.count == 3 + 2 * origins.count)
    for (layer, (model, from)) in origins.enumerated() {
      for part in ["mlp.weight", "attn.weight"] {
        let expected = try #require(source(model, "model.layers.\(from).\(part)"))
        #expect(expected.hasBytes(of: tensors["model.layers.\(layer).\(part)"]), "layer \(layer) \(part)")
      }
    }
    // What stands before the layers is the first slice's, what stands after them the last one's.
    #expect(source(a, "model.embed_tokens.weight")?.hasBytes(of: tensors["model.embed_tokens.weight"]) == true)
    #expect(source(a, "lm_head.weight")?.hasBytes(of: tensors["lm_head.weight"]) == true)
    let config = try JSON.parse(try #require(scratch.text("OUT/config.json")), origin: "config.json")
    #expect(config["num_hidden_layers"]?.asInt == 5)
    #expect(config["layer_types"]?.asArray?.compactMap(\.asString) == ["a0", "a1", "b1", "b2", "a2"])
    #expect(config["mlp_only_layers"]?.asArray?.compactMap(\.asInt) == [3, 4])
    #expect(report.decodedBytes == 0)
    #expect(plan.jobs.count == tensors.count)
  }

  /// The norm and the head come from the last slice's model.
  @Test func lastSliceGivesTheEnd() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 2, value: 1), config: languageConfig(layers: 2))
    try scratch.model("b", languageModel(layers: 2, value: 2), config: languageConfig(layers: 2))
    try scratch.merge(
      "merge_method: passthrough\nslices:\n- sources: [{model: @a, layer_range: [0, 1]}]\n- sources: [{model: @b, layer_range: [1, 2]}]\n")
    let tensors = try scratch.tensors()
    #expect(tensors["model.embed_tokens.weight"]?.value(0) == 1)
    #expect(tensors["model.norm.weight"]?.value(0) == 2)
    #expect(tensors["lm_head.weight"]?.value(0) == 2.5)
  }

  @Test func gradientsOverLayers() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 5, value: 0), config: languageConfig(layers: 5))
    try scratch.model("b", languageModel(layers: 5, value: 1), config: languageConfig(layers: 5))
    // t by layer: 0, 0.25, 0.5, 0.75, 1 of the way over three anchors.
    let recipe = """
      merge_method: linear
      models:
      - {model: @a, parameters: {weight: [1, 0.5, 0]}}
      - {model: @b, parameters: {weight: [0, 0.5, 1]}}
      parameters: {normalize: false}
      """
    try scratch.merge(recipe)
    let tensors = try scratch.tensors()
    for layer in 0..<5 {
      let offset = Double(layer + 1) / 64
      let share = Double(layer) / 4
      #expect(tensors["model.layers.\(layer).mlp.weight"]?.value(0) == offset * (1 - share) + (1 + offset) * share, "layer \(layer)")
    }
    // Outside the layers the first anchor counts.
    #expect(tensors["model.norm.weight"]?.value(0) == 0)
  }

  @Test func filtersChooseByName() throws {
    let scratch = try Scratch()
    try scratch.model("base", languageModel(layers: 2, value: 0), config: languageConfig(layers: 2))
    try scratch.model("a", languageModel(layers: 2, value: 1), config: languageConfig(layers: 2))
    let recipe = """
      merge_method: slerp
      base_model: @base
      models: [{model: @base}, {model: @a}]
      parameters:
        t:
        - {filter: mlp, value: 1}
        - {filter: attn, value: 0}
        - value: 0.5
      """
    try scratch.merge(recipe)
    let tensors = try scratch.tensors()
    // Parallel tensors are interpolated linearly.
    #expect(tensors["model.layers.1.mlp.weight"]?.value(0) == 1 + 2.0 / 64)
    #expect(tensors["model.layers.1.attn.weight"]?.value(0) == 2.0 / 128)
    // The base's norm is zero, which has no direction: sin(π/4) of the other.
    #expect(abs((tensors["model.norm.weight"]?.value(0) ?? 0) - 0.5.squareRoot()) < 1e-6)
  }

  // MARK: Tied weights and embeddings

  @Test func allTied() throws {
    let scratch = try Scratch()
    for (name, value) in [("a", 1.0), ("b", 3)] {
      try scratch.model(name, languageModel(layers: 1, value: value, head: false), config: languageConfig(layers: 1, ties: true))
    }
    try scratch.merge("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n")
    let tensors = try scratch.tensors()
    #expect(tensors["lm_head.weight"] == nil)
    #expect(tensors["model.embed_tokens.weight"]?.value(0) == 2)
    #expect(try config(scratch)["tie_word_embeddings"]?.asBool == true)
  }

  /// Whichever model stands first, an untied one makes the output untied, and the tied one's head is its embedding.
  @Test(arguments: [["tied", "untied"], ["untied", "tied"]]) func oneUntied(_ order: [String]) throws {
    let scratch = try Scratch()
    try scratch.model("tied", languageModel(layers: 1, value: 1, head: false), config: languageConfig(layers: 1, ties: true))
    try scratch.model("untied", languageModel(layers: 1, value: 3), config: languageConfig(layers: 1))
    try scratch.merge("merge_method: linear\nmodels: [{model: @\(order[0])}, {model: @\(order[1])}]\nparameters: {weight: 1}\n")
    let tensors = try scratch.tensors()
    #expect(tensors["lm_head.weight"]?.value(0) == (1 + 3.5) / 2)
    #expect(tensors["model.embed_tokens.weight"]?.value(0) == 2)
    #expect(try config(scratch)["tie_word_embeddings"]?.asBool == false)
  }

  @Test func embeddingsOfDifferentRows() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 1, rows: 14, value: 1), config: languageConfig(layers: 1, rows: 14))
    try scratch.model("b", languageModel(layers: 1, rows: 10, value: 3), config: languageConfig(layers: 1, rows: 10))
    let (plan, _) = try scratch.merge("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n")
    let tensors = try scratch.tensors()
    #expect(tensors["model.embed_tokens.weight"]?.shape == [10, 8])
    #expect(tensors["model.embed_tokens.weight"]?.values.allSatisfy { $0 == 2 } == true)
    #expect(tensors["lm_head.weight"]?.shape == [10, 8])
    #expect(try config(scratch)["vocab_size"]?.asInt == 10)
    #expect(plan.notices.contains { $0.severity == .warning && $0.subject == "model.embed_tokens.weight" })
    // The task-vector family takes the base's rows.
    try scratch.model("base", languageModel(layers: 1, rows: 10, value: 0), config: languageConfig(layers: 1, rows: 10))
    try scratch.merge("merge_method: task_arithmetic\nbase_model: @base\nmodels: [{model: @a, parameters: {weight: 1}}]\n", to: "two")
    #expect(try scratch.tensors("two")["model.embed_tokens.weight"]?.shape == [10, 8])
    // A base with more rows than a model cannot give that model's missing rows.
    let error = #expect(throws: IngotError.self) {
      try scratch.merge("merge_method: task_arithmetic\nbase_model: @a\nmodels: [{model: @b, parameters: {weight: 1}}]\n", to: "three")
    }
    #expect(error?.status == .shape && error?.message.contains("[14, 8]") == true && error?.message.contains("[10, 8]") == true)
  }

  private func config(_ scratch: Scratch) throws -> JSONValue {
    try JSON.parse(try #require(scratch.text("OUT/config.json")), origin: "config.json")
  }

  // MARK: Bytes

  /// Copies are copies: payloads of signalling NaN, types without arithmetic, odd sizes; nothing is decoded.
  @Test func passthroughKeepsEveryByte() throws {
    let scratch = try Scratch()
    var random = SplitMix(17)
    var tensors: [TestTensor] = []
    for (name, dtype, shape) in [
      ("a.f32", DType.f32, [300, 1001]), ("b.f16", .f16, [77]), ("c.bf16", .bf16, [3, 5, 7]), ("d.f64", .f64, [9]), ("e.i64", .i64, [4]),
      ("f.bool", .bool, [13]), ("g.f8", .f8E4M3, [31]), ("h.f4", .f4, [6]), ("i.c64", .c64, [2]), ("j.empty", .f32, [0, 3]),
      ("k.scalar", .bf16, []), ("l.u8", .u8, [1, 1]),
    ] {
      let tensor = TestTensor(name, dtype, shape)
      for byte in 0..<tensor.count * dtype.bits / 8 {
        unsafe tensor.bytes.storeBytes(of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: byte, as: UInt8.self)
      }
      tensors.append(tensor)
    }
    for index in 0..<10_000 {
      unsafe tensors[0].bytes.storeBytes(of: 0x7f80_0001 + UInt32(index), toByteOffset: 4 * index, as: UInt32.self)
    }
    try scratch.model("a", tensors, shards: 2)
    let (_, report) = try scratch.merge("merge_method: passthrough\nmodels: [{model: @a}]\n")
    let copies = try scratch.tensors()
    #expect(copies.count == tensors.count)
    for tensor in tensors { #expect(tensor.hasBytes(of: copies[tensor.name]), "\(tensor.name)") }
    #expect(report.decodedBytes == 0)
  }

  /// Naming the type that a tensor has already is still a copy; another type is a conversion.
  @Test func passthroughConverts() throws {
    let scratch = try Scratch()
    try scratch.model("a", [TestTensor("w", .f32, [3], [1, 2, 3]), TestTensor("v", .bf16, [2], [1, 2])])
    let (_, report) = try scratch.merge("merge_method: passthrough\nmodels: [{model: @a}]\ndtype: bfloat16\n")
    let tensors = try scratch.tensors()
    #expect(tensors["w"]?.dtype == .bf16 && tensors["w"]?.values == [1, 2, 3])
    #expect(tensors["v"]?.values == [1, 2])
    #expect(report.decodedBytes == 12)
  }
}
