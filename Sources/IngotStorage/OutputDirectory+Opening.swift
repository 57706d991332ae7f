import Glibc
import IngotErrors

/// A partial output whose lock this run holds.
struct TakenPartial {
  var directory: Descriptor
  var journal: Descriptor
  /// This run made the directory.
  var isNew: Bool
  var notices: [Notice]
}

extension OutputRequest {
  /// Makes or opens OUT.partial and takes its lock.
  ///
  /// The journal is the lock file. During the final rename it waits beside the directory; one that a killed run left there is
  /// put back first. After the lock is taken, the name must still lead to the locked file: the run that held it before may
  /// have published and taken it away in between, and then this is tried again.
  func takePartial(in parent: Descriptor) throws(IngotError) -> TakenPartial {
    for _ in 0..<8 {
      let isNew = try makePartial(in: parent)
      guard let directory = try partialDirectory(in: parent) else { continue }
      if !isNew {
        if !resume, !force { try refuse(directory) }
        try restoreJournal(to: directory, in: parent)
      }
      var notices: [Notice] = []
      let journal = try output(destination.partialPath, "open the journal") { () throws(SystemError) in
        try system.open(Journal.fileName, in: directory, .append)
      }
      if let notice = try takeLock(journal) { notices.append(notice) }
      let (held, named) = try output(destination.partialPath, "look at the journal") {
        () throws(SystemError) -> (FileStatus, FileStatus?) in
        guard let now = try system.status(destination.partialName, in: parent, followingLink: false),
          now.isSameFile(as: try system.status(directory))
        else { return (try system.status(journal), nil) }
        return (try system.status(journal), try system.status(Journal.fileName, in: directory, followingLink: false))
      }
      if let named, named.isSameFile(as: held) {
        return TakenPartial(directory: directory, journal: journal, isNew: isNew, notices: notices)
      }
    }
    throw IngotError(
      .busy, "another process makes and removes this output all the time", hint: "choose another destination",
      subject: destination.partialPath)
  }

  /// True if the directory was not there.
  private func makePartial(in parent: Descriptor) throws(IngotError) -> Bool {
    do throws(SystemError) {
      try system.makeDirectory(destination.partialName, in: parent)
      return true
    } catch {
      if error.code == EEXIST { return false }
      throw error.asOutput(destination.partialPath, "make the partial output")
    }
  }

  /// Throws `.busy` or `.exists`, as it is.
  private func refuse(_ directory: Descriptor) throws(IngotError) {
    if let file = try? system.open(Journal.fileName, in: directory, .read) {
      do throws(SystemError) { try system.lock(file) } catch {
        if error.code == EWOULDBLOCK { throw busy(try? readJournal(file)) }
      }
    }
    throw partialExists()
  }

  private func restoreJournal(to directory: Descriptor, in parent: Descriptor) throws(IngotError) {
    do throws(SystemError) {
      guard try system.status(Journal.fileName, in: directory, followingLink: false) == nil else { return }
      let beside = try system.open(destination.journalBesideName, in: parent, .read)
      // A run that is publishing at this moment holds it. One without locks cannot be told from a dead one.
      do throws(SystemError) { try system.lock(beside) } catch { if error.code == EWOULDBLOCK { throw error } }
      try system.rename(destination.journalBesideName, in: parent, to: Journal.fileName, in: directory, .withoutReplacing)
    } catch {
      // None was left behind, or another run that resumes was faster.
      if [ENOENT, EEXIST].contains(error.code) { return }
      if error.call == .lock { throw busy(nil) }
      throw error.asOutput(destination.partialPath, "put the journal back")
    }
  }

  private func takeLock(_ journal: Descriptor) throws(IngotError) -> Notice? {
    do throws(SystemError) {
      try system.lock(journal)
      return nil
    } catch {
      switch error.code {
      case EWOULDBLOCK: throw busy(try? readJournal(journal))
      case ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL:
        return Notice(
          .warning, "this file system has no locks (\(error.text)): nothing stops a second run from writing the same output",
          subject: destination.partialPath)
      default: throw error.asOutput(destination.partialPath, "lock the partial output")
      }
    }
  }

