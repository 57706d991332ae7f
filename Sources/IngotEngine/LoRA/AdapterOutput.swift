internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
package import IngotStorage
internal import IngotTensors

/// How an adapter is written.
package struct AdapterOutputOptions: Sendable {
  /// Discards a partial output and replaces the destination.
  package var force = false
  package var sync: OutputRequest.Sync = .all
  package var system = System.live
  package init() {}
}

/// What came of writing an adapter.
package struct AdapterReport: Sendable {
  package var output: String
  package var modules: [AdapterModuleReport]
  /// Tensors that the adapter has whole.
  package var wholeTensors: Int
  /// Bytes of adapter_model.safetensors.
  package var bytes: Int
  package var seconds: Double
  package var threads: Int
  /// The most matrix memory of one worker, bytes.
  package var workspaceBytes: Int
  package var notices: [Notice]

  /// One JSON document with a schema version.
  package func json() -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("output", output)
      document.field("bytes", bytes)
      document.list("modules") { list in
        for module in modules { list.object { module.write(to: &$0) } }
      }
      document.field("whole_tensors", wholeTensors)
      document.object("run") { run in
        run.field("seconds", seconds)
        run.field("threads", threads)
        run.field("workspace_bytes", workspaceBytes)
      }
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
  }
}

extension AdapterModuleReport {
  func write(to entry: inout JSONDocument) {
    entry.field("name", name)
    entry.field("outputs", outputs)
    entry.field("inputs", inputs)
    entry.field("rank", rank)
    entry.field("norm", norm)
    if let error { entry.field("relative_error", error) } else { entry.field("relative_error", nil) }
  }
}

extension Engine {
  static let adapterWeights = "adapter_model.safetensors"

  /// Computes an adapter and writes its directory, which appears in one rename when everything is there. A run that fails leaves nothing behind.
  func write(
    _ job: any AdapterJob, to destination: String, options: AdapterOutputOptions, notices: [Notice], watcher: Watcher
  ) throws(IngotError) -> AdapterReport {
    let start = Watcher.now()
    let algebra = try LinearAlgebra.load()
    let need = try workspaceBytes(of: job.layout.modules.map(\.name)) { (index) throws(IngotError) in
      try job.workspaceBytes(of: index, algebra)
    }
    let largest = try SafetensorsLayout(tensors: job.layout.tensors.map(\.tensor), metadata: Self.adapterMetadata)
    // Throws now for what the config cannot say.
    _ = try job.layout.config(from: job.configs, base: job.base)
    let request = try options.request(
      destination, identity: job.identity, markers: [Adapter.configName, Self.adapterWeights], bytes: Int(clamping: largest.fileSize))
    let output = try OutputDirectory(request)
    do throws(IngotError) {
      // The header's length is rounded for tensors that follow a page, which small files do not: room for either.
      let header = (largest.header.count + 4095) / 4096 * 4096
      var report = AdapterReport(
        output: destination, modules: [], wholeTensors: job.layout.whole.count, bytes: 0, seconds: 0, threads: 0, workspaceBytes: need,
        notices: notices + output.notices)
      try output.writeFile(Self.adapterWeights) { (file) throws(IngotError) in
        let run = AdapterRun(job, file: file, start: header, algebra: algebra, kernels: kernels, watcher: watcher)
        report.threads = try compute(run, job, need)
        try finish(run, job, file: file, header: header, output: output, report: &report)
      }
      try job.requireUnchanged()
      report.notices += try output.commit()
      report.seconds = Double(Watcher.now() - start) / 1e9
      return report
    } catch {
      output.discard()
      throw error
    }
  }

  private static let adapterMetadata = [MetadataEntry("format", "pt")]

  /// Runs the modules: many at once on one thread each, or one at a time on all. Gives the number of threads.
  private func compute(_ run: AdapterRun, _ job: any AdapterJob, _ need: Int) throws(IngotError) -> Int {
    let count = job.usesAllThreads ? 1 : max(1, min(threads, options.memoryBudget / max(need, 1)))
    let perCall = job.usesAllThreads ? threads : 1
    var workspaces: [WorkerMemory] = []
    for _ in 0..<count { workspaces.append(WorkerMemory(try MatrixWorkspace(capacity: need))) }
    let all = workspaces
    try work { index in
      if index < all.count { run.work(isCaller: index == 0, workspace: all[index].workspace, threads: perCall) }
    }
    return max(count, perCall)
  }

  private struct WorkerMemory: @unchecked Sendable {
    // SENDABLE: each is used by the one worker of its index.
    let workspace: MatrixWorkspace
    init(_ workspace: MatrixWorkspace) { self.workspace = workspace }
  }

  /// Writes the header, the config and the record.
  private func finish(
    _ run: AdapterRun, _ job: any AdapterJob, file: OutputFile, header: Int, output: OutputDirectory, report: inout AdapterReport
  ) throws(IngotError) {
    let written = try run.finish()
    var layout = job.layout
    for index in layout.modules.indices {
      guard let done = run.reports[index] else { throw IngotError(.internalError, "a module was not written", subject: "\(index)") }
      layout.modules[index].rank = done.rank
      report.modules.append(done)
    }
    let final = try SafetensorsLayout(
      tensors: layout.tensors.map(\.tensor), metadata: Self.adapterMetadata, leastHeader: header)
    let places = Dictionary(zip(layout.tensors.map(\.tensor.name), final.fileOffsets), uniquingKeysWith: { first, _ in first })
    guard final.header.count == header, written.allSatisfy({ places[$0.name] == UInt64($0.offset) }), written.count == places.count else {
      throw IngotError(.internalError, "the tensors do not lie where the header says", subject: file.name)
    }
    try file.write(final.header, at: 0)
    report.bytes = Int(clamping: final.fileSize)
    let config = JSON.bytes(try layout.config(from: job.configs, base: job.base), style: .pretty) + [0x0A]
    try output.writeSmallFile(Adapter.configName, config)
    let record = written.record(job.identity, file: Self.adapterWeights) { document in
      document.list("modules") { list in
        for module in report.modules { list.object { module.write(to: &$0) } }
      }
    }
    try output.writeSmallFile(MergeRecord.fileName, Array(record.utf8))
  }
}
