internal import IngotCheckpoints
internal import IngotErrors
internal import IngotTensors

/// One tensor of both models, and of the base where it has it too.
struct ComparisonPair: Sendable {
  struct Place: Sendable {
    let source: any ByteSource
    let offset: Int
    /// The type to read it as: bytes for types narrower than a byte.
    let dtype: DType
  }

  let a: CheckpointTensor
  let b: CheckpointTensor
  let first: Place
  let second: Place
  let base: Place?
  /// Elements to read; 0 when the two cannot be compared element by element.
  let count: Int
  /// True when values, not only bits, are compared.
  let hasValues: Bool
  /// The type in whose last place distances are measured.
  let unit: DType

  init(_ a: CheckpointTensor, _ b: CheckpointTensor, in models: (a: ProvidedModel, b: ProvidedModel), base: ProvidedModel?)
    throws(IngotError)
  {
    self.a = a
    self.b = b
    hasValues = a.dtype.hasArithmetic && b.dtype.hasArithmetic && a.shape == b.shape
    let isNarrow = a.dtype.bits % 8 != 0
    first = try Self.place(a, in: models.a, as: isNarrow ? .u8 : a.dtype)
    second = try Self.place(b, in: models.b, as: isNarrow ? .u8 : b.dtype)
    if a.shape != b.shape || (a.dtype != b.dtype && !hasValues) {
      count = 0
    } else {
      count = isNarrow ? a.byteCount : try a.shape.elementCount()
    }
    if a.dtype == b.dtype {
      unit = first.dtype
    } else {
      let types = [a.dtype.defaultOutput, b.dtype.defaultOutput]
      unit = types.contains(.bf16) ? .bf16 : types.contains(.f16) ? .f16 : .f32
    }
    guard hasValues, let base, let tensor = base.checkpoint[a.name], tensor.shape == a.shape, tensor.dtype.hasArithmetic else {
      self.base = nil
      return
    }
    self.base = try Self.place(tensor, in: base, as: tensor.dtype)
  }

  private static func place(_ tensor: CheckpointTensor, in model: ProvidedModel, as dtype: DType) throws(IngotError) -> Place {
    guard model.sources.indices.contains(tensor.shard), let offset = Int(exactly: tensor.fileOffset) else {
      throw IngotError(.format, "the tensor is outside the files of \(model.path)", subject: tensor.name)
    }
    return Place(source: model.sources[tensor.shard], offset: offset, dtype: dtype)
  }

  /// Bytes that comparing it reads.
  var bytes: Int { count * (first.dtype.bits / 8 + second.dtype.bits / 8 + (base.map { $0.dtype.bits / 8 } ?? 0)) }
  var itemCount: Int { (count + ComparisonRun.itemElements - 1) / ComparisonRun.itemElements }
}

/// The statistics of some elements of a pair.
struct ComparisonPart: Sendable {
  struct Sums: Sendable {
    var xx = 0.0
    var xy = 0.0
    var yy = 0.0
    var dd = 0.0
    var largest = 0.0

    static func += (sums: inout Sums, other: Sums) {
      sums.xx += other.xx
      sums.xy += other.xy
      sums.yy += other.yy
      sums.dd += other.dd
      sums.largest = max(sums.largest, other.largest)
    }

    /// Within −1 and 1: the last digit of the sums may put equal runs a little outside.
    var cosine: Double? { xx > 0 && yy > 0 ? min(1, max(-1, xy / (xx.squareRoot() * yy.squareRoot()))) : nil }
  }

  var values = Sums()
  var deltas = Sums()
  var signs = SignCounts()
  var differing = 0
  var ulps: UInt64 = 0
  var nonfiniteA = 0
  var nonfiniteB = 0

  static func += (part: inout ComparisonPart, other: ComparisonPart) {
    part.values += other.values
    part.deltas += other.deltas
    part.signs.first += other.signs.first
    part.signs.second += other.signs.second
    part.signs.both += other.signs.both
    part.signs.opposite += other.signs.opposite
    part.differing += other.differing
    part.ulps = max(part.ulps, other.ulps)
    part.nonfiniteA += other.nonfiniteA
    part.nonfiniteB += other.nonfiniteB
  }
}

/// Hands out the pairs of a comparison in items of 1 Mi elements and puts the parts together in the order of the elements, so that the figures
/// do not depend on who did what. Thread rule: `work` on every worker of one team; `finish` after that.
final class ComparisonRun: @unchecked Sendable {
  // SENDABLE: everything mutable is under the monitor.
  /// Whole blocks.
  static let itemElements = 16 * Blocking.blockElements

  private let monitor = Monitor()
  private let pairs: [ComparisonPair]
  private let kernels: Kernels
  private let watcher: Watcher
  private var next = (pair: 0, item: 0)
  private var unfinished: [Int: (parts: [ComparisonPart], remaining: Int)] = [:]
  private var results: [Comparison.Tensor?]
  private var failure: IngotError?
  private var progress: Progress

