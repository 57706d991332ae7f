internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// One work item of the output phase: the elements it writes.
struct OutputItem: Sendable {
  var segment: Int
  var elements: Range<Int>
}

/// The output phase of a job: its items, and the digests of tensors whose items finish in any order.
final class OutputRun: @unchecked Sendable {
  // SENDABLE: the counters change under the lock; digests take parts from any thread.
  private let segments: [JobSegment]
  private let context: JobContext
  private let prefixes: Prefixes
  private let lock = Monitor()
  private var remaining: [Int]
  private var digests: [TensorDigest?]

  init(_ segments: [JobSegment], context: JobContext) throws(IngotError) {
    self.segments = segments
    self.context = context
    var remaining: [Int] = []
    var digests: [TensorDigest?] = []
    for segment in segments {
      remaining.append(segment.isWanted ? segment.blocking.itemCount(bytesPerElement: segment.outputWidth) : 0)
      digests.append(segment.isWanted && context.sink.wantsDigests ? try TensorDigest(byteCount: segment.tensor.byteCount) : nil)
    }
    prefixes = Prefixes(remaining)
    self.remaining = remaining
    self.digests = digests
  }

  var itemCount: Int { prefixes.total }

  func item(_ index: Int) -> OutputItem {
    let (part, rest) = prefixes.locate(index)
    let segment = segments[part]
    return OutputItem(segment: part, elements: segment.blocking.item(rest, bytesPerElement: segment.outputWidth))
  }

  /// Stores what of `range`, staged at `address`, belongs to the item.
  func store(_ range: Range<Int>, of item: OutputItem, from address: UnsafeRawPointer, worker: Worker) throws(IngotError) {
    let part = range.clamped(to: item.elements)
    if part.isEmpty { return }
    let segment = segments[item.segment]
    let width = segment.outputWidth
    let bytes = part.count * width
    let offset = part.lowerBound * width
    // SAFETY: the staged range begins at `address`.
    let staged = unsafe UnsafeRawBufferPointer(start: address + (part.lowerBound - range.lowerBound) * width, count: bytes)
    try unsafe digests[item.segment]?.add(staged, at: offset)
    try unsafe context.sink.write(staged, file: segment.tensor.file, at: segment.tensor.offset + offset)
    worker.bytesWritten += bytes
  }

  /// Counts a finished item. True for the last one of a tensor, which is to be reported.
  func finish(_ item: OutputItem) -> Bool {
    lock.lock()
    defer { lock.unlock() }
    remaining[item.segment] -= 1
    return remaining[item.segment] == 0
  }

  /// Tells the sink that the item's tensor is complete.
  func report(_ item: OutputItem) throws(IngotError) { try report(segments[item.segment]) }

  /// Reports the wanted tensors that have no elements and so no items.
  func finishEmpty() throws(IngotError) {
    for segment in segments where segment.isWanted && segment.blocking.count == 0 { try report(segment) }
  }

  private func report(_ segment: JobSegment) throws(IngotError) {
    let digest = try digests[segment.index]?.finish()
    try context.sink.tensorFinished(segment.planned, digest: digest)
    context.report.finished(tensor: segment.planned, digest: digest)
  }
}
