package import IngotErrors
internal import IngotStorage
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

  package init() {}
}

/// How one run behaves.
package struct RunOptions: Sendable {
  /// Carries NaN and infinities through instead of failing.
  package var allowsNonfinite = false
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
    guard options.threads >= 0, options.threads <= 4096 else {
      throw IngotError(.invalidArgument, "threads is \(options.threads), expected 0 (automatic) to 4096")
    }
    guard options.memoryBudget >= 1 << 20 else {
      throw IngotError(
        .memory, "the memory budget is \(options.memoryBudget) bytes, expected at least \(1 << 20)", hint: "try 64MiB")
    }
    // On machines with several memory nodes workers stay on the cores of one node, so that the pages they touch first are near them.
    let topology = try? Topology()
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
    try enter()
    defer { leave() }
    let start = Watcher.now()
    try requireMemory(for: plan)
    let least = plan.leastMemory
    let arena = try reservedArena()
    let memory = JobMemory(arena)
    // Fewer workers when a block for each does not fit into half the budget: the other half is for what jobs keep. Many workers
    // without it would all run the slower searches that do with little memory.
    let workerCount = max(1, min(team.size, self.options.memoryBudget / 2 / max(least, 1)))
    var pieces: [Arena.Piece] = []
    var workers: [Worker] = []
    for index in 0..<workerCount {
      guard let piece = arena.allocate(max(least, 1)) else { break }
      pieces.append(piece)
      // SAFETY: the piece has as many bytes as the sizes add up to, and is the worker's alone.
      unsafe workers.append(Worker(index: index, sizes: plan.workerSizes, memory: piece.address))
    }
    defer { for piece in pieces { memory.release(piece) } }
    guard !workers.isEmpty else { throw IngotError(.memory, "the memory budget cannot hold one worker's \(least) bytes") }
    let collector = ReportCollector()
    let context = JobContext(
      plan: plan, sources: plan.sources, sink: sink, memory: memory, kernels: kernels, workerCount: workers.count,
      allowsNonfinite: options.allowsNonfinite, skipsFinished: !sink.finished.isEmpty, report: collector)
    let scheduler = Scheduler(plan: plan, context: context, reservable: self.options.memoryBudget / 8, watcher: watcher)
    let all = workers
    try team.run { index, _ in
      if index < all.count { scheduler.work(all[index]) }
    }
    scheduler.releaseAll()
    if let failure = scheduler.outcome { throw failure }
    watcher.look(scheduler.finalProgress, isFinal: true)
    var report = collector.collected
    report.bytesRead = workers.reduce(0) { $0 + $1.bytesRead }
    report.bytesWritten = workers.reduce(0) { $0 + $1.bytesWritten }
    report.decodedBytes = workers.reduce(0) { $0 + $1.decodedBytes }
    report.seconds = Double(Watcher.now() - start) / 1e9
    report.threads = workers.count
    report.team = teamDescription
    report.instructionSet = instructionSet.name
    report.peakMemory = memory.peak
    report.resumedTensors = sink.finished.count
    return report
  }

  /// Throws `.memory` when not even one worker fits into the budget.
  package func requireMemory(for plan: Plan) throws(IngotError) {
    let least = plan.leastMemory
    guard least > options.memoryBudget else { return }
    throw IngotError(
      .memory, "the memory budget is \(options.memoryBudget) bytes, but one worker with one block needs \(least)",
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
