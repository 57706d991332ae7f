internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotStorage
internal import IngotTensors

/// A tensor whose bytes are computed when they are read. Any range, from any worker; the same bytes whatever the ranges.
protocol DerivedTensor: Sendable {
  /// The tensor as one run reads it: with the run's kernels, from the run's sources.
  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor

  /// Fills `destination` with the packed bytes from `offset` on. Offsets and counts are whole elements.
  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError)
}

/// The derived tensors of a model, one behind the other, as if they lay in a file.
final class DerivedSource: ByteSource {
  struct Entry: Sendable {
    var range: Range<Int>
    /// Bytes of an element.
    var width: Int
    var tensor: any DerivedTensor
  }

  let name: String
  let isCostlyToReread: Bool
  /// Of what the tensors read from; the rest is in the digest of the model's shards.
  let derivation: String?
  /// In the order of their ranges.
  private let entries: [Entry]
  /// What the tensors read from.
  private let inputs: [any ByteSource]

  init(name: String, entries: [Entry], inputs: [any ByteSource], isCostlyToReread: Bool) {
    self.name = name
    self.entries = entries
    self.inputs = inputs
    self.isCostlyToReread = isCostlyToReread
    let derivations = inputs.compactMap(\.derivation)
    derivation = derivations.isEmpty ? nil : "derived \(Digest128(of: derivations.joined(separator: "\n")))"
  }

  private init(_ other: DerivedSource, entries: [Entry]) {
    name = other.name
    isCostlyToReread = other.isCostlyToReread
    derivation = other.derivation
    inputs = other.inputs
    self.entries = entries
  }

  var readsPerElement: Int { inputs.reduce(1) { max($0, $1.readsPerElement) } }

  func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource {
    var bound: [Entry] = []
    bound.reserveCapacity(entries.count)
    for entry in entries { bound.append(Entry(range: entry.range, width: entry.width, tensor: try entry.tensor.bound(to: run))) }
    return DerivedSource(self, entries: bound)
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    var low = 0
    var high = entries.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if entries[middle].range.lowerBound <= offset { low = middle } else { high = middle }
    }
    guard destination.count > 0 else { return }
    guard entries.indices.contains(low), entries[low].range.contains(offset),
      destination.count <= entries[low].range.upperBound - offset
    else {
      throw IngotError(.io, "read of \(destination.count) bytes at \(offset) leaves the tensors", subject: name)
    }
    let entry = entries[low]
    let within = offset - entry.range.lowerBound
    guard within % entry.width == 0, destination.count % entry.width == 0 else {
      throw IngotError(.internalError, "read of \(destination.count) bytes at \(within) is not of whole elements", subject: name)
    }
    // SAFETY: the caller owns the destination for the call.
    try unsafe entry.tensor.read(destination, at: within)
  }

  func requireUnchanged() throws(IngotError) {
    for input in inputs { try input.requireUnchanged() }
  }
}

/// Gives a model derived tensors in the place of stored ones.
struct Derivation {
  private var model: ProvidedModel
  private let name: String
  private var entries: [DerivedSource.Entry] = []
  private var end = 0
  private var text = ""
  private var replaced: [String: CheckpointTensor] = [:]
  private var removed: Set<String> = []

  /// `name` is what the derived tensors' source is called in messages and records.
  init(_ model: ProvidedModel, name: String) {
    self.model = model
    self.name = name
  }

  /// Puts `derived` in the place of `stored`; `description` says all that decides its values besides the bytes it reads.
  mutating func replace(
    _ stored: CheckpointTensor, name newName: String? = nil, dtype: DType, shape: Shape, nominal: DType?, by derived: any DerivedTensor,
    description: String
  ) throws(IngotError) {
    let bytes = try shape.byteCount(dtype)
    let (next, overflow) = end.addingReportingOverflow(bytes)
    guard !overflow, next < Int.max - 63 else {
      throw IngotError(.format, "the tensors have more bytes than 63 bits can count", subject: stored.name)
    }
    entries.append(.init(range: end..<next, width: max(dtype.bits / 8, 1), tensor: derived))
    replaced[stored.name] = CheckpointTensor(
      name: newName ?? stored.name, dtype: dtype, shape: shape, shard: model.sources.count, fileOffset: UInt64(end),
      byteCount: bytes, nominalDType: nominal)
    text += "\(stored.name) \(newName ?? "") \(dtype.rawValue) \(shape) \(description)\n"
    end = (next + 63) / 64 * 64
  }

  mutating func remove(_ name: String) { removed.insert(name) }

  /// Puts another stored tensor, which is in one of the model's sources, in the place of the one of its name.
  mutating func substitute(_ tensor: CheckpointTensor) {
    replaced[tensor.name] = tensor
    text += "\(tensor.name) replaced\n"
  }

