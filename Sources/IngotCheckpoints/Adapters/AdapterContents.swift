package import IngotErrors
package import IngotJSON
internal import IngotTensors

/// What a PEFT adapter of the type LORA holds, module by module, whatever model it is for.
///
/// The change of a module is ΔW = scale · B A, [out, in]; see `Adapter` for where it goes in a model.
package struct AdapterContents: Sendable {
  package struct Module: Sendable {
    /// `model.layers.0.self_attn.q_proj`: without PEFT's prefix, and without `.weight`.
    package var name: String
    /// The factors are named as those of an embedding, whose weight is [in, out].
    package var isEmbedding: Bool
    /// [rank, in]; of a convolution [rank, in, extents of the kernel].
    package var a: CheckpointTensor
    /// [out, rank]; of a convolution with axes of length 1 behind.
    package var b: CheckpointTensor
    package var rank: Int
    package var scale: Double
    /// DoRA's [out].
    package var magnitude: CheckpointTensor?
    /// Added to the module's bias after it was multiplied by the scale.
    package var bias: CheckpointTensor?

    /// The axes of A behind the rank: one, but for convolutions.
    package var inputShape: [Int] { Array(a.shape.dimensions.dropFirst()) }
    package var isConvolution: Bool { a.shape.rank > 2 }
    /// Columns of A as a matrix.
    package var inputs: Int { inputShape.reduce(1, *) }
    package var outputs: Int { b.shape.dimensions.first ?? 0 }
  }

  /// A tensor that takes the place of the model's: modules_to_save, trained biases.
  package struct Whole: Sendable {
    /// The name in the model, such as `lm_head.weight`.
    package var name: String
    package var tensor: CheckpointTensor
    /// True when PEFT's name says modules_to_save; files that PEFT wrote have the plain name there too.
    package var isMarked: Bool
  }

  package let settings: AdapterSettings
  /// In the order of the file's tensors.
  package let modules: [Module]
  package let whole: [Whole]

  /// What stands before every name in the file.
  package static let prefix = "base_model.model."

  /// `origin` is the path of the config. Throws `.unsupported`, by name, for what is not LoRA or cannot be merged, `.shape` for factors that do
  /// not fit each other or the config, `.dtype` for tensors without arithmetic, `.format` for an adapter that is not complete.
  /// `compile` reads the regular expressions of rank_pattern and alpha_pattern.
  package init(_ adapter: Checkpoint, config: JSONValue, origin: String, compile: Adapter.PatternCompiler) throws(IngotError) {
    let settings = try AdapterSettings(config, origin: origin, compile: compile)
    var sorted = SortedTensors()
    for tensor in adapter.tensors { try sorted.add(tensor) }
    self.settings = settings
    whole = sorted.whole
    var modules: [Module] = []
    for name in sorted.order { modules.append(try Self.module(name, sorted.modules[name] ?? [:], settings)) }
    self.modules = modules
  }

  private static func module(
    _ name: String, _ parts: [String: CheckpointTensor], _ settings: AdapterSettings
  ) throws(IngotError) -> Module {
    let isEmbedding = parts["lora_embedding_A"] != nil || parts["lora_embedding_B"] != nil
    guard let a = parts[isEmbedding ? "lora_embedding_A" : "lora_A"], let b = parts[isEmbedding ? "lora_embedding_B" : "lora_B"],
      !isEmbedding || parts["lora_A"] == nil && parts["lora_B"] == nil
    else {
      throw IngotError(.format, "the adapter has \(parts.keys.sorted().joined(separator: ", ")), expected A and B", subject: name)
    }
    let (shapeA, shapeB) = (a.shape.dimensions, b.shape.dimensions)
    // Of a convolution A has the kernel's extents, and B is one of extent 1: the product is that of matrices all the same.
    guard shapeA.count >= 2, shapeB.count == shapeA.count, shapeB.dropFirst(2).allSatisfy({ $0 == 1 }), !isEmbedding || shapeA.count == 2 else {
      throw IngotError(
        .unsupported, "A is \(a.shape) and B is \(b.shape), expected the matrices of a linear layer, an embedding or a convolution",
        subject: name)
    }
    let rank = settings.rank(of: name)
    guard shapeA[0] == rank, shapeB[1] == rank else {
      throw IngotError(
        .shape, "A is \(a.shape) and B is \(b.shape), expected the rank \(rank) of the adapter's config", subject: name)
    }
    for tensor in parts.values where !tensor.dtype.hasArithmetic {
      throw IngotError(.dtype, "the tensor is \(tensor.dtype.safetensorsName), which has no arithmetic", subject: tensor.name)
    }
    let magnitude = parts["lora_magnitude_vector"]
    guard (magnitude != nil) == settings.usesDora else {
      throw IngotError(
        .format, "use_dora is \(settings.usesDora), and the magnitude vector is \(magnitude == nil ? "absent" : "there")", subject: name)
    }
    let outputs = shapeB[0]
    if let magnitude, try magnitude.shape.elementCount() != outputs {
      throw IngotError(.shape, "the magnitude is \(magnitude.shape), and B has \(outputs) rows", subject: magnitude.name)
    }
    let bias = parts["lora_B.bias"]
    if let bias, bias.shape.dimensions != [outputs] {
      throw IngotError(.shape, "the bias is \(bias.shape), and B has \(outputs) rows", subject: bias.name)
    }
    return Module(
      name: name, isEmbedding: isEmbedding, a: a, b: b, rank: rank, scale: try settings.scale(of: name), magnitude: magnitude, bias: bias)
  }
}

