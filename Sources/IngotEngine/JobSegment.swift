internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// What reading one input takes, without the names: plain values, so that workers do not contend for reference counts.
struct InputAccess: Sendable {
  let source: Int
  let offset: Int
  let dtype: DType
  /// Bytes of an element.
  let width: Int

  init(_ input: PlannedInput) {
    source = input.source
    offset = input.offset
    dtype = input.dtype
    width = max(input.dtype.bits / 8, 1)
  }
}

/// Where a side tensor of a job is found.
struct SideAccess: Sendable {
  enum Place: Sendable {
    /// Among the inputs that are read element by element.
    case stream(Int)
    /// Loaded whole, at this f32 value of the worker's area for side tensors.
    case whole(InputAccess, offset: Int, count: Int)
  }
  let place: Place
  /// For messages: the tensor's name and the file's model number.
  let name: String
  let model: Int
}

/// One tensor of a running job and its place among the job's blocks and indices.
struct JobSegment: Sendable {
  let index: Int
  /// Index into the plan's tensors.
  let planned: Int
  let tensor: PlannedTensor
  /// All that is read element by element: the models' tensors first, then side tensors.
  let inputs: [InputAccess]
  /// How many of them are the models'.
  let modelCount: Int
  let sides: [SideAccess]
  let blocking: Blocking
  /// Number of blocks of the job before this tensor.
  let firstBlock: Int
  /// Job index of the first element; a multiple of 65,536.
  let jobBase: UInt64
  /// False when the output tensor is in place from an earlier run.
  let isWanted: Bool

  /// Bytes of an output element.
  var outputWidth: Int { max(tensor.dtype.bits / 8, 1) }

  var inputBytes: Int { inputs.reduce(0) { $0 + blocking.count * $1.width } }

  /// Of those the side tensors alone.
  var sideBytes: Int { inputs.dropFirst(modelCount).reduce(0) { $0 + blocking.count * $1.width } }

  var hasWholeSides: Bool {
    sides.contains {
      if case .whole = $0.place { return true }
      return false
    }
  }

  init(
    index: Int, planned: Int, tensor: PlannedTensor, blocking: Blocking, firstBlock: Int = 0, jobBase: UInt64 = 0, isWanted: Bool
  ) {
    self.index = index
    self.planned = planned
    self.tensor = tensor
    self.blocking = blocking
    self.firstBlock = firstBlock
    self.jobBase = jobBase
    self.isWanted = isWanted
    inputs = tensor.streams.map(InputAccess.init)
    modelCount = tensor.inputs.count
    var stream = tensor.inputs.count
    var offset = 0
    var sides: [SideAccess] = []
    for side in tensor.sides {
      var place = SideAccess.Place.stream(stream)
      if side.isStreamed {
        stream += 1
      } else {
        let count = side.elementCount
        place = .whole(InputAccess(side.source), offset: offset, count: count)
        offset += WorkerSizes.padded(count * 4) / 4
      }
      sides.append(SideAccess(place: place, name: side.source.name, model: side.source.model))
    }
    self.sides = sides
  }

  static func make(
    _ job: PlannedJob, plan: Plan, granularity: Granularity, context: JobContext
  ) throws(IngotError) -> [JobSegment] {
    var segments: [JobSegment] = []
    var firstBlock = 0
    var jobBase: UInt64 = 0
    let unit = UInt64(Blocking.blockElements)
    for (index, planned) in job.tensors.enumerated() {
      let tensor = plan.tensors[planned]
      let blocking = try Blocking(shape: tensor.shape, granularity: granularity)
      segments.append(
        JobSegment(
          index: index, planned: planned, tensor: tensor, blocking: blocking, firstBlock: firstBlock, jobBase: jobBase,
          isWanted: !(context.skipsFinished && context.sink.finished.contains(planned))))
      firstBlock += blocking.blockCount
      jobBase += (UInt64(blocking.count) + unit - 1) / unit * unit
    }
    return segments
  }
}

/// Where consecutive numbers fall when every part has its own count: item → (segment, item within it).
struct Prefixes: Sendable {
  private let starts: [Int]
  let total: Int

  init(_ counts: [Int]) {
    var starts: [Int] = []
    var sum = 0
    for count in counts {
      starts.append(sum)
      sum += count
    }
    self.starts = starts
    total = sum
  }

  /// The parts as those of the tensors of `segments`.
  func stretches(_ segments: [JobSegment]) -> [ItemStretch] {
    zip(segments, starts.indices).map { segment, part in
      ItemStretch(tensor: segment.planned, count: (part + 1 < starts.count ? starts[part + 1] : total) - starts[part])
    }
  }

