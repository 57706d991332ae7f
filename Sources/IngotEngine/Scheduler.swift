internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// Hands the work items of a plan's jobs to workers: the earliest job with an unclaimed item first, the next job only when none has one.
///
/// So the gathers of one tensor run while another still emits and no worker waits for a tensor's end. The worker that finishes a phase's last item
/// settles it. With several memory nodes each tensor belongs to one (`TensorSpread`): its items and jobs stand in that node's queues, in all rounds,
/// and workers of other nodes take from them only when theirs have nothing left. Thread rule: `work` runs on every worker of one team; everything else before or after.
final class Scheduler: @unchecked Sendable {
  // SENDABLE: all mutable state is under the monitor; a run's own state moves between phases on one thread.
  private struct Active {
    var run: any JobRun
    var unclaimed: ItemQueue
    var done = 0
    var total: Int
    /// True while one worker begins or settles it.
    var isSettling = false
    var id: Int
    /// Bytes of `reserved` that it holds.
    var need: Int
  }

  private let monitor = Monitor()
  private let jobs: [PlannedJob]
  private let context: JobContext
  /// Makes the run of a job, by its number, in place of the usual one.
  private let special: ((Int) throws(IngotError) -> any JobRun)?
  private let layout: NodeLayout
  private let spread: TensorSpread
  private var waiting: JobQueue
  /// Items that the workers of each node did, and how many of those belonged to others.
  private var processed: [Int]
  private var stolen: [Int]
  private var active: [Active] = []
  /// Jobs that a worker is beginning: they will have items, so nobody may stop yet.
  private var beginning = 0
  /// Bytes that jobs under way cannot do without, and how many there may be before another job has to wait.
  private var reserved = 0
  private let reservable: Int
  /// What waiting jobs cannot do without, of those that somebody asked about.
  private var needs: [Int: Int] = [:]
  private var failure: IngotError?
  private var isStopped = false
  private let watcher: Watcher
  private let totalBytes: Int
  private var doneBytes = 0
  private var doneTensors = 0

  /// - Parameters: `reservable` bounds what jobs take at the same time beside what they can do without.
  init(
    plan: Plan, context: JobContext, reservable: Int, watcher: Watcher, special: ((Int) throws(IngotError) -> any JobRun)? = nil
  ) {
    self.special = special
    jobs = plan.jobs
    self.reservable = reservable
    self.context = context
    layout = context.layout
    spread = TensorSpread(plan, context.layout)
    waiting = JobQueue(plan.jobs, spread, nodeCount: context.layout.nodeCount)
    processed = Array(repeating: 0, count: context.layout.nodeCount)
    stolen = processed
    self.watcher = watcher
    totalBytes = plan.bytesWritten
  }

  /// The error that ended the run, after the team has stopped.
  var outcome: IngotError? { failure }

  /// Runs items until there are none left, the run failed or it was cancelled.
  func work(_ worker: Worker) {
    let isCaller = worker.index == 0
    monitor.lock()
    while true {
      if isCaller {
        let progress = progress()
        monitor.unlock()
        watcher.look(progress)
        monitor.lock()
      }
      if failure == nil, let stop = watcher.stop {
        failure = stop
      }
      if failure != nil || isStopped { break }
      if let (index, item) = claim(worker.node) {
        process(active[index].run, id: active[index].id, item: item, worker: worker)
      } else if let job = startable(worker.node) {
        start(job)
      } else if let (index, item) = steal(worker.node) {
        process(active[index].run, id: active[index].id, item: item, worker: worker)
      } else if let job = waiting.earliest, mayStart(job) {
        start(job)
      } else if active.isEmpty && beginning == 0 && waiting.earliest == nil {
        isStopped = true
        monitor.signalAll()
      } else if isCaller {
        monitor.wait(milliseconds: 50)
      } else {
        monitor.wait()
      }
    }
    monitor.signalAll()
    monitor.unlock()
  }

  /// Where the run stands, for the last word to the watcher.
  var finalProgress: Progress { progress() }

  /// What each node's workers did; empty when there is one node. Call when the team has stopped.
  func nodeReports(_ osIndex: (Int) -> Int) -> [NodeReport] {
    if layout.nodeCount == 1 { return [] }
    return layout.counts.enumerated().map { node, workers in
      NodeReport(node: osIndex(node), workers: workers, items: processed[node], stolen: stolen[node])
    }
  }

  /// Gives back the memory of jobs that a failure left unfinished. Call when the team has stopped.
  func releaseAll() {
    for entry in active { entry.run.release() }
    active = []
  }

  // MARK: Steps; each is entered and left with the lock held

  /// The next item of the earliest job that has one for this node.
  private func claim(_ node: Int) -> (index: Int, item: Int)? {
    for index in active.indices where !active[index].isSettling {
      if let item = active[index].unclaimed.claim(node) {
        processed[node] += 1
        return (index, item)
      }
    }
    return nil
  }

  /// An item of another node's, when this one has nothing left.
  private func steal(_ node: Int) -> (index: Int, item: Int)? {
    if layout.nodeCount == 1 { return nil }
    for index in active.indices where !active[index].isSettling {
      if let item = active[index].unclaimed.steal() {
        processed[node] += 1
        stolen[node] += 1
        return (index, item)
      }
    }
    return nil
  }

  /// The next job of this node, if it need not wait.
  private func startable(_ node: Int) -> Int? {
    guard let job = waiting.next(node), mayStart(job) else { return nil }
    return job
  }

