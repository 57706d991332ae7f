internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// A merge job whose output is asked for range by range.
protocol RangeRun: JobRun {
  /// True when nothing is left to gather.
  var isEmitting: Bool { get }

  /// Gives back what only gathering needed.
  func endGathering()

  /// Reports what the statistics found.
  func reportSettled()

  /// Computes `destination.count` bytes of tensor `segment` of the job, from byte `offset` of its output on.
  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int, segment: Int, worker: Worker) throws(IngotError)
}

/// One streamed stage in one run: its jobs, settled before the run reads from them, and the memory to compute ranges in.
///
/// Thread rule: `read` by any worker of the run; everything else by the run's thread.
final class StageRun: @unchecked Sendable {
  // SENDABLE: jobs are prepared before workers start and only read then; free workers change under the monitor.
  let context: JobContext
  let workers: [Worker]
  private var ranges: [(run: any RangeRun, segment: Int)?]
  private var byJob: [Int: any RangeRun] = [:]
  private let monitor = Monitor()
  private var free: [Worker]
  private var pieces: [Arena.Piece]

  /// Throws `.memory` when the budget does not hold the stage's workers beside the run's.
  init(_ plan: Plan, sources: [any ByteSource], _ run: SourceBinding.Surroundings) throws(IngotError) {
    context = JobContext(
      plan: plan, sources: sources, sink: DiscardingSink(), memory: run.memory, kernels: run.kernels, workerCount: run.workerCount,
      allowsNonfinite: run.allowsNonfinite, skipsFinished: false, report: run.report)
    var pieces: [Arena.Piece] = []
    var workers: [Worker] = []
    for index in 0..<run.workerCount {
      guard let piece = run.memory.allocate(max(plan.workerSizes.total, 1)) else {
        for piece in pieces { run.memory.release(piece) }
        throw IngotError(
          .memory, "the memory budget has no room for \(plan.workerSizes.total) bytes of an earlier document's worker",
          hint: "raise the budget, or use fewer threads")
      }
      pieces.append(piece)
      // SAFETY: the piece has as many bytes as the sizes add up to, and is the worker's alone.
      unsafe workers.append(Worker(index: index, sizes: plan.workerSizes, memory: piece.address))
    }
    self.pieces = pieces
    self.workers = workers
    free = workers
    ranges = Array(repeating: nil, count: plan.tensors.count)
    for (number, job) in plan.jobs.enumerated() {
      guard case .merge(let method) = job.work else { continue }
      func execution<Method: MergeMethod>(_ method: Method) throws(IngotError) -> any RangeRun {
        try JobExecution(method, job: job, context: context)
      }
      let made = try execution(method)
      byJob[number] = made
      for (segment, tensor) in job.tensors.enumerated() { ranges[tensor] = (made, segment) }
    }
  }

  /// True when some job takes statistics before it has an output.
  var needsSettling: Bool { byJob.values.contains { !$0.isEmitting } }

  /// Job `number` as the scheduler runs it until its statistics are settled, and no further.
  func settling(_ number: Int) throws(IngotError) -> any JobRun {
    SettlingRun(byJob[number])
  }

  /// Prepares the jobs that have nothing to settle.
  func begin() throws(IngotError) {
    for run in byJob.values where run.isEmitting { try run.begin() }
  }

  func read(tensor: Int, _ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard ranges.indices.contains(tensor), let (run, segment) = ranges[tensor] else {
      throw IngotError(.internalError, "a tensor that no job makes")
    }
    let worker = take()
    defer { put(worker) }
    try unsafe run.read(destination, at: offset, segment: segment, worker: worker)
  }

  /// There are as many as workers of the run, and each reads from one stage at a time: nobody waits long.
  private func take() -> Worker {
    monitor.lock()
    defer { monitor.unlock() }
    while true {
      if let worker = free.popLast() { return worker }
      monitor.wait()
    }
  }

