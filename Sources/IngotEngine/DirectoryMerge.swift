package import IngotErrors
package import IngotJSON
internal import IngotMethods
internal import IngotRecipes
package import IngotStorage
internal import IngotTensors

/// How a merge into a directory behaves.
package struct DirectoryOptions: Sendable {
  /// Goes on with a partial output of the same plan and sources.
  package var resume = false
  /// Discards a partial output and replaces the destination.
  package var force = false
  package var sync: OutputRequest.Sync = .all
  /// Writes past the page cache where the file system can.
  package var isDirect = true
  package var run = RunOptions()
  /// How the output's files are reached; tests make calls fail here.
  package var system = System.live
  package init() {}
}

extension Engine {
  /// Runs `plan` into the directory `destination`, which appears in one rename when everything is there.
  ///
  /// Until then the output lies in `destination.partial`, with a journal. After a failure or a cancel it stays there for `resume`.
  /// Stages that must be stored are merged first, inside the partial output; they are gone when the output appears.
  /// Throws `.exists`, `.busy`, `.stale`, `.noSpace`, `.output` before or while writing, and whatever the run throws.
  package func merge(
    _ plan: Plan, to destination: String, options: DirectoryOptions = DirectoryOptions(), watcher: Watcher = Watcher.none
  ) throws(IngotError) -> RunReport {
    try merge(plan, to: destination, options: options, watcher: watcher) { _ in [] }
  }

  /// The same with small files that only the finished run can tell, written with the others.
  func merge(
    _ plan: Plan, to destination: String, options: DirectoryOptions, watcher: Watcher,
    _ resulting: (RunReport) throws(IngotError) -> [SideFile]
  ) throws(IngotError) -> RunReport {
    var request = OutputRequest(
      destination: try DestinationPath(destination), files: plan.files.map { .init(name: $0.name, size: $0.byteCount) },
      identity: RunIdentity(plan: plan.digest, sources: plan.sourceDigest), resume: options.resume, force: options.force,
      sync: options.sync, isDirect: options.isDirect,
      replaceableMarkers: ["config.json", "ingot.json", "model.safetensors", "model.safetensors.index.json"],
      otherBytes: plan.sideFiles.reduce(0) { $0 + $1.byteCount }, system: options.system)
    let stages = plan.storedStages
    if !stages.isEmpty {
      request.scratchName = Self.scratchName
      // What an interrupted run stored of them is there already; each checks for itself.
      if !options.resume { request.otherBytes += stages.reduce(0) { $0 + $1.plan.outputBytes } }
    }
    try requireMemory(for: plan)
    let output = try OutputDirectory(request)
    do throws(IngotError) {
      let (stored, effort) = try store(stages, in: output, options: options, watcher: watcher)
      let sink = try DirectorySink(plan: plan, output: output, isSynced: options.sync == .all, watcher: watcher)
      var report = try run(plan, into: sink, options: options.run, watcher: watcher, stored: stored)
      report.add(effort)
      for (index, digest) in sink.finishedDigests { report.digests[index] = digest }
      for source in plan.sources { try source.requireUnchanged() }
      try sink.write(plan.sideFiles)
      try sink.write(try resulting(report))
      try output.writeSmallFile(MergeRecord.fileName, Array(plan.record(report, options: options.run).utf8))
      report.notices += output.notices
      report.notices += try output.commit()
      return report
    } catch {
      output.abandon()
      throw error
    }
  }
}

/// Writes a plan's output into a partial directory and keeps its journal.
final class DirectorySink: OutputSink {
  private let plan: Plan
  private let output: OutputDirectory
  private let isSynced: Bool
  let finished: Set<Int>
  let finishedDigests: [Int: Digest128]
  let wantsDigests = true

  /// Writes the headers and checks what an earlier run left: a journalled tensor whose bytes have another digest is done again. Throws `.cancelled` when
  /// the watcher says so meanwhile, since there may be much to read.
  init(plan: Plan, output: OutputDirectory, isSynced: Bool, watcher: Watcher) throws(IngotError) {
    self.plan = plan
    self.output = output
    self.isSynced = isSynced
    for (number, file) in plan.files.enumerated() { try output.files[number].write(file.header, at: 0) }
    var kept: [Int: Digest128] = [:]
    for (index, digest) in output.finished where plan.tensors.indices.contains(index) {
      let tensor = plan.tensors[index]
      do throws(IngotError) {
        let found = try output.files[tensor.file].tensorDigest(at: tensor.offset, count: tensor.byteCount) { watcher.stop != nil }
        if found == digest { kept[index] = digest }
      } catch { throw watcher.stop ?? error }
    }
    finishedDigests = kept
    finished = Set(kept.keys)
  }

  func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {
    // SAFETY: the caller keeps the bytes alive for the call.
    try unsafe output.files[file].write(bytes, at: offset)
  }

  var waitsForDevice: Bool { output.files.contains { $0.waitsForDevice } }

  func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {
    let tensor = plan.tensors[index]
    // Write-back starts early so that the last sync has little left to do.
    if isSynced { output.files[tensor.file].startWriteBack(at: tensor.offset, count: tensor.byteCount) }
    if let digest { try output.record(tensor: index, digest: digest) }
  }

