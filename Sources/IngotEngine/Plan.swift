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
  /// Size, time of change and header digest of its weight files: a run that resumes must see the same.
  package var shards: [ShardIdentity]

  package init(name: String, path: String, shards: [ShardIdentity]) {
    self.name = name
    self.path = path
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
  package let notices: [Notice]
  /// XXH3-128 over everything that decides the output's bytes; not over paths, threads, budget or instruction set.
  package let digest: Digest128
  /// XXH3-128 over size, time of change and header digest of every source file.
  package let sourceDigest: Digest128
  let workerSizes: WorkerSizes
  /// Bytes of tensor data that the output has, and that one pass over the inputs reads.
  package let bytesWritten: Int
  package let bytesRead: Int

  init(
    recipe: Recipe, models: [PlannedModel], sources: [any ByteSource], files: [WeightFile], sideFiles: [SideFile],
    tensors: [PlannedTensor], jobs: [PlannedJob], seed: UInt64, notices: [Notice], digest: Digest128, sourceDigest: Digest128
  ) throws(IngotError) {
    self.recipe = recipe
    self.models = models
    self.sources = sources
    self.files = files
    self.sideFiles = sideFiles
    self.tensors = tensors
    self.jobs = jobs
    self.seed = seed
    self.notices = notices
    self.digest = digest
    self.sourceDigest = sourceDigest
    var sizes = WorkerSizes()
    var written = 0
    var read = 0
    for job in jobs {
      for index in job.tensors {
        let tensor = tensors[index]
        written += tensor.byteCount
        switch job.work {
        case .copy:
          read += tensor.byteCount
          sizes.include(tensor, try Blocking(shape: Shape([tensor.byteCount]), granularity: .block), nil)
        case .merge(let method):
          let demands = method.demands
          let blocking = try Blocking(shape: tensor.shape, granularity: demands.granularity)
          read += tensor.inputs.reduce(0) { $0 + blocking.count * ($1.dtype.bits / 8) }
          sizes.include(tensor, blocking, demands)
        }
      }
    }
    workerSizes = sizes
    bytesWritten = written
    bytesRead = read
  }

  func modelName(_ index: Int) -> String { models.indices.contains(index) ? models[index].name : "model \(index)" }

  /// The least memory that a run needs: one worker with one block.
  package var leastMemory: Int { workerSizes.total }

  /// Bytes that the output takes on disk.
  package var outputBytes: Int { files.reduce(0) { $0 + $1.byteCount } + sideFiles.reduce(0) { $0 + $1.byteCount } }
}