  /// The model with its derived tensors, and with `config` in the place of its own where given. `isCostlyToReread` is for tensors whose
  /// computation costs more than reading; those that read from a costly source are costly anyway. `settings` is what else decides the values.
  func finish(
    config: JSONValue? = nil, settings: String = "", isCostlyToReread: Bool = false, notices: [Notice] = []
  ) throws(IngotError) -> ProvidedModel {
    let old = model.checkpoint
    let digest = Digest128(of: text + settings)
    let shard = CheckpointShard(
      name: name, size: UInt64(end), modificationTime: 0, headerDigest: UInt128(digest.high) << 64 | UInt128(digest.low))
    let tensors = old.tensors.compactMap { removed.contains($0.name) ? nil : replaced[$0.name] ?? $0 }
    var result = model
    result.checkpoint = try Checkpoint(
      displayPath: old.displayPath, shards: old.shards + [shard], tensors: tensors, config: config ?? old.config,
      notices: old.notices + notices)
    result.sources.append(
      DerivedSource(
        name: "\(old.displayPath) (\(name))", entries: entries, inputs: model.sources,
        isCostlyToReread: isCostlyToReread || model.sources.contains(where: \.isCostlyToReread)))
    return result
  }
}

/// The bytes of a stored tensor.
struct StoredBytes: DerivedTensor {
  private(set) var source: any ByteSource
  let offset: Int
  let byteCount: Int
  let name: String

  init(_ tensor: CheckpointTensor, of model: ProvidedModel) throws(IngotError) {
    guard model.sources.indices.contains(tensor.shard), let offset = Int(exactly: tensor.fileOffset) else {
      throw IngotError(.format, "the tensor begins at byte \(tensor.fileOffset), beyond what files have", subject: tensor.name)
    }
    source = model.sources[tensor.shard]
    self.offset = offset
    byteCount = tensor.byteCount
    name = tensor.name
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor { try bytes(of: run) }

  /// The same bytes as one run reads them.
  func bytes(of run: SourceBinding) throws(IngotError) -> StoredBytes {
    var bound = self
    bound.source = try run.bound(source)
    return bound
  }

  /// Fills `destination` from byte `start` of the tensor on.
  func read(_ destination: UnsafeMutableRawBufferPointer, at start: Int) throws(IngotError) {
    guard destination.count > 0 else { return }
    // SAFETY: the caller owns the destination for the call.
    try unsafe source.read(destination, at: offset + start)
  }

  /// Compares the bytes of two tensors, in pieces of half the scratch.
  static func areEqual(_ a: StoredBytes, _ b: StoredBytes, _ scratch: ReadScratch) throws(IngotError) -> Bool {
    guard a.byteCount == b.byteCount else { return false }
    let piece = scratch.count / 2
    var done = 0
    while done < a.byteCount, piece > 0 {
      let count = min(piece, a.byteCount - done)
      // SAFETY: two parts of the scratch, which lives to the end of this function.
      let (x, y) = unsafe (scratch.bytes(0, count), scratch.bytes(piece, count))
      try unsafe a.read(x, at: done)
      try unsafe b.read(y, at: done)
      guard unsafe x.elementsEqual(y) else { return false }
      done += count
    }
    withExtendedLifetime(scratch) {}
    return true
  }
}

extension ProvidedModel {
  /// The model with every tensor in row-major order and in a type that can be merged: strided tensors are gathered and quantised ones decoded when
  /// they are read. Throws `.unsupported`, naming the scheme, for quantised weights that cannot be decoded here.
  package func readable() throws(IngotError) -> ProvidedModel {
    guard !DeltaPack.isPack(checkpoint) else {
      throw IngotError(
        .unsupported, "found a delta pack, expected a model", hint: "name it after its base: BASE+\(path); 'ingot delta' unpacks it",
        subject: path)
    }
    return try gathered().decoded()
  }

  /// The model with every tensor in row-major order.
  func gathered() throws(IngotError) -> ProvidedModel {
    guard checkpoint.tensors.contains(where: { $0.strides != nil }) else { return self }
    let panels = RecentValues<[UInt8]>(capacity: StridedTensor.panels)
    var derivation = Derivation(self, name: "strided tensors")
    for (index, tensor) in checkpoint.tensors.enumerated() {
      guard let strides = tensor.strides else { continue }
      guard tensor.dtype.bits % 8 == 0 else {
        throw IngotError(.unsupported, "a strided tensor of \(tensor.dtype.safetensorsName), which needs whole bytes", subject: tensor.name)
      }
      let bytes = try StoredBytes(tensor, of: self)
      let gather = try StridedTensor(
        source: bytes.source, offset: bytes.offset, width: tensor.dtype.bits / 8, shape: tensor.shape.dimensions, strides: strides,
        cache: panels, number: index)
      try derivation.replace(
        tensor, dtype: tensor.dtype, shape: tensor.shape, nominal: tensor.nominalDType, by: gather,
        description: "strides \(strides) offset \(tensor.fileOffset)")
    }
    return try derivation.finish()
  }
}
