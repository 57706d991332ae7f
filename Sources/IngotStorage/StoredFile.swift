package import IngotErrors

/// A file that is read: opened once, its size and time fixed then, read at offsets from any thread.
package final class StoredFile: Sendable {
  /// As the caller wrote it.
  package let path: String
  /// What the file system said when the file was opened.
  package let status: FileStatus
  let descriptor: Descriptor
  let system: System

  /// Bytes, when the file was opened.
  package var size: Int { status.size }
  /// Nanoseconds since 1970, when the file was opened.
  package var modified: Int64 { status.modified }

  /// Opens a regular file; symbolic links are followed, everything else (a directory, a FIFO, a device) is refused.
  ///
  /// Throws `.notFound` if there is none and `.io` otherwise.
  package init(_ path: String, system: System = .live) throws(IngotError) {
    do throws(SystemError) {
      descriptor = try system.open(path, .read)
      status = try system.status(descriptor)
    } catch {
      throw error.asSource(path, "open the file")
    }
    guard status.kind == .file else {
      throw IngotError(.io, "found a \(status.kind), expected a regular file", subject: path)
    }
    self.path = path
    self.system = system
  }

  /// Fills `buffer` from `offset` on. Throws `.io` with what was found and expected if the file ends before, also when it
  /// shrank since it was opened.
  package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let (end, overflow) = offset.addingReportingOverflow(buffer.count)
    guard offset >= 0, !overflow else {
      throw IngotError(.io, "offset \(offset) with \(buffer.count) bytes is not a range of a file", subject: path)
    }
    let found: Int
    do throws(SystemError) {
      // SAFETY: the caller keeps the buffer alive and to itself for the call.
      found = try unsafe system.read(descriptor, into: buffer, at: offset)
    } catch {
      throw error.asSource(path, "read \(buffer.count) bytes at offset \(offset)")
    }
    guard found == buffer.count else {
      let shrank = end <= size
      throw IngotError(
        .io, "found \(found) bytes at offset \(offset), expected \(buffer.count)",
        hint: shrank
          ? "the file was \(size) bytes long when it was opened: do not change the sources during a merge"
          : "the file is \(size) bytes long: it looks truncated, fetch it again", subject: path)
    }
  }

  /// The bytes of a range, for headers and other small parts. Throws `.io` if `count` is negative or above `limit`.
  package func readBytes(at offset: Int, count: Int, limit: Int) throws(IngotError) -> [UInt8] {
    guard count >= 0, count <= limit else {
      throw IngotError(.io, "found a part of \(count) bytes, expected at most \(limit)", subject: path)
    }
    var bytes = [UInt8](repeating: 0, count: count)
    var failure: IngotError?
    // SAFETY: the array's storage is this closure's own.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(IngotError) { try unsafe read(into: buffer, at: offset) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  /// Tells the kernel how a range will be read; `count` 0 means to the end.
  package func advise(_ access: FileAccess, offset: Int = 0, count: Int = 0) {
    system.advise(descriptor, offset: offset, count: count, access)
  }

  /// Throws `.stale` if the file at this moment is not what it was when it was opened (size or time of change).
  package func checkUnchanged() throws(IngotError) {
    let now: FileStatus
    do throws(SystemError) { now = try system.status(descriptor) } catch { throw error.asSource(path, "look at the file") }
    guard now.size == status.size, now.modified == status.modified else {
      throw IngotError(
        .stale, "the file changed while it was read: it was \(status.size) bytes long and is \(now.size) bytes long now",
        hint: "do not change the sources during a merge; run it again", subject: path)
    }
  }
}

extension StoredFile {
  /// The whole of a file that is at most `limit` bytes long. Throws `.notFound`, or `.io` (also if it is longer).
  package static func readAll(_ path: String, limit: Int, system: System = .live) throws(IngotError) -> [UInt8] {
    let file = try StoredFile(path, system: system)
    guard file.size <= limit else {
      throw IngotError(.io, "found a file of \(file.size) bytes, expected at most \(limit)", subject: path)
    }
    return try file.readBytes(at: 0, count: file.size, limit: limit)
  }
}