  /// The part that holds `number`, and the number within it.
  func locate(_ number: Int) -> (part: Int, rest: Int) {
    var low = 0
    var high = starts.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if starts[middle] <= number { low = middle } else { high = middle }
    }
    return (low, number - (starts.isEmpty ? 0 : starts[low]))
  }
}

/// NaN and infinities among the values a job combines, per tensor and input.
final class NonfiniteTally: @unchecked Sendable {
  // SENDABLE: counts change under the lock; isChecked only between phases.
  private let lock = Monitor()
  private var counts: [[Int]]
  /// Values of each output that its type cannot hold.
  private var overflows: [Int]
  private(set) var isChecked = false

  init(_ segments: [JobSegment]) {
    counts = segments.map { [Int](repeating: 0, count: $0.inputs.count) }
    overflows = segments.map { _ in 0 }
  }

  /// Takes over how many values of an output became infinite when they were rounded.
  func collect(overflows count: Int, segment: Int) {
    if count == 0 { return }
    lock.lock()
    overflows[segment] += count
    lock.unlock()
  }

  /// Throws `.nonFinite` where an output has values that its type cannot hold, or notes them when the run allows them. What comes of inputs that
  /// are not finite themselves has been told.
  func checkOverflows(_ segments: [JobSegment], context: JobContext) throws(IngotError) {
    for found in segments where overflows[found.index] > 0 && counts[found.index].allSatisfy({ $0 == 0 }) {
      guard context.allowsNonfinite else { throw overflow(found) }
      context.report.add(Notice(.warning, overflow(found).message, subject: found.tensor.name))
    }
  }

  private func overflow(_ segment: JobSegment) -> IngotError {
    IngotError(
      .nonFinite,
      "tensor \(segment.tensor.name): \(overflows[segment.index]) values of the result are beyond what \(segment.tensor.dtype.safetensorsName) holds",
      hint: "set dtype: bfloat16 or float32, or let them become infinite with --allow-nonfinite", subject: segment.tensor.name)
  }

  /// Takes over what a worker saw in one item. Later rounds read the same values again and are not counted.
  func collect(_ worker: Worker, segment: Int) {
    var isDirty = false
    // SAFETY: a worker has as many counters as any job has inputs.
    for input in counts[segment].indices where unsafe worker.nonfinite[input] != 0 { isDirty = true }
    guard isDirty else { return }
    lock.lock()
    defer { lock.unlock() }
    for input in counts[segment].indices {
      if !isChecked { counts[segment][input] += unsafe worker.nonfinite[input] }
      unsafe worker.nonfinite[input] = 0
    }
  }

  /// Throws `.nonFinite` with names and counts, or notes them when the run allows them.
  func check(_ segments: [JobSegment], context: JobContext) throws(IngotError) {
    isChecked = true
    for found in segments where !counts[found.index].allSatisfy({ $0 == 0 }) {
      guard context.allowsNonfinite else { throw failure(found, segments, context) }
      context.report.add(Notice(.warning, message(found, context), subject: found.tensor.name))
    }
  }

  /// Throws as `check` would for what was collected so far of one tensor, whose items are all done: a tensor with values that are refused must
  /// not count as finished, or a resumed run would take it over.
  func refuse(_ segment: JobSegment, of segments: [JobSegment], context: JobContext) throws(IngotError) {
    if context.allowsNonfinite { return }
    lock.lock()
    defer { lock.unlock() }
    if counts[segment.index].contains(where: { $0 > 0 }) { throw failure(segment, segments, context) }
    if overflows[segment.index] > 0 { throw overflow(segment) }
  }

  private func failure(_ found: JobSegment, _ segments: [JobSegment], _ context: JobContext) -> IngotError {
    let others = counts.count { $0.contains { $0 > 0 } } - 1
    return IngotError(
      .nonFinite, message(found, context) + (others > 0 ? ", and \(others) more tensors" : ""),
      hint: "repair the source, or carry them through with --allow-nonfinite", subject: found.tensor.name)
  }

  private func message(_ segment: JobSegment, _ context: JobContext) -> String {
    let found = counts[segment.index].enumerated().filter { $0.element > 0 }.map { input, count in
      "\(count) in \(context.plan.modelName(segment.tensor.streams[input].model))"
    }.joined(separator: ", ")
    return "tensor \(segment.tensor.name): values that are NaN or infinite: \(found)"
  }
}
