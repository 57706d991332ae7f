import IngotCheckpoints
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

@Suite("Opening checkpoints")
struct CheckpointTests {
  static func index(_ map: String) -> [UInt8] { Array("{\"metadata\":{\"total_size\":1},\"weight_map\":{\(map)}}".utf8) }

  static func sharded() throws -> MemoryFiles {
    MemoryFiles(files: [
      "model.safetensors.index.json": index(
        #""b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors","c":"model-00001-of-00002.safetensors""#),
      "model-00001-of-00002.safetensors": try zeros(["a": 2, "c": 1]),
      "model-00002-of-00002.safetensors": try zeros(["b": 3]),
      "config.json": Array(#"{"model_type":"llama","limit":Infinity}"#.utf8),
    ])
  }

  @Test("one file", arguments: ["model.safetensors", "weights.safetensors"])
  func single(_ name: String) throws {
    let files = MemoryFiles(files: [name: try zeros(["w": 4, "v": 1]), "README.md": []])
    let checkpoint = try Checkpoint.open(files: files) { UInt128($0.count) }
    #expect(checkpoint.tensors.map(\.name) == ["w", "v"])
    #expect(checkpoint["v"]?.shape == Shape([1]))
    #expect(checkpoint["absent"] == nil)
    #expect(checkpoint.config == nil)
    let shard = try #require(checkpoint.shards.first)
    #expect(shard.name == name && shard.modificationTime == 42)
    #expect(shard.size == UInt64(try #require(files.files[name]).count))
    #expect(shard.headerDigest == UInt128(shard.size - 20 - 8))
    #expect(shard.metadata == [MetadataEntry("format", "pt")])
  }

  @Test("shards through the index")
  func shards() throws {
    let checkpoint = try Checkpoint.open(files: Self.sharded())
    #expect(checkpoint.shards.map(\.name) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    #expect(checkpoint.tensors.map(\.name) == ["a", "c", "b"])
    #expect(checkpoint["b"]?.shard == 1)
    #expect(checkpoint.index(of: "c") == 1)
    #expect(checkpoint.config?["limit"]?.asDouble == .infinity)
    #expect(checkpoint.notices.isEmpty)
  }

  @Test("a named file, a named index, and the file before the index")
  func named() throws {
    var files = try Self.sharded()
    let one = try Checkpoint.open(files: files, fileName: "model-00002-of-00002.safetensors")
    #expect(one.tensors.map(\.name) == ["b"])
    #expect(try Checkpoint.open(files: files, fileName: "model.safetensors.index.json").tensors.count == 3)
    files.files["model.safetensors"] = try zeros(["only": 1])
    let both = try Checkpoint.open(files: files)
    #expect(both.tensors.map(\.name) == ["only"])
    #expect(both.notices.map(\.severity) == [.warning])
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files, fileName: "no.safetensors") }
    #expect(error.status == .notFound && error.subject == "models/test/no.safetensors")
  }

