import Glibc
package import IngotErrors

extension OutputRequest {
  /// Finds out, without writing anything, whether a run with this request could start: destination, partial output, parent
  /// and free space. Throws what the run would throw. Returns the bytes that are needed and free (nil: not known).
  @discardableResult
  package func check() throws(IngotError) -> (needed: Int, available: Int?) {
    let needed = try byteCount()
    let parent = try openParent()
    try checkDestination(in: parent)
    var reusable = 0
    if let partial = try partialDirectory(in: parent) {
      try checkPartial(partial, in: parent)
      reusable = allocatedBytes(in: partial)
    }
    return (needed, try checkSpace(parent, needed: needed, reusable: reusable))
  }

  func openParent() throws(IngotError) -> Descriptor {
    do throws(SystemError) {
      return try system.open(destination.parent, .directory)
    } catch {
      if error.code == ENOENT {
        throw IngotError(
          .output, "the parent directory does not exist", hint: "mkdir -p '\(destination.parent)'", subject: destination.parent)
      }
      throw error.asOutput(destination.parent, "open the destination's parent directory")
    }
  }

  /// Throws `.exists` unless the destination is free or may be replaced.
  func checkDestination(in parent: Descriptor) throws(IngotError) {
    let found = try output(destination.path, "look at the destination") { () throws(SystemError) in
      try system.status(destination.name, in: parent, followingLink: false)
    }
    guard let found else { return }
    switch found.kind {
    case .directory: break
    case .link:
      throw IngotError(
        .exists, "the destination is a symbolic link, expected nothing or a directory",
        hint: "give the path that the link points to", subject: destination.path)
    case .file, .other:
      throw IngotError(
        .exists, "the destination is there and is not a directory", hint: "choose another destination", subject: destination.path)
    }
    guard force else {
      throw IngotError(
        .exists, "the destination exists", hint: "choose another destination, or replace it with --force", subject: destination.path)
    }
    let names = try output(destination.path, "list the destination") { () throws(SystemError) in
      try system.list(system.open(destination.name, in: parent, .directoryWithoutLink), limit: Limit.directoryNames).names
    }
    guard names.isEmpty || replaceableMarkers.isEmpty || names.contains(where: replaceableMarkers.contains) else {
      throw IngotError(
        .exists,
        "the destination does not look like a model: found \(names.count) entries, expected none, or among them "
          + replaceableMarkers.joined(separator: " or "),
        hint: "--force only replaces a model's directory: remove this one yourself, or choose another destination",
        subject: destination.path)
    }
  }

  /// The partial output, nil if there is none.
  func partialDirectory(in parent: Descriptor) throws(IngotError) -> Descriptor? {
    let (found, directory) = try output(destination.partialPath, "open the partial output") {
      () throws(SystemError) -> (FileStatus?, Descriptor?) in
      let found = try system.status(destination.partialName, in: parent, followingLink: false)
      guard found?.kind == .directory else { return (found, nil) }
      return (found, try system.open(destination.partialName, in: parent, .directoryWithoutLink))
    }
    if let directory { return directory }
    guard let found else { return nil }
    throw IngotError(
      .exists, "found a \(found.kind), expected a directory or nothing", hint: "remove it or choose another destination",
      subject: destination.partialPath)
  }

  /// Throws `.busy` if a run holds the partial output, `.exists` unless it may be resumed or discarded.
  private func checkPartial(_ partial: Descriptor, in parent: Descriptor) throws(IngotError) {
    var journal = Journal(parsing: [])
    let inside = try? system.open(Journal.fileName, in: partial, .read)
    if let file = inside ?? (try? system.open(destination.journalBesideName, in: parent, .read)) {
      journal = try readJournal(file)
      // Let go again when `file` goes out of scope.
      do throws(SystemError) { try system.lock(file) } catch { if error.code == EWOULDBLOCK { throw busy(journal) } }
    }
    guard resume || force else { throw partialExists() }
    if resume { _ = try resumable(journal, in: partial) }
  }

  func partialExists() -> IngotError {
    IngotError(
      .exists, "a partial output of an interrupted run exists",
      hint: canResume ? "--resume goes on with it, --force discards it and starts again" : "--force discards it",
      subject: destination.partialPath)
  }

  func readJournal(_ file: Descriptor) throws(IngotError) -> Journal {
    let size = try output(destination.partialPath, "read the journal") { () throws(SystemError) in try system.status(file).size }
    guard size <= Limit.journalBytes else {
      throw IngotError(
        .stale, "found a journal of \(size) bytes, expected at most \(Limit.journalBytes)",
        hint: "--force discards the partial output and starts again", subject: destination.partialPath)
    }
    var bytes = [UInt8](repeating: 0, count: size)
    var result: Result<Int, SystemError> = .success(0)
    // SAFETY: the array's storage is this closure's own.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      result = Result { () throws(SystemError) in try unsafe system.read(file, into: buffer, at: 0) }
    }
    let found = try output(destination.partialPath, "read the journal") { () throws(SystemError) in try result.get() }
    return Journal(parsing: Array(bytes.prefix(found)))
  }

  func busy(_ journal: Journal?) -> IngotError {
    IngotError(
      .busy, "\(journal?.writer ?? "another process") is writing this output", hint: "wait for it, or choose another destination",
      subject: destination.partialPath)
  }

  /// Bytes that the planned files have on the medium already.
  func allocatedBytes(in partial: Descriptor) -> Int {
    guard resume || force else { return 0 }
    var sum = 0
    for file in files {
      if let found = try? system.status(file.name, in: partial, followingLink: false), found.kind == .file {
        sum += min(found.allocated, file.size)
      }
    }
    return sum
  }

  /// Throws `.noSpace` with what is needed and free. `reusable` bytes are already there.
  @discardableResult
  func checkSpace(_ directory: Descriptor, needed: Int, reusable: Int) throws(IngotError) -> Int? {
    let available = try output(destination.parent, "find out the free space") { () throws(SystemError) in
      try system.space(directory)
    }
    guard let available else { return nil }
    let more = max(0, needed - reusable)
    if more > available {
      throw IngotError(
        .noSpace, "the output needs \(describeBytes(more)), and \(describeBytes(available)) are free",
        hint: "free some space or choose a destination on another file system", subject: destination.parent)
    }
    return available
  }
}