  private func put(_ worker: Worker) {
    monitor.lock()
    free.append(worker)
    monitor.signalAll()
    monitor.unlock()
  }

  /// What job `number` has settled on; nil while it gathers, and for another method.
  func state<Method: MergeMethod>(of number: Int, _ method: Method.Type) -> Method.State? {
    guard let run = byJob[number] as? JobExecution<Method>, case .emit(let state) = run.phase else { return nil }
    return state
  }

  func release() {
    for run in byJob.values { run.release() }
    for piece in pieces { context.memory.release(piece) }
    pieces = []
  }
}

/// A job up to the end of its statistics; nothing at all for copies and jobs without.
private final class SettlingRun: JobRun, @unchecked Sendable {
  // SENDABLE: immutable; what it forwards to keeps the scheduler's thread rule.
  private let run: (any RangeRun)?

  init(_ run: (any RangeRun)?) { self.run = run }

  private var pending: (any RangeRun)? { run.flatMap { $0.isEmitting ? nil : $0 } }

  var itemCount: Int { pending?.itemCount ?? 0 }
  var bytesRead: Int { pending?.bytesRead ?? 0 }

  func begin() throws(IngotError) { try pending?.begin() }
  func process(item: Int, worker: Worker) throws(IngotError) { try run?.process(item: item, worker: worker) }

  func advance() throws(IngotError) -> Bool {
    guard let pending else { return true }
    let isFinished = try pending.advance()
    if !isFinished, pending.isEmitting { pending.reportSettled() }
    return isFinished || pending.isEmitting
  }

  func release() { run?.endGathering() }
}

extension JobExecution: RangeRun {
  var isEmitting: Bool {
    if case .emit = phase { return true }
    return false
  }

  func endGathering() {
    release()
    // Keep bits are gone; output steps that need them draw them again.
    if case .emit(let state) = phase { findFused(state) }
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int, segment index: Int, worker: Worker) throws(IngotError) {
    guard case .emit(let state) = phase, segments.indices.contains(index) else {
      throw IngotError(.internalError, "an output read before its statistics are settled")
    }
    let segment = segments[index]
    let width = segment.outputWidth
    guard let target = destination.baseAddress, destination.count > 0 else { return }
    let end = offset + destination.count
    guard offset >= 0, end <= segment.blocking.count * width else {
      throw IngotError(.io, "a read that leaves the tensor", subject: segment.tensor.name)
    }
    // From a tile's edge on, as in a merge of the document alone.
    let tile = segment.blocking.tileLength
    let wanted = offset / width..<(end + width - 1) / width
    let cover = segment.blocking.cover(wanted)
    let first = cover.lowerBound / tile * tile
    let isDirect = first * width == offset && cover.upperBound * width == end && Int(bitPattern: target) % width == 0
    let step = max(worker.outputBytes / width / tile, 1) * tile
    for start in stride(from: first, to: cover.upperBound, by: step) {
      let chunk = start..<min(start + step, cover.upperBound)
      if isDirect {
        // SAFETY: the chunks together are the destination.
        try unsafe compute(state, chunk, segment: segment, worker: worker, into: target + (start - first) * width)
        continue
      }
      let area = try unsafe worker.nextOutput(at: 0, nil)
      try unsafe compute(state, chunk, segment: segment, worker: worker, into: area)
      let part = (chunk.lowerBound * width..<chunk.upperBound * width).clamped(to: offset..<end)
      if part.isEmpty { continue }
      // SAFETY: the part lies in the chunk, which the area holds, and in the destination.
      unsafe (target + (part.lowerBound - offset)).copyMemory(
        from: area + (part.lowerBound - chunk.lowerBound * width), byteCount: part.count)
    }
    nonfinite.collect(worker, segment: index)
    try nonfinite.refuse(segment, of: segments, context: context)
  }
}

/// The sink of a stage that is streamed: nothing is stored.
private final class DiscardingSink: OutputSink {
  let finished: Set<Int> = []
  let wantsDigests = false
  func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {}
  func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {}
}