  /// Decides between resuming and starting afresh, removes what does not belong, and leaves a journal that ends in this run's
  /// own line.
  func prepare(
    _ taken: TakenPartial, parent: Descriptor, needed: Int, notices: inout [Notice]
  ) throws(IngotError) -> Journal {
    var journal = Journal(parsing: [])
    if !taken.isNew, resume { journal = try resumable(try readJournal(taken.journal), in: taken.directory) }
    let isResumed = journal.identity != nil
    // Before anything is removed: what cannot be replaced is kept.
    try checkSpace(taken.directory, needed: needed, reusable: taken.isNew ? 0 : allocatedBytes(in: taken.directory))
    try output(destination.partialPath, "clear the partial output") { () throws(SystemError) in
      try system.removeContents(of: taken.directory, keeping: isResumed ? keptNames().union([Journal.fileName]) : [Journal.fileName])
    }
    if journal.skippedLines > 0 {
      notices.append(
        Notice(
          .warning, "\(journal.skippedLines) lines of the journal are not readable: their tensors are made again",
          subject: destination.partialPath))
    }
    let lines = (isResumed ? "" : Journal.header(identity)) + Journal.writerLine()
    try output(destination.partialPath, "write the journal") { () throws(SystemError) in
      try system.truncate(taken.journal, to: isResumed ? journal.completeBytes : 0)
      try system.append(taken.journal, Array(lines.utf8))
    }
    return journal
  }

  /// The journal of a run to go on with, one without identity to start afresh. Throws `.stale` if it is of another run and
  /// `force` is off.
  func resumable(_ journal: Journal, in directory: Descriptor) throws(IngotError) -> Journal {
    do throws(IngotError) {
      if journal.completeBytes > 0 {
        try journal.check(identity, subject: destination.partialPath)
        return journal
      }
      // Killed before its first line, or a directory that no run of ours made.
      let others = try output(destination.partialPath, "list the partial output") { () throws(SystemError) in
        try system.list(directory, limit: Limit.directoryNames).names.filter { $0 != Journal.fileName }
      }
      guard others.isEmpty else {
        throw IngotError(
          .stale, "found \(others.count) files and no journal, expected the output of an interrupted run",
          hint: "--force discards them and starts again", subject: destination.partialPath)
      }
    } catch {
      guard force, error.status == .stale else { throw error }
    }
    return Journal(parsing: [])
  }

  /// First components of the planned files: what a resumed run keeps.
  private func keptNames() -> Set<String> {
    Set(files.compactMap { $0.name.split(separator: "/").first.map(String.init) } + (scratchName.map { [$0] } ?? []))
  }

  /// Opens or makes a file and the directories on its way.
  func openFile(_ name: String, in directory: Descriptor) throws(IngotError) -> Descriptor {
    var parts = try plainComponents(name)
    let last = parts.removeLast()
    return try output(destination.partialPath + "/" + name, "make the file") { () throws(SystemError) in
      var inner = directory
      for part in parts {
        do throws(SystemError) { try system.makeDirectory(part, in: inner) } catch {
          if error.code != EEXIST { throw error }
        }
        inner = try system.open(part, in: inner, .directoryWithoutLink)
      }
      return try system.open(last, in: inner, .write)
    }
  }

  /// All planned files with their final size and blocks.
  func makeFiles(in directory: Descriptor) throws(IngotError) -> [OutputFile] {
    var made: [OutputFile] = []
    made.reserveCapacity(files.count)
    let writing = DirectWriting(waitsForMedium: sync == .all)
    for file in files {
      let path = destination.partialPath + "/" + file.name
      let descriptor = try openFile(file.name, in: directory)
      try output(path, "reserve \(file.size) bytes") { () throws(SystemError) in
        let now = try system.status(descriptor)
        guard now.kind == .file else { throw SystemError(call: .status, code: EEXIST) }
        if now.size > file.size { try system.truncate(descriptor, to: file.size) }
        try system.allocate(descriptor, size: file.size)
      }
      made.append(
        OutputFile(
          name: file.name, size: file.size, path: path, descriptor: descriptor, direct: openDirect(file, in: directory, writing),
          system: system))
    }
    return made
  }

  /// The file once more, for writes past the page cache; nil where the file system has none or the file is small. Never an error: the
  /// page cache does it as well.
  private func openDirect(
    _ file: PlannedFile, in directory: Descriptor, _ writing: DirectWriting
  ) -> (descriptor: Descriptor, writing: DirectWriting)? {
    guard isDirect, file.size >= DirectWriting.leastBytes, writing.isOn else { return nil }
    guard let descriptor = try? system.open(file.name, in: directory, .writeDirect),
      let alignment = system.directAlignment(descriptor), DirectWriting.alignment % alignment == 0
    else {
      writing.refuse()
      return nil
    }
    return (descriptor, writing)
  }

  /// Undoes an opening that failed: removes the directory if this run made it, and a journal that says nothing.
  func giveBack(_ taken: TakenPartial, in parent: Descriptor) {
    if taken.isNew {
      try? system.removeTree(destination.partialName, in: parent)
    } else if let status = try? system.status(taken.journal), status.size == 0 {
      try? system.remove(Journal.fileName, in: taken.directory, isDirectory: false)
    }
  }
}
