import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Bad input: found while planning, named, and nothing at the destination.
@Suite struct RefusalTests {
  private static let linear = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"

  /// Two good models.
  private func arrange(shards: Int = 1) throws -> Scratch {
    let scratch = try Scratch()
    for (name, value) in [("a", 1.0), ("b", 2)] {
      try scratch.model(name, languageModel(layers: 3, value: value), config: languageConfig(layers: 3), shards: shards)
    }
    return scratch
  }

  /// The merge must fail with this status and these words, and leave nothing behind.
  private func expect(
    _ status: Status, _ words: [String], _ recipe: String = linear, in scratch: Scratch, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let error = #expect(throws: IngotError.self, sourceLocation: sourceLocation) { try scratch.merge(recipe) }
    guard let error else { return }
    #expect(error.status == status, "\(error)", sourceLocation: sourceLocation)
    let text = [error.message, error.hint ?? "", error.subject ?? "", error.position?.description ?? ""].joined(separator: "\n")
    for word in words { #expect(text.contains(word), "\(word) in \(error)", sourceLocation: sourceLocation) }
    #expect(!scratch.exists("OUT") && !scratch.exists("OUT.partial"), sourceLocation: sourceLocation)
  }

  // MARK: Files

  @Test func missingModel() throws {
    let scratch = try arrange()
    expect(.notFound, ["recipe.yml:2:"], "merge_method: linear\nmodels: [{model: @nowhere, parameters: {weight: 1}}]\n", in: scratch)
    expect(
      .notFound, ["hf download some-org/some-model"], "merge_method: passthrough\nmodels: [{model: some-org/some-model}]\n", in: scratch)
    try scratch.write("bare/config.json", "{}".utf8)
    expect(.notFound, ["model.safetensors"], "merge_method: passthrough\nmodels: [{model: @bare}]\n", in: scratch)
    try scratch.write("pickled/pytorch_model.bin", "x".utf8)
    expect(
      .format, ["pytorch_model.bin", "neither a zip archive nor a pickle"], "merge_method: passthrough\nmodels: [{model: @pickled}]\n",
      in: scratch)
  }

  @Test func missingShard() throws {
    let scratch = try arrange(shards: 3)
    let shard = try #require(scratch.files("b").keys.sorted().first { $0.hasSuffix(".safetensors") })
    try scratch.remove("b/" + shard)
    expect(.notFound, [shard, "missing"], in: scratch)
  }

  @Test func truncatedShard() throws {
    let scratch = try arrange(shards: 2)
    let shard = try #require(scratch.files("b").keys.sorted().last { $0.hasSuffix(".safetensors") })
    let bytes = try #require(scratch.read("b/" + shard))
    for length in [bytes.count - 1, bytes.count / 2, 40, 8, 7, 0] {
      try scratch.write("b/" + shard, bytes.prefix(length))
      expect(.format, [shard], in: scratch)
    }
    try scratch.write("b/" + shard, bytes + [0])
    expect(.format, [shard], in: scratch)
    try scratch.write("b/" + shard, [255, 255, 255, 255, 255, 255, 255, 127] + bytes.dropFirst(8))
    expect(.format, [shard], in: scratch)
  }

  /// Tensors of one element that say that they have 2⁴⁷, in a model that says it has hundreds of them, in a recipe that has hundreds of it.
  @Test func sizesThatNothingHas() throws {
    let value = UnsafeMutableRawPointer.allocate(byteCount: 4, alignment: 4)
    defer { unsafe value.deallocate() }
    func models(_ count: Int, tensors: Int, elements: Int) throws -> [String: [TensorView]] {
      let views = try (0..<tensors).map {
        // SAFETY: planning reads no element.
        try unsafe TensorView(name: "t\($0)", dtype: .f32, shape: Shape([elements]), strides: [0], unsafe: value)
      }
      return Dictionary(uniqueKeysWithValues: (0..<count).map { ("m\($0)", views) })
    }
    func plan(_ count: Int, tensors: Int, elements: Int) throws -> Plan {
      let list = (0..<count).map { "{model: m\($0)}" }.joined(separator: ", ")
      return try Plan.make(
        try Recipe("merge_method: linear\nmodels: [\(list)]\nparameters: {weight: 1}\n"),
        models: MemoryModels(models(count, tensors: tensors, elements: elements)))
    }
    #expect(try plan(2, tensors: 7, elements: 1 << 45).bytesRead == 2 * 7 << 47)
    for (count, tensors, elements) in [(1, 9, 1 << 45), (1, 1, 1 << 49), (1, 8, 1 << 57), (80, 8, 1 << 45)] {
      let error = #expect(throws: IngotError.self) { try plan(count, tensors: tensors, elements: elements) }
      #expect(error?.status == .shape, "\(String(describing: error))")
    }
  }

  /// Tensors without elements whose rows are longer than anything: sizes are computed of them all the same.
  @Test(arguments: [
    ("[0, 1152921504606846976]", Status.shape), ("[0, 4503599627370496]", .shape), ("[0, 1099511627776, 1099511627776]", .format),
  ])
  func rowsWithoutElements(_ shape: String, _ status: Status) throws {
    let scratch = try Scratch()
    let header = #"{"w":{"dtype":"F32","shape":\#(shape),"data_offsets":[0,0]}}"#
    for name in ["base", "a", "b"] {
      try scratch.write("\(name)/model.safetensors", [UInt8(header.utf8.count), 0, 0, 0, 0, 0, 0, 0] + Array(header.utf8))
    }
    for method in ["della", "breadcrumbs", "linear"] {
      expect(
        status, [], "merge_method: \(method)\nbase_model: @base\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n", in: scratch
      )
    }
  }

  @Test func indexThatLeavesTheDirectory() throws {
    let scratch = try arrange()
    try scratch.remove("b/model.safetensors")
    try scratch.write("b/model.safetensors.index.json", #"{"weight_map": {"w": "../a/model.safetensors"}}"#.utf8)
    expect(.format, ["../a/model.safetensors"], in: scratch)
  }

  @Test func damagedConfig() throws {
    let scratch = try arrange()
    try scratch.write("b/config.json", "{\"num_hidden_layers\": ".utf8)
    expect(.format, ["config.json"], in: scratch)
  }

  // MARK: Models that do not fit

  @Test func shapesThatDisagree() throws {
    let scratch = try arrange()
    try scratch.model("b", languageModel(layers: 3, width: 9, value: 1), config: languageConfig(layers: 3))
    expect(.shape, ["model.embed_tokens.weight", "[12, 9]", "[12, 8]", "/a", "/b"], in: scratch)
  }

  @Test func absentTensors() throws {
    let scratch = try arrange()
    try scratch.model(
      "b", languageModel(layers: 3, value: 1).filter { $0.name != "model.layers.1.mlp.weight" }, config: languageConfig(layers: 3))
    expect(.shape, ["model.layers.1.mlp.weight", "absent", "/a", "/b"], in: scratch)
    try scratch.model("b", languageModel(layers: 3, value: 1) + [TestTensor("extra.weight", .f32, [2])], config: languageConfig(layers: 3))
    expect(.shape, ["extra.weight", "absent", "/a", "/b"], in: scratch)
  }

  @Test(arguments: [
    ("gptq", #", "quantization_config": {"quant_method": "gptq"}"#, ""), ("fp8", "", "model.layers.0.mlp.weight_scale_inv"),
    ("bitsandbytes", "", "model.layers.0.mlp.weight.absmax"), ("gptq or awq", "", "model.layers.0.mlp.qweight"),
  ])
  func quantisedSources(_ scheme: String, _ config: String, _ tensor: String) throws {
    let scratch = try arrange()
    let extra = tensor.isEmpty ? [] : [TestTensor(tensor, .f32, [2])]
    try scratch.model("b", languageModel(layers: 3, value: 1) + extra, config: languageConfig(layers: 3, more: config))
    expect(.unsupported, ["quantised", scheme, "recipe.yml:2:"], in: scratch)
    expect(.unsupported, ["quantised", scheme], "merge_method: passthrough\nmodels: [{model: @b}]\n", in: scratch)
  }

  @Test func layerRanges() throws {
    let scratch = try arrange()
    func slices(_ a: String, _ b: String) -> String {
      "merge_method: linear\nslices:\n- sources:\n  - {model: @a, layer_range: \(a)}\n  - {model: @b, layer_range: \(b)}\nparameters: {weight: 1}\n"
    }
    expect(.recipe, ["[1, 4]", "3 layers", "recipe.yml:4:"], slices("[1, 4]", "[0, 3]"), in: scratch)
    expect(.recipe, ["[2, 5]", "/b", "recipe.yml:5:"], slices("[0, 3]", "[2, 5]"), in: scratch)
    expect(.recipe, ["layer_range", "3 layers", "2"], slices("[0, 2]", "[0, 3]"), in: scratch)
    try scratch.model("b", languageModel(layers: 3, value: 1), config: nil)
    try scratch.remove("b/config.json")
    expect(.unsupported, ["config.json"], slices("[0, 2]", "[0, 2]"), in: scratch)
    // The config promises more layers than there are.
    try scratch.model("b", languageModel(layers: 3, value: 1), config: languageConfig(layers: 4))
    expect(.unsupported, ["0 to 3"], slices("[0, 2]", "[0, 2]"), in: scratch)
  }

  /// Two stacks of layers of one part and length: ranges cannot tell which is meant.
  @Test func twoStacksOfLayers() throws {
    let scratch = try arrange()
    let twin = (0..<3).map { TestTensor("other.layers.\($0).weight", .f32, [4]) }
    for name in ["a", "b"] { try scratch.model(name, languageModel(layers: 3, value: 1) + twin, config: languageConfig(layers: 3)) }
    expect(
      .unsupported, ["model.layers.", "other.layers.", "modules:"],
      "merge_method: passthrough\nslices: [{sources: [{model: @a, layer_range: [0, 3]}]}]\n", in: scratch)
    // Without them it does not matter.
    try scratch.merge(Self.linear)
  }

  // MARK: Recipes

  @Test(arguments: [
    ("merge_method: liner\nmodels: [{model: @a}]\n", ["liner", "linear", "recipe.yml:1:15"]),
    ("merge_method: alchemy\nmodels: [{model: @a}]\n", ["alchemy", "linear"]),
    ("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\n", ["weight"]),
    (
      "merge_method: ties\nbase_model: @a\nmodels: [{model: @b, parameters: {weight: 1, density: 1.5}}]\n",
      ["density", "1.5", "above 0 and at most 1", ":3:"]
    ),
    ("merge_method: ties\nmodels: [{model: @b, parameters: {weight: 1}}]\n", ["base_model"]),
    ("merge_method: slerp\nbase_model: @a\nmodels: [{model: @b}]\n", ["t"]),
    (
      "merge_method: linear\nmodels: [{model: @a, parameters: {weight: 1}}, {model: @b, parameters: {weight: -1}}]\n",
      ["zero", "normalize"]
    ),
    ("merge_method: linear\nmodels: [{model: @a, parameters: {weight: .nan}}]\n", ["weight", "nan"]),
    (
      "merge_method: della\nbase_model: @a\nmodels: [{model: @b, parameters: {weight: 1, density: 0.1, epsilon: 0.2}}]\n",
      ["density 0.1", "epsilon 0.2", "/b"]
    ),
    (
      "merge_method: ties\nbase_model: @a\nmodels: [{model: @b, parameters: {weight: 1, density: [{filter: mlp, value: 0.5}, {value: 0.2}]}}]\nparameters: {scope: model}\n",
      ["scope: model", "mlp", "0.2"]
    ),
    ("merge_method: linear\nmodels: [{model: @a}]\nparameters: {weight: 1}\ndtype: int8\n", ["dtype", "int8", ":4:"]),
    ("merge_method: [linear", ["recipe.yml:"]),
    ("", ["recipe"]),
  ])
  func recipes(_ recipe: String, _ words: [String]) throws {
    expect(.recipe, words, recipe, in: try arrange())
  }
}
