internal import IngotCheckpoints
internal import IngotErrors
internal import IngotTensors

/// An opened pack: its description, and deltas that are decoded when they are read.
struct PackReader {
  let model: ProvidedModel
  let pack: DeltaPack
  private let scales: [Float]

  /// Throws what `DeltaPack.init` throws, and `.format` for a factor that is not finite.
  init(_ model: ProvidedModel) throws(IngotError) {
    self.model = model
    pack = try DeltaPack(model.checkpoint)
    guard let stored = pack.scales else {
      scales = []
      return
    }
    scales = try Self.words(stored, of: model).map { Float(bitPattern: $0) }
    guard scales.allSatisfy(\.isFinite) else {
      throw IngotError(.format, "the pack has factors that are not finite", hint: "copy or make it again", subject: model.path)
    }
  }

  private static func words<Value: FixedWidthInteger>(
    _ tensor: CheckpointTensor, of model: ProvidedModel, as type: Value.Type = UInt32.self
  ) throws(IngotError) -> [Value] {
    words(try StoredBytes(tensor, of: model).bytes(0, tensor.byteCount))
  }

  private static func words<Value: FixedWidthInteger>(_ bytes: [UInt8]) -> [Value] {
    let width = Value.bitWidth / 8
    return stride(from: 0, to: bytes.count / width * width, by: width).map { start in
      (0..<width).reduce(Value(0)) { $0 | Value(truncatingIfNeeded: bytes[start + $1]) << Value(8 * $1) }
    }
  }

  /// Of each task.
  func errors() throws(IngotError) -> [Double] {
    try Self.words(pack.errors, of: model, as: UInt64.self).map { Double(bitPattern: $0) }
  }

  /// Elements that are not zero, of each task; nil where a pack has no zeros or does not count them.
  func kept() throws(IngotError) -> [Int]? {
    guard pack.method == .compeft else { return nil }
    var count = 0
    for tensor in pack.tensors { count += try blocks(tensor).blocks.reduce(0) { $0 + $1.count } }
    return [count]
  }

  /// The delta of a tensor that is not stored whole.
  func delta(of tensor: DeltaPack.Tensor, task: Int) throws(IngotError) -> PackedDelta {
    let content: PackedDelta.Content
    var firstByte = 0
    var checks: [UInt32]
    switch tensor.form {
    case .ternary:
      let table = try blocks(tensor)
      content = .ternary(try stored(.codes, tensor), blocks: table.blocks)
      checks = table.checks
    case .signs, .masked:
      let mask = tensor.form == .masked ? task : 0
      firstByte = mask * ((tensor.count + 7) / 8)
      let first = mask * tensor.blockCount
      checks = Self.words(try stored(.checks, tensor).bytes(4 * first, 4 * tensor.blockCount))
      let bits = try stored(.bits, tensor)
      if tensor.form == .signs {
        content = .signs(bits)
      } else {
        content = .masked(bits, vector: try values(.vector, tensor))
      }
    case .whole: throw IngotError(.internalError, "a whole tensor has no delta of its own", subject: tensor.name)
    }
    let place = tensor.scaleIndex ?? (pack.method == .emr ? task : 0)
    let scale = pack.method == .tall ? 1 : scales.indices.contains(place) ? scales[place] : 0
    return PackedDelta(name: tensor.name, content: content, count: tensor.count, firstByte: firstByte, checks: checks, scale: scale)
  }

  /// The values of a vector or a whole tensor.
  func values(_ part: DeltaPack.Part, _ tensor: DeltaPack.Tensor) throws(IngotError) -> FloatReader {
    FloatReader(try stored(part, tensor), try require(part, tensor).dtype)
  }

  private func require(_ part: DeltaPack.Part, _ tensor: DeltaPack.Tensor) throws(IngotError) -> CheckpointTensor {
    guard let found = tensor.parts[part] else { throw IngotError(.internalError, "no \(part.rawValue)", subject: tensor.name) }
    return found
  }

  private func stored(_ part: DeltaPack.Part, _ tensor: DeltaPack.Tensor) throws(IngotError) -> StoredBytes {
    try StoredBytes(try require(part, tensor), of: model)
  }

  private func words(_ part: DeltaPack.Part, _ tensor: DeltaPack.Tensor) throws(IngotError) -> [UInt32] {
    try Self.words(try require(part, tensor), of: model)
  }

  /// The table of a ternary tensor's blocks. Throws `.format` unless they fill the codes and no block has more than it can.
  private func blocks(_ tensor: DeltaPack.Tensor) throws(IngotError) -> (blocks: [PackedDelta.Block], checks: [UInt32]) {
    let table = try words(.blocks, tensor)
    let total = try require(.codes, tensor).byteCount
    var blocks: [PackedDelta.Block] = []
    var checks: [UInt32] = []
    var start = 0
    for row in 0..<tensor.blockCount where table.count >= 3 * row + 3 {
      let length = min(RiceCode.blockElements, tensor.count - row * RiceCode.blockElements)
      let block = PackedDelta.Block(
        start: start, byteCount: Int(table[3 * row]), count: Int(table[3 * row + 1] & 0xff_ffff),
        remainderBits: Int(table[3 * row + 1] >> 24))
      guard block.count <= length, block.remainderBits <= RiceCode.mostRemainderBits, block.byteCount <= total - start,
        block.byteCount <= RiceCode.mostBytes(count: block.count, length: length, remainderBits: block.remainderBits)
      else {
        throw IngotError(
          .format, "the pack is damaged: block \(row) has \(block.byteCount) bytes at \(start) of \(total) for \(block.count) elements",
          hint: "copy or make the pack again", subject: tensor.name)
      }
      start += block.byteCount
      blocks.append(block)
      checks.append(table[3 * row + 2])
    }
    guard start == total, blocks.count == tensor.blockCount else {
      throw IngotError(
        .format, "the pack is damaged: its blocks have \(start) bytes, its codes \(total)", hint: "copy or make the pack again",
        subject: tensor.name)
    }
    return (blocks, checks)
  }
}
