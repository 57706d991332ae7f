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
    let reader = Reader(segment, context: context, worker: worker)
    let shape = segment.tensor.shape.dimensions
    let job = try MatrixJob(
      name: segment.tensor.name, inputs: segment.modelCount, rows: shape[0], columns: shape[1], algebra: algebra, kernels: context.kernels,
      workspace: workspace, reader: reader)
    do throws(IngotError) {
      // A small matrix uses one thread also where it runs alone: its result then depends on neither workers nor budget.
      let threads = need.rank <= MatrixNeed.smallRank ? 1 : context.workerCount
      try algebra.withThreads(threads) { () throws(IngotError) in
        try job.run(method, scaling: segment.tensor.scaling.map { .init(omega: $0.omega, base: $0.base, norms: $0.norms) })
      }
    } catch {
      var named = error
      if named.subject == nil { named.subject = segment.tensor.name }
      throw named
    }
    guard job.output.isFinite else {
      throw IngotError(
        .nonFinite, "tensor \(segment.tensor.name): the merged matrix has values that are NaN or infinite",
        hint: "look for extreme values in the inputs, or merge the tensor by another method", subject: segment.tensor.name)
    }
    try write(job.output.floats, worker)
    context.report.add(job.findings, tensor: segment.tensor.name, of: context.plan)
  }

  private func write(_ values: Floats, _ worker: Worker) throws(IngotError) {
    let width = segment.outputWidth
    for number in 0..<output.itemCount {
      let item = output.item(number)
      let range = item.elements
      let area = try unsafe worker.nextOutput(at: segment.tensor.offset + range.lowerBound * width, context.writes)
      // SAFETY: an output area holds a whole item.
      let target = unsafe MutableElementSlice(unsafe: area, dtype: segment.tensor.dtype, count: range.count)
      context.kernels.store(values.slice(from: range.lowerBound, count: range.count), into: target)
      try unsafe output.store(range, of: item, from: area, worker: worker)
    }
  }

  /// Reads a job's inputs through its worker's staging memory.
  private final class Reader: MatrixReader {
    private let segment: JobSegment
    private let context: JobContext
    private let worker: Worker

    init(_ segment: JobSegment, context: JobContext, worker: Worker) {
      self.segment = segment
      self.context = context
      self.worker = worker
    }

    func checkStop() throws(IngotError) {
      if let stop = context.watcher.stop { throw stop }
    }

    func read(_ input: Int, rows: Range<Int>, into panel: Matrix<Float>) throws(IngotError) {
      let columns = segment.blocking.rowLength
      guard segment.inputs.indices.contains(input), panel.floats.count == rows.count * columns else {
        throw IngotError(.internalError, "a panel of \(panel.rows) rows for \(rows.count) of input \(input)")
      }
      let bad = try load(segment.inputs[input], from: rows.lowerBound * columns, into: panel.floats)
      if bad > 0 {
        let model = input < segment.modelCount ? context.plan.modelName(segment.tensor.inputs[input].model) : "the base of aim"
        throw nonfinite("tensor \(segment.tensor.name): values that are NaN or infinite: \(bad) or more in \(model)")
      }
    }

    func readSide(_ side: Int, from start: Int, into values: Floats) throws(IngotError) {
      guard segment.tensor.sides.indices.contains(side) else { throw IngotError(.internalError, "a side tensor that is not planned") }
      let planned = segment.tensor.sides[side]
      let bad = try load(InputAccess(planned.source), from: start, into: values)
      if bad > 0 {
        throw nonfinite(
          "side tensor \(planned.source.name) of \(context.plan.modelName(planned.source.model)): \(bad) or more values are NaN or infinite")
      }
    }

    private func nonfinite(_ message: String) -> IngotError {
      IngotError(
        .nonFinite, message, hint: "repair the source; no matrix method can carry such values through", subject: segment.tensor.name)
    }

    /// Widens elements from `start` on. Returns how many are NaN or infinite.
    private func load(_ access: InputAccess, from start: Int, into values: Floats) throws(IngotError) -> Int {
      let source = context.sources[access.source]
      let first = access.offset + start * access.width
      worker.decodedBytes += values.count * access.width
      if let address = unsafe source.address(of: first..<first + values.count * access.width) {
        // SAFETY: the source says that the range lies there.
        return context.kernels.load(unsafe ElementSlice(unsafe: address, dtype: access.dtype, count: values.count), into: values)
      }
      let staging = unsafe worker.wholeStaging
      let step = max(min(staging.count, WorkerSizes.matrixStaging) / access.width, 1)
      var bad = 0
      for place in stride(from: 0, to: values.count, by: step) {
        let part = min(step, values.count - place)
        let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: staging[..<(part * access.width)])
        try unsafe source.read(bytes, at: first + place * access.width)
        if !source.isComputed { worker.bytesRead += bytes.count }
        guard let address = bytes.baseAddress else { continue }
        // SAFETY: the elements were just read there.
        let slice = unsafe ElementSlice(unsafe: UnsafeRawPointer(address), dtype: access.dtype, count: part)
        bad += context.kernels.load(slice, into: values.slice(from: place, count: part))
      }
      return bad
    }
  }
}