  func write(_ files: [SideFile]) throws(IngotError) {
    for file in files {
      switch file.content {
      case .bytes(let bytes): try output.writeSmallFile(file.name, bytes)
      case .copy(let path, _):
        try output.copyFile(file.name, from: try StoredFile(path, system: output.request.system))
      }
    }
  }
}

extension Plan {
  /// The models that were not made by a document, of this plan and of its stages, each once.
  private var storedModels: [PlannedModel] {
    let made = Set(behind.all.map(\.name))
    var seen: Set<String> = []
    let all = models + behind.all.flatMap(\.plan.models)
    return all.filter { !made.contains($0.name) && seen.insert($0.name).inserted }
  }

  /// The text of `ingot.json`: provenance and digests. The only output file that may differ between equal merges.
  func record(_ report: RunReport, options: RunOptions) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("ingot_version", Version.text)
      document.field("plan_digest", digest.description)
      document.field("source_digest", sourceDigest.description)
      document.field("method", recipe.method.name)
      document.field("seed", String(seed))
      document.field("numerics", numerics.rawValue)
      document.field("recipe", String(decoding: recipe.text, as: UTF8.self))
      document.object("options") {
        $0.field("allow_nonfinite", options.allowsNonfinite)
        $0.field("missing", missing.rawValue)
      }
      document.object("run") { report.write(to: &$0) }
      document.list("models") { list in
        for model in storedModels {
          var placed = model
          // So that the merge can be run again from any directory.
          if model.isOnDisk { placed.path = absolutePath(model.path) ?? model.path }
          for (index, adapter) in model.adapters.enumerated()
          where model.isOnDisk || (try? fileStatus(adapter.path)).flatMap(\.self) != nil {
            placed.adapters[index].path = absolutePath(adapter.path) ?? adapter.path
          }
          list.object { placed.write(to: &$0) }
        }
      }
      document.field("digest_algorithm", "xxh3-128/1MiB")
      writeStages(to: &document)
      document.object("tensors") { list in
        for (index, tensor) in tensors.enumerated() {
          list.object(tensor.name) { entry in
            entry.field("file", files[tensor.file].name)
            entry.field("offset", tensor.offset)
            entry.field("bytes", tensor.byteCount)
            entry.field("digest", report.digests[index]?.description)
          }
        }
      }
      document.list("findings") { list in
        let order = report.findings.sorted {
          ($0.document ?? "", $0.tensor, $0.finding.name, $0.finding.model ?? -1)
            < ($1.document ?? "", $1.tensor, $1.finding.name, $1.finding.model ?? -1)
        }
        for (document, tensor, finding) in order {
          list.object { entry in
            if let document { entry.field("document", document) }
            entry.field("tensor", tensor)
            entry.field("name", finding.name)
            if let model = finding.model { entry.field("model", model) }
            entry.field("value", finding.value)
          }
        }
      }
      document.list("notices") { list in
        for notice in notices + report.notices { list.value(notice.message) }
      }
    }
    return document.line()
  }
}

extension PlannedModel {
  func write(to entry: inout JSONDocument) {
    entry.field("name", name)
    entry.field("path", path)
    if !adapters.isEmpty {
      entry.list("adapters") { list in
        for adapter in adapters {
          list.object { entry in
            entry.field("path", adapter.path)
            if let task = adapter.task { entry.field("task", task) }
          }
        }
      }
    }
    if isSide { entry.field("side", true) }
    entry.list("shards") { list in
      for shard in shards {
        list.object { entry in
          entry.field("file", shard.name)
          entry.field("bytes", Int(clamping: shard.size))
          entry.field("modified_ns", Int(shard.modified))
          entry.field("header_digest", shard.headerDigest.description)
        }
      }
    }
  }
}

extension RunReport {
  /// The members of a report's JSON object.
  package func write(to entry: inout JSONDocument) {
    entry.field("seconds", seconds)
    entry.field("bytes_read", bytesRead)
    entry.field("bytes_read_direct", bytesReadAhead)
    entry.field("reading", reading)
    entry.field("bytes_written", bytesWritten)
    entry.field("bytes_decoded", decodedBytes)
    entry.field("threads", threads)
    entry.field("team", team)
    entry.field("isa", instructionSet)
    if let blasCore { entry.field("blas_core", blasCore) }
    if let blasHint { entry.field("blas_hint", blasHint) }
    entry.field("peak_memory_bytes", peakMemory)
    entry.field("resumed_tensors", resumedTensors)
    if nodes.isEmpty { return }
    entry.list("memory_nodes") { list in
      for node in nodes {
        list.object { entry in
          entry.field("node", node.node)
          entry.field("workers", node.workers)
          entry.field("items", node.items)
          entry.field("stolen_items", node.stolen)
          entry.field("worker_bytes", node.bytes)
          entry.field("worker_bytes_elsewhere", node.bytesElsewhere)
        }
      }
    }
  }
}

/// The version of the engine; `ingot.h` has the same numbers.
package enum Version {
  package static let major = 0
  package static let minor = 1
  package static let patch = 0
  package static var text: String { "\(major).\(minor).\(patch)" }
}