  init(
    _ a: ProvidedModel, _ b: ProvidedModel, base: ProvidedModel?, kernels: Kernels, watcher: Watcher
  ) throws(IngotError) {
    var pairs: [ComparisonPair] = []
    for tensor in a.checkpoint.tensors {
      if let other = b.checkpoint[tensor.name] { pairs.append(try ComparisonPair(tensor, other, in: (a, b), base: base)) }
    }
    self.pairs = pairs
    self.kernels = kernels
    self.watcher = watcher
    results = Array(repeating: nil, count: pairs.count)
    progress = Progress(
      bytesDone: 0, bytesTotal: pairs.reduce(0) { $0 + $1.bytes }, tensorsDone: 0, tensorsTotal: pairs.count, tensor: nil)
  }

  var bytesRead: Int { progress.bytesDone }

  func work(isCaller: Bool) {
    let worker = ComparisonWorker(kernels)
    while let claim = claim(isCaller: isCaller) {
      let pair = pairs[claim.pair]
      let start = claim.item * Self.itemElements
      let elements = start..<min(start + Self.itemElements, pair.count)
      do throws(IngotError) {
        let part = try worker.compare(elements, of: pair)
        store(part, claim, elements.count * pair.bytes / pair.count)
      } catch {
        fail(error)
      }
    }
  }

  /// All tensors, when the team has stopped. Throws what stopped it.
  func finish() throws(IngotError) -> [Comparison.Tensor] {
    if let failure { throw failure }
    watcher.look(progress, isFinal: true)
    var tensors: [Comparison.Tensor] = []
    for (pair, result) in zip(pairs, results) {
      if let result { tensors.append(result) } else { tensors.append(try Self.tensor(pair, nil)) }
    }
    return tensors
  }

  private func claim(isCaller: Bool) -> (pair: Int, item: Int)? {
    if isCaller {
      monitor.lock()
      let now = progress
      monitor.unlock()
      watcher.look(now)
    }
    monitor.lock()
    defer { monitor.unlock() }
    if failure == nil, let stop = watcher.stop {
      failure = IngotError(.cancelled, "the comparison was cancelled", userCode: stop.userCode)
    }
    while failure == nil, next.pair < pairs.count {
      let count = pairs[next.pair].itemCount
      if next.item < count {
        if next.item == 0 { unfinished[next.pair] = (Array(repeating: ComparisonPart(), count: count), count) }
        progress.tensor = pairs[next.pair].a.name
        defer { next.item += 1 }
        return next
      }
      if count == 0 { progress.tensorsDone += 1 }
      next = (next.pair + 1, 0)
    }
    return nil
  }

  private func store(_ part: ComparisonPart, _ claim: (pair: Int, item: Int), _ bytes: Int) {
    monitor.lock()
    defer { monitor.unlock() }
    progress.bytesDone += bytes
    unfinished[claim.pair]?.parts[claim.item] = part
    unfinished[claim.pair]?.remaining -= 1
    guard let entry = unfinished[claim.pair], entry.remaining == 0 else { return }
    unfinished[claim.pair] = nil
    progress.tensorsDone += 1
    var whole = ComparisonPart()
    for part in entry.parts { whole += part }
    do throws(IngotError) { results[claim.pair] = try Self.tensor(pairs[claim.pair], whole) } catch {
      if failure == nil { failure = error }
    }
  }

  private func fail(_ error: IngotError) {
    monitor.lock()
    if failure == nil { failure = error }
    monitor.unlock()
  }

  /// What a pair comes to; nil parts for a pair that has no elements or was not read.
  private static func tensor(_ pair: ComparisonPair, _ found: ComparisonPart?) throws(IngotError) -> Comparison.Tensor {
    let (a, b) = (pair.a, pair.b)
    let elements = try a.shape.elementCount()
    let isAlike = a.dtype == b.dtype && a.shape == b.shape
    let part = found ?? ComparisonPart()
    // Bytes are counted where elements are narrower: how many elements they are is not known.
    let countsElements = a.dtype.bits % 8 == 0 || part.differing == 0
    var tensor = Comparison.Tensor(
      name: a.name, dtypeA: a.dtype, dtypeB: b.dtype, shapeA: a.shape, shapeB: b.shape, elements: elements,
      isEqual: isAlike && part.differing == 0,
      differing: countsElements && (isAlike || pair.hasValues) ? part.differing : nil)
    guard pair.hasValues else { return tensor }
    let sums = part.values
    let count = max(elements, 1)
    tensor.values = Comparison.Values(
      largest: sums.largest, rms: (sums.dd / Double(count)).squareRoot(), cosine: sums.cosine, normA: sums.xx.squareRoot(),
      normB: sums.yy.squareRoot(), ulps: part.ulps, unit: pair.unit, nonfiniteA: part.nonfiniteA, nonfiniteB: part.nonfiniteB)
    if pair.base != nil { tensor.taskVectors = Comparison.TaskVectors(part.deltas, part.signs) }
    return tensor
  }
}
