package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotTensors

/// The record of a packed adapter, `adapter_pack.json` beside its tensors.
package struct AdapterPackRecord: Sendable {
  package struct Module: Sendable, Hashable {
    package var name: String
    var isEmbedding: Bool
    var inputShape: [Int]
    var outputs: Int
    /// Of each column that is kept.
    var bits: [Int]

    var inputs: Int { inputShape.reduce(1, *) }
    var rank: Int { bits.count }
  }

  package static let fileName = "adapter_pack.json"
  static let weights = "adapter_pack.safetensors"
  /// Stands before the names of tensors that are stored as they are.
  static let wholePrefix = "whole."

  var config: JSONValue
  var fanInFanOut: Bool
  var dtype: DType
  package var modules: [Module]

  /// The codes and scales of both factors, and the singular values.
  package static func tensors(_ module: Module) -> [TensorDescription] {
    let stem = AdapterContents.prefix + module.name
    func codes(_ name: String, _ positions: Int) -> TensorDescription {
      let count = module.bits.reduce(0) { $0 + QuantizedColumn.byteCount(positions, bits: $1) }
      return TensorDescription(name: stem + name, dtype: .u8, shape: Shape([count]))
    }
    func numbers(_ name: String) -> TensorDescription { TensorDescription(name: stem + name, dtype: .f32, shape: Shape([module.rank])) }
    return [
      numbers(".values"), numbers(".lora_A.scales"), numbers(".lora_B.scales"), codes(".lora_A.codes", module.inputs),
      codes(".lora_B.codes", module.outputs),
    ]
  }

  package var bytes: [UInt8] {
    var object = JSONObject()
    object["schema"] = .int(1)
    object["config"] = config
    object["fan_in_fan_out"] = .bool(fanInFanOut)
    object["dtype"] = .string(dtype.torchName ?? "float32")
    object["modules"] = .array(
      modules.map { module in
        var entry = JSONObject()
        entry["name"] = .string(module.name)
        entry["embedding"] = .bool(module.isEmbedding)
        entry["input_shape"] = .array(module.inputShape.map { .int($0) })
        entry["outputs"] = .int(module.outputs)
        entry["bits"] = .array(module.bits.map { .int($0) })
        return .object(entry)
      })
    return JSON.bytes(.object(object), style: .pretty) + [0x0A]
  }

  init(config: JSONValue, fanInFanOut: Bool, dtype: DType, modules: [Module]) {
    self.config = config
    self.fanInFanOut = fanInFanOut
    self.dtype = dtype
    self.modules = modules
  }

  /// Reads the record of a directory. Throws `.notFound`, `.io`, `.format`, `.unsupported`.
  init(_ directory: String) throws(IngotError) {
    let file = try RecordFile(Self.fileName, in: directory, limit: Limit.rollingBytes, from: "'ingot lora pack'")
    try self.init(parsing: file.bytes, path: file.path)
  }

  /// Reads the bytes of a record, which are said to come from `path`. Throws `.format` (with the place), `.unsupported` (of a later version).
  package init(parsing bytes: [UInt8], path: String) throws(IngotError) {
    let root = try JSONValue.record(bytes, path: path)
    let type = try (root["dtype"] ?? .null).requireString("dtype", in: path)
    guard let dtype = DType.allCases.first(where: { $0.torchName == type }), dtype.isOutput else {
      throw IngotError(.format, "found the type \"\(type.prefix(40))\", expected float32, float16 or bfloat16", subject: path)
    }
    var modules: [Module] = []
    for (index, entry) in try (root["modules"] ?? .null).requireArray("modules", in: path).enumerated() {
      var (shape, bits): ([Int], [Int]) = ([], [])
      for axis in try (entry["input_shape"] ?? .null).requireArray("modules[\(index)].input_shape", in: path) {
        shape.append(try axis.requireInt("modules[\(index)].input_shape", in: path))
      }
      for count in try (entry["bits"] ?? .null).requireArray("modules[\(index)].bits", in: path) {
        bits.append(try count.requireInt("modules[\(index)].bits", in: path))
      }
      modules.append(
        Module(
          name: try (entry["name"] ?? .null).requireString("modules[\(index)].name", in: path),
          isEmbedding: entry["embedding"]?.asBool ?? false, inputShape: shape,
          outputs: try (entry["outputs"] ?? .null).requireInt("modules[\(index)].outputs", in: path), bits: bits))
    }
    self.init(
      config: root["config"] ?? .null, fanInFanOut: root["fan_in_fan_out"]?.asBool ?? false, dtype: dtype, modules: modules)
    let isSane = modules.allSatisfy { module in
      let sizes = module.inputShape + [module.outputs]
      return sizes.allSatisfy { (1...(1 << 31)).contains($0) } && !module.bits.isEmpty && module.bits.allSatisfy { (1...8).contains($0) }
        && (try? Shape(module.inputShape + [module.rank * 8]).elementCount()) != nil
    }
    guard isSane, !modules.isEmpty else {
      throw IngotError(
        .format, "the record does not fit itself: its modules are not those of a packed adapter",
        hint: "the file was changed by hand; make the pack again", subject: path)
    }
  }
}
