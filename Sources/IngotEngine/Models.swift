package import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
package import IngotStorage
internal import Synchronization

/// A model that a recipe named, opened: its description, where its bytes are, and its other files.
package struct ProvidedModel: Sendable {
  /// Where it was found.
  package var path: String
  package var checkpoint: Checkpoint
  /// One for each of the checkpoint's shards.
  package var sources: [any ByteSource]
  /// Side files; nil for models that are no directory.
  package var files: (any ModelFiles)?
  /// True when it is a path of this machine rather than a name of the hub.
  package var isLocal: Bool
  /// The adapters and packs that are applied to it, in that order.
  package var adapters: [ProvidedAdapter] = []
  /// The plan of the document that makes it, where the model is no file's.
  var stage: Plan?

  package init(path: String, checkpoint: Checkpoint, sources: [any ByteSource], files: (any ModelFiles)?, isLocal: Bool = true) {
    self.path = path
    self.checkpoint = checkpoint
    self.sources = sources
    self.files = files
    self.isLocal = isLocal
  }
}

/// Where an adapter or a pack of a model was found.
package struct ProvidedAdapter: Sendable {
  package var path: String
  package var isLocal: Bool
  /// The task, of a pack.
  package var task: String?
}

/// Opens the models that recipes name. Called while planning, one model at a time.
package protocol ModelProvider: Sendable {
  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel

  /// A model that was found elsewhere, with the adapters applied that `reference` names behind its `+`.
  func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel
}

extension ModelProvider {
  package func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    throw IngotError(
      .unsupported, "the adapter of \(reference.name) cannot be found where these models come from", subject: reference.name,
      position: reference.position)
  }
}

