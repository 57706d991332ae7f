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

/// One tensor of a running job and its place among the job's blocks and indices.
struct JobSegment: Sendable {
  let index: Int
  /// Index into the plan's tensors.
  let planned: Int
  let tensor: PlannedTensor
  let inputs: [InputAccess]
  let blocking: Blocking
  /// Number of blocks of the job before this tensor.
  let firstBlock: Int
  /// Job index of the first element; a multiple of 65,536.
  let jobBase: UInt64
  /// False when the output tensor is in place from an earlier run.
  let isWanted: Bool

  /// Bytes of an output element.
  var outputWidth: Int { max(tensor.dtype.bits / 8, 1) }

  var inputBytes: Int { tensor.inputs.reduce(0) { $0 + blocking.count * ($1.dtype.bits / 8) } }

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
          index: index, planned: planned, tensor: tensor, inputs: tensor.inputs.map(InputAccess.init), blocking: blocking,
          firstBlock: firstBlock, jobBase: jobBase,
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

/// NaN and infinities among the values a job combines, per input.
final class NonfiniteTally: @unchecked Sendable {
  // SENDABLE: counts change under the lock; isChecked only between phases.
  private let lock = Monitor()
  private var counts: [Int]
  private(set) var isChecked = false

  init(inputs: Int) { counts = [Int](repeating: 0, count: inputs) }

  /// Takes over what a worker saw in one item. Later rounds read the same values again and are not counted.
  func collect(_ worker: Worker) {
    var isDirty = false
    // SAFETY: a worker has as many counters as any job has inputs.
    for input in counts.indices where unsafe worker.nonfinite[input] != 0 { isDirty = true }
    guard isDirty else { return }
    lock.lock()
    defer { lock.unlock() }
    for input in counts.indices {
      if !isChecked { counts[input] += unsafe worker.nonfinite[input] }
      unsafe worker.nonfinite[input] = 0
    }
  }

  /// Throws `.nonFinite` with names and counts, or notes them when the run allows them.
  func check(_ segments: [JobSegment], context: JobContext) throws(IngotError) {
    isChecked = true
    guard counts.contains(where: { $0 > 0 }), let first = segments.first else { return }
    let name = segments.count == 1 ? "tensor \(first.tensor.name)" : "the tensors of the model"
    let found = counts.enumerated().filter { $0.element > 0 }.map { input, count in
      "\(count) in \(context.plan.modelName(first.tensor.inputs[input].model))"
    }.joined(separator: ", ")
    let message = "\(name): values that are NaN or infinite: \(found)"
    if context.allowsNonfinite {
      context.report.add(Notice(.warning, message, subject: first.tensor.name))
      return
    }
    throw IngotError(
      .nonFinite, message, hint: "repair the source, or carry them through with --allow-nonfinite", subject: first.tensor.name)
  }
}
