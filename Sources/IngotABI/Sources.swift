internal import CIngot
internal import IngotCheckpoints
internal import IngotEngine
internal import IngotErrors
internal import IngotRecipes
internal import IngotStorage
import Synchronization

// MARK: models from elsewhere: byte sources

/// The caller's resolver. Released when the last model and source opened through it is gone.
@safe
final class Resolver: @unchecked Sendable {
  // SENDABLE: a copy of the caller's struct that never changes; the header says from which threads its functions are called.
  private let functions: ingot_resolver

  /// Takes the caller's resolver over, unless it throws.
  init(_ pointer: UnsafePointer<ingot_resolver>) throws(IngotError) {
    unsafe functions = try ingot_resolver.copy(of: pointer)
    guard unsafe functions.open != nil else { throw nullArgument("open of ingot_resolver") }
  }

  deinit { unsafe functions.release?(functions.user) }

  /// The file's source, or nil when the model has no such file.
  func open(_ file: String, of model: String) throws(IngotError) -> CallbackSource? {
    var source = unsafe ingot_source()
    let room = unsafe UInt32(MemoryLayout<ingot_source>.stride)
    unsafe source.struct_size = room
    let (cModel, cFile) = (CText(model), CText(file))
    // SAFETY: the texts and the struct live for the call; `open` was checked in init.
    let answer = unsafe functions.open?(functions.user, cModel.pointer, cFile.pointer, &source) ?? Status.internalError.rawValue
    withExtendedLifetime((cModel, cFile)) {}
    if answer == Status.notFound.rawValue { return nil }
    guard answer == 0 else { throw callbackFailed("the resolver's open", answer, subject: "\(model)/\(file)") }
    // The struct is ours: behind it lies nothing that the caller could have filled.
    guard unsafe source.struct_size <= room else {
      throw IngotError(
        .invalidArgument,
        unsafe "the resolver's open set the struct_size of ingot_source to \(source.struct_size), expected \(room) or less",
        hint: "leave it as it is, or lower it", subject: "ingot_source")
    }
    return try unsafe CallbackSource(&source, name: "\(model)/\(file)", resolver: self)
  }

  /// Names of a model's files; nil when the caller gives no list.
  func list(_ model: String) throws(IngotError) -> [String]? {
    guard let list = unsafe functions.list else { return nil }
    let names = NameList()
    let cModel = CText(model)
    // SAFETY: `names` and the text outlive the call; `add` takes the pointer back at +0.
    let answer = unsafe list(
      functions.user, cModel.pointer, { names, name in unsafe NameList.add(names, name) }, Unmanaged.passUnretained(names).toOpaque())
    withExtendedLifetime((names, cModel)) {}
    if let refused = names.refused {
      throw IngotError(
        .callback, "the resolver's list gave the file name \"\(refused)\", expected a relative path inside the model", subject: model)
    }
    if answer == Status.notFound.rawValue { return [] }
    guard answer == 0 else { throw callbackFailed("the resolver's list", answer, subject: model) }
    return names.names
  }
}

/// Names that a resolver's `list` adds.
private final class NameList {
  private(set) var names: [String] = []
  private(set) var refused: String?

  static func add(_ names: UnsafeMutableRawPointer?, _ name: UnsafePointer<CChar>?) -> Int32 {
    guard let names = unsafe names, let name = unsafe name else { return Status.invalidArgument.rawValue }
    // SAFETY: the pointer that `list` passed along; +0, it lives until `list` returns.
    return unsafe Unmanaged<NameList>.fromOpaque(names).takeUnretainedValue().add(String(cString: name))
  }

  /// The names become paths of output files, so none may lead out of the output.
  private func add(_ name: String) -> Int32 {
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    if parts.allSatisfy({ !$0.isEmpty && $0 != "." && $0 != ".." }), !name.contains(where: { $0 == "\u{FFFD}" || $0 == "\n" }) {
      names.append(name)
      return 0
    }
    refused = refused ?? name
    return Status.invalidArgument.rawValue
  }
}

/// One file behind the caller's functions.
@safe
final class CallbackSource: ByteSource, @unchecked Sendable {
  /// A caller's source may be a network: what was read once is kept when the budget has room.
  let isCostlyToReread = true
  // SENDABLE: a copy of the caller's struct that never changes; the header says that read_at and map are called concurrently.
  let name: String
  let size: UInt64
  private let functions: ingot_source
  private let resolver: Resolver

  /// Takes over what `open` filled in; `release` is called also when this throws.
  init(_ source: UnsafePointer<ingot_source>, name: String, resolver: Resolver) throws(IngotError) {
    unsafe functions = try ingot_source.copy(of: source)
    self.name = name
    self.resolver = resolver
    var bytes: UInt64 = 0
    var failure: IngotError?
    if let size = unsafe functions.size, unsafe functions.read_at != nil {
      let answer = unsafe size(functions.user, &bytes)
      if answer != 0 { failure = callbackFailed("the source's size", answer, subject: name) }
    } else {
      failure = IngotError(.invalidArgument, "the resolver's open gave a source without size or read_at", subject: name)
    }
    size = bytes
    // From here on every member is set, so that deinit runs and releases.
    if let failure { throw failure }
  }