/// Models on this machine: directories, weight files, and names in the local cache of the Hugging Face hub. Opens no network connection.
package struct LocalModels: ModelProvider {
  private let environment: [String: String]
  private let system: System

  /// - Parameters: `environment` gives HOME, HF_HOME and HF_HUB_CACHE; tests make calls of `system` fail.
  package init(environment: [String: String], system: System = .live) {
    self.environment = environment
    self.system = system
  }

  package func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    let parsed = try Self.parse(reference)
    do throws(IngotError) {
      let model = try find(parsed.model, at: reference.position) { (path, isDirectory, isLocal) throws(IngotError) in
        try open(path: path, isDirectory: isDirectory, isLocal: isLocal)
      }
      return try adapting(model, as: reference)
    } catch { throw error.at(reference.position) }
  }

  package func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    let parsed = try Self.parse(reference)
    var adapted = model
    do throws(IngotError) {
      for part in parsed.adapters { adapted = try adapting(adapted, by: part, name: parsed.model.description, at: reference.position) }
    } catch { throw error.at(reference.position) }
    return adapted
  }

  private func adapting(
    _ model: ProvidedModel, by part: IngotCheckpoints.ModelReference.Part, name: String, at position: SourcePosition
  ) throws(IngotError) -> ProvidedModel {
    try find(part, at: position) { (path, isDirectory, isLocal) throws(IngotError) in
      if let pack = try Self.pack(at: path, isDirectory: isDirectory, isLocal: isLocal) {
        return try model.applying(pack: pack, task: part.task, name: name)
      }
      if let task = part.task {
        throw IngotError(.invalidArgument, "the task \(task.prefix(60)) is named, and only packs have tasks", subject: path)
      }
      let opened = try adapter(path, isDirectory: isDirectory, isLocal: isLocal)
      return try model.applying(opened.model, files: opened.files, name: name)
    }
  }

  /// Opens a PEFT adapter that stands in no recipe: its directory, its weight file, or a name of the hub's cache.
  ///
  /// Throws `.notFound`, `.io`, `.format`, and what reading the config throws.
  package func openAdapter(named text: String) throws(IngotError) -> OpenedAdapter {
    let nowhere = SourcePosition(origin: "", line: 0, column: 0)
    // A path that exists may have any characters.
    let parsed =
      try fileStatus(text, system: system) != nil
      ? IngotCheckpoints.ModelReference(model: .init(path: text)) : try IngotCheckpoints.ModelReference(parsing: text)
    guard parsed.adapters.isEmpty else {
      throw IngotError(.invalidArgument, "found a model with an adapter, expected an adapter", subject: text)
    }
    do throws(IngotError) {
      return try find(parsed.model, at: nowhere) { (path, isDirectory, isLocal) throws(IngotError) in
        let opened = try adapter(path, isDirectory: isDirectory, isLocal: isLocal)
        return try OpenedAdapter(opened.model, files: opened.files, name: text)
      }
    } catch {
      var failure = error
      if failure.position == nowhere { failure.position = nil }
      throw failure
    }
  }

  /// Hands the first place where `part` is to `body`.
  private func find<Found>(
    _ part: IngotCheckpoints.ModelReference.Part, at position: SourcePosition,
    _ body: (_ path: String, _ isDirectory: Bool, _ isLocal: Bool) throws(IngotError) -> Found
  ) throws(IngotError) -> Found {
    let lookup = { (name: String) in environment[name] }
    let candidates = part.candidates(environment: lookup) { path in
      guard let file = try? StoredFile(path, system: system),
        let bytes = try? file.readBytes(at: 0, count: min(file.size, 4096), limit: 4096)
      else {
        return nil
      }
      return String(decoding: bytes, as: UTF8.self)
    }
    for candidate in candidates {
      guard let status = try fileStatus(candidate.path, system: system) else { continue }
      return try body(candidate.path, status.kind == .directory, candidate.origin == .local)
    }
    throw part.notFound(environment: lookup, position: position)
  }

  /// The pack in a directory or a file; nil where there is none.
  static func pack(at path: String, isDirectory: Bool, isLocal: Bool) throws(IngotError) -> ProvidedModel? {
    let parts = isDirectory ? (directory: path, name: DeltaPack.fileName) : split(path)
    let files = DirectoryFiles(parts.directory)
    guard parts.name.hasSuffix(".safetensors"), try files.size(of: parts.name) != nil else { return nil }
    let found = try provide(files, parts.name, path: path, isLocal: isLocal)
    return DeltaPack.isPack(found.checkpoint) ? found : nil
  }

  /// The weights of an adapter, without its meaning.
  private func adapter(
    _ path: String, isDirectory: Bool, isLocal: Bool
  ) throws(IngotError) -> (model: ProvidedModel, files: DirectoryFiles) {
    let files = DirectoryFiles(isDirectory ? path : Self.split(path).directory, system: system)
    var name = isDirectory ? nil : Self.split(path).name
    for candidate in Adapter.fileNames where name == nil {
      if try files.size(of: candidate) != nil { name = candidate }
    }
    guard let name else {
      throw IngotError(
        .notFound, "the adapter has no \(Adapter.fileNames.joined(separator: " and no "))",
        hint: "is this the adapter's directory, and is its download complete?", subject: path)
    }
    return (try Self.provide(files, name, path: path, isLocal: isLocal), files)
  }

  private static func split(_ path: String) -> (directory: String, name: String) {
    guard let slash = path.lastIndex(of: "/") else { return (".", path) }
    return (slash == path.startIndex ? "/" : String(path[..<slash]), String(path[path.index(after: slash)...]))
  }

  /// Opens a directory or one weight file.
  package func open(path: String, isDirectory: Bool, isLocal: Bool = true) throws(IngotError) -> ProvidedModel {
    let parts = isDirectory ? (directory: path, name: nil) : Self.split(path) as (directory: String, name: String?)
    return try Self.provide(DirectoryFiles(parts.directory, system: system), parts.name, path: path, isLocal: isLocal)
  }

  private static func provide(
    _ files: DirectoryFiles, _ fileName: String?, path: String, isLocal: Bool
  ) throws(IngotError) -> ProvidedModel {
    let checkpoint = try Checkpoint.open(files: files, fileName: fileName) { header in
      let digest = Digest128(of: header)
      return UInt128(digest.high) << 64 | UInt128(digest.low)
    }
    var sources: [any ByteSource] = []
    for shard in checkpoint.shards { sources.append(try FileSource(files.place(of: shard.name), system: files.system)) }
    return ProvidedModel(path: path, checkpoint: checkpoint, sources: sources, files: files, isLocal: isLocal)
  }

  /// The parts of a reference, from its text or its mapping.
  package static func parse(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> IngotCheckpoints.ModelReference {
    var parsed = try parse(reference.location, at: reference.position)
    for adapter in reference.adapters {
      switch adapter {
      case .text(let text):
        parsed.adapters.append(try IngotCheckpoints.ModelReference.adapter(parsing: text, position: reference.position))
      case .fields(let path, let revision, let task): parsed.adapters.append(.init(path: path, revision: revision, task: task))
      }
    }
    return parsed
  }

  private static func parse(
    _ location: IngotRecipes.ModelReference.Location, at position: SourcePosition
  ) throws(IngotError) -> IngotCheckpoints.ModelReference {
    switch location {
    case .text(let text): try IngotCheckpoints.ModelReference(parsing: text, position: position)
    case .fields(let path, let revision, _): IngotCheckpoints.ModelReference(model: .init(path: path, revision: revision))
    }
  }
}

