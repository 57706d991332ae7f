internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// Factors of adapters in a layout of ours: a record in JSON and one file of tensors, written module by module (a basis, a pack).
///
/// Thread rule: not Sendable; one thread.
protocol FactorDirectory: AnyObject {
  static var recordName: String { get }
  static var weightsName: String { get }

  /// What is done, in words: it goes into `ingot.json`.
  var identity: String { get }
  var notices: [Notice] { get }
  /// The record's text.
  var recordBytes: [UInt8] { get }
  var moduleNames: [String] { get }
  /// All tensors in the order in which they are written.
  var tensors: [TensorDescription] { get }

  /// Matrix memory of one module, bytes.
  func workspaceBytes(of module: Int) throws(IngotError) -> Int
  /// Computes a module and writes its tensors.
  func write(_ module: Int, to writer: TensorFileWriter, _ file: OutputFile, _ workspace: MatrixWorkspace) throws(IngotError)
  /// Writes what belongs to no module.
  func writeRest(to writer: TensorFileWriter, _ file: OutputFile) throws(IngotError)
  func requireUnchanged() throws(IngotError)
}

extension Engine {
  /// What came of writing a directory of factors.
  struct WrittenFactors {
    /// Of the file of tensors.
    var bytes: Int
    var workspaceBytes: Int
    var seconds: Double
    var notices: [Notice]
  }

  /// Writes the directory, which appears in one rename when everything is there; one module at a time. A run that fails leaves nothing behind.
  ///
  /// Throws `.memory` when one module does not fit the budget, and what computing and writing throw.
  func write<Directory: FactorDirectory>(
    _ factors: Directory, to destination: String, options: AdapterOutputOptions, watcher: Watcher, since start: UInt64
  ) throws(IngotError) -> WrittenFactors {
    let need = try workspaceBytes(of: factors.moduleNames) { (module) throws(IngotError) in try factors.workspaceBytes(of: module) }
    let writer = try TensorFileWriter(factors.tensors)
    let request = try options.request(
      destination, identity: factors.identity, markers: [Directory.recordName, Directory.weightsName], bytes: writer.fileSize)
    let directory = try OutputDirectory(request)
    do throws(IngotError) {
      try directory.writeFile(Directory.weightsName) { (file) throws(IngotError) in
        let workspace = try MatrixWorkspace(capacity: need)
        try writer.begin(file)
        try write(factors, to: writer, file, workspace, watcher)
      }
      try directory.writeSmallFile(Directory.recordName, factors.recordBytes)
      try directory.writeSmallFile(MergeRecord.fileName, Array(writer.record(factors.identity, file: Directory.weightsName).utf8))
      try factors.requireUnchanged()
      let notices = try factors.notices + directory.notices + directory.commit()
      return WrittenFactors(
        bytes: writer.fileSize, workspaceBytes: need, seconds: Double(Watcher.now() - start) / 1e9, notices: notices)
    } catch {
      directory.discard()
      throw error
    }
  }

  private func write(
    _ factors: some FactorDirectory, to writer: TensorFileWriter, _ file: OutputFile, _ workspace: MatrixWorkspace, _ watcher: Watcher
  ) throws(IngotError) {
    let all = factors.moduleNames.count
    for (module, name) in factors.moduleNames.enumerated() {
      watcher.look(Progress(bytesDone: module, bytesTotal: all, tensorsDone: module, tensorsTotal: all, tensor: nil))
      if let stop = watcher.stop { throw stop }
      try naming(name) { () throws(IngotError) in try factors.write(module, to: writer, file, workspace) }
    }
    try factors.writeRest(to: writer, file)
  }

  /// The most matrix memory that one of some modules needs. Throws `.memory` beyond the budget.
  func workspaceBytes(of modules: [String], _ bytes: (Int) throws(IngotError) -> Int) throws(IngotError) -> Int {
    var (most, name) = (0, "")
    for (module, own) in modules.enumerated() {
      let need = try naming(own) { () throws(IngotError) in try bytes(module) }
      if need > most { (most, name) = (need, own) }
    }
    guard most <= options.memoryBudget else {
      throw IngotError(
        .memory, "the memory budget is \(options.memoryBudget) bytes, but one module needs \(most)",
        hint: "raise the budget, for example --memory \(most / (1 << 20) + 1)MiB", subject: name)
    }
    return most
  }

  /// Runs what concerns one module: an error without a subject is about it.
  private func naming<Result>(_ module: String, _ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
    do throws(IngotError) {
      return try body()
    } catch { throw error.about(module) }
  }
}

extension AdapterOutputOptions {
  /// The request for a directory of `bytes` bytes that is written as a whole or not at all.
  func request(_ destination: String, identity: String, markers: [String], bytes: Int) throws(IngotError) -> OutputRequest {
    var request = OutputRequest(
      destination: try DestinationPath(destination), files: [],
      identity: RunIdentity(plan: Digest128(of: identity), sources: Digest128(of: "adapter")), force: force, sync: sync,
      replaceableMarkers: markers, otherBytes: bytes, system: system)
    request.canResume = false
    return request
  }
}
