internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotTensors

/// Runs a matrix method over the whole model: passes that count, one for the deltas and their sums, and one for the output.
@safe
final class ModelMatrixExecution: JobRun, @unchecked Sendable {
  // SENDABLE: an item's sums and kept delta are written by the worker that has it, counters under the lock; phases change while no item is
  // processed.
  private let method: any ModelMatrixMethod
  private let context: JobContext
  private let segments: [JobSegment]
  private let output: OutputRun
  private let need: MatrixNeed
  /// The work items of both passes: whole matrices, and pieces of other tensors as the output is cut.
  private let items: [Item]
  private var sums: [[Double]]
  private var kept: [Arena.Piece?]
  /// The counters of the passes that are done, and of the one under way, and how many that has; nil when all are done.
  private var passes: [[UInt64]] = []
  private var counters: [UInt64] = []
  private var counterCount: Int?
  private let lock = Monitor()
  /// Nil until the deltas' sums are known.
  private var scale: Double?
  private(set) var itemCount: Int
  let bytesRead: Int

  private struct Item {
    let segment: Int
    /// Output items of this tensor, numbered over all wanted tensors; none where the tensor is in place from an earlier run.
    let outputs: Range<Int>
    let elements: Range<Int>
    let isMatrix: Bool
  }

  init(_ method: any ModelMatrixMethod, job: PlannedJob, need: MatrixNeed, context: JobContext) throws(IngotError) {
    segments = try JobSegment.make(job, plan: context.plan, granularity: .block, context: context)
    self.method = method
    self.context = context
    self.need = need
    output = try OutputRun(segments, context: context)
    var items: [Item] = []
    var next = 0
    for segment in segments {
      let count = segment.blocking.itemCount(bytesPerElement: segment.outputWidth)
      let own = segment.isWanted ? next..<next + count : next..<next
      if segment.isWanted { next += count }
      if method.isMatrix(segment.index) {
        items.append(Item(segment: segment.index, outputs: own, elements: 0..<segment.blocking.count, isMatrix: true))
        continue
      }
      for number in 0..<count {
        items.append(
          Item(
            segment: segment.index, outputs: segment.isWanted ? own.lowerBound + number..<own.lowerBound + number + 1 : own,
            elements: segment.blocking.item(number, bytesPerElement: segment.outputWidth), isMatrix: false))
      }
    }
    self.items = items
    sums = items.map { _ in [] }
    kept = items.map { _ in nil }
    itemCount = items.count
    bytesRead = segments.reduce(0) { $0 + $1.inputBytes }
  }

  func begin() throws(IngotError) { startCounting() }

  private func startCounting() {
    counterCount = method.counters(after: passes)
    counters = [UInt64](repeating: 0, count: counterCount ?? 0)
  }

  func release() {
    for piece in kept { context.memory.release(piece) }
    kept = items.map { _ in nil }
  }

  func advance() throws(IngotError) -> Bool {
    if counterCount != nil {
      passes.append(counters)
      startCounting()
      return items.isEmpty ? try advance() : false
    }
    guard scale == nil else {
      try output.finishEmpty()
      return true
    }
    var total: [Double] = []
    for item in sums {
      for (index, value) in item.enumerated() { if index < total.count { total[index] += value } else { total.append(value) } }
    }
    scale = method.scale(total)
    context.report.add(method.findings(sums: total), tensor: segments.first?.tensor.name ?? "", of: context.plan)
    return items.isEmpty ? try advance() : false
  }

