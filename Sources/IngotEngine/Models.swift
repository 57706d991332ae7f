package import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
internal import IngotStorage

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

  package init(path: String, checkpoint: Checkpoint, sources: [any ByteSource], files: (any ModelFiles)?, isLocal: Bool = true) {
    self.path = path
    self.checkpoint = checkpoint
    self.sources = sources
    self.files = files
    self.isLocal = isLocal
  }
}

/// Opens the models that recipes name. Called while planning, one model at a time.
package protocol ModelProvider: Sendable {
  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel
}

/// Models on this machine: directories, weight files, and names in the local cache of the Hugging Face hub. Opens no network connection.
package struct LocalModels: ModelProvider {
  private let environment: [String: String]

  /// - Parameters: `environment` gives HOME, HF_HOME and HF_HUB_CACHE.
  package init(environment: [String: String]) { self.environment = environment }

  package func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    let parsed = try Self.parse(reference)
    if let adapter = parsed.adapter {
      throw IngotError(
        .unsupported, "the adapter \(adapter) in a model reference is not supported in this version",
        hint: "merge the adapter into its base first", subject: reference.name, position: reference.position)
    }
    let lookup = { (name: String) in environment[name] }
    let candidates = parsed.model.candidates(environment: lookup) { path in
      guard let file = try? StoredFile(path), let bytes = try? file.readBytes(at: 0, count: min(file.size, 4096), limit: 4096) else {
        return nil
      }
      return String(decoding: bytes, as: UTF8.self)
    }
    for candidate in candidates {
      guard let status = try fileStatus(candidate.path) else { continue }
      do throws(IngotError) {
        return try open(path: candidate.path, isDirectory: status.kind == .directory, isLocal: candidate.origin == .local)
      } catch {
        var placed = error
        if placed.position == nil { placed.position = reference.position }
        throw placed
      }
    }
    throw parsed.model.notFound(environment: lookup, position: reference.position)
  }

  /// Opens a directory or one weight file.
  package func open(path: String, isDirectory: Bool, isLocal: Bool = true) throws(IngotError) -> ProvidedModel {
    var directory = path
    var fileName: String?
    if !isDirectory {
      let slash = path.lastIndex(of: "/")
      directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
      fileName = slash.map { String(path[path.index(after: $0)...]) } ?? path
    }
    let files = DirectoryFiles(directory)
    let checkpoint = try Checkpoint.open(files: files, fileName: fileName) { header in
      let digest = Digest128(of: header)
      return UInt128(digest.high) << 64 | UInt128(digest.low)
    }
    var sources: [any ByteSource] = []
    for shard in checkpoint.shards { sources.append(try FileSource(files.place(of: shard.name))) }
    return ProvidedModel(path: path, checkpoint: checkpoint, sources: sources, files: files, isLocal: isLocal)
  }

  /// The parts of a reference, from its text or its mapping.
  static func parse(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> IngotCheckpoints.ModelReference {
    switch reference.location {
    case .text(let text): try IngotCheckpoints.ModelReference(parsing: text, position: reference.position)
    case .fields(let path, let revision): IngotCheckpoints.ModelReference(model: .init(path: path, revision: revision))
    }
  }
}

/// The files of a model directory.
package struct DirectoryFiles: ModelFiles {
  package let displayPath: String

  package init(_ path: String) { displayPath = path }

  /// The path of one of the files.
  package func place(of name: String) -> String { displayPath.hasSuffix("/") ? displayPath + name : displayPath + "/" + name }

  package func fileNames() throws(IngotError) -> [String] {
    var names: [String] = []
    for entry in try DirectoryListing(displayPath).entries {
      if entry.status.kind == .file {
        names.append(entry.name)
      } else if entry.status.kind == .directory, !entry.name.hasPrefix(".") {
        // One level is enough for what models ship: templates and assets.
        for inner in try DirectoryListing(displayPath + "/" + entry.name).entries where inner.status.kind == .file {
          names.append(entry.name + "/" + inner.name)
        }
      }
    }
    return names
  }

  package func size(of name: String) throws(IngotError) -> UInt64? {
    guard let status = try fileStatus(place(of: name)), status.kind == .file else { return nil }
    return UInt64(status.size)
  }

  package func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let offset = Int(exactly: offset) else {
      throw IngotError(.io, "offset \(offset) is beyond what files have", subject: place(of: name))
    }
    return try StoredFile(place(of: name)).readBytes(at: offset, count: count, limit: count)
  }

  package func modificationTime(of name: String) -> Int64 { (try? fileStatus(place(of: name)))?.modified ?? 0 }
}

/// A weight file that is read by position.
final class FileSource: ByteSource {
  private let file: StoredFile

  init(_ path: String) throws(IngotError) { file = try StoredFile(path) }

  var name: String { file.path }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    // SAFETY: the caller owns the destination for the call.
    try unsafe file.read(into: destination, at: offset)
  }

  func requireUnchanged() throws(IngotError) { try file.checkUnchanged() }

  func willRead(_ range: Range<Int>) { file.advise(.willNeed, offset: range.lowerBound, count: range.count) }
}
