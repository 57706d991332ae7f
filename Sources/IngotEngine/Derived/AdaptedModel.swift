package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

extension ProvidedModel {
  /// The adapter_config.json beside an adapter's weights, and its path.
  func adapterConfig(in files: any ModelFiles) throws(IngotError) -> (config: JSONValue, origin: String) {
    let origin = files.displayPath + "/" + Adapter.configName
    guard let bytes = try files.readWhole(Adapter.configName, limit: Limit.configBytes) else {
      throw IngotError(.notFound, "the adapter has no \(Adapter.configName)", hint: "it lies beside the adapter's weights", subject: path)
    }
    let config = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try config.requireObject(origin, in: origin)
    return (config, origin)
  }

  /// The model with a PEFT adapter applied to it while it is read. `files` are the adapter's, `name` is the reference that named this model.
  ///
  /// Throws `.notFound` without an adapter_config.json, and what `Adapter.init` throws.
  package func applying(_ adapter: ProvidedModel, files: any ModelFiles, name: String) throws(IngotError) -> ProvidedModel {
    let (config, configOrigin) = try adapter.adapterConfig(in: files)
    let readable = try adapter.readable()
    var model = try self.readable()
    let found = try Adapter(
      readable.checkpoint, config: config, base: model.checkpoint, baseName: name, origin: configOrigin,
      compile: Self.namePattern)
    // The adapter's files and what is derived from them come behind the base's, so that every tensor has its place among one model's sources.
    let first = model.sources.count
    let folder = adapter.path.split(separator: "/").last.map(String.init) ?? "adapter"
    var shards = readable.checkpoint.shards
    for index in shards.indices { shards[index].name = folder + "/" + shards[index].name }
    model.sources += readable.sources
    model.checkpoint = try Checkpoint(
      displayPath: model.checkpoint.displayPath, shards: model.checkpoint.shards + shards, tensors: model.checkpoint.tensors,
      config: model.checkpoint.config, notices: model.checkpoint.notices + readable.checkpoint.notices)
    var builder = AdaptedModel(model: model, firstShard: first, settings: JSON.text(config))
    for (number, target) in found.targets.enumerated() { try builder.apply(target, number: number) }
    var result = try builder.finish(notices: found.notices)
    result.adapters.append(ProvidedAdapter(path: adapter.path, isLocal: adapter.isLocal))
    return result
  }
}

extension ProvidedModel {
  /// A test of names from a regular expression, as recipes know them.
  @Sendable
  package static func namePattern(_ expression: String) throws(IngotError) -> @Sendable (String) -> Bool {
    do throws(TensorPattern.Fault) {
      let pattern = try TensorPattern("/\(expression)/")
      return { pattern.matches($0) }
    } catch {
      throw IngotError(.unsupported, error.message)
    }
  }
}

/// Makes the tensors of a model with an adapter.
private struct AdaptedModel {
  private let model: ProvidedModel
  private let firstShard: Int
  private let settings: String
  private var derivation: Derivation
  private let matrices = RecentValues<FloatMatrix>(capacity: AdaptedTensor.held)
  private let factors = RecentValues<[Float]>(capacity: AdaptedTensor.held)
  private let panels = RecentValues<[UInt8]>(capacity: StridedTensor.panels)
  private var largest = 0

  /// The adapter's shards begin at `firstShard` of the model's.
  init(model: ProvidedModel, firstShard: Int, settings: String) {
    self.model = model
    self.firstShard = firstShard
    self.settings = settings
    derivation = Derivation(model, name: "with the adapter applied")
  }

  /// A tensor of the adapter among the model's sources.
  private func own(_ tensor: CheckpointTensor) -> CheckpointTensor {
    var moved = tensor
    moved.shard += firstShard
    return moved
  }

  private func reader(_ tensor: CheckpointTensor) throws(IngotError) -> FloatReader {
    FloatReader(try StoredBytes(tensor, of: model), tensor.dtype)
  }

  /// A matrix of the adapter with its axes exchanged.
  private func turned(_ tensor: CheckpointTensor, number: Int) throws(IngotError) -> FloatReader {
    let bytes = try StoredBytes(own(tensor), of: model)
    let shape = tensor.shape.dimensions
    let gather = try StridedTensor(
      source: bytes.source, offset: bytes.offset, width: tensor.dtype.bits / 8, shape: [shape[1], shape[0]], strides: [1, shape[1]],
      cache: panels, number: number)
    return FloatReader(gather, tensor.dtype)
  }

  mutating func apply(_ target: Adapter.Target, number: Int) throws(IngotError) {
    let nominal = target.base.nominalDType ?? target.base.dtype.defaultOutput
    let base = target.replacement.map(own) ?? target.base
    let derived: any DerivedTensor
    switch target.change {
    case .replacement:
      var replacement = base
      replacement.name = target.base.name
      if replacement.dtype.hasArithmetic { replacement.nominalDType = nominal }
      derivation.substitute(replacement)
      return
    case .shift(let shift, let scale):
      let count = try target.base.shape.elementCount()
      derived = AdaptedTensor(
        base: try reader(base), left: nil, right: try reader(own(shift)), rows: 1, columns: count, rank: 1, scale: scale, magnitude: nil,
        cache: matrices, number: number)
    case .lowRank(let update):
      // A convolution's weight is a matrix whose rows are its outputs.
      let rows = max(target.base.shape.dimensions.first ?? 1, 1)
      let shape = [rows, try target.base.shape.elementCount() / rows]
      let left = update.isTurned ? try turned(update.a, number: 2 * number) : try reader(own(update.b))
      let right = update.isTurned ? try turned(update.b, number: 2 * number + 1) : try reader(own(update.a))
      let magnitude = try update.magnitude.map { (tensor) throws(IngotError) in
        AdaptedTensor.Magnitude(values: try reader(own(tensor)), isByColumn: update.isTurned, cache: factors)
      }
      largest = max(largest, update.rank * shape[1] * 4 + (magnitude == nil ? 0 : shape[update.isTurned ? 1 : 0] * 4))
      derived = AdaptedTensor(
        base: try reader(base), left: left, right: right, rows: shape[0], columns: shape[1], rank: update.rank, scale: update.scale,
        magnitude: magnitude, cache: matrices, number: number)
    }
    try derivation.replace(
      target.base, dtype: .f32, shape: target.base.shape, nominal: nominal, by: derived,
      description: target.replacement?.name ?? "")
  }

  func finish(notices: [Notice]) throws(IngotError) -> ProvidedModel {
    var notices = notices
    if largest > 0 {
      notices.append(
        Notice(
          .info,
          "applying the adapter takes up to \(AdaptedTensor.held * largest + StridedTensor.panels * StridedTensor.panelBytes) bytes beside the memory budget",
          subject: model.checkpoint.displayPath))
    }
    return try derivation.finish(settings: settings, isCostlyToReread: true, notices: notices)
  }
}
