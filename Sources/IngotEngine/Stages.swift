internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// How the result of a document reaches the documents that read it. Both ways give the same bytes.
package enum StagePlacement: Sendable, Hashable {
  /// Computed on the way where that is possible, else stored.
  case automatic
  /// Stored in a scratch directory inside the partial output.
  case stored
}

/// A document of a recipe that another one reads, planned as if it stood alone.
package struct PlannedStage: Sendable {
  package let name: String
  package let plan: Plan
  /// True when ranges of its tensors are computed while a later document reads them; false when it is merged first, into a scratch directory.
  package let isStreamed: Bool
}

/// The documents of a recipe as models, in front of the models that files or callers have.
struct StageModels: ModelProvider {
  private var stages: [String: PlannedStage] = [:]
  private let fallback: any ModelProvider
  private let names: [String]
  /// Tensors of all of them together.
  private(set) var tensorCount = 0

  /// Plans the recipe's stages, first those that others read. Throws what planning throws.
  init(_ recipe: Recipe, options: PlanOptions, models: any ModelProvider) throws(IngotError) {
    fallback = models
    names = recipe.documentNames
    for stage in recipe.stages {
      guard let name = stage.name else { throw IngotError(.internalError, "a stage without a name") }
      var own = options
      own.shardSize = 0
      let plan = try Plan.make(stage, options: own, stages: self)
      tensorCount += plan.tensors.count
      stages[name] = PlannedStage(name: name, plan: plan, isStreamed: options.stages == .automatic && plan.canBeStreamed)
    }
  }

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    if let name = reference.bareName, let stage = stages[name] { return try stage.model() }
    if let name = reference.documentNames.first(where: { stages[$0] != nil }), let stage = stages[name] {
      return try fallback.adapting(try stage.model(), as: reference)
    }
    do throws(IngotError) {
      return try fallback.open(reference)
    } catch {
      guard error.status == .notFound, let near = nearestName(to: reference.name, among: names) else { throw error }
      var hinted = error
      hinted.hint = "did you mean the document \(near)?"
      throw hinted
    }
  }

  /// The stages that a recipe reads itself, each once.
  func read(by recipe: Recipe) -> [PlannedStage] {
    var seen: Set<String> = []
    return recipe.models.compactMap { model in
      model.documentNames.first { stages[$0] != nil }.flatMap { seen.insert($0).inserted ? stages[$0] : nil }
    }
  }
}

extension PlannedStage {
  /// The result as a model whose tensors no file holds yet.
  fileprivate func model() throws(IngotError) -> ProvidedModel {
    var jobs: [Int: Int] = [:]
    for (number, job) in plan.jobs.enumerated() { for tensor in job.tensors { jobs[tensor] = number } }
    var tensors: [CheckpointTensor] = []
    var sources: [any ByteSource] = []
    for (index, tensor) in plan.tensors.enumerated() {
      guard let job = jobs[index] else { throw IngotError(.internalError, "a tensor without a job", subject: tensor.name) }
      tensors.append(
        CheckpointTensor(
          name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, shard: sources.count, fileOffset: 0, byteCount: tensor.byteCount))
      sources.append(MergedSource(plan, tensor: index, job: job, isStored: !isStreamed))
    }
    var config: JSONValue?
    if let file = plan.sideFiles.first(where: { $0.name == "config.json" }), case .bytes(let bytes) = file.content {
      config = try JSON.parse(bytes, origin: "config.json of \(name)", options: .python)
    }
    // What identifies the result is what identifies its sources, each once: a document may reach them in many ways.
    var seen: Set<CheckpointShard> = []
    let shards = plan.models.flatMap(\.shards).map { shard in
      CheckpointShard(
        name: shard.name, size: shard.size, modificationTime: shard.modified,
        headerDigest: UInt128(shard.headerDigest.high) << 64 | UInt128(shard.headerDigest.low))
    }.filter { seen.insert($0).inserted }
    let checkpoint = try Checkpoint(displayPath: name, shards: shards, tensors: tensors, config: config)
    var model = ProvidedModel(path: name, checkpoint: checkpoint, sources: sources, files: PlannedFiles(displayPath: name, plan: plan))
    model.stage = plan
    return model
  }
}

