internal import IngotCheckpoints
package import IngotErrors
internal import IngotMethods
package import IngotRecipes
package import IngotStorage
internal import IngotTensors

/// A model that a plan reads.
package struct PlannedModel: Sendable {
  /// As the recipe names it.
  package var name: String
  /// Where it was found; not part of the digest.
  package var path: String
  /// True when `path` is a path of this machine, false for a model in a caller's memory.
  package var isOnDisk: Bool
  /// Where an adapter or a pack that is applied to it was found.
  package struct Adapter: Sendable, Hashable {
    package var path: String
    /// The task, of a pack.
    package var task: String?
  }

  /// In the order in which they are applied.
  package var adapters: [Adapter]
  /// True for a file of side tensors, or what is read besides the models of the merge.
  package var isSide = false
  /// Size, time of change and header digest of its weight files: a run that resumes must see the same.
  package var shards: [ShardIdentity]

  package init(
    name: String, path: String, isOnDisk: Bool, adapters: [Adapter] = [], isSide: Bool = false, shards: [ShardIdentity]
  ) {
    self.isSide = isSide
    self.adapters = adapters
    self.name = name
    self.path = path
    self.isOnDisk = isOnDisk
    self.shards = shards
  }
}

/// What identifies a weight file.
package struct ShardIdentity: Sendable, Hashable {
  package var name: String
  package var size: UInt64
  /// Nanoseconds since 1970.
  package var modified: Int64
  package var headerDigest: Digest128

  package init(name: String, size: UInt64, modified: Int64, headerDigest: Digest128) {
    self.name = name
    self.size = size
    self.modified = modified
    self.headerDigest = headerDigest
  }

  init(_ shard: CheckpointShard) {
    self.init(
      name: shard.name, size: shard.size, modified: shard.modificationTime,
      headerDigest: Digest128(high: UInt64(shard.headerDigest >> 64), low: UInt64(truncatingIfNeeded: shard.headerDigest)))
  }
}

/// A weight file of the output: its name, its header, and its size. Tensors stand where `PlannedTensor` says.
package struct WeightFile: Sendable {
  package var name: String
  package var header: [UInt8]
  package var byteCount: Int

  package init(name: String, header: [UInt8], byteCount: Int) {
    self.name = name
    self.header = header
    self.byteCount = byteCount
  }
}

/// A file of the output besides the weights.
package struct SideFile: Sendable {
  package enum Content: Sendable {
    case bytes([UInt8])
    /// Copied from the donor when the run begins.
    case copy(from: String, byteCount: Int)
  }
  package var name: String
  package var content: Content

  package init(name: String, content: Content) {
    self.name = name
    self.content = content
  }

  package var byteCount: Int {
    switch content {
    case .bytes(let bytes): bytes.count
    case .copy(_, let count): count
    }
  }
}

