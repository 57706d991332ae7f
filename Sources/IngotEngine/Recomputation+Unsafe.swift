internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotStorage
internal import IngotTensors
internal import Synchronization

/// What came of computing some of a merged directory's tensors again from a recipe and its sources, and comparing the bytes.
package struct Recomputation: Sendable {
  package let directory: String
  /// Tensors and bytes that were computed and compared.
  package let tensors: Int
  package let bytes: Int
  /// Tensors that the output has.
  package let allTensors: Int
  /// Empty when every byte came out as it lies in the directory.
  package let differences: [TensorDifference]
  package let notices: [Notice]
  package let run: RunReport

  /// Throws `.stale` with the number of differences and the first of them.
  package func requireSame() throws(IngotError) {
    try differences.requireNone(
      .stale, hint: "the directory is not what this recipe and these sources give: merge again, or check which of them changed")
  }

  /// The members of its JSON object.
  func write(to document: inout JSONDocument) {
    differences.write(to: &document, directory: directory, verdict: "same", tensors: tensors, bytes: bytes)
    document.field("tensors_in_all", allTensors)
    document.object("run") { run.write(to: &$0) }
  }
}

extension Engine {
  /// Computes a sample of `plan`'s tensors and compares every tile of them with the bytes that lie in `directory`. Nothing is written.
  ///
  /// The sample follows from the plan's digest: tensors in the order of a hash of their names, until they have `share` (0 < share <= 1) of all
  /// bytes; a tensor without bytes costs nothing and is always in it. The weight files need not be cut as the plan's are. Differences are no
  /// error here: see `Recomputation.requireSame`. Throws `.notFound`, `.io` and `.format` for the directory, `.invalidArgument` for a
  /// share out of range, and whatever a run throws.
  package func recompute(
    _ directory: String, against plan: Plan, share: Double, allowsNonfinite: Bool = false, watcher: Watcher = .none
  ) throws(IngotError) -> Recomputation {
    guard share > 0, share <= 1 else {
      throw IngotError(.invalidArgument, "the sample is \(share) of the output, expected more than 0 and at most 1", subject: "sample")
    }
    let model = try LocalModels(environment: [:]).open(path: directory, isDirectory: true)
    let sink = try ComparingSink(plan, model, share: share)
    var options = RunOptions()
    options.allowsNonfinite = allowsNonfinite
    let report = try run(plan, into: sink, options: options, watcher: watcher)
    for source in plan.sources { try source.requireUnchanged() }
    return Recomputation(
      directory: directory, tensors: sink.compared.count, bytes: sink.compared.reduce(0) { $0 + plan.tensors[$1].byteCount },
      allTensors: plan.tensors.count, differences: sink.found, notices: plan.notices, run: report)
  }
}

/// Compares what a run gives with the bytes of a directory. The tensors that are not in the sample count as finished.
private final class ComparingSink: OutputSink {
  private let plan: Plan
  private let model: ProvidedModel
  let finished: Set<Int>
  let wantsDigests = false
  /// The plan's tensors of the sample.
  let compared: [Int]
  /// The plan's tensors that are compared and hold bytes, in the order of file and offset there.
  private let places: [Int]
  /// The first byte of a tensor that differs, whichever worker comes first.
  private let firstBytes = Mutex<[Int: Int]>([:])
  /// What headers alone tell.
  private let mismatches: [TensorDifference]

  init(_ plan: Plan, _ model: ProvidedModel, share: Double) throws(IngotError) {
    self.plan = plan
    self.model = model
    var mismatches: [TensorDifference] = []
    var fitting: [Int] = []
    for (index, tensor) in plan.tensors.enumerated() {
      guard let found = model.checkpoint[tensor.name] else {
        mismatches.append(TensorDifference(tensor: tensor.name, problem: "the tensor is not there"))
        continue
      }
      guard found.dtype == tensor.dtype, found.shape == tensor.shape, found.strides == nil else {
        mismatches.append(
          TensorDifference(
            tensor: tensor.name, file: model.checkpoint.shards[found.shard].name,
            problem:
              "the tensor is \(found.dtype.safetensorsName) \(found.shape), expected \(tensor.dtype.safetensorsName) \(tensor.shape)"))
        continue
      }
      fitting.append(index)
    }
    let known = Set(plan.tensors.map(\.name))
    for tensor in model.checkpoint.tensors where !known.contains(tensor.name) {
      mismatches.append(
        TensorDifference(
          tensor: tensor.name, file: model.checkpoint.shards[tensor.shard].name, problem: "the recipe does not give this tensor"))
    }
    let sample = Self.sample(of: fitting, plan, share: share)
    compared = sample
    finished = Set(plan.tensors.indices).subtracting(sample)
    places = sample.filter { plan.tensors[$0].byteCount > 0 }.sorted {
      (plan.tensors[$0].file, plan.tensors[$0].offset) < (plan.tensors[$1].file, plan.tensors[$1].offset)
    }
    self.mismatches = mismatches
  }

  private static func sample(of candidates: [Int], _ plan: Plan, share: Double) -> [Int] {
    let seed = plan.digest.description
    let order = candidates.map { (index: $0, rank: Digest128(of: seed + plan.tensors[$0].name)) }.sorted {
      ($0.rank.high, $0.rank.low, $0.index) < ($1.rank.high, $1.rank.low, $1.index)
    }
    let wanted = Double(candidates.reduce(0) { $0 + plan.tensors[$1].byteCount }) * share
    var bytes = 0
    var chosen: [Int] = []
    for (index, _) in order where plan.tensors[index].byteCount == 0 || Double(bytes) < wanted {
      chosen.append(index)
      bytes += plan.tensors[index].byteCount
    }
    return chosen
  }

  var found: [TensorDifference] {
    var all = mismatches
    for (index, byte) in firstBytes.withLock({ $0 }) {
      let name = plan.tensors[index].name
      all.append(
        TensorDifference(
          tensor: name, file: model.checkpoint[name].map { model.checkpoint.shards[$0.shard].name },
          problem: "byte \(byte) of the tensor is not what the recipe gives"))
    }
    all.sortByTensor()
    return all
  }

  func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {
    guard let index = tensor(file: file, at: offset), let found = model.checkpoint[plan.tensors[index].name] else {
      throw IngotError(.internalError, "bytes for a place that no tensor of the sample has")
    }
    let tensor = plan.tensors[index]
    var stored = [UInt8](repeating: 0, count: bytes.count)
    var outcome: Result<Int?, IngotError> = .success(nil)
    // SAFETY: the array's storage is this closure's own and as long as `bytes`, which the caller keeps alive.
    unsafe stored.withUnsafeMutableBytes { buffer in
      outcome = Result { () throws(IngotError) in
        try unsafe model.sources[found.shard].read(buffer, at: Int(found.fileOffset) + (offset - tensor.offset))
        return unsafe zip(buffer, bytes).enumerated().first { $1.0 != $1.1 }?.offset
      }
    }
    guard let place = try outcome.get() else { return }
    let byte = offset - tensor.offset + place
    firstBytes.withLock { $0[index] = min($0[index] ?? byte, byte) }
  }

  /// The tensor of the sample that holds a place of the plan's files.
  private func tensor(file: Int, at offset: Int) -> Int? {
    var (low, high) = (0, places.count)
    while low < high {
      let middle = (low + high) / 2
      let tensor = plan.tensors[places[middle]]
      if (tensor.file, tensor.offset) <= (file, offset) { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return nil }
    let tensor = plan.tensors[places[low - 1]]
    return tensor.file == file && offset - tensor.offset < tensor.byteCount ? places[low - 1] : nil
  }

  func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {}
}
