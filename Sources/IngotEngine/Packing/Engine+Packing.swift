internal import IngotCheckpoints
package import IngotErrors
internal import IngotMethods
internal import IngotRecipes
package import IngotStorage
internal import IngotTensors

/// How a packing behaves.
package struct PackOptions: Sendable {
  /// Discards a partial output and replaces the destination.
  package var force = false
  package var sync: OutputRequest.Sync = .all
  package init() {}
}

extension Engine {
  /// Packs into the directory `destination`, which appears in one rename when everything is there; after a failure nothing of it stays.
  ///
  /// Every model is read once, for ComPEFT up to four times (a sample and a round for the threshold, the sizes, the codes). Memory is a worker's
  /// block of each model, as many workers as fit the budget. The bytes do not depend on threads, budget or instruction set. Throws `.exists`,
  /// `.noSpace`, `.output`, `.memory`, `.nonFinite`, `.stale` when a model changes meanwhile, `.cancelled`, `.busy`.
  package func pack(
    _ plan: PackPlan, to destination: String, options: PackOptions = PackOptions(), watcher: Watcher = .none
  ) throws(IngotError) -> PackSummary {
    var request = OutputRequest(
      destination: try DestinationPath(destination), files: [],
      identity: RunIdentity(plan: Digest128(of: plan.settings.json + plan.baseDigest), sources: plan.merge.sourceDigest),
      force: options.force,
      sync: options.sync, replaceableMarkers: [DeltaPack.fileName])
    try request.check()
    let needed = PackWorker.byteCount(plan)
    guard needed <= self.options.memoryBudget else {
      throw IngotError(
        .memory, "the memory budget is \(self.options.memoryBudget) bytes, but one worker with a block of each model needs \(needed)",
        hint: "raise the budget, for example --memory \(needed / (1 << 20) + 1)MiB")
    }
    var job = PackJob(
      plan: plan, kernels: kernels, cut: .everything, lambdas: plan.settings.numbers("lambda", models: plan.tasks.count))
    var codes = PackedCodes(tensors: plan.tensors.count)
    var magnitude: Float = 0
    if plan.method == .compeft {
      let statistics = try plan.statistics()
      let state = try settled(statistics.method, of: statistics.plan, watcher: watcher)
      magnitude = state.magnitude
      guard magnitude.isFinite else { throw IngotError(.nonFinite, "alpha times the standard deviation is \(magnitude)") }
      job = PackJob(plan: plan, kernels: kernels, cut: state.cut, lambdas: [])
      codes.add(try pack(job, watcher), of: plan)
    }
    let layout = try DeltaPackLayout(
      method: plan.method, baseDigest: plan.baseDigest, baseName: plan.baseName, tasks: plan.tasks, parameters: plan.settings.json,
      tensors: plan.layoutTensors(codeBytes: codes.totals), scales: plan.scaleCount)
    request.files = [PlannedFile(name: DeltaPack.fileName, size: Int(clamping: layout.file.fileSize))]
    let output = try OutputDirectory(request)
    var notices = plan.notices + output.notices
    do throws(IngotError) {
      let file = try output.file(DeltaPack.fileName)
      try file.write(layout.file.header, at: 0)
      job.output = (file, layout, codes.starts)
      let scaled = PackScales(plan, parts: try pack(job, watcher), magnitude: magnitude)
      if !scaled.scales.isEmpty || plan.scaleCount != nil {
        try file.write(littleEndian(scaled.scales.map(\.bitPattern)), at: try layout.offset(of: DeltaPack.scalesName))
      }
      try file.write(littleEndian(scaled.errors.map(\.bitPattern)), at: try layout.offset(of: DeltaPack.errorsName))
      for source in plan.merge.sources { try source.requireUnchanged() }
      notices += try output.commit()
    } catch {
      output.discard()
      throw error
    }
    var summary = try PackSummary(path: destination)
    summary.notices = notices
    return summary
  }

