import CPlatform
import Glibc

/// A system call that failed: which, and with which errno.
struct SystemError: Error, Sendable, Hashable {
  var call: SystemCall
  var code: Int32

  /// The system's own words, such as "No space left on device".
  var text: String {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
      guard let start = buffer.baseAddress else { return "unknown error" }
      // SAFETY: the call writes at most 256 bytes with a zero at the end, and the buffer outlives the conversion.
      return unsafe String(cString: ingot_sys_error_text(code, start, 256))
    }
  }
}

/// The only door to the operating system in this module: retries EINTR, finishes short transfers, and lets a test make any
/// call fail. A value that is handed down from the engine; there is no global state. Safe on any thread.
package struct System: Sendable {
  let faults: FaultInjector?

  /// The operating system as it is.
  package static let live = System(faults: nil)

  /// With an injector, which counts calls and makes chosen ones fail.
  package init(faults: FaultInjector?) { self.faults = faults }

  // MARK: one call

  /// Makes one call until it is not interrupted. `body` answers a value or a negated errno.
  func perform(_ call: SystemCall, _ body: () -> Int64) throws(SystemError) -> Int64 {
    while true {
      let result: Int64
      if let faults, case .error(let code)? = faults.next(call) {
        result = -Int64(code)
      } else {
        result = body()
      }
      if result >= 0 { return result }
      if result == -Int64(EINTR) { continue }
      throw SystemError(call: call, code: Int32(truncatingIfNeeded: -result))
    }
  }

  /// Makes a transfer of up to `count` bytes once; a fault may shorten it.
  private func transfer(_ call: SystemCall, _ count: Int, _ body: (Int) -> Int64) throws(SystemError) -> Int {
    while true {
      var limit = count
      var result: Int64?
      if let faults {
        switch faults.next(call) {
        case .error(let code)?: result = -Int64(code)
        case .short(let most)?: limit = min(count, max(0, most))
        case nil: break
        }
      }
      let moved = result ?? (limit == 0 && count > 0 ? 0 : body(limit))
      if moved >= 0 {
        faults?.moved(call, bytes: Int(moved))
        return Int(moved)
      }
      if moved == -Int64(EINTR) { continue }
      throw SystemError(call: call, code: Int32(truncatingIfNeeded: -moved))
    }
  }

  // MARK: files

  enum Opening: Int {
    case read, write, append, directory, directoryWithoutLink, writeDirect

    var flag: Int32 {
      switch self {
      case .read: Int32(INGOT_OPEN_READ)
      case .write: Int32(INGOT_OPEN_WRITE)
      case .append: Int32(INGOT_OPEN_APPEND)
      case .directory: Int32(INGOT_OPEN_DIRECTORY)
      case .directoryWithoutLink: Int32(INGOT_OPEN_DIRECTORY_NOFOLLOW)
      case .writeDirect: Int32(INGOT_OPEN_WRITE_DIRECT)
      }
    }
  }

  /// Opens `path` relative to `directory` (nil: the working directory).
  func open(_ path: String, in directory: Descriptor? = nil, _ how: Opening) throws(SystemError) -> Descriptor {
    try refuseZeroByte(path, .open)
    // SAFETY: the string's bytes live for the call, and end in a zero that is its only one.
    let fd = try perform(.open) { unsafe ingot_sys_open(directory.number, path, how.flag) }
    return Descriptor(number: Int32(truncatingIfNeeded: fd), system: self)
  }

  func close(_ number: Int32) throws(SystemError) {
    // Linux closes the descriptor even when it says EINTR, so this is never retried, and a fault comes on top.
    let result = ingot_sys_close(number)
    if let faults, case .error(let code)? = faults.next(.close) { throw SystemError(call: .close, code: code) }
    if result < 0, result != -Int64(EINTR) { throw SystemError(call: .close, code: Int32(truncatingIfNeeded: -result)) }
  }

  /// Reads until `buffer` is full or the file ends; returns the bytes read.
  func read(_ file: Descriptor, into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(SystemError) -> Int {
    var done = 0
    while done < buffer.count {
      let position = UInt64(truncatingIfNeeded: offset + done)
      let start = done
      let moved = try transfer(.read, buffer.count - done) { count in
        // SAFETY: start + count <= buffer.count, and the caller keeps the buffer alive for the call.
        unsafe ingot_sys_read_at(file.number, buffer.baseAddress.map { unsafe $0 + start }, count, position)
      }
      if moved == 0 { break }
      done += moved
    }
    return done
  }

  /// Writes all bytes at `offset`.
  func write(_ file: Descriptor, _ bytes: UnsafeRawBufferPointer, at offset: Int) throws(SystemError) {
    var done = 0
    while done < bytes.count {
      let position = UInt64(truncatingIfNeeded: offset + done)
      let start = done
      let moved = try transfer(.write, bytes.count - done) { count in
        // SAFETY: start + count <= bytes.count, and the caller keeps the bytes alive for the call.
        unsafe ingot_sys_write_at(file.number, bytes.baseAddress.map { unsafe $0 + start }, count, position)
      }
      // A write that moves nothing would be retried for ever.
      if moved == 0 { throw SystemError(call: .write, code: EIO) }
      done += moved
    }
  }

  /// Appends a line with a single write. A short write is an error: what is there is a torn line, which readers skip.
  func append(_ file: Descriptor, _ bytes: [UInt8]) throws(SystemError) {
    let moved = try transfer(.append, bytes.count) { count in
      // SAFETY: count <= bytes.count, and the array's storage lives for the closure.
      unsafe bytes.withUnsafeBytes { unsafe ingot_sys_append(file.number, $0.baseAddress, count) }
    }
    if moved < bytes.count { throw SystemError(call: .append, code: ENOSPC) }
  }

  func status(_ file: Descriptor) throws(SystemError) -> FileStatus {
    var raw = ingot_file_status()
    // SAFETY: `raw` lives for the call, which fills it.
    _ = try perform(.status) { unsafe ingot_sys_status(file.number, &raw) }
    return FileStatus(raw)
  }

  /// The status of a name, nil if there is none.
  func status(_ path: String, in directory: Descriptor? = nil, followingLink: Bool) throws(SystemError) -> FileStatus? {
    try refuseZeroByte(path, .status)
    var raw = ingot_file_status()
    do throws(SystemError) {
      // SAFETY: as in `open`; `raw` lives for the call, which fills it.
      _ = try perform(.status) { unsafe ingot_sys_status_at(directory.number, path, followingLink ? 1 : 0, &raw) }
    } catch {
      if error.code == ENOENT { return nil }
      throw error
    }
    return FileStatus(raw)
  }

  func truncate(_ file: Descriptor, to size: Int) throws(SystemError) {
    _ = try perform(.truncate) { ingot_sys_truncate(file.number, UInt64(truncatingIfNeeded: size)) }
  }

  /// Gives the file its size and its blocks; only the size where the file system cannot reserve.
  func allocate(_ file: Descriptor, size: Int) throws(SystemError) {
    do throws(SystemError) {
      _ = try perform(.allocate) { ingot_sys_allocate(file.number, UInt64(truncatingIfNeeded: size)) }
    } catch {
      guard [EOPNOTSUPP, ENOSYS, EINVAL].contains(error.code) else { throw error }
      try truncate(file, to: size)
    }
  }

  /// The multiple that offsets and addresses of transfers past the page cache must be of; nil where there are none.
  func directAlignment(_ file: Descriptor) -> Int? {
    guard let found = try? perform(.status, { ingot_sys_direct_alignment(file.number) }), found > 0 else { return nil }
    return Int(clamping: found)
  }

  func sync(_ file: Descriptor) throws(SystemError) {
    _ = try perform(.sync) { ingot_sys_sync(file.number) }
  }

  /// Starts write-back of a range; only a hint, so it cannot fail.
  func startWriteBack(_ file: Descriptor, offset: Int, count: Int) {
    _ = try? perform(.writeBack) {
      ingot_sys_start_write_back(file.number, UInt64(truncatingIfNeeded: offset), UInt64(truncatingIfNeeded: count))
    }
  }

  /// Tells the kernel how a range will be read; only a hint, so it cannot fail.
  func advise(_ file: Descriptor, offset: Int, count: Int, _ access: FileAccess) {
    _ = try? perform(.advise) {
      ingot_sys_advise(file.number, UInt64(truncatingIfNeeded: offset), UInt64(truncatingIfNeeded: count), access.advice)
    }
  }

  /// Takes the exclusive lock without waiting; EWOULDBLOCK when another open file has it.
  func lock(_ file: Descriptor) throws(SystemError) {
    _ = try perform(.lock) { ingot_sys_lock(file.number) }
  }

  /// Gives the lock back, also for descriptors that a fork copied. Closing does the same, so a failure does not matter.
  func unlock(_ file: Descriptor) { _ = ingot_sys_unlock(file.number) }

  // MARK: directories

  func makeDirectory(_ path: String, in directory: Descriptor?) throws(SystemError) {
    try refuseZeroByte(path, .makeDirectory)
    // SAFETY: as in `open`.
    _ = try perform(.makeDirectory) { unsafe ingot_sys_make_directory(directory.number, path) }
  }

  func remove(_ path: String, in directory: Descriptor?, isDirectory: Bool) throws(SystemError) {
    try refuseZeroByte(path, .remove)
    // SAFETY: as in `open`.
    _ = try perform(.remove) { unsafe ingot_sys_remove(directory.number, path, isDirectory ? 1 : 0) }
  }

  enum Renaming { case replacing, withoutReplacing, exchanging }

  func rename(_ from: String, in source: Descriptor?, to: String, in target: Descriptor?, _ how: Renaming) throws(SystemError) {
    try refuseZeroByte(from, .rename)
    try refuseZeroByte(to, .rename)
    let flag =
      switch how {
      case .replacing: INGOT_RENAME_REPLACE
      case .withoutReplacing: INGOT_RENAME_NO_REPLACE
      case .exchanging: INGOT_RENAME_EXCHANGE
      }
    // SAFETY: as in `open`, for both strings.
    _ = try perform(.rename) { unsafe ingot_sys_rename(source.number, from, target.number, to, Int32(flag)) }
  }

  /// Free bytes for this user on the file system of a directory; nil where it does not say.
  func space(_ directory: Descriptor) throws(SystemError) -> Int? {
    var raw = ingot_space()
    // SAFETY: `raw` lives for the call, which fills it.
    _ = try perform(.space) { unsafe ingot_sys_space(directory.number, &raw) }
    return raw.total == 0 ? nil : Int(clamping: raw.available)
  }

  /// The names in a directory, sorted; names that are not UTF-8 are left out and counted. At most `limit` names (EOVERFLOW).
  func list(_ directory: Descriptor, limit: Int) throws(SystemError) -> (names: [String], unreadable: Int) {
    var names: [String] = []
    var unreadable = 0
    var buffer = [UInt8](repeating: 0, count: 65_536)
    _ = ingot_sys_rewind(directory.number)
    while true {
      let used = try perform(.list) {
        // SAFETY: the call writes at most bytes.count bytes, and the array's storage lives for the closure.
        unsafe buffer.withUnsafeMutableBytes { bytes in
          unsafe ingot_sys_list(directory.number, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
      }
      if used == 0 { break }
      for name in buffer.prefix(Int(used)).split(separator: 0) {
        if let text = String(validating: name, as: UTF8.self) { names.append(text) } else { unreadable += 1 }
      }
      if names.count > limit { throw SystemError(call: .list, code: EOVERFLOW) }
    }
    return (names.sorted(), unreadable)
  }

  // MARK: process

  /// This process and its machine, as the journal names them.
  static func writerName() -> String {
    let host = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
      guard let start = buffer.baseAddress else { return "" }
      // SAFETY: the call writes at most 256 bytes with a zero at the end, and the buffer outlives the conversion.
      return unsafe String(cString: ingot_sys_host_name(start, 256))
    }
    let plain = host.unicodeScalars.filter { $0.isASCII && ($0.properties.isAlphabetic || "0123456789.-_".unicodeScalars.contains($0)) }
    return "\(ingot_sys_process()) \(plain.isEmpty ? "unknown" : String(String.UnicodeScalarView(plain)))"
  }

  /// A path with a zero byte would name another file to C.
  private func refuseZeroByte(_ path: String, _ call: SystemCall) throws(SystemError) {
    if path.utf8.contains(0) { throw SystemError(call: call, code: EINVAL) }
  }
}

/// An open descriptor, closed when the last reference goes. Immutable, so any thread may use it.
final class Descriptor: Sendable {
  let number: Int32
  let system: System

  init(number: Int32, system: System) {
    self.number = number
    self.system = system
  }

  deinit { try? system.close(number) }
}

extension Descriptor? {
  /// The working directory stands for no descriptor.
  fileprivate var number: Int32 { self?.number ?? Int32(INGOT_AT_CWD) }
}
