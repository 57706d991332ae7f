internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotTensors

/// Reads a job's inputs through its worker's staging memory.
final class SegmentReader: MatrixReader {
  private let segment: JobSegment
  private let context: JobContext
  private let worker: Worker
  /// The element that a job's first is.
  private let first: Int

  init(_ segment: JobSegment, first: Int = 0, context: JobContext, worker: Worker) {
    self.segment = segment
    self.first = first
    self.context = context
    self.worker = worker
  }

  func checkStop() throws(IngotError) {
    if let stop = context.watcher.stop { throw stop }
  }

  func read(_ input: Int, rows: Range<Int>, into panel: Matrix<Float>) throws(IngotError) {
    let columns = panel.columns
    guard segment.inputs.indices.contains(input), panel.floats.count == rows.count * columns,
      first + rows.upperBound * columns <= segment.blocking.count
    else {
      throw IngotError(.internalError, "a panel of \(panel.rows) rows for \(rows.count) of input \(input)")
    }
    let bad = try load(segment.inputs[input], from: first + rows.lowerBound * columns, into: panel.floats)
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
