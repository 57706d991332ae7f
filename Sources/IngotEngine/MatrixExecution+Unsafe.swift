internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotTensors

/// Runs a matrix method on one tensor: one work item, which waits for its memory and for the BLAS threads, merges, and writes.
@safe
final class MatrixExecution: JobRun, @unchecked Sendable {
  // SENDABLE: one item, so one worker at a time; the scheduler's lock orders it with begin and advance.
  private let method: any MatrixMethod
  private let context: JobContext
  private let segment: JobSegment
  private let output: OutputRun
  private let need: MatrixNeed
  let itemCount: Int
  let bytesRead: Int

  init(_ method: any MatrixMethod, job: PlannedJob, need: MatrixNeed, context: JobContext) throws(IngotError) {
    let segments = try JobSegment.make(job, plan: context.plan, granularity: .block, context: context)
    guard let segment = segments.first, segments.count == 1 else { throw IngotError(.internalError, "a matrix job of several tensors") }
    self.method = method
    self.context = context
    self.segment = segment
    self.need = need
    output = try OutputRun(segments, context: context)
    itemCount = segment.isWanted ? 1 : 0
    bytesRead = segment.isWanted ? segment.inputBytes : 0
  }

  func begin() throws(IngotError) {}
  func release() {}
  func advance() throws(IngotError) -> Bool { true }

  func process(item: Int, worker: Worker) throws(IngotError) {
    guard let region = context.matrices else { throw IngotError(.internalError, "a matrix job without memory for matrices") }
    let isSmall = region.isSmall(need)
    let piece = try region.acquire(isSmall: isSmall, bytes: need.bytes) { context.watcher.stop }
    defer { region.release(piece) }
    // SAFETY: the piece is this job's alone until it is released.
    let workspace = unsafe MatrixWorkspace(unsafe: piece.address, bytes: piece.bytes)
    let algebra = try LinearAlgebra.load()
    let reader = SegmentReader(segment, context: context, worker: worker)
    let shape = segment.tensor.shape.dimensions
    let isStreamed = segment.tensor.scaling == nil && method.streams(rows: shape[0], columns: shape[1])
    let writer =
      isStreamed
      ? StreamedOutput(
        0..<output.itemCount, of: output, [segment], tensor: segment.tensor.name, context: context, worker: worker,
        held: try workspace.matrix(1, StreamedOutput.held(columns: shape[1])))
      : nil
    let job = try MatrixJob(
      name: segment.tensor.name, inputs: segment.modelCount, rows: shape[0], columns: shape[1], algebra: algebra, kernels: context.kernels,
      workspace: workspace, reader: reader, isStreamed: isStreamed, writer: writer)
    do throws(IngotError) {
      // A small matrix uses one thread also where it runs alone: its result then depends on neither workers nor budget.
      let threads = need.rank <= MatrixNeed.smallRank ? 1 : context.workerCount
      try algebra.withThreads(threads) { () throws(IngotError) in
        try job.run(method, scaling: segment.tensor.scaling.map { .init(omega: $0.omega, base: $0.base, norms: $0.norms) })
      }
    } catch { throw error.about(segment.tensor.name) }
    if !isStreamed {
      try Self.requireFinite(job.output, segment.tensor.name)
      for number in 0..<output.itemCount { try output.store(job.output.floats, from: 0, item: number, [segment], context, worker) }
    }
    context.report.add(job.findings, tensor: segment.tensor.name, of: context.plan)
  }

  static func requireFinite(_ matrix: Matrix<Float>, _ tensor: String) throws(IngotError) {
    if matrix.isFinite { return }
    throw IngotError(
      .nonFinite, "tensor \(tensor): the merged matrix has values that are NaN or infinite",
      hint: "look for extreme values in the inputs, or merge the tensor by another method", subject: tensor)
  }
}

/// Cuts the panels of a streamed matrix job into the output's work items, which end inside rows.
final class StreamedOutput: MatrixWriter {
  private let segments: [JobSegment]
  private let tensor: String
  private let output: OutputRun
  private let items: Range<Int>
  private let context: JobContext
  private let worker: Worker
  /// Elements that no whole item has yet, `count` of them from element `start` of the tensor on.
  private let held: Matrix<Float>
  private var start = 0
  private var count = 0
  private var item: Int

  /// Elements that are held at most: a panel, and less than an item of the narrowest type.
  static func held(columns: Int) -> Int { MatrixJob.streamedRows * columns + Blocking.pieceBytes }

  /// - Parameters: `items` are those of one tensor of the output's `segments`.
  init(
    _ items: Range<Int>, of output: OutputRun, _ segments: [JobSegment], tensor: String, context: JobContext, worker: Worker,
    held: Matrix<Float>
  ) {
    self.items = items
    self.segments = segments
    self.tensor = tensor
    self.output = output
    item = items.lowerBound
    self.context = context
    self.worker = worker
    self.held = held
  }

  func write(_ panel: Matrix<Float>, rows: Range<Int>) throws(IngotError) {
    try MatrixExecution.requireFinite(panel, tensor)
    guard rows.lowerBound * panel.columns == start + count, count + panel.count <= held.count else {
      throw IngotError(.internalError, "a panel of rows \(rows) after element \(start + count) of \(tensor)")
    }
    held.columns(count..<count + panel.count).copy(panel.reshaped(1, panel.count))
    count += panel.count
    while items.contains(item), output.item(item).elements.upperBound <= start + count {
      try output.store(held.columns(0..<count).floats, from: start, item: item, segments, context, worker)
      let taken = output.item(item).elements.upperBound - start
      // Downwards over itself, element by element in rising order.
      held.columns(0..<count - taken).copy(held.columns(taken..<count))
      start += taken
      count -= taken
      item += 1
    }
  }
}
