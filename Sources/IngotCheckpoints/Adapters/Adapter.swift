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
    let contents = try AdapterContents(adapter, config: config, origin: origin, compile: compile)
    targets = try AdapterFinder(adapter: contents, base: base).find()
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

/// Finds what the adapter changes in the base.
private struct AdapterFinder {
  let adapter: AdapterContents
  let base: Checkpoint

  func find() throws(IngotError) -> [Adapter.Target] {
    var targets: [String: Adapter.Target] = [:]
    var names: [String] = []
    for whole in adapter.whole {
      let tensor = whole.tensor
      let found = try resolve(whole.name, for: tensor)
      guard found.shape == tensor.shape, tensor.dtype.hasArithmetic || tensor.dtype == found.dtype else {
        throw mismatch(tensor, "\(tensor.dtype.safetensorsName) \(tensor.shape)", found)
      }
      let target = Adapter.Target(base: found, replacement: tensor, change: .replacement)
      guard targets.updateValue(target, forKey: found.name) == nil else {
        throw IngotError(.format, "the adapter has two tensors for \(found.name)", subject: tensor.name)
      }
      names.append(found.name)
    }
    for module in adapter.modules {
      for target in try changes(module) {
        var target = target
        if let earlier = targets[target.base.name] {
          guard case .replacement = earlier.change else {
            throw IngotError(.format, "the adapter changes \(target.base.name) twice", subject: module.name)
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

  private func changes(_ module: AdapterContents.Module) throws(IngotError) -> [Adapter.Target] {
    let weight = try resolve(module.name + ".weight", for: module.a)
    let isTurned = module.isEmbedding || adapter.settings.fanInFanOut && !module.isConvolution
    let outputs = module.outputs
    let expected = isTurned ? module.inputShape + [outputs] : [outputs] + module.inputShape
    guard weight.shape.dimensions == expected, weight.dtype.hasArithmetic else {
      throw mismatch(module.a, "A \(module.a.shape) and B \(module.b.shape)", weight)
    }
    let scale = Float(module.scale)
    let update = Adapter.LowRank(
      a: module.a, b: module.b, rank: module.rank, scale: scale, isTurned: isTurned, magnitude: module.magnitude)
    var targets = [Adapter.Target(base: weight, replacement: nil, change: .lowRank(update))]
    if let shift = module.bias {
      let bias = try resolve(module.name + ".bias", for: shift)
      guard shift.shape == bias.shape, bias.dtype.hasArithmetic else { throw mismatch(shift, "a bias \(shift.shape)", bias) }
      targets.append(Adapter.Target(base: bias, replacement: nil, change: .shift(shift, scale: scale)))
    }
    return targets
  }
}