/// What will be done, down to the byte: an immutable value that prints, has a digest, and can be run any number of times.
package final class Plan: Sendable {
  package let recipe: Recipe
  package let models: [PlannedModel]
  package let sources: [any ByteSource]
  package let files: [WeightFile]
  package let sideFiles: [SideFile]
  package let tensors: [PlannedTensor]
  package let jobs: [PlannedJob]
  package let seed: UInt64
  package let numerics: Recipe.Numerics
  package let missing: Recipe.Missing
  package let notices: [Notice]
  /// XXH3-128 over everything that decides the output's bytes; not over paths, threads, budget or instruction set.
  package let digest: Digest128
  /// XXH3-128 over size, time of change and header digest of every source file.
  package let sourceDigest: Digest128
  /// The output's vocabulary, where the recipe says something about the tokenizer.
  package let vocabulary: PlannedVocabulary?
  /// The documents before this one whose results it reads.
  package let stages: [PlannedStage]
  let behind: StageClosure
  /// Reads of files or callers' memory behind one element of the output, at most.
  let readsPerElement: Int
  /// How many results of documents are computed inside each other while this one is.
  let streamDepth: Int
  /// The models for a model card: those of its stages in their place.
  let cardSources: [ModelCard.Source]
  let workerSizes: WorkerSizes
  /// The most bytes that the column sums of a tensor take.
  let columnBytes: Int
  /// What its matrix jobs need, by job.
  let matrixNeeds: [Int: MatrixNeed]
  /// Bytes of tensor data that the output has, and that one pass over the inputs reads.
  package let bytesWritten: Int
  package let bytesRead: Int

  init(
    recipe: Recipe, models: [PlannedModel], sources: [any ByteSource], files: [WeightFile], sideFiles: [SideFile],
    tensors: [PlannedTensor], jobs: [PlannedJob], seed: UInt64, numerics: Recipe.Numerics, missing: Recipe.Missing, notices: [Notice],
    digest: Digest128, sourceDigest: Digest128, vocabulary: PlannedVocabulary? = nil, stages: [PlannedStage] = [],
    cardSources: [ModelCard.Source] = []
  ) throws(IngotError) {
    self.recipe = recipe
    self.models = models
    self.sources = sources
    self.files = files
    self.sideFiles = sideFiles
    self.tensors = tensors
    self.jobs = jobs
    self.seed = seed
    self.numerics = numerics
    self.missing = missing
    self.notices = notices
    self.digest = digest
    self.sourceDigest = sourceDigest
    self.vocabulary = vocabulary
    self.stages = stages
    behind = StageClosure(stages)
    readsPerElement = Self.readsPerElement(tensors, sources)
    streamDepth = stages.reduce(0) { $1.isStreamed ? max($0, $1.plan.streamDepth + 1) : $0 }
    self.cardSources = cardSources
    var sizes = WorkerSizes()
    var tables = 0
    var written = ByteTotal()
    var read = ByteTotal()
    var needs: [Int: MatrixNeed] = [:]
    for (number, job) in jobs.enumerated() {
      if case .merge(let method) = job.work, let matrices = method as? any ModelMatrixMethod {
        needs[number] = try MatrixNeed(matrices, job.tensors.map { tensors[$0] })
        sizes.includeMatrix()
        for index in job.tensors {
          try written.add(tensors[index].byteCount)
          for input in tensors[index].inputs { try read.add(try tensors[index].shape.elementCount() * (input.dtype.bits / 8)) }
        }
        continue
      }
      for index in job.tensors {
        let tensor = tensors[index]
        try written.add(tensor.byteCount)
        switch job.work {
        case .copy:
          try read.add(tensor.byteCount)
          sizes.include(tensor, try Blocking(shape: Shape([tensor.byteCount]), granularity: .block), nil)
        case .merge(let method):
          let demands = method.demands
          let blocking = try Blocking(shape: tensor.shape, granularity: demands.granularity)
          for input in tensor.streams { try read.add(blocking.count * (input.dtype.bits / 8)) }
          for side in tensor.wholeSides { try read.add(side.elementCount * (side.source.dtype.bits / 8)) }
          if let matrix = method as? any MatrixMethod, matrix.isMatrix {
            needs[number] = try MatrixNeed(matrix, tensor)
            sizes.includeMatrix()
            continue
          }
          sizes.include(tensor, blocking, demands)
          let (bytes, isTooMuch) = demands.columnSums.multipliedReportingOverflow(by: 8)
          tables = max(tables, isTooMuch ? .max / 2 : (bytes + 4095) / 4096 * 4096)
        }
      }
    }
    workerSizes = sizes
    columnBytes = tables
    matrixNeeds = needs
    bytesWritten = written.bytes
    bytesRead = read.bytes
  }

  func modelName(_ index: Int) -> String { models.indices.contains(index) ? models[index].name : "model \(index)" }

  /// Bytes of one worker with one block of this plan, and of one with one block of each stage that it computes on the way.
  var workerMemory: Int { behind.streamed.reduce(workerSizes.total) { $0 + $1.workerSizes.total } }

  /// Stages that must be stored before this plan runs, in the order in which they can be made.
  package var storedStages: [PlannedStage] { behind.stored }

  /// The least memory that a run needs: one worker with one block, the largest tensor's column sums, and the largest matrix job.
  package var leastMemory: Int { behind.stored.reduce(ownLeastMemory) { max($0, $1.plan.ownLeastMemory) } }

  private var ownLeastMemory: Int { workerMemory + columnBytes + (largestMatrix?.bytes ?? 0) }

  /// The matrix job that needs the most memory.
  package var largestMatrix: (tensor: String, bytes: Int)? {
    matrixNeeds.max { ($0.value.bytes, $1.key) < ($1.value.bytes, $0.key) }.map { number, need in
      (jobs[number].tensors.first.map { tensors[$0].name } ?? "", need.bytes)
    }
  }

  /// Bytes that the output takes on disk.
  package var outputBytes: Int { files.reduce(0) { $0 + $1.byteCount } + sideFiles.reduce(0) { $0 + $1.byteCount } }
}

/// Bytes that are added up. No sum that a plan makes overflows.
private struct ByteTotal {
  private(set) var bytes = 0

  mutating func add(_ count: Int) throws(IngotError) {
    let (sum, isTooMuch) = bytes.addingReportingOverflow(count)
    guard !isTooMuch, sum <= Limit.plannedBytes else {
      throw IngotError(.shape, "the plan reads or writes more than \(Limit.plannedBytes) bytes, expected a merge that can come to its end")
    }
    bytes = sum
  }
}
