package import IngotErrors

/// A file whose size is known before the run.
package struct PlannedFile: Hashable, Sendable {
  /// A plain relative path inside the output directory.
  package var name: String
  /// Bytes.
  package var size: Int

  package init(name: String, size: Int) {
    self.name = name
    self.size = size
  }
}

/// What a run wants to write and how.
package struct OutputRequest: Sendable {
  package enum Sync: String, Sendable, CaseIterable {
    /// Files and directories reach the medium before the rename, and the rename before the end.
    case all
    /// Nothing waits for the medium.
    case none
  }

  package var destination: DestinationPath
  package var files: [PlannedFile]
  package var identity: RunIdentity
  /// Go on with a partial output of the same identity; without one, start a fresh one.
  package var resume: Bool
  /// False for outputs that are written in one go, so that no message speaks of resuming.
  package var canResume = true
  /// Discard a partial output, and replace the destination if it is there.
  package var force: Bool
  package var sync: Sync
  /// Large files are written past the page cache where the file system can.
  package var isDirect: Bool
  /// `force` replaces only a directory that is empty or holds one of these names, so that a slip of the keyboard does not
  /// delete a home directory. Empty: any directory.
  package var replaceableMarkers: [String]
  /// Bytes of the small files that are written whole later, for the check of free space.
  package var otherBytes: Int
  /// A directory inside the partial output for what is needed only while the run lasts. It is kept for a run that resumes, and removed before
  /// the output is published.
  package var scratchName: String?
  package var system: System

  package init(
    destination: DestinationPath, files: [PlannedFile], identity: RunIdentity, resume: Bool = false, force: Bool = false,
    sync: Sync = .all, isDirect: Bool = true, replaceableMarkers: [String] = [], otherBytes: Int = 0, system: System = .live
  ) {
    self.destination = destination
    self.files = files
    self.identity = identity
    self.resume = resume
    self.force = force
    self.sync = sync
    self.isDirect = isDirect
    self.replaceableMarkers = replaceableMarkers
    self.otherBytes = otherBytes
    self.system = system
  }

  /// Bytes of all files. Throws `.invalidArgument` for a negative or absurd size, a bad name, or a name twice.
  package func byteCount() throws(IngotError) -> Int {
    var total = max(0, otherBytes)
    var seen: Set<String> = []
    for file in files {
      _ = try plainComponents(file.name)
      guard seen.insert(file.name).inserted else {
        throw IngotError(.invalidArgument, "the output has two files of this name", subject: file.name)
      }
      let (sum, overflow) = total.addingReportingOverflow(file.size)
      guard file.size >= 0, !overflow else {
        throw IngotError(.invalidArgument, "found a file size of \(file.size) bytes, expected a possible one", subject: file.name)
      }
      total = sum
    }
    return total
  }
}