/// The side files that a plan will write, before it has.
private struct PlannedFiles: ModelFiles {
  let displayPath: String
  let plan: Plan

  func fileNames() throws(IngotError) -> [String] { plan.sideFiles.map(\.name) }

  func size(of name: String) throws(IngotError) -> UInt64? {
    plan.sideFiles.first { $0.name == name }.map { UInt64(max($0.byteCount, 0)) }
  }

  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let file = plan.sideFiles.first(where: { $0.name == name }), let offset = Int(exactly: offset), count >= 0 else {
      throw IngotError(.io, "no such file is planned", subject: name)
    }
    switch file.content {
    case .copy(let path, _): return try StoredFile(path).readBytes(at: offset, count: count, limit: count)
    case .bytes(let bytes):
      guard offset <= bytes.count, count <= bytes.count - offset else {
        throw IngotError(.io, "read of \(count) bytes at \(offset) leaves the file's \(bytes.count) bytes", subject: name)
      }
      return Array(bytes[offset..<offset + count])
    }
  }

  func modificationTime(of name: String) -> Int64 { 0 }
}

extension Plan {
  /// Most reads of sources that one read of a streamed tensor may cost; dearer results are stored.
  private static let mostReads = 64
  /// Most results that are computed inside each other: each needs some kilobytes of the stack, and a host's thread may have little.
  private static let mostDepth = 8

  /// True when any range of any tensor can be computed by itself, once the statistics of its job are known.
  fileprivate var canBeStreamed: Bool {
    guard readsPerElement <= Self.mostReads, streamDepth < Self.mostDepth else { return false }
    return jobs.allSatisfy { job in
      guard case .merge(let method) = job.work else { return true }
      if let matrix = method as? any MatrixMethod, matrix.isMatrix { return false }
      if method is any ModelMatrixMethod { return false }
      switch method.demands.granularity {
      case .block: return true
      case .row:
        return job.tensors.allSatisfy { tensors[$0].shape.rowLength <= Blocking.pieceBytes / max(tensors[$0].dtype.bits / 8, 1) }
      case .tensor: return false
      }
    }
  }

  /// The most reads of files or callers' memory behind one element of the output.
  static func readsPerElement(_ tensors: [PlannedTensor], _ sources: [any ByteSource]) -> Int {
    tensors.reduce(1) { most, tensor in
      max(
        most,
        tensor.streams.reduce(0) { sum, input in
          min(sum + (sources.indices.contains(input.source) ? sources[input.source].readsPerElement : 1), mostReads + 1)
        })
    }
  }
}

/// Everything behind a plan's own stages, each once and in an order in which it can be made.
struct StageClosure: Sendable {
  /// Stages at any distance.
  private(set) var all: [PlannedStage] = []
  /// Plans whose tensors are computed while this one runs.
  private(set) var streamed: [Plan] = []
  /// Stages that must be stored before this plan runs.
  private(set) var stored: [PlannedStage] = []

  init(_ stages: [PlannedStage]) {
    var known: (all: Set<ObjectIdentifier>, streamed: Set<ObjectIdentifier>, stored: Set<ObjectIdentifier>) = ([], [], [])
    for stage in stages {
      let behind = stage.plan.behind
      for inner in behind.all + [stage] where known.all.insert(ObjectIdentifier(inner.plan)).inserted { all.append(inner) }
      let streams = stage.isStreamed ? behind.streamed + [stage.plan] : []
      for plan in streams where known.streamed.insert(ObjectIdentifier(plan)).inserted { streamed.append(plan) }
      let stores = behind.stored + (stage.isStreamed ? [] : [stage])
      for inner in stores where known.stored.insert(ObjectIdentifier(inner.plan)).inserted { stored.append(inner) }
    }
  }
}
