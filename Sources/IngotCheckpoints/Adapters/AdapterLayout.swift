package import IngotErrors
package import IngotJSON
package import IngotTensors

/// An adapter that is yet to be written, in PEFT's layout: names, shapes and types of its tensors, and its adapter_config.json.
///
/// Every module's scale is 1: lora_alpha is the rank, in the patterns too.
package struct AdapterLayout: Sendable {
  package struct Module: Sendable, Hashable {
    /// Without PEFT's prefix, and without `.weight`.
    package var name: String
    package var isEmbedding: Bool
    /// The axes of A behind the rank: one, but for convolutions.
    package var inputShape: [Int]
    package var outputs: Int
    package var rank: Int
    /// DoRA's vector, as it was stored.
    package var magnitude: TensorDescription?
    package var hasBias: Bool

    package init(
      name: String, isEmbedding: Bool = false, inputShape: [Int], outputs: Int, rank: Int, magnitude: TensorDescription? = nil,
      hasBias: Bool = false
    ) {
      self.name = name
      self.isEmbedding = isEmbedding
      self.inputShape = inputShape
      self.outputs = outputs
      self.rank = rank
      self.magnitude = magnitude
      self.hasBias = hasBias
    }

    /// Columns of A as a matrix.
    package var inputs: Int { inputShape.reduce(1, *) }
  }

  package var modules: [Module]
  /// Tensors that take the place of the model's, by their names in the model.
  package var whole: [TensorDescription]
  /// Of the factors and biases.
  package var dtype: DType
  /// True for layers whose weights are stored as [in, out].
  package var fanInFanOut: Bool

  package init(modules: [Module], whole: [TensorDescription], dtype: DType, fanInFanOut: Bool) {
    self.modules = modules
    self.whole = whole
    self.dtype = dtype
    self.fanInFanOut = fanInFanOut
  }

  /// What a tensor of the file is.
  package enum Role: Sendable, Hashable {
    /// Of the module in this place of `modules`.
    case a(Int)
    case b(Int)
    case bias(Int)
    case magnitude(Int)
    /// In this place of `whole`.
    case whole(Int)
  }

  /// Each tensor of the file with what it is: modules in their order, then whole tensors.
  package var tensors: [(tensor: TensorDescription, role: Role)] {
    var found: [(TensorDescription, Role)] = []
    for (place, module) in modules.enumerated() {
      let stem = AdapterContents.prefix + module.name
      let (a, b) = module.isEmbedding ? (".lora_embedding_A", ".lora_embedding_B") : (".lora_A.weight", ".lora_B.weight")
      found.append((TensorDescription(name: stem + a, dtype: dtype, shape: Shape([module.rank] + module.inputShape)), .a(place)))
      let extents = [Int](repeating: 1, count: max(0, module.inputShape.count - 1))
      found.append((TensorDescription(name: stem + b, dtype: dtype, shape: Shape([module.outputs, module.rank] + extents)), .b(place)))
      if module.hasBias {
        found.append((TensorDescription(name: stem + ".lora_B.bias", dtype: dtype, shape: Shape([module.outputs])), .bias(place)))
      }
      if var magnitude = module.magnitude {
        magnitude.name = stem + ".lora_magnitude_vector"
        found.append((magnitude, .magnitude(place)))
      }
    }
    let factored = Set(modules.map(\.name))
    for (place, tensor) in whole.enumerated() {
      var named = tensor
      let (module, part) = Self.split(tensor.name)
      // The weight that factors change: PEFT saves embeddings so.
      named.name = AdapterContents.prefix + (factored.contains(module) ? "\(module).base_layer.\(part)" : tensor.name)
      found.append((named, .whole(place)))
    }
    return found
  }

  /// The rank that the config names: the largest.
  package var rank: Int { modules.reduce(1) { max($0, $1.rank) } }

  /// The text of adapter_config.json. `inputs` are the configs of what it was made from: base model, task and target modules come from there.
  ///
  /// Throws `.unsupported` for a module whose rank differs and whose name would be read as a regular expression in rank_pattern.
  package func config(from inputs: [JSONValue], base: String? = nil) throws(IngotError) -> JSONValue {
    func inherited(_ key: String) -> JSONValue { inputs.lazy.compactMap { $0[key] }.first { !$0.isNull } ?? .null }
    let ranks = try rankPattern()
    let wholeModules = modulesToSave(inputs)
    let hasBiases = whole.contains { tensor in
      tensor.name.hasSuffix(".bias") && !wholeModules.contains { tensor.name == $0 + ".bias" || $0.hasSuffix("bias") }
    }
    var object = JSONObject()
    object["alpha_pattern"] = .object(ranks)
    object["auto_mapping"] = inherited("auto_mapping")
    object["base_model_name_or_path"] = base.map { .string($0) } ?? inherited("base_model_name_or_path")
    object["bias"] = .string(hasBiases ? inherited("bias").asString.flatMap { $0 == "none" ? nil : $0 } ?? "all" : "none")
    object["fan_in_fan_out"] = .bool(fanInFanOut)
    object["inference_mode"] = .bool(true)
    object["init_lora_weights"] = .bool(true)
    object["lora_alpha"] = .int(rank)
    object["lora_bias"] = .bool(modules.contains(where: \.hasBias))
    object["lora_dropout"] = .double(0)
    object["modules_to_save"] = wholeModules.isEmpty ? .null : .array(wholeModules.map { .string($0) })
    object["peft_type"] = .string("LORA")
    object["r"] = .int(rank)
    object["rank_pattern"] = .object(ranks)
    object["revision"] = inherited("revision")
    object["target_modules"] = .array(targetModules(inputs).map { .string($0) })
    object["task_type"] = inherited("task_type")
    object["use_dora"] = .bool(modules.contains { $0.magnitude != nil })
    object["use_rslora"] = .bool(false)
    return .object(object)
  }

  /// Longer names first: the first key that matches the end of a module's name counts.
  private func rankPattern() throws(IngotError) -> JSONObject {
    let rank = rank
    var pattern = JSONObject()
    for module in modules.filter({ $0.rank != rank }).sorted(by: { ($1.name.utf8.count, $0.name) < ($0.name.utf8.count, $1.name) }) {
      guard module.name.utf8.allSatisfy(Self.isPlain) else {
        throw IngotError(
          .unsupported, "a module whose name cannot stand in rank_pattern has the rank \(module.rank), expected \(rank)",
          hint: "give all modules one rank", subject: module.name)
      }
      pattern[module.name] = .int(module.rank)
    }
    return pattern
  }

  private static func isPlain(_ byte: UInt8) -> Bool {
    (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5A) || (byte >= 0x61 && byte <= 0x7A) || ".-_".utf8.contains(byte)
  }

  /// The inputs' own lists put together where all are lists that name every module here and nothing narrows them; else each module's whole name.
  private func targetModules(_ inputs: [JSONValue]) -> [String] {
    var names: [String] = []
    for config in inputs {
      let isNarrowed = ["exclude_modules", "layers_to_transform", "layers_pattern"].contains { config[$0].map { !$0.isNull } ?? false }
      guard !isNarrowed, let list = config["target_modules"]?.asArray else { return modules.map(\.name) }
      for entry in list.compactMap(\.asString) where !names.contains(entry) { names.append(entry) }
    }
    let covers = modules.allSatisfy { module in names.contains { module.name == $0 || module.name.hasSuffix("." + $0) } }
    return covers && !names.isEmpty ? names.sorted() : modules.map(\.name)
  }

  /// `model.norm.weight` as `model.norm` and `weight`.
  private static func split(_ name: String) -> (module: String, part: String) {
    guard let dot = name.lastIndex(of: ".") else { return ("", name) }
    return (String(name[..<dot]), String(name[name.index(after: dot)...]))
  }

  /// The modules of whole tensors, as the inputs call them where they do.
  private func modulesToSave(_ inputs: [JSONValue]) -> [String] {
    var listed: [String] = []
    for entry in inputs.flatMap({ $0["modules_to_save"]?.asArray ?? [] }).compactMap(\.asString) where !listed.contains(entry) {
      listed.append(entry)
    }
    let factored = Set(modules.map(\.name))
    var names: [String] = []
    for tensor in whole {
      let module = Self.split(tensor.name).module
      if factored.contains(module) { continue }
      let name = listed.first { module == $0 || module.hasSuffix("." + $0) } ?? (tensor.name.hasSuffix(".bias") ? nil : module)
      if let name, !name.isEmpty, !names.contains(name) { names.append(name) }
    }
    return names
  }
}
