internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
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
  /// Counts of values that are no numbers, where they are looked for.
  private let nonfinite: NonfiniteTally?

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
      index: 0, planned: first.planned, tensor: tensor, blocking: blocking, isWanted: first.isWanted)
    self.input = tensor.inputs[input]
    self.context = context
    nonfinite = context.checksFinite && self.input.dtype.hasArithmetic ? NonfiniteTally([segment]) : nil
    output = try OutputRun([segment], context: context, nonfinite: nonfinite)
    pieces = output.itemCount
  }

  var itemCount: Int { pieces }
  var bytesRead: Int { segment.isWanted ? segment.tensor.byteCount : 0 }

  func begin() throws(IngotError) {}
  func release() {}

  func advance() throws(IngotError) -> Bool {
    try nonfinite?.check([segment], context: context)
    try output.finishEmpty()
    return true
  }

  func process(item index: Int, worker: Worker) throws(IngotError) {
    announce(index, worker)
    let item = output.item(index)
    let bytes = item.elements.count
    // SAFETY: an item is at most the 1 MiB that the worker's output area holds for copies.
    let area = try unsafe worker.nextOutput(at: segment.tensor.offset + item.elements.lowerBound, context.writes)
    let target = unsafe UnsafeMutableRawBufferPointer(start: area, count: bytes)
    try unsafe read(input.offset + item.elements.lowerBound, into: target, worker)
    if let nonfinite {
      unsafe count(UnsafeRawBufferPointer(target), worker)
      nonfinite.collect(worker, segment: 0)
    }
    try unsafe output.store(item.elements, of: item, from: area, worker: worker)
  }

  /// As `JobExecution.announce`: a copy is read once.
  private func announce(_ item: Int, _ worker: Worker) {
    let distance = context.workerCount * context.roundsAhead(isOnce: true)
    if item < context.workerCount {
      for first in stride(from: item, to: min(distance, pieces), by: context.workerCount) { announce(piece: first, worker) }
    }
    if item + distance < pieces { announce(piece: item + distance, worker) }
  }

  private func announce(piece: Int, _ worker: Worker) {
    let elements = output.item(piece).elements
    let range = input.offset + elements.lowerBound..<input.offset + elements.upperBound
    guard let ahead = context.ahead else { return context.sources[input.source].willRead(range) }
    context.sources[input.source].willReadOnce(range, step: range.count, node: worker.node, ahead)
  }

  private func read(_ offset: Int, into target: UnsafeMutableRawBufferPointer, _ worker: Worker) throws(IngotError) {
    let source = context.sources[input.source]
    let range = offset..<offset + target.count
    if let ahead = context.ahead, let held = source.take(range, ahead) {
      defer { ahead.release(held) }
      if let address = unsafe held.address(of: range) {
        // SAFETY: what is held has the whole range.
        unsafe target.copyMemory(from: UnsafeRawBufferPointer(start: address, count: range.count))
        return worker.count(ahead: range.count)
      }
    }
    // SAFETY: the caller owns the target.
    try unsafe source.read(target, at: offset)
    if !source.isComputed { worker.bytesRead += range.count }
  }

  /// Widens a piece, which is whole elements, tile by tile into the worker's staging room, which copies have no other use for, and counts.
  private func count(_ bytes: UnsafeRawBufferPointer, _ worker: Worker) {
    guard let base = bytes.baseAddress else { return }
    let width = input.dtype.bits / 8
    let floats = unsafe worker.stagingAddress(input: 0, inputs: segment.inputs, stagingLength: 0)
    let total = bytes.count / width
    for start in stride(from: 0, to: total, by: Blocking.tileElements) {
      let part = min(Blocking.tileElements, total - start)
      // SAFETY: a copy's staging room holds a tile of f32 (`WorkerSizes.include`); the part lies in the piece.
      let room = unsafe Floats(unsafe: floats.assumingMemoryBound(to: Float.self), count: part)
      let slice = unsafe ElementSlice(unsafe: base + start * width, dtype: input.dtype, count: part)
      unsafe worker.nonfinite[0] += context.kernels.load(slice, into: room)
    }
    worker.decodedBytes += total * width
  }
}
