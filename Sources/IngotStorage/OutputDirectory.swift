import Glibc
package import IngotErrors
import Synchronization

/// A directory that is being written as `OUT.partial` beside its destination and appears as `OUT` in one rename, complete.
///
/// The journal inside is also the lock: whoever holds its flock owns the partial output. Files have their final size from the
/// start and are written at any offset from any thread; a finished tensor is noted in the journal. After `abandon`, or when
/// the process dies, the partial output stays and a run with the same identity can resume it. All paths are relative to
/// descriptors that were opened at the start, so a host that changes its working directory meanwhile does no harm.
///
/// `init`, `commit` and `abandon` belong to one thread; the rest is safe on any.
package final class OutputDirectory: Sendable {
  private enum Stage { case writing, published, abandoned }

  package let request: OutputRequest
  /// Files of known size, in the order of the request.
  package let files: [OutputFile]
  /// What the journal says was finished by earlier runs. To be checked against the files' bytes before it is believed.
  package let finished: [Int: Digest128]
  /// What a person should know: a lock that the file system does not have, unreadable journal lines.
  package let notices: [Notice]
  let parent: Descriptor
  let partial: Descriptor
  let journal: Descriptor
  private let stage = Mutex(Stage.writing)
  /// Files that were written whole, by name.
  private let smallFiles = Mutex<Set<String>>([])

  package var destination: DestinationPath { request.destination }
  var system: System { request.system }

  /// Checks everything that `OutputRequest.check` checks, takes the lock, and makes or takes over the files.
  ///
  /// Throws `.exists` (destination or partial output there, without the option that allows it), `.busy` (another run has it),
  /// `.stale` (resume of another plan or of changed sources), `.noSpace`, `.output`, `.invalidArgument`.
  package init(_ request: OutputRequest) throws(IngotError) {
    let needed = try request.byteCount()
    parent = try request.openParent()
    try request.checkDestination(in: parent)
    let taken = try request.takePartial(in: parent)
    do throws(IngotError) {
      // Another run may have published between the first look and the lock: only a run that holds the lock knows.
      try request.checkDestination(in: parent)
      var notices = taken.notices
      let resumed = try request.prepare(taken, parent: parent, needed: needed, notices: &notices)
      files = try request.makeFiles(in: taken.directory)
      finished = resumed.finished
      self.notices = notices
    } catch {
      // What this call made and found no use for must not stand in the way of the next.
      request.giveBack(taken, in: parent)
      throw error
    }
    partial = taken.directory
    journal = taken.journal
    self.request = request
  }

  /// The file of this name; throws `.internalError` if it was not planned.
  package func file(_ name: String) throws(IngotError) -> OutputFile {
    guard let file = files.first(where: { $0.name == name }) else {
      throw IngotError(.internalError, "no file of this name was planned", subject: name)
    }
    return file
  }

  /// Notes that all bytes of a tensor are written (not necessarily on the medium) and have this digest.
  package func record(tensor index: Int, digest: Digest128) throws(IngotError) {
    try output(destination.partialPath, "write the journal") { () throws(SystemError) in
      try system.append(journal, Array(Journal.tensorLine(index, digest).utf8))
    }
  }

  /// Writes a whole file, such as config.json, replacing what an earlier run left of it.
  package func writeSmallFile(_ name: String, _ bytes: [UInt8]) throws(IngotError) {
    try writeSideFile(name, size: bytes.count) { (file) throws(IngotError) in try file.write(bytes, at: 0) }
  }

  /// Copies a whole file in pieces of 1 MiB, replacing what an earlier run left of it. Throws `.io` when it cannot be read, `.stale` when it
  /// changes meanwhile.
  package func copyFile(_ name: String, from source: StoredFile) throws(IngotError) {
    try writeSideFile(name, size: source.size) { (file) throws(IngotError) in
      var done = 0
      while done < source.size {
        let piece = try source.readBytes(at: done, count: min(Self.pieceBytes, source.size - done), limit: Self.pieceBytes)
        try file.write(piece, at: done)
        done += piece.count
      }
      try source.checkUnchanged()
    }
  }

  /// Writes a whole file whose size shows only while it is written, replacing what an earlier run left of it: it ends where `body` wrote last.
  package func writeFile(_ name: String, _ body: (OutputFile) throws(IngotError) -> Void) throws(IngotError) {
    try writeSideFile(name, size: nil, body)
  }

  private static let pieceBytes = 1 << 20

  private func writeSideFile(_ name: String, size: Int?, _ write: (OutputFile) throws(IngotError) -> Void) throws(IngotError) {
    let path = destination.partialPath + "/" + name
    let descriptor = try request.openFile(name, in: partial)
    let file = OutputFile(name: name, size: size ?? .max, path: path, descriptor: descriptor, system: system)
    try output(path, "set the file's size") { () throws(SystemError) in try system.truncate(descriptor, to: size ?? 0) }
    try write(file)
    if request.sync == .all { try file.sync() }
    smallFiles.withLock { _ = $0.insert(name) }
  }

  /// Makes the request's scratch directory if it is not there, and returns its path; nil when the request names none.
  package func makeScratch() throws(IngotError) -> String? {
    guard let name = request.scratchName else { return nil }
    let path = destination.partialPath + "/" + name
    try output(path, "make the scratch directory") { () throws(SystemError) in
      do throws(SystemError) { try system.makeDirectory(name, in: partial) } catch {
        if error.code != EEXIST { throw error }
      }
    }
    return path
  }

  private func removeScratch() throws(IngotError) {
    guard let name = request.scratchName else { return }
    try output(destination.partialPath + "/" + name, "remove the scratch directory") { () throws(SystemError) in
      do throws(SystemError) { try system.removeTree(name, in: partial) } catch {
        if error.code != ENOENT { throw error }
      }
    }
  }

  /// Removes the partial output and gives the lock back: for a run that failed and has nothing that another could go on with.
  package func discard() {
    guard stage.withLock({ $0 == .writing }) else { return }
    try? system.removeTree(destination.partialName, in: parent)
    abandon()
  }

  /// Leaves the partial output as it is and gives the lock back; for a run that failed or was cancelled. May be called twice.
  package func abandon() {
    stage.withLock { if $0 == .writing { $0 = .abandoned } }
    system.unlock(journal)
  }

  /// Publishes: syncs (if asked for), renames the partial output to the destination, and deletes what it replaced. The
  /// destination is then there with all files, or, if this throws, as it was before, and the partial output can be resumed.
  /// Returns notices of things that went wrong after the rename and left the output whole.
  ///
  /// Throws `.exists` if the destination appeared meanwhile and `force` is off, `.noSpace`, `.output`.
  package func commit() throws(IngotError) -> [Notice] {
    guard stage.withLock({ $0 == .writing }) else {
      throw IngotError(.internalError, "an output directory is published once and not after it was abandoned")
    }
    try removeScratch()
    if request.sync == .all {
      for file in files { try file.sync() }
      try syncDirectories(of: files.map(\.name) + smallFiles.withLock { $0 })
    }
    let notices = try publish()
    stage.withLock { $0 = .published }
    return notices
  }

  deinit { abandon() }
}
