internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotStorage

extension Engine {
  /// Where stages are stored inside a partial output.
  static let scratchName = ".stages"

  /// Merges stages into the scratch directory of `output`, in this order; one that an interrupted run finished is used again. Returns their
  /// directories by plan, and what it took.
  func store(
    _ stages: [PlannedStage], in output: OutputDirectory, options: DirectoryOptions, watcher: Watcher
  ) throws(IngotError) -> (directories: [ObjectIdentifier: String], effort: RunReport) {
    var directories: [ObjectIdentifier: String] = [:]
    var effort = RunReport()
    guard !stages.isEmpty, let scratch = try output.makeScratch() else { return (directories, effort) }
    for (number, stage) in stages.enumerated() {
      // A number, since a name may be anything.
      let path = "\(scratch)/\(number + 1)"
      if try !isFinished(stage.plan, at: path, watcher) {
        do throws(IngotError) {
          effort.add(try store(stage.plan, at: path, options: options, watcher: watcher, stored: directories))
        } catch {
          var named = error
          named.message = "document \(stage.name): \(error.message)"
          throw named
        }
      }
      directories[ObjectIdentifier(stage.plan)] = path
    }
    return (directories, effort)
  }

  private func store(
    _ plan: Plan, at path: String, options: DirectoryOptions, watcher: Watcher, stored: [ObjectIdentifier: String]
  ) throws(IngotError) -> RunReport {
    // Nothing waits for the medium: what is believed later is hashed again first.
    let request = OutputRequest(
      destination: try DestinationPath(path), files: plan.files.map { .init(name: $0.name, size: $0.byteCount) },
      identity: RunIdentity(plan: plan.digest, sources: plan.sourceDigest), resume: true, force: true, sync: .none,
      isDirect: options.isDirect, system: options.system)
    let output = try OutputDirectory(request)
    do throws(IngotError) {
      let sink = try DirectorySink(plan: plan, output: output, isSynced: false, watcher: watcher)
      var report = try run(plan, into: sink, options: options.run, watcher: watcher, stored: stored)
      for (index, digest) in sink.finishedDigests { report.digests[index] = digest }
      for source in plan.sources { try source.requireUnchanged() }
      try output.writeSmallFile(MergeRecord.fileName, Array(plan.record(report, options: options.run).utf8))
      _ = try output.commit()
      return report
    } catch {
      output.abandon()
      throw error
    }
  }

  /// True when `path` holds the whole result of `plan` from the same sources, every tensor as its digest says.
  private func isFinished(_ plan: Plan, at path: String, _ watcher: Watcher) throws(IngotError) -> Bool {
    guard let status = try fileStatus(path), status.kind == .directory else { return false }
    do throws(IngotError) {
      guard let bytes = try DirectoryFiles(path).readWhole(MergeRecord.fileName, limit: Limit.recordBytes) else { return false }
      let record = try JSON.parse(bytes, origin: MergeRecord.fileName)
      guard record["plan_digest"]?.asString == plan.digest.description, record["source_digest"]?.asString == plan.sourceDigest.description
      else { return false }
      try Verification(directory: path, watcher: watcher).requireIntact()
      return true
    } catch {
      if error.status == .cancelled { throw error }
      return false
    }
  }
}

extension RunReport {
  /// Adds what another run took to what this one did.
  mutating func add(_ other: RunReport) {
    bytesRead += other.bytesRead
    bytesReadAhead += other.bytesReadAhead
    bytesWritten += other.bytesWritten
    decodedBytes += other.decodedBytes
    seconds += other.seconds
    peakMemory = max(peakMemory, other.peakMemory)
    notices += other.notices
    findings += other.findings
  }
}
