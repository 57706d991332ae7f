import CPlatform

/// What the file system says of a file. Two equal statuses of one path mean that nobody wrote to it in between (as far as the
/// clock of the file system tells).
package struct FileStatus: Hashable, Sendable {
  package enum Kind: Sendable { case file, directory, link, other }

  package var kind: Kind
  /// Bytes.
  package var size: Int
  /// Time of the last change of the contents, in nanoseconds since 1970; the far past or future is clamped.
  package var modified: Int64
  /// Bytes that the file occupies on the medium.
  package var allocated: Int
  package var device: UInt64
  package var inode: UInt64

  init(_ raw: ingot_file_status) {
    kind =
      switch Int(raw.kind) {
      case INGOT_KIND_FILE: .file
      case INGOT_KIND_DIRECTORY: .directory
      case INGOT_KIND_LINK: .link
      default: .other
      }
    size = Int(clamping: raw.size)
    allocated = Int(clamping: raw.allocated)
    device = raw.device
    inode = raw.inode
    let (seconds, overflow) = raw.modified_seconds.multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, overflow2) = seconds.addingReportingOverflow(Int64(raw.modified_nanoseconds))
    modified = overflow || overflow2 ? (raw.modified_seconds < 0 ? .min : .max) : sum
  }

  func isSameFile(as other: FileStatus) -> Bool { device == other.device && inode == other.inode }
}

/// How a range of a file will be read.
package enum FileAccess: Sendable {
  case sequential, random, willNeed, dontNeed

  var advice: Int32 {
    switch self {
    case .sequential: Int32(INGOT_ADVICE_SEQUENTIAL)
    case .random: Int32(INGOT_ADVICE_RANDOM)
    case .willNeed: Int32(INGOT_ADVICE_WILL_NEED)
    case .dontNeed: Int32(INGOT_ADVICE_DONT_NEED)
    }
  }
}
