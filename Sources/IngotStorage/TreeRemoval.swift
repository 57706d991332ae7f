import Glibc
internal import IngotErrors

extension System {
  /// Removes everything in `directory` except the names in `keeping`. Symbolic links are removed, never followed, and another
  /// file system mounted inside is not entered (EXDEV).
  func removeContents(of directory: Descriptor, keeping: Set<String> = []) throws(SystemError) {
    let device = try status(directory).device
    try removeContents(of: directory, keeping: keeping, device: device, depth: 0)
  }

  /// Removes a directory and all it holds, under the same rules.
  func removeTree(_ name: String, in parent: Descriptor) throws(SystemError) {
    let directory = try open(name, in: parent, .directoryWithoutLink)
    try removeContents(of: directory)
    try remove(name, in: parent, isDirectory: true)
  }

  private func removeContents(of directory: Descriptor, keeping: Set<String>, device: UInt64, depth: Int) throws(SystemError) {
    guard depth < Limit.removedNesting else { throw SystemError(call: .remove, code: ELOOP) }
    for name in try list(directory, limit: Limit.directoryNames).names where !keeping.contains(name) {
      guard let entry = try status(name, in: directory, followingLink: false) else { continue }
      guard entry.kind == .directory else {
        try remove(name, in: directory, isDirectory: false)
        continue
      }
      guard entry.device == device else { throw SystemError(call: .remove, code: EXDEV) }
      let inner = try open(name, in: directory, .directoryWithoutLink)
      try removeContents(of: inner, keeping: [], device: device, depth: depth + 1)
      try remove(name, in: directory, isDirectory: true)
    }
  }
}
