package import IngotErrors
internal import IngotMethods
internal import IngotRecipes
package import IngotStorage
package import IngotTensors

/// How an engine is set up.
package struct EngineOptions: Sendable {
  /// Workers; 0 means the physical cores this process may use.
  package var threads = 0
  /// Bytes for tiles, scratch, statistics, masks, key pools and kept inputs.
  package var memoryBudget = 256 << 20
  /// Name of an instruction set; nil picks the best.
  package var instructionSet: String?
  package var team: WorkerTeam.Kind = .automatic
  /// Another layout of memory nodes than this machine's, for tests.
  package var topology: Topology?

  package init() {}
}

/// How one run behaves.
package struct RunOptions: Sendable {
  /// Carries NaN and infinities through instead of failing.
  package var allowsNonfinite = false
  /// Looks for NaN and infinities also in tensors that are copied unchanged, whose values are otherwise not looked at.
  package var checksFinite = false
  /// Which files are read past the page cache.
  package var reads = ReadAhead.Choice.whenCold
  package init() {}
}

/// The engine: a worker team, a memory budget and an instruction set. Runs one plan at a time; a second call meanwhile throws `.busy`.
package final class Engine: @unchecked Sendable {
  // SENDABLE: `isBusy` is under the lock, and only the call that set it touches the rest.
  package let options: EngineOptions
  package let kernels: Kernels
  package let instructionSet: InstructionSet
  private let team: WorkerTeam
  private var arena: Arena?
  private let lock = Monitor()
  private var isBusy = false

  /// Throws `.invalidArgument` for an unknown instruction set or a bad count, `.memory` for a budget below 1 MiB or when threads cannot be had.
  package init(_ options: EngineOptions = EngineOptions()) throws(IngotError) {
    self.options = options
    instructionSet = try options.instructionSet.map { (name) throws(IngotError) in try InstructionSet.named(name) } ?? InstructionSet.best
    kernels = Kernels(instructionSet)
    guard options.threads >= 0, options.threads <= Limit.threads else {
      throw IngotError(.invalidArgument, "threads is \(options.threads), expected 0 (automatic) to \(Limit.threads)")
    }
    guard options.memoryBudget >= 1 << 20 else {
      throw IngotError(
        .memory, "the memory budget is \(options.memoryBudget) bytes, expected at least \(1 << 20)", hint: "try 64MiB")
    }
    // On machines with several memory nodes workers stay on the cores of one node, and their memory with them.
    let topology = options.topology ?? (try? Topology())
    team = try WorkerTeam(threads: options.threads, kind: options.team, topology: topology)
  }

  package var threads: Int { team.size }
  package var teamDescription: String {
    team.kind == .openMP || team.explanation.hasPrefix("own threads") ? team.explanation : "own threads: \(team.explanation)"
  }

  /// Runs `plan` into `sink`. Throws the first failure of any worker, after all have stopped.
  package func run(
    _ plan: Plan, into sink: any OutputSink, options: RunOptions = RunOptions(), watcher: Watcher = Watcher.none
  ) throws(IngotError) -> RunReport {
    try run(plan, into: sink, options: options, watcher: watcher, stored: [:])
  }

  /// - Parameters: `stored` has the directory of every stage that is stored, by its plan.
  func run(
    _ plan: Plan, into sink: any OutputSink, options: RunOptions, watcher: Watcher, stored: [ObjectIdentifier: String]
  ) throws(IngotError) -> RunReport {
    try enter()
    defer { leave() }
    let start = Watcher.now()
    try requireMemory(for: plan)
    let least = plan.workerMemory
    let arena = try reservedArena()
    let memory = JobMemory(arena)
    // Fewer workers when a block for each does not fit into half the budget: the other half is for what jobs keep. Many workers
    // without it would all run the slower searches that do with little memory.
    let matrixBytes = plan.largestMatrix?.bytes ?? 0
    let workerCount = max(1, min(team.size, max(self.options.memoryBudget - matrixBytes, 0) / 2 / max(least, 1)))
    var pieces: [Arena.Piece] = []
    for _ in 0..<workerCount {
      guard let piece = arena.allocate(max(plan.workerSizes.total, 1)) else { break }
      pieces.append(piece)
    }
    var own = RunMemory(pieces, placement: team.placement)
    defer { own.release(memory) }
    let collector = ReportCollector()
    let binding = SourceBinding(
      .init(
        workerCount: pieces.count, memory: memory, kernels: kernels, allowsNonfinite: options.allowsNonfinite, report: collector),
      directories: stored)
    defer { binding.release() }
    let sources = try binding.bind(plan)
    let region = try Self.matrixRegion(plan, workers: pieces.count, in: arena)
    defer { if let region { memory.release(region) } }
    if sink.waitsForDevice { own.addAreas(of: plan.workerSizes.outputArea, from: arena) }
    let writes = own.areaCount > own.workerCount ? WriteQueue(sink: sink, slots: own.areaCount) : nil
    defer { _ = writes?.close() }
    own.addSlots(for: plan, sources: sources, choice: options.reads, from: arena)
    let ahead = own.readAhead(options.reads)
    defer { ahead?.close() }
    var workers: [Worker] = []
    for (index, part) in own.workers.enumerated() {
      // SAFETY: the piece has as many bytes as the sizes add up to, and it and the areas are the worker's alone.
      unsafe workers.append(
        Worker(
          index: index, node: own.layout.nodes[index], sizes: plan.workerSizes, memory: part.piece.address, areas: part.areas.map(\.address)
        ))
    }
    guard !workers.isEmpty else { throw IngotError(.memory, "the memory budget cannot hold one worker's \(least) bytes") }
    for stage in binding.runs { try settle(stage, watcher) }
    var context = JobContext(
      plan: plan, sources: sources, sink: sink, memory: memory, kernels: kernels, workerCount: workers.count,
      allowsNonfinite: options.allowsNonfinite, skipsFinished: !sink.finished.isEmpty, report: collector, writes: writes,
      checksFinite: options.checksFinite)
    context.watcher = watcher
    context.layout = own.layout
    context.ahead = ahead
    context.matrices = region.map { MatrixRegion($0, needs: Array(plan.matrixNeeds.values), workers: workers.count) }
    let scheduler = Scheduler(plan: plan, context: context, reservable: self.options.memoryBudget / 8, watcher: watcher)
    let all = workers
    try team.run { index, _ in
      if index < all.count { scheduler.work(all[index]) }
    }
    scheduler.releaseAll()
    let unwritten = writes?.close()
    if let failure = scheduler.outcome ?? unwritten { throw failure }
    watcher.look(scheduler.finalProgress, isFinal: true)
    var report = collector.collected
    report.bytesRead = workers.reduce(0) { $0 + $1.bytesRead }
    for worker in binding.runs.flatMap(\.workers) {
      report.bytesRead += worker.bytesRead
      report.decodedBytes += worker.decodedBytes
    }
    report.bytesReadAhead = workers.reduce(0) { $0 + $1.bytesReadAhead }
    report.readAheadRefusal = ahead?.refusal
    if let topology = team.placement?.topology { report.nodes = own.report(scheduler.nodeReports(topology.osIndex)) }
    report.bytesWritten = workers.reduce(0) { $0 + $1.bytesWritten }
    report.decodedBytes += workers.reduce(0) { $0 + $1.decodedBytes }
    report.seconds = Double(Watcher.now() - start) / 1e9
    report.threads = workers.count
    report.team = teamDescription
    report.instructionSet = instructionSet.name
    if !plan.matrixNeeds.isEmpty { (report.blasCore, report.blasHint) = Self.linearAlgebra }
    report.peakMemory = memory.peak
    report.resumedTensors = sink.finished.count
    return report
  }

  /// Runs the rounds of the only job of `plan`, which is one of `method`, and gives what it settled on; nothing is written.
  func settled<Method: MergeMethod>(_ method: Method, of plan: Plan, watcher: Watcher) throws(IngotError) -> Method.State {
    try enter()
    defer { leave() }
    try requireMemory(for: plan)
    let memory = JobMemory(try reservedArena())
    let binding = SourceBinding(
      .init(
        workerCount: max(1, min(team.size, options.memoryBudget / 2 / max(plan.workerMemory, 1))), memory: memory, kernels: kernels,
        allowsNonfinite: false, report: ReportCollector()), directories: [:])
    defer { binding.release() }
    let stage = try binding.run(of: plan)
    try settle(stage, watcher)
    guard let state = stage.state(of: 0, Method.self) else {
      throw IngotError(.internalError, "the statistics of \(Method.descriptor.name) are not settled")
    }
    return state
  }

  /// Gathers the statistics of a streamed stage's jobs.
  private func settle(_ stage: StageRun, _ watcher: Watcher) throws(IngotError) {
    defer { for worker in stage.workers { worker.forgetNonfinite() } }
    guard stage.needsSettling else { return try stage.begin() }
    let scheduler = Scheduler(
      plan: stage.context.plan, context: stage.context, reservable: options.memoryBudget / 8, watcher: watcher,
      special: { (number) throws(IngotError) in try stage.settling(number) })
    let all = stage.workers
    try team.run { index, _ in
      if index < all.count { scheduler.work(all[index]) }
    }
    scheduler.releaseAll()
    if let failure = scheduler.outcome { throw failure }
    try stage.begin()
  }

  /// Runs `body` once on every worker, as the one call that is running: for work that is no plan.
  func work(_ body: @Sendable (_ worker: Int) -> Void) throws(IngotError) {
    try enter()
    defer { leave() }
    try team.run { index, _ in body(index) }
  }

  /// The memory of the plan's matrix jobs; nil when it has none.
  private static func matrixRegion(_ plan: Plan, workers: Int, in arena: Arena) throws(IngotError) -> Arena.Piece? {
    guard let largest = plan.largestMatrix else { return nil }
    // Column sums come later and must find their place too.
    let available = max(arena.largestPiece - plan.columnBytes, 0) / 4096 * 4096
    let bytes = MatrixRegion.bytes(Array(plan.matrixNeeds.values), workers: workers, available: available)
    if let piece = arena.allocate(bytes) { return piece }
    throw IngotError(
      .memory, "the matrix \(largest.tensor) needs \(largest.bytes) bytes, and \(arena.largestPiece) of the budget are left in one piece",
      hint: "raise the budget", subject: largest.tensor)
  }

  /// Throws `.memory` when not even one worker fits into the budget.
  package func requireMemory(for plan: Plan) throws(IngotError) {
    let least = plan.leastMemory
    guard least > options.memoryBudget else { return }
    throw IngotError(
      .memory,
      "the memory budget is \(options.memoryBudget) bytes, but one worker with one block needs \(plan.workerSizes.total)"
        + (plan.columnBytes > 0 ? " and the sums of a tensor's columns need \(plan.columnBytes)" : "")
        + (plan.largestMatrix.map { " and the matrix \($0.tensor) needs \($0.bytes)" } ?? ""),
      hint: "raise the budget, for example --memory \(least / (1 << 20) + 1)MiB")
  }

  private func reservedArena() throws(IngotError) -> Arena {
    if let arena { return arena }
    let made = try Arena(capacity: options.memoryBudget)
    arena = made
    return made
  }

  private func enter() throws(IngotError) {
    lock.lock()
    defer { lock.unlock() }
    guard !isBusy else {
      throw IngotError(.busy, "another call is running on this context", hint: "use one context for each thread, or wait")
    }
    isBusy = true
  }

  private func leave() {
    lock.lock()
    isBusy = false
    lock.unlock()
  }
}