/// The files of a model directory.
package struct DirectoryFiles: ModelFiles {
  package let displayPath: String
  let system: System

  package init(_ path: String, system: System = .live) {
    displayPath = path
    self.system = system
  }

  /// The path of one of the files.
  package func place(of name: String) -> String { displayPath.hasSuffix("/") ? displayPath + name : displayPath + "/" + name }

  package func fileNames() throws(IngotError) -> [String] {
    var names: [String] = []
    for entry in try DirectoryListing(displayPath, system: system).entries {
      if entry.status.kind == .file {
        names.append(entry.name)
      } else if entry.status.kind == .directory, !entry.name.hasPrefix(".") {
        // One level is enough for what models ship: templates and assets.
        for inner in try DirectoryListing(displayPath + "/" + entry.name, system: system).entries where inner.status.kind == .file {
          names.append(entry.name + "/" + inner.name)
        }
      }
    }
    return names
  }

  package func size(of name: String) throws(IngotError) -> UInt64? {
    guard let status = try fileStatus(place(of: name), system: system), status.kind == .file else { return nil }
    return UInt64(status.size)
  }

  package func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let offset = Int(exactly: offset) else {
      throw IngotError(.io, "offset \(offset) is beyond what files have", subject: place(of: name))
    }
    return try StoredFile(place(of: name), system: system).readBytes(at: offset, count: count, limit: count)
  }

  package func modificationTime(of name: String) -> Int64 { (try? fileStatus(place(of: name), system: system))?.modified ?? 0 }
}

/// A weight file that is read by position.
///
/// What will be read is announced only while reads turn out to wait for the medium: asking costs as much as half a read of what lies in the page
/// cache already.
final class FileSource: ByteSource {
  /// Announcements that a slow read pays for, and those that a new file has.
  private static let announcements = (afterSlowRead: 16, atFirst: 4)

  private let file: StoredFile
  private let announcements = Atomic(FileSource.announcements.atFirst)

  init(_ path: String, system: System = .live) throws(IngotError) { file = try StoredFile(path, system: system) }

  var name: String { file.path }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let start = Watcher.now()
    // SAFETY: the caller owns the destination for the call.
    try unsafe file.read(into: destination, at: offset)
    // Slower than 10 µs and a byte per nanosecond is no page cache.
    if Watcher.now() - start > 10_000 + UInt64(destination.count) {
      announcements.store(Self.announcements.afterSlowRead, ordering: .relaxed)
    }
  }

  func requireUnchanged() throws(IngotError) { try file.checkUnchanged() }

  func willRead(_ range: Range<Int>) {
    let left = announcements.load(ordering: .relaxed)
    if left <= 0 { return }
    // A lost update between workers is one announcement more or less.
    announcements.store(left - 1, ordering: .relaxed)
    file.advise(.willNeed, offset: range.lowerBound, count: range.count)
  }

  func willReadOnce(_ range: Range<Int>, step: Int, node: Int, _ ahead: ReadAhead) {
    let left = announcements.load(ordering: .relaxed)
    if left <= 0 && !ahead.takesEverything { return }
    switch ahead.request(file, range, step: step, node: node) {
    case .underWay: announcements.store(Self.announcements.afterSlowRead, ordering: .relaxed)
    case .present: announcements.store(left - 1, ordering: .relaxed)
    case .left(let rest): willRead(rest)
    }
  }

  func take(_ range: Range<Int>, _ ahead: ReadAhead) -> ReadAhead.Held? { ahead.take(file, range) }
}
