package import IngotErrors
package import IngotJSON
import IngotTensors

/// What a PEFT adapter of the type LORA changes in a base model.
///
/// Hu et al. 2021 (arXiv 2106.09685); the files are PEFT's: adapter_config.json beside adapter_model.safetensors or adapter_model.bin.
package struct Adapter: Sendable {
  /// W' = W + scale · (B A), turned where the weight is stored as [in, out]; with a magnitude m, W' = m (W + …) / ‖W + …‖, the norm over
  /// the inputs of each output (DoRA, arXiv 2402.09353).
  package struct LowRank: Sendable {
    /// [rank, in]; of a convolution [rank, in, extents of the kernel].
    package var a: CheckpointTensor
    /// [out, rank]; of a convolution with axes of length 1 behind.
    package var b: CheckpointTensor
    package var rank: Int
    package var scale: Float
    /// True when the weight's rows are the inputs: embeddings, and layers with fan_in_fan_out.
    package var isTurned: Bool
    /// [out].
    package var magnitude: CheckpointTensor?
  }

  package enum Change: Sendable {
    case lowRank(LowRank)
    /// Adds scale times a vector to a bias.
    case shift(CheckpointTensor, scale: Float)
    /// The adapter has the tensor whole: modules_to_save, trained biases.
    case replacement
  }

  /// A change of one tensor of the base.
  package struct Target: Sendable {
    package var base: CheckpointTensor
    /// Takes the place of the base's tensor before the change.
    package var replacement: CheckpointTensor?
    package var change: Change
  }

  package var targets: [Target]
  package var notices: [Notice]

  /// Makes a test of names from a regular expression. Throws `.unsupported` for one that it cannot read.
  package typealias PatternCompiler = (String) throws(IngotError) -> @Sendable (String) -> Bool

  package static let configName = "adapter_config.json"
  package static let fileNames = ["adapter_model.safetensors", "adapter_model.bin"]

  /// Pairs the adapter's tensors with those of the base.
  ///
  /// Throws `.unsupported`, by name, for what is not LoRA or cannot be merged, `.shape` when the adapter does not fit the base, `.format` for an
  /// adapter that is not complete. `origin` is the path of its config.
  /// `compile` reads the regular expressions of rank_pattern and alpha_pattern.
  package init(
    _ adapter: Checkpoint, config: JSONValue, base: Checkpoint, baseName: String, origin: String, compile: PatternCompiler
  ) throws(IngotError) {
    let settings = try AdapterSettings(config, origin: origin, compile: compile)
    var finder = AdapterFinder(settings: settings, adapter: adapter, base: base)
    targets = try finder.find()
    notices = []
    if let wanted = config["base_model_name_or_path"]?.asString, !Self.isSame(wanted, baseName) {
      notices.append(
        Notice(
          .warning, "the adapter was trained on \(wanted.prefix(200)), and is applied to \(baseName)", subject: adapter.displayPath))
    }
    notices.append(
      Notice(.info, "the adapter changes \(targets.count) tensors of \(baseName) while they are read", subject: adapter.displayPath))
  }

  /// The same last component is taken for the same model: hub names, paths and copies of them.
  private static func isSame(_ one: String, _ other: String) -> Bool {
    func last(_ name: String) -> Substring? { name.split(separator: "@").first?.split(separator: "/").last }
    return one.isEmpty || last(one) == last(other)
  }
}

/// The parts of adapter_config.json that decide what merging does.
private struct AdapterSettings {
  let rank: Int
  let alpha: Double
  let usesRootRank: Bool
  let usesDora: Bool
  let fanInFanOut: Bool
  private let ranks: [(pattern: ModulePattern, value: Int)]
  private let alphas: [(pattern: ModulePattern, value: Double)]

  /// Settings under which merging would need more than the tensors of a plain LoRA.
  private static let refused = [
    "target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
    "arrow_config",
    "kasa_config", "monteclora_config", "velora_config",
  ]
  /// Initialisations that leave the base's weights as they are.
  private static let harmlessStarts: Set<String> = ["gaussian", "eva", "orthogonal"]

