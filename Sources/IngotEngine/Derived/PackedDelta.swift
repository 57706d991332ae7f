internal import IngotCheckpoints
internal import IngotErrors
internal import IngotTensors

/// The delta of a packed tensor as f32, for one task. Its bits or codes are read a block at a time and compared with their check, so any range costs
/// at most two blocks more than it is; memory is one block.
struct PackedDelta: DerivedTensor {
  enum Content: Sendable {
    /// Rice codes; where each block's begins and how many elements it has, with the remainder bits.
    case ternary(StoredBytes, blocks: [Block])
    /// A bit for each element: +scale or −scale.
    case signs(StoredBytes)
    /// A bit for each element that has scale times the vector's value; the others are 0.
    case masked(StoredBytes, vector: FloatReader)
  }

  struct Block: Sendable {
    var start: Int
    var byteCount: Int
    var count: Int
    var remainderBits: Int
  }

  private static let block = RiceCode.blockElements

  private let name: String
  private var content: Content
  /// Elements.
  private let count: Int
  /// Where the first bit of the task lies.
  private let firstByte: Int
  private let checks: [UInt32]
  private let scale: Float
  private var kernels = Kernels(.best)

  init(name: String, content: Content, count: Int, firstByte: Int, checks: [UInt32], scale: Float) {
    self.name = name
    self.content = content
    self.count = count
    self.firstByte = firstByte
    self.checks = checks
    self.scale = scale
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor { try delta(of: run) }

  /// The same delta as one run reads it.
  func delta(of run: SourceBinding) throws(IngotError) -> PackedDelta {
    var bound = self
    bound.kernels = run.kernels
    bound.content =
      switch content {
      case .ternary(let stored, let blocks): .ternary(try stored.bytes(of: run), blocks: blocks)
      case .signs(let stored): .signs(try stored.bytes(of: run))
      case .masked(let stored, let vector): .masked(try stored.bytes(of: run), vector: try vector.bound(to: run))
      }
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let end = offset / 4 + destination.count / 4
    var first = offset / 4
    while first < end {
      let block = first / Self.block
      let stop = min((block + 1) * Self.block, end)
      let output = unsafe floats(destination, from: first - offset / 4, count: stop - first)
      try fill(output, block: block, from: first - block * Self.block)
      first = stop
    }
  }

  /// The elements of a block from `first` on.
  private func fill(_ output: Floats, block: Int, from first: Int) throws(IngotError) {
    let length = min(Self.block, count - block * Self.block)
    switch content {
    case .ternary(let stored, let blocks):
      guard blocks.indices.contains(block) else { throw damaged(block) }
      let place = blocks[block]
      let code = try read(stored, place.start, place.byteCount, block)
      for index in 0..<output.count { output[index] = 0 }
      let elements: [RiceCode.Element]
      do throws(IngotError) {
        elements = try RiceCode.decode(code, count: place.count, remainderBits: place.remainderBits, length: length)
      } catch {
        var named = error
        named.subject = name
        throw named
      }
      // Elements outside of the range are outside of the run, which ignores them.
      for element in elements { output[Int(element.position) - first] = element.isNegative ? -scale : scale }
    case .signs(let stored):
      let bits = try read(stored, firstByte + block * Self.block / 8, (length + 7) / 8, block)
      for index in 0..<output.count { output[index] = Self.isSet(bits, first + index) ? scale : -scale }
    case .masked(let stored, let vector):
      let bits = try read(stored, firstByte + block * Self.block / 8, (length + 7) / 8, block)
      try vector.load(block * Self.block + first, into: output)
      kernels.scale(output, by: scale, into: output)
      for index in 0..<output.count where !Self.isSet(bits, first + index) { output[index] = 0 }
    }
  }

  private static func isSet(_ bits: [UInt8], _ index: Int) -> Bool { bits[index / 8] & (0x80 >> UInt8(index % 8)) != 0 }

  /// Bytes of a block that have its check.
  private func read(_ stored: StoredBytes, _ start: Int, _ length: Int, _ block: Int) throws(IngotError) -> [UInt8] {
    let bytes = try stored.bytes(start, length)
    guard checks.indices.contains(block), packCheck(bytes) == checks[block] else { throw damaged(block) }
    return bytes
  }

  private func damaged(_ block: Int) -> IngotError {
    IngotError(
      .format, "the pack is damaged: block \(block) of the tensor does not have its check", hint: "copy or make the pack again",
      subject: name)
  }
}

/// The delta of a tensor that is stored whole: its values less the base's.
struct WholeDelta: DerivedTensor {
  private static let chunk = 1 << 14

  private var whole: FloatReader
  private var base: FloatReader
  private var kernels = Kernels(.best)

  init(whole: FloatReader, base: FloatReader) {
    self.whole = whole
    self.base = base
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor {
    var bound = self
    bound.whole = try whole.bound(to: run)
    bound.base = try base.bound(to: run)
    bound.kernels = run.kernels
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let scratch = ReadScratch(Self.chunk * 4)
    let count = destination.count / 4
    for start in stride(from: 0, to: count, by: Self.chunk) {
      let output = unsafe floats(destination, from: start, count: min(Self.chunk, count - start))
      let own = scratch.floats(0, output.count)
      try whole.load(offset / 4 + start, into: output)
      try base.load(offset / 4 + start, into: own)
      kernels.subtract(output, own, into: output)
    }
    withExtendedLifetime(scratch) {}
  }
}

/// A base's tensor plus a delta, as f32; where the delta is 0 the base itself, so that its −0 survives.
struct UnpackedTensor: DerivedTensor {
  private var base: FloatReader
  private var delta: PackedDelta
  private var kernels = Kernels(.best)

  init(base: FloatReader, delta: PackedDelta) {
    self.base = base
    self.delta = delta
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor {
    var bound = self
    bound.base = try base.bound(to: run)
    bound.delta = try delta.delta(of: run)
    bound.kernels = run.kernels
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let count = destination.count / 4
    let scratch = ReadScratch(min(count, RiceCode.blockElements) * 4)
    var first = offset / 4
    let end = first + count
    while first < end {
      // To the end of a block, which is then decoded once.
      let stop = min((first / RiceCode.blockElements + 1) * RiceCode.blockElements, end)
      let output = unsafe floats(destination, from: first - offset / 4, count: stop - first)
      try base.load(first, into: output)
      // SAFETY: the scratch lives to the end of this function.
      try unsafe delta.read(scratch.bytes(0, output.count * 4), at: first * 4)
      kernels.addDelta(scratch.floats(0, output.count), to: output, into: output)
      first = stop
    }
    withExtendedLifetime(scratch) {}
  }
}

extension StoredBytes {
  /// Bytes `start ..< start + length`. Throws `.format` for a range that leaves the tensor.
  func bytes(_ start: Int, _ length: Int) throws(IngotError) -> [UInt8] {
    guard start >= 0, length >= 0, start <= byteCount, length <= byteCount - start else {
      throw IngotError(.format, "\(length) bytes at \(start) leave the tensor's \(byteCount) bytes", subject: name)
    }
    var bytes = [UInt8](repeating: 0, count: length)
    var failure: IngotError?
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(IngotError) { try unsafe read(buffer, at: start) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }
}
