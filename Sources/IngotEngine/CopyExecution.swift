internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// Copies one input's bytes to the output without decoding them, a piece of 1 MiB at a time.
@safe
final class CopyExecution: JobRun, @unchecked Sendable {
  // SENDABLE: immutable but for the output run, which locks.
  private let segment: JobSegment
  private let input: PlannedInput
  private let context: JobContext
  private let output: OutputRun
  private let pieces: Int

  init(_ job: PlannedJob, input: Int, context: JobContext) throws(IngotError) {
    // Bytes are the elements of a copy: sub-byte types have no elements to address.
    let byBytes = try JobSegment.make(job, plan: context.plan, granularity: .block, context: context)
    guard let first = byBytes.first, first.tensor.inputs.indices.contains(input) else {
      throw IngotError(.internalError, "a copy without an input")
    }
    var tensor = first.tensor
    let blocking = try Blocking(shape: Shape([tensor.byteCount]), granularity: .block)
    tensor.dtype = .u8
    segment = JobSegment(
      index: 0, planned: first.planned, tensor: tensor, inputs: first.inputs, blocking: blocking, firstBlock: 0, jobBase: 0,
      isWanted: first.isWanted)
    self.input = tensor.inputs[input]
    self.context = context
    output = try OutputRun([segment], context: context)
    pieces = output.itemCount
  }

  var itemCount: Int { pieces }
  var bytesRead: Int { segment.isWanted ? segment.tensor.byteCount : 0 }

  func begin() throws(IngotError) {}
  func release() {}

  func advance() throws(IngotError) -> Bool {
    try output.finishEmpty()
    return true
  }

  func process(item index: Int, worker: Worker) throws(IngotError) {
    let item = output.item(index)
    let bytes = item.elements.count
    // SAFETY: an item is at most the 1 MiB that the worker's output area holds for copies.
    let target = unsafe UnsafeMutableRawBufferPointer(start: worker.output, count: bytes)
    try unsafe context.sources[input.source].read(target, at: input.offset + item.elements.lowerBound)
    worker.bytesRead += bytes
    try unsafe output.store(item.elements, of: item, from: worker.output, worker: worker)
    if output.finish(item) { try output.report(item) }
  }
}