  deinit { unsafe functions.release?(functions.user) }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard let start = UInt64(exactly: offset), start <= size, UInt64(destination.count) <= size - start else {
      throw IngotError(.io, "found \(size) bytes, expected \(destination.count) from offset \(offset) on", subject: name)
    }
    guard let target = destination.baseAddress else { return }
    // SAFETY: the destination is the caller's for the call; `read_at` was checked in init.
    let answer = unsafe functions.read_at?(functions.user, start, target, UInt64(destination.count)) ?? Status.internalError.rawValue
    guard answer == 0 else {
      throw callbackFailed("the source's read_at of \(destination.count) bytes at \(offset)", answer, subject: name)
    }
  }

  func address(of range: Range<Int>) -> UnsafeRawPointer? {
    guard let start = UInt64(exactly: range.lowerBound), UInt64(range.upperBound) <= size else { return nil }
    return unsafe functions.map?(functions.user, start, UInt64(range.count))
  }
}

/// What a callback's nonzero answer becomes.
func callbackFailed(_ what: String, _ answer: Int32, subject: String) -> IngotError {
  IngotError(.callback, "\(what) returned \(answer), expected 0", subject: subject, userCode: answer)
}

/// The files of one model, each opened once through the resolver.
final class ResolvedFiles: ModelFiles {
  /// What is asked for when the resolver has no list: the files that models ship.
  private static let usualNames = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "preprocessor_config.json",
    "processor_config.json", "README.md",
  ]

  let displayPath: String
  private let resolver: Resolver
  private let opened = Mutex<[String: CallbackSource?]>([:])

  init(_ model: String, resolver: Resolver) {
    displayPath = model
    self.resolver = resolver
  }

  func source(_ name: String) throws(IngotError) -> CallbackSource? {
    if let known = opened.withLock({ $0[name] }) { return known }
    // Not under the lock: this calls the caller. Planning asks from one thread.
    let source = try resolver.open(name, of: displayPath)
    opened.withLock { $0[name] = .some(source) }
    return source
  }

  func fileNames() throws(IngotError) -> [String] {
    if let names = try resolver.list(displayPath) { return names }
    var names: [String] = []
    for name in Self.usualNames where try source(name) != nil { names.append(name) }
    return names
  }

  func size(of name: String) throws(IngotError) -> UInt64? { try source(name)?.size }

  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let source = try source(name), let start = Int(exactly: offset) else {
      throw IngotError(.io, "there is no such file, or it is shorter than \(offset) bytes", subject: "\(displayPath)/\(name)")
    }
    guard count >= 0, UInt64(count) <= source.size else {
      throw IngotError(.io, "found \(source.size) bytes, expected \(count) from offset \(offset) on", subject: source.name)
    }
    var failure: IngotError?
    // SAFETY: the new array's storage is ours for the closure; read fills all of it or throws.
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      do throws(IngotError) {
        unsafe try source.read(UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: count), at: start)
        filled = count
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return bytes
  }

  func modificationTime(of name: String) -> Int64 { 0 }
}

/// Models that the caller's resolver opens.
struct ResolvedModels: ModelProvider {
  let resolver: Resolver

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    do throws(IngotError) {
      let parts = try LocalModels.parse(reference)
      guard !parts.adapters.isEmpty else { return try open(reference.name) }
      return try adapting(try open(parts.model.description), as: reference)
    } catch { throw error.at(reference.position) }
  }

  func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    let parts = try LocalModels.parse(reference)
    var adapted = model
    do throws(IngotError) {
      for adapter in parts.adapters { adapted = try adapting(adapted, by: adapter, name: parts.model.description) }
    } catch { throw error.at(reference.position) }
    return adapted
  }

  private func adapting(
    _ model: ProvidedModel, by adapter: IngotCheckpoints.ModelReference.Part, name: String
  ) throws(IngotError) -> ProvidedModel {
    // The place alone: the task of a pack is ours.
    let files = ResolvedFiles(
      IngotCheckpoints.ModelReference.Part(path: adapter.path, revision: adapter.revision).description, resolver: resolver)
    if try files.size(of: DeltaPack.fileName) != nil {
      let pack = try provide(files, DeltaPack.fileName)
      if DeltaPack.isPack(pack.checkpoint) { return try model.applying(pack: pack, task: adapter.task, name: name) }
    }
    var fileName: String?
    for candidate in Adapter.fileNames where fileName == nil {
      if try files.size(of: candidate) != nil { fileName = candidate }
    }
    guard let fileName else {
      throw IngotError(.notFound, "the adapter has no \(Adapter.fileNames.joined(separator: " and no "))", subject: adapter.description)
    }
    return try model.applying(try provide(files, fileName), files: files, name: name)
  }

  private func open(_ model: String) throws(IngotError) -> ProvidedModel { try provide(ResolvedFiles(model, resolver: resolver), nil) }

  private func provide(_ files: ResolvedFiles, _ fileName: String?) throws(IngotError) -> ProvidedModel {
    let checkpoint = try Checkpoint.open(files: files, fileName: fileName) { header in
      let digest = Digest128(of: header)
      return UInt128(digest.high) << 64 | UInt128(digest.low)
    }
    var sources: [any ByteSource] = []
    for shard in checkpoint.shards {
      guard let source = try files.source(shard.name) else {
        throw IngotError(.notFound, "there is no such file", subject: "\(files.displayPath)/\(shard.name)")
      }
      sources.append(source)
    }
    return ProvidedModel(path: files.displayPath, checkpoint: checkpoint, sources: sources, files: files, isLocal: false)
  }
}