  init(_ config: JSONValue, origin: String, compile: Adapter.PatternCompiler) throws(IngotError) {
    let kind = try (config["peft_type"] ?? .null).requireString("peft_type", in: origin)
    guard kind == "LORA" else {
      throw IngotError(.unsupported, "the adapter is of the type \(kind.prefix(60)), expected LORA", subject: origin)
    }
    for key in Self.refused {
      guard let value = config[key], !value.isNull, value.asBool != false, value.asArray?.isEmpty != true, value.asObject?.count != 0 else {
        continue
      }
      throw IngotError(
        .unsupported, "the adapter uses \(key), which cannot be merged here", hint: "merge it with peft's merge_and_unload", subject: origin
      )
    }
    if let start = config["init_lora_weights"]?.asString, !Self.harmlessStarts.contains(start) {
      throw IngotError(
        .unsupported, "the adapter was initialised by \(start.prefix(60)), which changes the base's weights",
        hint: "convert it with peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)", subject: origin)
    }
    rank = try (config["r"] ?? .null).requireInt("r", in: origin)
    alpha = config["lora_alpha"]?.asDouble ?? 8
    usesRootRank = config["use_rslora"]?.asBool ?? false
    usesDora = config["use_dora"]?.asBool ?? false
    fanInFanOut = config["fan_in_fan_out"]?.asBool ?? false
    var ranks: [(ModulePattern, Int)] = []
    for member in config["rank_pattern"]?.asObject?.members ?? [] {
      ranks.append((try ModulePattern(member.key, origin: origin, compile: compile), try member.value.requireInt("rank_pattern.\(member.key)", in: origin)))
    }
    var alphas: [(ModulePattern, Double)] = []
    for member in config["alpha_pattern"]?.asObject?.members ?? [] {
      guard let value = member.value.asDouble else {
        throw IngotError(
          .format, "found \(member.value.kindName), expected a number", subject: "alpha_pattern.\(member.key)",
          position: member.value.position(in: origin))
      }
      alphas.append((try ModulePattern(member.key, origin: origin, compile: compile), value))
    }
    self.ranks = ranks
    self.alphas = alphas
    guard rank > 0, ranks.allSatisfy({ $0.1 > 0 }), alpha.isFinite, alphas.allSatisfy({ $0.1.isFinite }) else {
      throw IngotError(.format, "the adapter has a rank that is not positive, or an alpha that is not finite", subject: origin)
    }
  }

  func rank(of module: String) -> Int { ranks.first { $0.pattern(module) }?.value ?? rank }

  /// Throws `.format` for a scale beyond float32.
  func scale(of module: String) throws(IngotError) -> Float {
    let alpha = alphas.first { $0.pattern(module) }?.value ?? alpha
    let rank = Double(rank(of: module))
    let scale = Float(alpha / (usesRootRank ? rank.squareRoot() : rank))
    guard scale.isFinite else {
      throw IngotError(.format, "the alpha of \(alpha) gives a scale beyond float32, expected a small number", subject: module)
    }
    return scale
  }
}

/// A key of rank_pattern or alpha_pattern: a regular expression for the end of a module's name, from its beginning or from behind a dot.
private struct ModulePattern {
  private let matches: @Sendable (String) -> Bool

  init(_ text: String, origin: String, compile: Adapter.PatternCompiler) throws(IngotError) {
    if let literal = LiteralEnding(text) {
      matches = { literal.matches($0) }
      return
    }
    do throws(IngotError) {
      matches = try compile("^(.*\\.)?(\(text))$")
    } catch {
      throw IngotError(
        .unsupported, "the pattern \"\(text.prefix(80))\" cannot be read: \(error.message)", hint: "merge it with peft's merge_and_unload",
        subject: origin)
    }
  }

  func callAsFunction(_ module: String) -> Bool { matches(module) }
}

/// A pattern that is a name, or the end of one, with `.` for any character: most are, and there may be one for every module.
private struct LiteralEnding: Sendable {
  /// nil stands for any byte.
  private var bytes: [UInt8?] = []

  init?(_ text: String) {
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "."): bytes.append(nil)
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
        UInt8(ascii: "_"), UInt8(ascii: "-"):
        bytes.append(byte)
      default: return nil
      }
    }
  }

  func matches(_ module: String) -> Bool {
    let name = Array(module.utf8)
    guard name.count >= bytes.count else { return false }
    let start = name.count - bytes.count
    guard start == 0 || name[start - 1] == UInt8(ascii: ".") else { return false }
    return bytes.indices.allSatisfy { bytes[$0] == nil || bytes[$0] == name[start + $0] }
  }
}