/// An adapter's tensors by module and role.
private struct SortedTensors {
  var modules: [String: [String: CheckpointTensor]] = [:]
  var order: [String] = []
  var whole: [AdapterContents.Whole] = []

  private static let roles: Set<String> = ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"]

  mutating func add(_ tensor: CheckpointTensor) throws(IngotError) {
    guard tensor.name.hasPrefix(AdapterContents.prefix) else {
      throw IngotError(
        .unsupported, "the adapter has a tensor whose name does not begin with \(AdapterContents.prefix), expected PEFT's layout",
        subject: tensor.name)
    }
    let name = tensor.name.dropFirst(AdapterContents.prefix.count)
    let parts = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    if let place = parts.firstIndex(where: { $0.hasPrefix("lora_") }) {
      let module = parts[..<place].joined(separator: ".")
      let role = try role(parts[place], Array(parts[(place + 1)...]), tensor)
      if modules[module] == nil { order.append(module) }
      guard modules[module, default: [:]].updateValue(tensor, forKey: role) == nil else {
        throw IngotError(.format, "the adapter has two tensors for \(role) of \(module)", subject: tensor.name)
      }
    } else if !parts.contains("original_module") {
      whole.append(try wholeTensor(parts, tensor))
    }
  }

  /// `lora_A.weight` and `lora_A.NAME.weight` are "lora_A"; the bias of lora_B is "lora_B.bias".
  private func role(_ kind: String, _ rest: [String], _ tensor: CheckpointTensor) throws(IngotError) -> String {
    let isBias = rest.last == "bias"
    guard Self.roles.contains(kind), rest.count <= 2, !isBias || kind == "lora_B" else {
      throw IngotError(.unsupported, "the adapter has a tensor of a kind that is not known here", subject: tensor.name)
    }
    return isBias ? "lora_B.bias" : kind
  }

  private func wholeTensor(_ parts: [String], _ tensor: CheckpointTensor) throws(IngotError) -> AdapterContents.Whole {
    var parts = parts
    let place = parts.firstIndex(of: "modules_to_save")
    if let place {
      // With the adapter's name behind it when a state dict was saved as it is.
      let hasName = parts.count - place > 2
      parts.removeSubrange(place...(hasName ? place + 1 : place))
    }
    parts.removeAll { $0 == "base_layer" }
    guard !parts.contains(where: { $0.hasPrefix("token_adapter") || $0.hasPrefix("trainable_tokens") }) else {
      throw IngotError(.unsupported, "the adapter has a tensor of a kind that is not known here", subject: tensor.name)
    }
    return AdapterContents.Whole(name: parts.joined(separator: "."), tensor: tensor, isMarked: place != nil)
  }
}
