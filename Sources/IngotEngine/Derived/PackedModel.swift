internal import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
internal import IngotStorage
internal import IngotTensors

extension ProvidedModel {
  /// The model with a pack's deltas of one task added while it is read: f32, written in the base's types where a recipe names none.
  ///
  /// `name` is the reference that named this model. Throws what opening a pack throws, `.shape` when it does not fit this base or
  /// was made with another one, `.invalidArgument` for a task that is not there.
  package func applying(pack: ProvidedModel, task: String?, name: String) throws(IngotError) -> ProvidedModel {
    let reader = try PackReader(pack)
    let task = try reader.pack.task(task)
    let base = try readable()
    try base.requireBase(of: reader.pack, at: pack.path, name: name)
    let model = try base.followed(by: pack)
    var derivation = Derivation(model, name: "with the pack applied")
    let first = base.checkpoint.shards.count
    for tensor in reader.pack.tensors {
      guard let stored = base.checkpoint[tensor.name] else { continue }
      let nominal = stored.nominalDType ?? stored.dtype.defaultOutput
      if tensor.form == .whole, var whole = tensor.parts[.whole] {
        whole.name = stored.name
        whole.shard += first
        whole.nominalDType = nominal
        derivation.substitute(whole)
        continue
      }
      let unpacked = UnpackedTensor(
        base: FloatReader(try StoredBytes(stored, of: base), stored.dtype), delta: try reader.delta(of: tensor, task: task))
      try derivation.replace(
        stored, dtype: .f32, shape: stored.shape, nominal: nominal, by: unpacked, description: "\(reader.pack.method.rawValue) \(task)")
    }
    let notice = Notice(
      .info, "the pack changes \(reader.pack.tensors.count) tensors of \(name) while they are read (task \(reader.pack.tasks[task]))",
      subject: pack.path)
    var result = try derivation.finish(settings: "task \(task)", isCostlyToReread: true, notices: [notice])
    result.adapters.append(ProvidedAdapter(path: pack.path, isLocal: pack.isLocal, task: reader.pack.tasks[task]))
    return result
  }

  /// The deltas of one task of a pack, which this model is, as a model of f32 tensors. Of tensors that are stored whole they need the base.
  package func packedDeltas(task: String?, base: (model: ProvidedModel, name: String)?) throws(IngotError) -> ProvidedModel {
    let reader = try PackReader(self)
    let task = try reader.pack.task(task)
    var model = self
    var readableBase: ProvidedModel?
    if let base {
      let found = try base.model.readable()
      try found.requireBase(of: reader.pack, at: path, name: base.name)
      model = try followed(by: found)
      readableBase = found
    }
    var derivation = Derivation(model, name: "unpacked")
    for tensor in reader.pack.tensors {
      // The first part gives its place to the delta.
      let parts = DeltaPack.parts(of: tensor.form)
      guard let first = parts.first.flatMap({ tensor.parts[$0] }) else { continue }
      for part in parts.dropFirst() { derivation.remove(DeltaPack.partName(part, tensor.name)) }
      let delta: any DerivedTensor
      if tensor.form == .whole {
        guard let readableBase, let stored = readableBase.checkpoint[tensor.name] else {
          throw IngotError(
            .invalidArgument, "the pack has this tensor whole, and its delta needs the base", hint: "name the base with --base",
            subject: tensor.name)
        }
        delta = WholeDelta(
          whole: try reader.values(.whole, tensor), base: FloatReader(try StoredBytes(stored, of: readableBase), stored.dtype))
      } else {
        delta = try reader.delta(of: tensor, task: task)
      }
      try derivation.replace(
        first, name: tensor.name, dtype: .f32, shape: tensor.shape, nominal: nil, by: delta,
        description: "\(reader.pack.method.rawValue) \(task)")
    }
    if reader.pack.scales != nil { derivation.remove(DeltaPack.scalesName) }
    derivation.remove(DeltaPack.errorsName)
    var result = try derivation.finish(settings: "task \(task)", isCostlyToReread: true)
    result.files = nil
    return result
  }

  /// Throws unless this is the base that the pack was made with.
  private func requireBase(of pack: DeltaPack, at path: String, name: String) throws(IngotError) {
    for tensor in pack.tensors {
      guard let found = checkpoint[tensor.name] else {
        throw Self.notTheBase("the pack has a delta of this tensor, which the base \(name) does not have", tensor.name)
      }
      guard found.shape == tensor.shape, found.dtype.hasArithmetic else {
        throw Self.notTheBase(
          "the pack has a delta of the shape \(tensor.shape), and the base \(name) has \(found.dtype.safetensorsName) \(found.shape)",
          tensor.name)
      }
    }
    let digest = try packIdentity(of: pack.tensors.map(\.name))
    guard digest == pack.baseDigest else {
      throw IngotError(
        .shape,
        "the pack was made with the base \(pack.baseName.prefix(200)) (\(pack.baseDigest.prefix(32))), and \(name) is another one (\(digest))",
        hint: "apply it to the model it was made with", subject: path)
    }
  }

  /// The model with another's sources behind its own; the tensors are this one's.
  private func followed(by other: ProvidedModel) throws(IngotError) -> ProvidedModel {
    let folder = other.path.split(separator: "/").last.map(String.init) ?? "pack"
    var shards = other.checkpoint.shards
    for index in shards.indices { shards[index].name = folder + "/" + shards[index].name }
    var model = self
    model.sources += other.sources
    model.checkpoint = try Checkpoint(
      displayPath: checkpoint.displayPath, shards: checkpoint.shards + shards, tensors: checkpoint.tensors, config: checkpoint.config,
      notices: checkpoint.notices + other.checkpoint.notices)
    return model
  }
}

extension LocalModels {
  /// A pack by its path: a directory or its file. Throws `.notFound`, `.format` when it is none.
  package static func openPack(at path: String) throws(IngotError) -> ProvidedModel {
    guard let status = try fileStatus(path) else {
      throw IngotError(.notFound, "there is no such pack", hint: "check the path", subject: path)
    }
    guard let pack = try pack(at: path, isDirectory: status.kind == .directory, isLocal: true) else {
      throw IngotError(
        .format, "not a delta pack: \(status.kind == .directory ? "no \(DeltaPack.fileName)" : "no safetensors file of one") is there",
        hint: "packs are made with 'ingot delta pack'", subject: path)
    }
    return pack
  }
}

/// The model that unpacking and applying copy: one that is no reference of its own.
package struct SingleModel: ModelProvider {
  private let model: ProvidedModel

  package init(_ model: ProvidedModel) { self.model = model }

  package func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel { model }
}
