import Glibc
package import IngotErrors

/// One file of an output directory, of its final size from the start. Any thread may write any range; ranges of different
/// threads must not overlap.
package final class OutputFile: Sendable {
  /// Its path inside the output directory.
  package let name: String
  /// Bytes.
  package let size: Int
  /// For messages.
  package let path: String
  private let system: System
  private let descriptor: Descriptor
  /// For writes past the page cache, and whether they are on.
  private let direct: (descriptor: Descriptor, writing: DirectWriting)?

  init(
    name: String, size: Int, path: String, descriptor: Descriptor, direct: (descriptor: Descriptor, writing: DirectWriting)? = nil,
    system: System
  ) {
    self.name = name
    self.size = size
    self.path = path
    self.descriptor = descriptor
    self.direct = direct
    self.system = system
  }

  /// Writes all bytes at `offset`. Throws `.noSpace` when the medium or quota is full, `.output` otherwise, `.internalError` for
  /// a range outside the file.
  package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(IngotError) {
    try check(offset: offset, count: bytes.count)
    do throws(SystemError) {
      // SAFETY: the caller keeps the bytes alive for the call.
      try unsafe writeAll(bytes, at: offset)
    } catch {
      throw error.asOutput(path, "write \(bytes.count) bytes at offset \(offset)")
    }
  }

  /// Past the page cache as far as whole pages go, the rest through it.
  private func writeAll(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(SystemError) {
    guard let direct, direct.writing.isOn,
      let stretch = DirectWriting.stretch(address: UInt(bitPattern: bytes.baseAddress), offset: offset, count: bytes.count)
    else { return try unsafe system.write(descriptor, bytes, at: offset) }
    // SAFETY: the stretch lies inside the bytes, which the caller keeps alive.
    let middle = unsafe UnsafeRawBufferPointer(rebasing: bytes[stretch])
    do throws(SystemError) {
      let start = DirectWriting.now()
      try unsafe system.write(direct.descriptor, middle, at: offset + stretch.lowerBound)
      direct.writing.note(bytes: middle.count, nanoseconds: DirectWriting.now() - start)
    } catch {
      // A file system that opens so and then wants another alignment, or a transfer that ended in the middle of a page.
      guard [EINVAL, EOPNOTSUPP].contains(error.code) else { throw error }
      direct.writing.refuse()
      try unsafe system.write(descriptor, middle, at: offset + stretch.lowerBound)
    }
    // SAFETY: as above.
    try unsafe system.write(descriptor, UnsafeRawBufferPointer(rebasing: bytes[..<stretch.lowerBound]), at: offset)
    try unsafe system.write(descriptor, UnsafeRawBufferPointer(rebasing: bytes[stretch.upperBound...]), at: offset + stretch.upperBound)
  }

  /// True when a large write waits for the device and not for memory.
  package var waitsForDevice: Bool { direct?.writing.isOn ?? false }

  package func write(_ bytes: [UInt8], at offset: Int) throws(IngotError) {
    var failure: IngotError?
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeBytes { buffer in
      do throws(IngotError) { try unsafe write(buffer, at: offset) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  /// Starts writing a finished range to the medium without waiting, so that the sync at the end is short.
  package func startWriteBack(at offset: Int, count: Int) {
    // A count of 0 would mean everything to the end.
    if count > 0 { system.startWriteBack(descriptor, offset: offset, count: count) }
  }

  /// Reads back what is there. Throws `.output`.
  package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    try check(offset: offset, count: buffer.count)
    let found: Int
    do throws(SystemError) {
      // SAFETY: the caller keeps the buffer alive and to itself for the call.
      found = try unsafe system.read(descriptor, into: buffer, at: offset)
    } catch {
      throw error.asOutput(path, "read \(buffer.count) bytes at offset \(offset)")
    }
    guard found == buffer.count else {
      throw IngotError(
        .output, "found \(found) bytes at offset \(offset), expected \(buffer.count)",
        hint: "something else changes the partial output", subject: path)
    }
  }

  /// The tensor digest (see `TensorDigest`) of a range as it is in the file now. `isCancelled` is asked once per piece.
  package func tensorDigest(
    at offset: Int, count: Int, isCancelled: () -> Bool = { false }
  ) throws(IngotError) -> Digest128 {
    try check(offset: offset, count: count)
    let digest = try TensorDigest(byteCount: count)
    var storage = [UInt8](repeating: 0, count: min(count, TensorDigest.pieceSize))
    var failure: IngotError?
    // SAFETY: parts are prefixes of the array's storage, which is this closure's own.
    unsafe storage.withUnsafeMutableBytes { buffer in
      do throws(IngotError) {
        var done = 0
        while done < count {
          if isCancelled() { throw IngotError(.cancelled, "cancelled while the partial output was checked") }
          let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.prefix(count - done))
          try unsafe read(into: part, at: offset + done)
          try unsafe digest.add(UnsafeRawBufferPointer(part), at: done)
          done += part.count
        }
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return try digest.finish()
  }

  func sync() throws(IngotError) {
    do throws(SystemError) { try system.sync(descriptor) } catch { throw error.asOutput(path, "write the file to the medium") }
  }

  private func check(offset: Int, count: Int) throws(IngotError) {
    guard offset >= 0, offset <= size, count >= 0, count <= size - offset else {
      throw IngotError(
        .internalError, "\(count) bytes at offset \(offset) are outside a file of \(size) bytes", subject: path)
    }
  }
}