/// Sorts the adapter's tensors by module and finds them in the base.
private struct AdapterFinder {
  let settings: AdapterSettings
  let adapter: Checkpoint
  let base: Checkpoint

  /// The tensors of one adapted module, by role.
  private struct Module {
    var parts: [String: CheckpointTensor] = [:]
  }

  init(settings: AdapterSettings, adapter: Checkpoint, base: Checkpoint) {
    self.settings = settings
    self.adapter = adapter
    self.base = base
  }

  private static let roles: Set<String> = ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"]
  private static let prefix = "base_model.model."

  mutating func find() throws(IngotError) -> [Adapter.Target] {
    var modules: [String: Module] = [:]
    var order: [String] = []
    var whole: [(name: String, tensor: CheckpointTensor)] = []
    for tensor in adapter.tensors {
      guard tensor.name.hasPrefix(Self.prefix) else {
        throw IngotError(
          .unsupported, "the adapter has a tensor whose name does not begin with \(Self.prefix), expected PEFT's layout",
          subject: tensor.name)
      }
      let parts = tensor.name.dropFirst(Self.prefix.count).split(separator: ".", omittingEmptySubsequences: false).map(String.init)
      if let place = parts.firstIndex(where: { $0.hasPrefix("lora_") }) {
        let module = parts[..<place].joined(separator: ".")
        let role = try role(parts[place], Array(parts[(place + 1)...]), tensor)
        if modules[module] == nil { order.append(module) }
        guard modules[module, default: Module()].parts.updateValue(tensor, forKey: role) == nil else {
          throw IngotError(.format, "the adapter has two tensors for \(role) of \(module)", subject: tensor.name)
        }
      } else if !parts.contains("original_module") {
        whole.append((try wholeName(parts, tensor), tensor))
      }
    }
    var targets: [String: Adapter.Target] = [:]
    var names: [String] = []
    for (name, tensor) in whole {
      let found = try resolve(name, for: tensor)
      guard found.shape == tensor.shape, tensor.dtype.hasArithmetic || tensor.dtype == found.dtype else {
        throw mismatch(tensor, "\(tensor.dtype.safetensorsName) \(tensor.shape)", found)
      }
      let target = Adapter.Target(base: found, replacement: tensor, change: .replacement)
      guard targets.updateValue(target, forKey: found.name) == nil else {
        throw IngotError(.format, "the adapter has two tensors for \(found.name)", subject: tensor.name)
      }
      names.append(found.name)
    }
    for module in order {
      for target in try changes(module, modules[module]?.parts ?? [:]) {
        var target = target
        if let earlier = targets[target.base.name] {
          guard case .replacement = earlier.change else {
            throw IngotError(.format, "the adapter changes \(target.base.name) twice", subject: module)
          }
          target.replacement = earlier.replacement
        } else {
          names.append(target.base.name)
        }
        targets[target.base.name] = target
      }
    }
    return names.compactMap { targets[$0] }
  }

  /// `lora_A.weight` and `lora_A.NAME.weight` are "lora_A"; the bias of lora_B is "lora_B.bias".
  private func role(_ kind: String, _ rest: [String], _ tensor: CheckpointTensor) throws(IngotError) -> String {
    let isBias = rest.last == "bias"
    guard Self.roles.contains(kind), rest.count <= 2, !isBias || kind == "lora_B" else {
      throw IngotError(.unsupported, "the adapter has a tensor of a kind that is not known here", subject: tensor.name)
    }
    return isBias ? "lora_B.bias" : kind
  }

  /// The name in the base of a tensor that the adapter has whole.
  private func wholeName(_ parts: [String], _ tensor: CheckpointTensor) throws(IngotError) -> String {
    var parts = parts
    if let place = parts.firstIndex(of: "modules_to_save") {
      // With the adapter's name behind it when a state dict was saved as it is.
      let hasName = parts.count - place > 2
      parts.removeSubrange(place...(hasName ? place + 1 : place))
    }
    parts.removeAll { $0 == "base_layer" }
    guard !parts.contains(where: { $0.hasPrefix("token_adapter") || $0.hasPrefix("trainable_tokens") }) else {
      throw IngotError(.unsupported, "the adapter has a tensor of a kind that is not known here", subject: tensor.name)
    }
    return parts.joined(separator: ".")
  }