  /// One pass over all packed tensors; parts by tensor, in the order of their blocks.
  private func pack(_ job: PackJob, _ watcher: Watcher) throws(IngotError) -> [[PackPart]] {
    let tensors = job.plan.tensors
    let blocksPerItem = 16
    let items = Prefixes(tensors.map { ($0.blockCount + blocksPerItem - 1) / blocksPerItem })
    let run = ItemRun<PackPart>(
      count: items.total, bytes: tensors.reduce(0) { $0 + $1.count * $1.bytesPerElement }, action: "the packing", watcher: watcher)
    let most = max(1, options.memoryBudget / PackWorker.byteCount(job.plan))
    try work { index in
      guard index < most else { return }
      let worker = PackWorker(job)
      run.work(isCaller: index == 0) { (item) throws(IngotError) in
        let place = items.locate(item)
        let tensor = tensors[place.part]
        let first = place.rest * blocksPerItem
        let blocks = first..<min(first + blocksPerItem, tensor.blockCount)
        let elements = min(blocks.upperBound * Blocking.blockElements, tensor.count) - first * Blocking.blockElements
        return (try worker.pack(place.part, blocks: blocks), elements * tensor.bytesPerElement)
      }
    }
    var parts: [[PackPart]] = Array(repeating: [], count: tensors.count)
    for (item, part) in try run.finish().enumerated() { parts[items.locate(item).part].append(part) }
    return parts
  }
}

/// Where the Rice codes of every block go.
private struct PackedCodes {
  /// By tensor, the first byte of each block, and behind the last one the end.
  var starts: [[Int]]

  init(tensors: Int) { starts = Array(repeating: [], count: tensors) }

  var totals: [Int] { starts.map { $0.last ?? 0 } }

  mutating func add(_ parts: [[PackPart]], of plan: PackPlan) {
    for (index, own) in parts.enumerated() {
      var end = 0
      starts[index] = [0]
      for block in own.flatMap(\.blocks) {
        end += block.byteCount
        starts[index].append(end)
      }
    }
  }
}

/// The factors of a pack, and how far from the task vectors its reconstructions are.
private struct PackScales {
  private(set) var scales: [Float] = []
  /// ‖τ − unpacked τ‖ / ‖τ‖ of each task; 0 where τ is.
  private(set) var errors: [Double]

  init(_ plan: PackPlan, parts: [[PackPart]], magnitude: Float) {
    let tasks = plan.tasks.count
    // By tensor and task, added up in the order of the elements.
    let sums = parts.map { parts in
      (0..<tasks).map { task in parts.reduce(into: PackSums()) { $0 += $1.sums[task] } }
    }
    var factors: [[Float]] = sums.map { _ in Array(repeating: 1, count: tasks) }
    switch plan.method {
    case .tall: break
    case .compeft:
      scales = [magnitude]
      factors = sums.map { _ in [magnitude] }
    case .bitdelta:
      for (index, tensor) in plan.tensors.enumerated() where tensor.form == .signs {
        let own = Self.ratio(sums[index][0].absolute, sums[index][0].kept)
        scales.append(own)
        factors[index] = [own]
      }
    case .emr:
      let isByMean = plan.settings["scope"]?.text == "tensor_means"
      for task in 0..<tasks {
        var (all, kept) = (0.0, 0.0)
        for (tensor, own) in zip(plan.tensors, sums) where tensor.count > 0 {
          all += own[task].absolute / (isByMean ? Double(tensor.count) : 1)
          kept += own[task].kept / (isByMean ? Double(tensor.count) : 1)
        }
        scales.append(Self.ratio(all, kept))
      }
      factors = sums.map { [scales] _ in scales }
    }
    errors = (0..<tasks).map { task in
      let error = zip(sums, factors).reduce(0.0) { $0 + $1.0[task].error(scale: Double($1.1[task])) }
      let norm = sums.reduce(0.0) { $0 + $1[task].squares }
      return norm > 0 ? (error / norm).squareRoot() : 0
    }
  }

  /// 0 for a denominator of 0.
  private static func ratio(_ all: Double, _ kept: Double) -> Float { kept > 0 ? Float(all / kept) : 0 }
}

extension PackPlan {
  /// How many factors the pack has; nil for a method without.
  var scaleCount: Int? {
    switch method {
    case .compeft: 1
    case .bitdelta: tensors.count { $0.form == .signs }
    case .tall: nil
    case .emr: tasks.count
    }
  }
}