  /// True unless a job must wait for another one's memory. Many workers would otherwise begin many jobs at once, each with tables of its own.
  private func mayStart(_ job: Int) -> Bool {
    let need = needs[job] ?? leastMemory(of: jobs[job])
    needs[job] = need
    return reserved == 0 || need <= reservable - reserved
  }

  /// The items of a run's present phase, all of them unclaimed.
  private func queue(_ run: any JobRun, _ total: Int, of job: PlannedJob) -> ItemQueue {
    if layout.nodeCount == 1 { return ItemQueue(total: total) }
    let stretches = run.itemStretches
    let isComplete = stretches.reduce(0) { $0 + $1.count } == total
    return ItemQueue(
      isComplete ? stretches : [ItemStretch(tensor: job.tensors.first ?? 0, count: total)], spread, nodeCount: layout.nodeCount)
  }

  /// Bytes that the first round of a job takes even when memory is short; later rounds of a method need about the same.
  private func leastMemory(of job: PlannedJob) -> Int {
    func bytes<Method: MergeMethod>(_ method: Method) -> Int {
      guard case .gather(_, let round) = method.begin() else { return 0 }
      return RoundRun.leastMemory(of: round, workers: context.workerCount)
    }
    switch job.work {
    case .copy: return 0
    case .merge(let method):
      // Matrix jobs wait for their memory when they run.
      if let matrix = method as? any MatrixMethod, matrix.isMatrix { return 0 }
      return bytes(method)
    }
  }

  private func start(_ number: Int) {
    let need = needs.removeValue(forKey: number) ?? 0
    waiting.take(number)
    let job = jobs[number]
    if context.skipsFinished && job.tensors.allSatisfy({ context.sink.finished.contains($0) }) {
      count(job)
      return
    }
    beginning += 1
    reserved += need
    monitor.unlock()
    do throws(IngotError) {
      let run: any JobRun
      if let special { run = try special(number) } else { run = try makeRun(job, number) }
      try run.begin()
      let total = run.itemCount
      let items = queue(run, total, of: job)
      monitor.lock()
      beginning -= 1
      active.append(Active(run: run, unclaimed: items, total: total, id: number, need: need))
      if total == 0 { settle(number) }
      monitor.signalAll()
    } catch {
      monitor.lock()
      beginning -= 1
      fail(error)
    }
  }

  private func makeRun(_ job: PlannedJob, _ number: Int) throws(IngotError) -> any JobRun {
    func execution<Method: MergeMethod>(_ method: Method) throws(IngotError) -> any JobRun {
      try JobExecution(method, job: job, context: context)
    }
    switch job.work {
    case .copy(let input): return try CopyExecution(job, input: input, context: context)
    case .merge(let method):
      if let matrix = method as? any MatrixMethod, let need = context.plan.matrixNeeds[number] {
        return try MatrixExecution(matrix, job: job, need: need, context: context)
      }
      if let matrices = method as? any ModelMatrixMethod, let need = context.plan.matrixNeeds[number] {
        return try ModelMatrixExecution(matrices, job: job, need: need, context: context)
      }
      return try execution(method)
    }
  }

  private func process(_ run: any JobRun, id: Int, item: Int, worker: Worker) {
    monitor.unlock()
    do throws(IngotError) {
      let before = worker.bytesWritten
      try run.process(item: item, worker: worker)
      let written = worker.bytesWritten - before
      monitor.lock()
      doneBytes += written
      guard let index = active.firstIndex(where: { $0.id == id }) else { return }
      active[index].done += 1
      if active[index].done == active[index].total { settle(id) }
    } catch {
      monitor.lock()
      fail(error)
    }
  }

  /// Every item of the phase is done: finds the next phase, or ends the job.
  private func settle(_ id: Int) {
    guard let index = active.firstIndex(where: { $0.id == id }), failure == nil else { return }
    active[index].isSettling = true
    let run = active[index].run
    monitor.unlock()
    do throws(IngotError) {
      let isFinished = try run.advance()
      let total = run.itemCount
      let items = queue(run, isFinished ? 0 : total, of: jobs[id])
      if isFinished { run.release() }
      monitor.lock()
      guard let index = active.firstIndex(where: { $0.id == id }) else { return }
      if isFinished {
        reserved -= active.remove(at: index).need
        count(jobs[id])
      } else {
        active[index].unclaimed = items
        active[index].done = 0
        active[index].total = total
        active[index].isSettling = false
      }
      monitor.signalAll()
    } catch {
      monitor.lock()
      fail(error)
    }
  }

  private func count(_ job: PlannedJob) { doneTensors += job.tensors.count }

  private func fail(_ error: IngotError) {
    if failure == nil { failure = error }
    monitor.signalAll()
  }

  private func progress() -> Progress {
    Progress(
      bytesDone: doneBytes, bytesTotal: totalBytes, tensorsDone: doneTensors, tensorsTotal: context.plan.tensors.count,
      tensor: active.first.flatMap { jobs[$0.id].tensors.first.map { context.plan.tensors[$0].name } })
  }
}

/// How far a run is. Bytes are bytes of output.
package struct Progress: Sendable, Hashable {
  package var bytesDone: Int
  package var bytesTotal: Int
  package var tensorsDone: Int
  package var tensorsTotal: Int
  package var tensor: String?
}