  private func resolve(_ name: String, for tensor: CheckpointTensor) throws(IngotError) -> CheckpointTensor {
    if let found = base[name] { return found }
    for alias in TensorNames.aliases(of: name) {
      if let found = base[alias] { return found }
    }
    if let twin = TensorNames.substitutes(for: name, config: base.config).first(where: { base[$0] != nil }) {
      throw IngotError(
        .unsupported, "the adapter changes \(name), which the base ties to \(twin): merging would change both",
        hint: "use a base with its own \(name)", subject: tensor.name)
    }
    throw IngotError(
      .shape, "the adapter changes \(name), which the base \(base.displayPath) does not have",
      hint: "is this the model that the adapter was trained on?", subject: tensor.name)
  }

  private func mismatch(_ tensor: CheckpointTensor, _ found: String, _ base: CheckpointTensor) -> IngotError {
    IngotError(
      .shape, "the adapter has \(found) for \(base.name), which is \(base.dtype.safetensorsName) \(base.shape) in the base",
      hint: "is this the model that the adapter was trained on?", subject: tensor.name)
  }

  private func changes(_ module: String, _ parts: [String: CheckpointTensor]) throws(IngotError) -> [Adapter.Target] {
    let isEmbedding = parts["lora_embedding_A"] != nil || parts["lora_embedding_B"] != nil
    guard let a = parts[isEmbedding ? "lora_embedding_A" : "lora_A"], let b = parts[isEmbedding ? "lora_embedding_B" : "lora_B"],
      !isEmbedding || parts["lora_A"] == nil && parts["lora_B"] == nil
    else {
      throw IngotError(.format, "the adapter has \(parts.keys.sorted().joined(separator: ", ")), expected A and B", subject: module)
    }
    let (shapeA, shapeB) = (a.shape.dimensions, b.shape.dimensions)
    // Of a convolution A has the kernel's extents, and B is one of extent 1: the product is that of matrices all the same.
    let isConvolution = shapeA.count > 2
    guard shapeA.count >= 2, shapeB.count == shapeA.count, shapeB.dropFirst(2).allSatisfy({ $0 == 1 }), !isEmbedding || !isConvolution else {
      throw IngotError(
        .unsupported, "A is \(a.shape) and B is \(b.shape), expected the matrices of a linear layer, an embedding or a convolution", subject: module)
    }
    let weight = try resolve(module + ".weight", for: a)
    let rank = settings.rank(of: module)
    let outputs = shapeB[0]
    guard shapeA[0] == rank, shapeB[1] == rank else {
      throw IngotError(
        .shape, "A is \(a.shape) and B is \(b.shape), expected the rank \(rank) of the adapter's config", subject: module)
    }
    let isTurned = isEmbedding || settings.fanInFanOut && !isConvolution
    guard weight.shape.dimensions == (isTurned ? [shapeA[1], outputs] : [outputs] + shapeA.dropFirst()), weight.dtype.hasArithmetic else {
      throw mismatch(a, "A \(a.shape) and B \(b.shape)", weight)
    }
    for tensor in parts.values where !tensor.dtype.hasArithmetic {
      throw IngotError(.dtype, "the tensor is \(tensor.dtype.safetensorsName), which has no arithmetic", subject: tensor.name)
    }
    let magnitude = parts["lora_magnitude_vector"]
    guard (magnitude != nil) == settings.usesDora else {
      throw IngotError(
        .format, "use_dora is \(settings.usesDora), and the magnitude vector is \(magnitude == nil ? "absent" : "there")", subject: module)
    }
    if let magnitude, try magnitude.shape.elementCount() != outputs { throw mismatch(magnitude, "a magnitude \(magnitude.shape)", weight) }
    let scale = try settings.scale(of: module)
    let update = Adapter.LowRank(a: a, b: b, rank: rank, scale: scale, isTurned: isTurned, magnitude: magnitude)
    var targets = [Adapter.Target(base: weight, replacement: nil, change: .lowRank(update))]
    if let shift = parts["lora_B.bias"] {
      let bias = try resolve(module + ".bias", for: shift)
      guard shift.shape == bias.shape, bias.dtype.hasArithmetic else { throw mismatch(shift, "a bias \(shift.shape)", bias) }
      targets.append(Adapter.Target(base: bias, replacement: nil, change: .shift(shift, scale: scale)))
    }
    return targets
  }
}
