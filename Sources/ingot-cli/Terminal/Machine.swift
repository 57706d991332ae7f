import Glibc

/// What the system tells about itself. Files under /proc and /sys are read with a limit; what is absent is nil.
enum Machine {
  static func system() -> (name: String, libc: String) {
    var names = utsname()
    // SAFETY: uname fills the struct with zero-terminated texts.
    guard unsafe uname(&names) == 0 else { return ("unknown", "unknown") }
    var libc = [CChar](repeating: 0, count: 64)
    // SAFETY: at most as many bytes as there are, with a zero at the end.
    _ = unsafe libc.withUnsafeMutableBufferPointer { unsafe confstr(Int32(_CS_GNU_LIBC_VERSION), $0.baseAddress, $0.count) }
    let version = String(decoding: libc.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    return ("\(text(of: &names.sysname)) \(text(of: &names.release)) \(text(of: &names.machine))", version)
  }

  /// A C array of characters as text.
  private static func text<Characters>(of characters: inout Characters) -> String {
    // SAFETY: reads the value's own bytes, up to the first zero.
    unsafe withUnsafeBytes(of: &characters) { bytes in
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }

  static func processorName() -> String? {
    let lines = read("/proc/cpuinfo").split(separator: "\n")
    for key in ["model name", "Model", "Hardware"] {
      if let line = lines.first(where: { $0.hasPrefix(key) }), let colon = line.firstIndex(of: ":") {
        return String(line[line.index(after: colon)...].drop { $0 == " " })
      }
    }
    return nil
  }

  /// Bytes: of the machine, of it available now, and the limit of this process's control group, if it has one.
  static func memory() -> (total: Int?, available: Int?, limit: Int?) {
    var values: [Substring: Int] = [:]
    for line in read("/proc/meminfo").split(separator: "\n") {
      let words = line.split { $0 == " " || $0 == ":" }
      if words.count >= 2, let kibibytes = Int(words[1]) { values[words[0]] = kibibytes.multipliedReportingOverflow(by: 1024).partialValue }
    }
    return (values["MemTotal"], values["MemAvailable"], controlGroupLimit(below: values["MemTotal"] ?? .max))
  }

  /// The least memory limit of the control group and its parents, version 2 or 1.
  private static func controlGroupLimit(below total: Int) -> Int? {
    var limits: [Int] = []
    for line in read("/proc/self/cgroup").split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      let root: String
      let file: String
      if parts[1].isEmpty {
        (root, file) = ("/sys/fs/cgroup", "memory.max")
      } else if parts[1].split(separator: ",").contains("memory") {
        (root, file) = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
      } else {
        continue
      }
      var components = parts[2].split(separator: "/")
      while true {
        let path = ([root[...]] + components + [file[...]]).joined(separator: "/")
        if let limit = Int(read(path).filter { !$0.isWhitespace }) { limits.append(limit) }
        if components.popLast() == nil { break }
      }
    }
    // Version 1 writes a huge number for no limit.
    return limits.min().flatMap { $0 < total ? $0 : nil }
  }

  /// A small text file, "" when it cannot be read.
  private static func read(_ path: String) -> String {
    // SAFETY: the string lives for the call.
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "" }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while bytes.count < 1 << 20 {
      // SAFETY: at most buffer.count bytes are written into the array's storage.
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress, $0.count) }
      if count <= 0 { break }
      bytes += buffer.prefix(count)
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
