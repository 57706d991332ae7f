package import IngotCheckpoints
package import IngotErrors
package import IngotJSON
package import IngotMethods
package import IngotTensors

/// The record of an adapter basis, `adapter_basis.json` beside its tensors: what the models were, and how the tensors are to be read.
package struct AdapterBasisRecord: Sendable {
  package struct Module: Sendable, Hashable {
    package var name: String
    package var isEmbedding: Bool
    package var inputShape: [Int]
    package var outputs: Int
    /// Of all models: smaller ones are filled up with zeros.
    package var rank: Int
    /// The most components that it has.
    package var components: Int

    package var inputs: Int { inputShape.reduce(1, *) }
  }

  package static let fileName = "adapter_basis.json"
  package static let weights = "adapter_basis.safetensors"

  package var granularity: ReversibleBasis.Granularity
  package var models: [String]
  /// The models' own adapter_config.json.
  package var configs: [JSONValue]
  package var fanInFanOut: Bool
  package var modules: [Module]

  /// What a tensor of the file is.
  package enum Role: Hashable {
    case mean(isA: Bool), directions(isA: Bool), coefficients(isA: Bool)
  }

  /// The tensors of one module: by position [positions, rank], [positions, components, rank] and [models, positions, components] of each factor; by module
  /// one set of coefficients, [models, components], for both.
  package func tensors(_ module: Module, _ dtype: DType) -> [(tensor: TensorDescription, role: Role)] {
    let stem = AdapterContents.prefix + module.name
    var found: [(tensor: TensorDescription, role: Role)] = []
    func add(_ name: String, _ shape: [Int], _ role: Role) {
      found.append((TensorDescription(name: stem + name, dtype: dtype, shape: Shape(shape)), role))
    }
    let (count, p) = (models.count, module.components)
    for (letter, positions, isA) in [("lora_A", module.inputs, true), ("lora_B", module.outputs, false)] {
      add(".\(letter).mean", [positions, module.rank], .mean(isA: isA))
      switch granularity {
      case .position:
        add(".\(letter).directions", [positions, p, module.rank], .directions(isA: isA))
        add(".\(letter).coefficients", [count, positions, p], .coefficients(isA: isA))
      case .module: add(".\(letter).directions", [p, positions, module.rank], .directions(isA: isA))
      }
    }
    if granularity == .module { add(".coefficients", [count, p], .coefficients(isA: true)) }
    return found
  }

  // MARK: The file

  package var bytes: [UInt8] {
    var object = JSONObject()
    object["schema"] = .int(1)
    object["granularity"] = .string(granularity.rawValue)
    object["models"] = .array(models.map { .string($0) })
    object["configs"] = .array(configs)
    object["fan_in_fan_out"] = .bool(fanInFanOut)
    object["modules"] = .array(
      modules.map { module in
        var entry = JSONObject()
        entry["name"] = .string(module.name)
        entry["embedding"] = .bool(module.isEmbedding)
        entry["input_shape"] = .array(module.inputShape.map { .int($0) })
        entry["outputs"] = .int(module.outputs)
        entry["rank"] = .int(module.rank)
        entry["components"] = .int(module.components)
        return .object(entry)
      })
    return JSON.bytes(.object(object), style: .pretty) + [0x0A]
  }

  init(
    granularity: ReversibleBasis.Granularity, models: [String], configs: [JSONValue], fanInFanOut: Bool, modules: [Module]
  ) {
    self.granularity = granularity
    self.models = models
    self.configs = configs
    self.fanInFanOut = fanInFanOut
    self.modules = modules
  }

  /// Reads the record of a directory. Throws `.notFound`, `.io`, `.format`, `.unsupported`.
  package init(_ directory: String) throws(IngotError) {
    let file = try RecordFile(Self.fileName, in: directory, limit: Limit.rollingBytes, from: "'ingot lora basis'")
    try self.init(parsing: file.bytes, path: file.path)
  }

  /// Reads the bytes of a record, which are said to come from `path`. Throws `.format` (with the place), `.unsupported` (of a later version).
  package init(parsing bytes: [UInt8], path: String) throws(IngotError) {
    let root = try JSONValue.record(bytes, path: path)
    let name = try (root["granularity"] ?? .null).requireString("granularity", in: path)
    guard let granularity = ReversibleBasis.Granularity(rawValue: name) else {
      throw IngotError(.format, "found the granularity \"\(name.prefix(40))\", expected position or module", subject: path)
    }
    var models: [String] = []
    for model in try (root["models"] ?? .null).requireArray("models", in: path) {
      models.append(try model.requireString("models", in: path))
    }
    let configs = try (root["configs"] ?? .null).requireArray("configs", in: path)
    var modules: [Module] = []
    for (index, entry) in try (root["modules"] ?? .null).requireArray("modules", in: path).enumerated() {
      func whole(_ key: String) throws(IngotError) -> Int { try (entry[key] ?? .null).requireInt("modules[\(index)].\(key)", in: path) }
      var shape: [Int] = []
      for axis in try (entry["input_shape"] ?? .null).requireArray("modules[\(index)].input_shape", in: path) {
        shape.append(try axis.requireInt("modules[\(index)].input_shape", in: path))
      }
      modules.append(
        Module(
          name: try (entry["name"] ?? .null).requireString("modules[\(index)].name", in: path),
          isEmbedding: entry["embedding"]?.asBool ?? false, inputShape: shape, outputs: try whole("outputs"), rank: try whole("rank"),
          components: try whole("components")))
    }
    self.init(
      granularity: granularity, models: models, configs: configs, fanInFanOut: root["fan_in_fan_out"]?.asBool ?? false, modules: modules)
    // Sizes are those of tensors that are read; products of them must be countable.
    let isSane = modules.allSatisfy { module in
      let sizes = module.inputShape + [module.outputs, module.rank]
      return sizes.allSatisfy { (1...(1 << 31)).contains($0) } && (0..<max(models.count, 1)).contains(module.components)
        && (try? Shape(module.inputShape + [module.rank, models.count]).elementCount()) != nil
        && (try? Shape([module.outputs, module.rank, models.count]).elementCount()) != nil
    }
    guard isSane, !models.isEmpty, configs.count == models.count, !modules.isEmpty, Set(models).count == models.count else {
      throw IngotError(
        .format, "the record does not fit itself: models, configs and modules are not those of an adapter basis",
        hint: "the file was changed by hand; make the basis again", subject: path)
    }
  }
}
