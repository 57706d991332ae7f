import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// A directory of its own, removed at the end.
final class Scratch {
  let path: String

  init(onDisk: Bool = false) throws {
    // In memory where there is such a place: merges sync.
    let parent = !onDisk && FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    path = (parent as NSString).appendingPathComponent("ingot-engine-\(UUID().uuidString)")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func callAsFunction(_ name: String) -> String { path + "/" + name }

  func write(_ name: String, _ bytes: some Sequence<UInt8>) throws {
    let url = URL(fileURLWithPath: self(name))
    try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    try Data(bytes).write(to: url)
  }

  func read(_ name: String) -> [UInt8]? { FileManager.default.contents(atPath: self(name)).map { Array($0) } }
  func text(_ name: String) -> String? { read(name).map { String(decoding: $0, as: UTF8.self) } }
  func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: self(name)) }
  func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: self(name)) }

  /// All files below a directory with their bytes.
  func files(_ name: String) -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for case let inner as String in FileManager.default.enumerator(atPath: self(name)) ?? .init() {
      var isDirectory: ObjCBool = false
      if unsafe FileManager.default.fileExists(atPath: self(name) + "/" + inner, isDirectory: &isDirectory), !isDirectory.boolValue {
        files[inner] = read(name + "/" + inner)
      }
    }
    return files
  }

  /// The files that equal merges share: all but `ingot.json`.
  func output(_ name: String = "OUT") -> [String: [UInt8]] { files(name).filter { $0.key != "ingot.json" } }

  /// Writes a model as the field's libraries do: one file, or `shards` of them with an index.
  func model(_ name: String, _ tensors: [TestTensor], config: String? = nil, shards: Int = 1, extra: [String: String] = [:]) throws {
    let described = tensors.map { TensorDescription(name: $0.name, dtype: $0.dtype, shape: Shape($0.shape)) }
    let total = tensors.reduce(0) { $0 + $1.data.count }
    let layout = try ShardLayout(
      tensors: described, limit: shards == 1 ? 0 : UInt64((total + shards - 1) / shards), metadata: [MetadataEntry("format", "pt")])
    for shard in layout.shards {
      var bytes = [UInt8](repeating: 0, count: Int(shard.layout.fileSize))
      bytes.replaceSubrange(0..<shard.layout.header.count, with: shard.layout.header)
      for (place, index) in shard.tensors.enumerated() {
        let start = Int(shard.layout.fileOffsets[place])
        bytes.replaceSubrange(start..<start + shard.layout.byteCounts[place], with: tensors[index].data)
      }
      try write(name + "/" + shard.fileName, bytes)
    }
    if let index = layout.index { try write(name + "/" + index.fileName, index.text) }
    if let config { try write(name + "/config.json", config.utf8) }
    for (file, text) in extra { try write(name + "/" + file, text.utf8) }
  }

  /// The tensors of a model directory, read through the engine's own opener.
  func tensors(_ name: String = "OUT") throws -> [String: TestTensor] {
    let model = try LocalModels(environment: [:]).open(path: self(name), isDirectory: true)
    var tensors: [String: TestTensor] = [:]
    for tensor in model.checkpoint.tensors {
      let copy = TestTensor(tensor.name, tensor.dtype, tensor.shape.dimensions)
      let target = unsafe UnsafeMutableRawBufferPointer(start: copy.bytes, count: tensor.byteCount)
      try unsafe model.sources[tensor.shard].read(target, at: Int(tensor.fileOffset))
      tensors[tensor.name] = copy
    }
    return tensors
  }

  /// A plan of a recipe in which `@NAME` stands for the model directory NAME.
  func plan(_ recipe: String, shardSize: Int? = nil, models: (any ModelProvider)? = nil) throws -> Plan {
    var options = PlanOptions()
    if let shardSize { options.shardSize = shardSize }
    return try Plan.make(
      try Recipe(recipe.replacingOccurrences(of: "@", with: path + "/")), options: options, models: models ?? LocalModels(environment: [:]))
  }

  @discardableResult
  func merge(
    _ recipe: String, to name: String = "OUT", shardSize: Int? = nil, options: DirectoryOptions = .quick, watcher: Watcher = .none
  ) throws -> (plan: Plan, report: RunReport) {
    let plan = try plan(recipe, shardSize: shardSize)
    return (plan, try Engine().merge(plan, to: self(name), options: options, watcher: watcher))
  }
}

extension DirectoryOptions {
  /// Nothing waits for the medium.
  static var quick: DirectoryOptions {
    var options = DirectoryOptions()
    options.sync = .none
    return options
  }
}

/// A small language model: embedding, layers of two tensors, norm and head.
func languageModel(layers: Int, width: Int = 8, rows: Int = 12, value: Double, head: Bool = true, dtype: DType = .f32) -> [TestTensor] {
  func filled(_ name: String, _ shape: [Int], _ value: Double) -> TestTensor {
    TestTensor(name, dtype, shape, [Double](repeating: value, count: shape.reduce(1, *)))
  }
  var tensors = [filled("model.embed_tokens.weight", [rows, width], value)]
  for layer in 0..<layers {
    tensors.append(filled("model.layers.\(layer).mlp.weight", [width, width], value + Double(layer + 1) / 64))
    tensors.append(filled("model.layers.\(layer).attn.weight", [width], value + Double(layer + 1) / 128))
  }
  tensors.append(filled("model.norm.weight", [width], value))
  if head { tensors.append(filled("lm_head.weight", [rows, width], value + 0.5)) }
  return tensors
}

/// Its config.json.
func languageConfig(layers: Int, rows: Int = 12, ties: Bool = false, more: String = "") -> String {
  """
  {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": \(layers), "hidden_size": 8,
   "vocab_size": \(rows), "torch_dtype": "float32", "tie_word_embeddings": \(ties)\(more)}
  """
}

func moveDirectory(_ from: String, to: String) throws { try FileManager.default.moveItem(atPath: from, toPath: to) }
