internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// One work item of the output phase: the elements it writes.
struct OutputItem: Sendable {
  var segment: Int
  var elements: Range<Int>
}

/// The output phase of a job: its items, the bytes that are not yet stored, and the digests of tensors whose items finish in any order.
final class OutputRun: @unchecked Sendable {
  // SENDABLE: the counters change under the lock; digests take parts from any thread.
  private let segments: [JobSegment]
  private let context: JobContext
  private let prefixes: Prefixes
  private let lock = Monitor()
  /// Bytes of each tensor that are not stored yet.
  private var remaining: [Int]
  private var digests: [TensorDigest?]
  private let nonfinite: NonfiniteTally?

  /// - Parameters: `nonfinite` says whether a tensor whose bytes are all there may count as finished.
  init(_ segments: [JobSegment], context: JobContext, nonfinite: NonfiniteTally? = nil) throws(IngotError) {
    self.segments = segments
    self.context = context
    self.nonfinite = nonfinite
    var items: [Int] = []
    var remaining: [Int] = []
    var digests: [TensorDigest?] = []
    for segment in segments {
      items.append(segment.isWanted ? segment.blocking.itemCount(bytesPerElement: segment.outputWidth) : 0)
      remaining.append(segment.blocking.count * segment.outputWidth)
      digests.append(segment.isWanted && context.sink.wantsDigests ? try TensorDigest(byteCount: segment.tensor.byteCount) : nil)
    }
    prefixes = Prefixes(items)
    self.remaining = remaining
    self.digests = digests
  }

  var itemCount: Int { prefixes.total }
  var itemStretches: [ItemStretch] { prefixes.stretches(segments) }

  func item(_ index: Int) -> OutputItem {
    let (part, rest) = prefixes.locate(index)
    let segment = segments[part]
    return OutputItem(segment: part, elements: segment.blocking.item(rest, bytesPerElement: segment.outputWidth))
  }

  /// Stores what of `range`, staged at `address` in the worker's output area, belongs to the item; at once or soon after. Non-finite values of
  /// the item must have been collected before its last part is stored.
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
    worker.bytesWritten += bytes
    let place = segment.tensor.offset + offset
    if let writes = context.writes, bytes >= Self.leastQueued, context.sink.waitsForDevice {
      unsafe writes.submit(
        .init(bytes: staged, file: segment.tensor.file, offset: place, output: self, segment: item.segment, slot: worker.outputSlot))
      return
    }
    try unsafe context.sink.write(staged, file: segment.tensor.file, at: place)
    try written(bytes, segment: item.segment)
  }

  /// Shorter writes are over sooner than another thread could take them.
  private static let leastQueued = 1 << 16

  /// Counts stored bytes; the last ones of a tensor make it finished.
  func written(_ bytes: Int, segment index: Int) throws(IngotError) {
    lock.lock()
    remaining[index] -= bytes
    let isComplete = remaining[index] == 0
    lock.unlock()
    guard isComplete else { return }
    try nonfinite?.refuse(segments[index], of: segments, context: context)
    try report(segments[index])
  }

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
