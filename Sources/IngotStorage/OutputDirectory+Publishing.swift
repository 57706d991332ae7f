import Glibc
import IngotErrors

extension OutputDirectory {
  /// Syncs the partial output and every directory on the way to one of these files.
  func syncDirectories(of files: [String]) throws(IngotError) {
    var names: Set<String> = []
    for file in files {
      var parts = file.split(separator: "/").dropLast()
      while !parts.isEmpty {
        names.insert(parts.joined(separator: "/"))
        parts = parts.dropLast()
      }
    }
    try output(destination.partialPath, "write the directory to the medium") { () throws(SystemError) in
      for name in names.sorted() { try system.sync(system.open(name, in: partial, .directoryWithoutLink)) }
      try system.sync(partial)
    }
  }

  /// Moves the journal beside the directory, renames the directory, and cleans up.
  ///
  /// A run that is killed between these steps loses nothing: before the rename, the next one finds the journal beside the
  /// directory and puts it back; after it, the output is complete and only the stray journal is left, which the next run
  /// beside it removes.
  func publish() throws(IngotError) -> [Notice] {
    let beside = destination.journalBesideName
    try output(destination.partialPath, "move the journal away") { () throws(SystemError) in
      try system.rename(Journal.fileName, in: partial, to: beside, in: parent, .replacing)
    }
    let replacedName: String?
    do throws(IngotError) {
      replacedName = try renameToDestination()
    } catch {
      try? system.rename(beside, in: parent, to: Journal.fileName, in: partial, .withoutReplacing)
      throw error
    }
    var notices: [Notice] = []
    func attempt(_ message: String, _ subject: String, _ body: () throws(SystemError) -> Void) {
      do throws(SystemError) { try body() } catch { notices.append(Notice(.warning, "\(message): \(error.text)", subject: subject)) }
    }
    if request.sync == .all {
      attempt("the output is complete, but its rename may not survive a power failure", destination.path) {
        () throws(SystemError) in try system.sync(parent)
      }
    }
    attempt("the output is complete, but its journal could not be removed", destination.parent + "/" + beside) {
      () throws(SystemError) in try system.remove(beside, in: parent, isDirectory: false)
    }
    if let replacedName {
      attempt("the output is complete, but what it replaced could not be removed", destination.parent + "/" + replacedName) {
        () throws(SystemError) in try system.removeTree(replacedName, in: parent)
      }
    }
    return notices
  }

  /// Returns the name that the replaced directory has now, nil if there was none.
  private func renameToDestination() throws(IngotError) -> String? {
    if request.force {
      if let replaced = try exchangeWithDestination() { return replaced }
    }
    do throws(SystemError) {
      try system.rename(destination.partialName, in: parent, to: destination.name, in: parent, .withoutReplacing)
    } catch {
      if error.code == EEXIST { throw appeared() }
      guard [EINVAL, ENOSYS, EOPNOTSUPP].contains(error.code) else { throw error.asOutput(destination.path, "rename the output") }
      // The file system knows no such rename. A plain one never replaces a directory that holds anything.
      try renamePlainly()
    }
    return nil
  }

  private func renamePlainly() throws(IngotError) {
    let found = try output(destination.path, "look at the destination") { () throws(SystemError) in
      try system.status(destination.name, in: parent, followingLink: false)
    }
    guard found == nil else { throw appeared() }
    try output(destination.path, "rename the output") { () throws(SystemError) in
      try system.rename(destination.partialName, in: parent, to: destination.name, in: parent, .replacing)
    }
  }

  private func appeared() -> IngotError {
    IngotError(
      .exists, "the destination was made by something else while this output was written",
      hint: "move it away and run again with --resume", subject: destination.path)
  }

  /// Exchanges the two directories and moves the old one out of the way. Nil if there is nothing to replace.
  private func exchangeWithDestination() throws(IngotError) -> String? {
    let replacedName = destination.name + ".replaced-\(System.writerName().prefix { $0 != " " })"
    // It may have changed since the run began.
    try request.checkDestination(in: parent)
    do throws(SystemError) {
      try system.rename(destination.partialName, in: parent, to: destination.name, in: parent, .exchanging)
    } catch {
      if error.code == ENOENT { return nil }
      guard [EINVAL, ENOSYS, EOPNOTSUPP].contains(error.code) else { throw error.asOutput(destination.path, "replace the destination") }
      return try replaceInTwoSteps(replacedName)
    }
    do throws(SystemError) {
      try system.rename(destination.partialName, in: parent, to: replacedName, in: parent, .withoutReplacing)
      return replacedName
    } catch {
      // It can be removed under the name it has.
      return destination.partialName
    }
  }

  /// Where the file system cannot exchange: for a moment the destination is missing, and a failure puts the old one back.
  private func replaceInTwoSteps(_ replacedName: String) throws(IngotError) -> String? {
    do throws(SystemError) {
      try system.rename(destination.name, in: parent, to: replacedName, in: parent, .replacing)
    } catch {
      if error.code == ENOENT { return nil }
      throw error.asOutput(destination.path, "move the old output away")
    }
    do throws(SystemError) {
      try system.rename(destination.partialName, in: parent, to: destination.name, in: parent, .replacing)
    } catch {
      try? system.rename(replacedName, in: parent, to: destination.name, in: parent, .replacing)
      throw error.asOutput(destination.path, "rename the output")
    }
    return replacedName
  }
}