  func process(item number: Int, worker: Worker) throws(IngotError) {
    let item = items[number]
    let segment = segments[item.segment]
    if scale != nil && item.outputs.isEmpty || counterCount != nil && !item.isMatrix { return }
    guard let region = context.matrices else { throw IngotError(.internalError, "a matrix job without memory for matrices") }
    let own = item.isMatrix ? need : MatrixNeed(piece: item.elements.count)
    let isSmall = region.isSmall(own)
    let loan = try region.acquire(isSmall: isSmall, bytes: own.bytes) { context.watcher.stop }
    defer { region.release(loan) }
    // SAFETY: the loan is this item's alone until it is released.
    let workspace = unsafe MatrixWorkspace(unsafe: loan.address, bytes: loan.bytes)
    let algebra = try LinearAlgebra.load()
    let shape = segment.tensor.shape.dimensions
    let reader = SegmentReader(segment, first: item.elements.lowerBound, context: context, worker: worker)
    let isStreamed = item.isMatrix && method.streams(rows: shape[0], columns: shape[1])
    let writer =
      isStreamed
      ? StreamedOutput(
        item.outputs, of: output, segments, tensor: segment.tensor.name, context: context, worker: worker,
        held: try workspace.matrix(1, StreamedOutput.held(columns: shape[1])))
      : nil
    let job = try MatrixJob(
      name: segment.tensor.name, inputs: segment.modelCount, rows: item.isMatrix ? shape[0] : 1,
      columns: item.isMatrix ? shape[1] : item.elements.count, algebra: algebra, kernels: context.kernels, workspace: workspace,
      reader: reader, isStreamed: isStreamed, writer: writer)
    if let size = counterCount { return try count(job, size) }
    let bytes = item.elements.count * 4
    if let scale, let piece = kept[number] {
      // SAFETY: the piece holds the item's elements as f32.
      job.output.copy(unsafe Matrix<Float>(unsafe: piece.address.assumingMemoryBound(to: Float.self), rows: job.rows, columns: job.columns))
      try write(item, scale, job, worker)
      return
    }
    let threads = !item.isMatrix || need.rank <= MatrixNeed.smallRank ? 1 : context.workerCount
    if isStreamed, let scale { return try algebra.withThreads(threads) { () throws(IngotError) in try method.emit(job, scale: scale) } }
    let found = try algebra.withThreads(threads) { () throws(IngotError) in try method.delta(job, isMatrix: item.isMatrix, counted: passes)
    }
    guard found.allSatisfy({ $0.isFinite }) else {
      throw IngotError(
        .nonFinite, "tensor \(segment.tensor.name): the merged delta has values that are NaN or infinite",
        hint: "look for extreme values in the inputs, or merge the tensor by another method", subject: segment.tensor.name)
    }
    if let scale { return try write(item, scale, job, worker) }
    sums[number] = found
    context.report.add(job.findings, tensor: segment.tensor.name, of: context.plan)
    guard item.isMatrix, !isStreamed, !item.outputs.isEmpty, let piece = context.memory.allocate(upTo: bytes, unit: bytes, share: 0.5)
    else { return }
    kept[number] = piece
    // SAFETY: as above.
    unsafe Matrix<Float>(unsafe: piece.address.assumingMemoryBound(to: Float.self), rows: job.rows, columns: job.columns).copy(job.output)
  }

  private func count(_ job: MatrixJob, _ size: Int) throws(IngotError) {
    var own = [UInt64](repeating: 0, count: size)
    try method.count(job, after: passes, into: &own)
    lock.lock()
    for index in own.indices where own[index] > 0 { counters[index] += own[index] }
    lock.unlock()
  }

  private func write(_ item: Item, _ scale: Double, _ job: MatrixJob, _ worker: Worker) throws(IngotError) {
    try method.finish(job, scale: scale)
    try MatrixExecution.requireFinite(job.output, job.name)
    for number in item.outputs {
      try output.store(job.output.floats, from: item.elements.lowerBound, item: number, segments, context, worker)
    }
  }
}

extension OutputRun {
  /// Rounds and stores output item `number` from the f32 values of its tensor, the first of which is element `start`.
  func store(
    _ values: Floats, from start: Int, item number: Int, _ segments: [JobSegment], _ context: JobContext, _ worker: Worker
  ) throws(IngotError) {
    let item = self.item(number)
    let segment = segments[item.segment]
    let range = item.elements
    let area = try unsafe worker.nextOutput(at: segment.tensor.offset + range.lowerBound * segment.outputWidth, context.writes)
    // SAFETY: an output area holds a whole item.
    let target = unsafe MutableElementSlice(unsafe: area, dtype: segment.tensor.dtype, count: range.count)
    context.kernels.store(values.slice(from: range.lowerBound - start, count: range.count), into: target)
    try unsafe store(range, of: item, from: area, worker: worker)
  }
}