  @Test("a shard that the index names and that is absent")
  func missingShard() throws {
    var files = try Self.sharded()
    files.files["model-00002-of-00002.safetensors"] = nil
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == .notFound)
    #expect(error.subject == "models/test/model-00002-of-00002.safetensors")
    #expect(error.message.contains("names 2 shards, 1 of them"))
  }

  @Test("a tensor that the index names and its shard lacks")
  func missingTensor() throws {
    var files = try Self.sharded()
    files.files["model-00002-of-00002.safetensors"] = try zeros(["x": 3])
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == .format && error.subject == "b")
    #expect(error.message.contains("model-00002-of-00002.safetensors"))
  }

  @Test("a tensor that the index does not name is left out with a warning")
  func unnamedTensor() throws {
    var files = try Self.sharded()
    files.files["model-00002-of-00002.safetensors"] = try zeros(["b": 3, "a": 9, "extra": 1])
    let checkpoint = try Checkpoint.open(files: files)
    #expect(checkpoint.tensors.map(\.name) == ["a", "c", "b"])
    #expect(checkpoint["a"]?.shard == 0)
    let notice = try #require(checkpoint.notices.first)
    #expect(notice.severity == .warning && notice.message.contains("2 tensors") && notice.message.contains("\"a\""))
  }

  @Test("a shard that was cut short")
  func truncatedShard() throws {
    var files = try Self.sharded()
    files.files["model-00002-of-00002.safetensors"]?.removeLast()
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == .format && error.subject == "b" && error.message.contains("cut short"))
    files.files["model-00002-of-00002.safetensors"] = [1, 2]
    #expect(throws: IngotError.self) { try Checkpoint.open(files: files) }
  }

  @Test(
    "an index cannot reach outside its directory",
    arguments: [
      "../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", ".", "", "a\\\\b.safetensors", "..\\\\x.safetensors",
      "x\\u0000.safetensors", "x\\n.safetensors", "config.json", "x.bin",
    ])
  func traversal(_ name: String) throws {
    var files = try Self.sharded()
    files.files["model.safetensors.index.json"] = Self.index("\"a\":\"\(name)\"")
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == .format)
    #expect(error.subject == "a")
    #expect(error.position?.line == 1)
    #expect(!error.message.utf8.contains { $0 < 0x20 })
  }

  @Test(
    "an index of another form",
    arguments: [
      "", "[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":1}}", "{\"weight_map\":{}}",
      "{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"y.safetensors\"}}",
    ])
  func badIndex(_ text: String) throws {
    var files = try Self.sharded()
    files.files["model.safetensors.index.json"] = Array(text.utf8)
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == .format)
  }

  @Test(
    "directories without usable weights",
    arguments: [
      ([], Status.notFound, "model.safetensors.index.json"),
      (["config.json"], .notFound, "found 1 other"),
      (["adapter_model.bin", "adapter_config.json"], .unsupported, "adapter"),
      (["a.pt", "b.pth"], .notFound, "2 PyTorch files"),
      (["model.Q4.gguf"], .unsupported, "gguf"),
      (["adapter_model.safetensors", "adapter_config.json"], .unsupported, "adapter"),
      (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], .notFound, "2 safetensors files"),
      (["sub/model.safetensors"], .notFound, "no weights"),
    ] as [([String], Status, String)])
  func noWeights(_ names: [String], _ status: Status, _ words: String) throws {
    let files = MemoryFiles(files: Dictionary(uniqueKeysWithValues: names.map { ($0, Array("{}".utf8)) }))
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.status == status)
    #expect(error.subject == "models/test")
    #expect(error.message.contains(words), "\(error.message)")
    #expect(error.hint != nil)
  }

  @Test("a named file of another format, a file without tensors, a config that is not an object")
  func others() throws {
    var files = MemoryFiles(files: ["m.bin": [], "model.safetensors": safetensors("{}"), "x.txt": []])
    #expect(try #require(throws: IngotError.self) { try Checkpoint.open(files: files, fileName: "m.bin") }.status == .format)
    #expect(try #require(throws: IngotError.self) { try Checkpoint.open(files: files, fileName: "x.txt") }.status == .notFound)
    let error = try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }
    #expect(error.message.contains("no tensor"))
    files.files["config.json"] = Array("[1]".utf8)
    #expect(try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }.subject == "models/test/config.json")
  }

  @Test("a checkpoint made of views refuses two tensors of one name")
  func duplicates() throws {
    let tensor = CheckpointTensor(name: "t", dtype: .f32, shape: Shape([1]), shard: 0, fileOffset: 0, byteCount: 4)
    let error = try #require(throws: IngotError.self) {
      try Checkpoint(displayPath: "m", shards: [], tensors: [tensor, tensor], config: nil)
    }
    #expect(error.subject == "t")
  }

  @Test(
    "quantised checkpoints that cannot be decoded are refused by the scheme's name",
    arguments: [
      (#"{"quantization_config":{"quant_method":"gptq","bits":4}}"#, ["w"], "gptq"),
      (#"{"quantization_config":{"quant_method":"mxfp4"}}"#, ["w"], "mxfp4"),
      (#"{"quantization_config":{"bits":4}}"#, ["w"], "unnamed scheme"),
      (#"{"compression_config":{"format":"x"}}"#, ["w"], "compressed-tensors"),
      (#"{"text_config":{"quantization_config":{"quant_method":"awq"}}}"#, ["w"], "awq"),
      ("{}", ["a.weight", "a.weight_scale_inv"], "fp8"),
      ("{}", ["a.weight", "a.weight_scale"], "fp8"),
      ("{}", ["a.qweight"], "gptq or awq"),
      ("{}", ["a.qzeros"], "gptq or awq"),
      ("{}", ["a.weight", "a.weight.absmax"], "bitsandbytes"),
      ("{}", ["a.weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
      ("{}", ["a.gate_up_proj_scales", "a.gate_up_proj_blocks"], "mxfp4"),
      (#"{"quantization_config":{"quant_method":"fbgemm_fp8"}}"#, ["a.weight", "a.weight_scale"], "fbgemm_fp8"),
    ])
  func quantised(_ config: String, _ names: [String], _ scheme: String) throws {
    let parsed = try JSON.parse(config, origin: "config.json")
    let tensors = names.map { CheckpointTensor(name: $0, dtype: .u8, shape: Shape([1]), shard: 0, fileOffset: 0, byteCount: 1) }
    let checkpoint = try Checkpoint(displayPath: "m", shards: [], tensors: tensors, config: parsed)
    let error = try #require(throws: IngotError.self) { try checkpoint.decoding() }
    #expect(error.status == .unsupported)
    #expect(error.message.contains(scheme), "\(error.message)")
  }

  @Test(
    "plain checkpoints are not taken for quantised ones",
    arguments: [
      ("{}", ["model.layers.0.weight_scales", "x.block_scale"]), (#"{"quantization_config":null}"#, ["w"]),
      (#"{"quantization_config":{}}"#, ["w"]), ("{}", ["a.gate_blocks", "b.gate_scales"]), ("{}", ["absmaxed", "weight"]),
    ])
  func plain(_ config: String, _ names: [String]) throws {
    #expect(Quantisation.detect(config: try JSON.parse(config, origin: "c"), names: names) == nil)
  }
}
