internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage

/// What came of computing a merged directory's tensors again from its record and comparing digests. Nothing is written.
package struct Reproduction: Sendable {
  package let directory: String
  /// The version of Ingot that wrote the directory.
  package let version: String
  /// Tensors and bytes that were computed again.
  package let tensors: Int
  package let bytes: Int
  /// Empty when every tensor came out as recorded.
  package let differences: [TensorDifference]
  package let notices: [Notice]
  package let run: RunReport

  /// Throws `.stale` with the number of differences and the first of them: a source has other weights under the same header, or another
  /// version computes otherwise.
  package func requireSame() throws(IngotError) {
    try differences.requireNone(
      .stale,
      hint: version == Version.text
        ? "a source has changed since the merge, though its header has not"
        : "the directory was written by ingot \(version), this is \(Version.text); or a source has changed since the merge")
  }

  /// One JSON document with a schema version.
  package func json() -> String {
    var document = JSONDocument()
    document.object { document in
      differences.write(to: &document, directory: directory, verdict: "reproduced", tensors: tensors, bytes: bytes)
      document.field("written_by", version)
      document.object("run") { run.write(to: &$0) }
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
  }
}

extension Engine {
  /// Runs the merge of `directory` again, from the recipe, seed and sources that its `ingot.json` records, and compares every tensor's digest.
  ///
  /// `places` says where models are now, by their names in the recipe, for those that are not where they were. Differences are no error here:
  /// see `Reproduction.requireSame`. Throws `.notFound` for a source that is gone, `.stale` for one that has changed, what reading the record
  /// throws, and whatever planning and running throw.
  package func reproduce(
    _ directory: String, places: [String: String] = [:], watcher: Watcher = .none
  ) throws(IngotError) -> Reproduction {
    let record = try MergeRecord(directory: directory)
    let recipe = try Recipe.parse(
      Array(try record.recipe().utf8), origin: MergeRecord.fileName + ": recipe", catalog: MethodRegistry.wholeCatalog)
    let state = RecordedState(recipe)
    let models = RecordedModels(try record.models(), places: state?.spreading(places) ?? places)
    for name in places.keys.sorted() where !models.has(name) && name != state?.path {
      throw IngotError(
        .invalidArgument, "the recipe has no model \"\(name)\"", hint: "its models are \(models.names.joined(separator: ", "))",
        subject: name)
    }
    var options = PlanOptions()
    options.seed = try record.seed()
    options.numerics = record.numerics
    options.missing = record.missing
    let provider: any ModelProvider = try state?.provider(models, directory: directory) ?? models
    let plan = try Plan.make(recipe, options: options, models: provider)
    var notices = plan.notices + models.notices(plan)
    if let digest = record.planDigest, digest != plan.digest.description, record.version != Version.text {
      notices.append(
        Notice(.info, "ingot \(record.version) wrote the directory, and this version \(Version.text) plans the merge in another way"))
    }
    var run = RunOptions()
    run.allowsNonfinite = record.allowsNonfinite
    let report = try self.run(plan, into: NullSink(), options: run, watcher: watcher)
    for source in plan.sources { try source.requireUnchanged() }
    return Reproduction(
      directory: directory, version: record.version, tensors: plan.tensors.count, bytes: plan.bytesWritten,
      differences: Self.differences(plan, report, record), notices: notices, run: report)
  }

  private static func differences(_ plan: Plan, _ report: RunReport, _ record: MergeRecord) -> [TensorDifference] {
    var expected = Dictionary(record.tensors.map { ($0.name, $0.digest) }, uniquingKeysWith: { first, _ in first })
    var differences: [TensorDifference] = []
    for (index, tensor) in plan.tensors.enumerated() {
      guard let digest = expected.removeValue(forKey: tensor.name) else {
        differences.append(.init(tensor: tensor.name, problem: "the record does not have this tensor"))
        continue
      }
      guard let found = report.digests[index], found != digest else { continue }
      differences.append(.init(tensor: tensor.name, problem: "the digest is \(found), expected \(digest)"))
    }
    for name in expected.keys { differences.append(.init(tensor: name, problem: "the merge does not give this tensor")) }
    differences.sortByTensor()
    return differences
  }
}

extension MergeRecord.Model {
  /// The adapters as a recipe names them.
  fileprivate var adapterLocations: [IngotRecipes.ModelReference.Location] {
    adapters.map { .fields(path: $0.path, revision: nil, task: $0.task) }
  }
}

/// The models of a record, where they were or where the caller says; each must have the headers that were recorded.
struct RecordedModels: ModelProvider {
  private let models: [String: MergeRecord.Model]
  private let places: [String: String]

  init(_ models: [MergeRecord.Model], places: [String: String]) {
    self.models = Dictionary(models.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    self.places = places
  }

  var names: [String] { models.keys.sorted() }
  func has(_ name: String) -> Bool { models[name] != nil }
  /// Where the model is looked for.
  func path(of name: String) -> String? { places[name] ?? models[name]?.path }
  /// True where the caller says where the model is.
  func isPlaced(_ name: String) -> Bool { places[name] != nil }

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    guard let model = models[reference.name] else {
      throw IngotError(.format, "the record has no model of this name", subject: reference.name)
    }
    let path = places[model.name] ?? model.path
    for place in [path] + model.adapters.map(\.path) where try fileStatus(place) == nil {
      throw IngotError(
        .notFound, "the source \(model.name) is not at \(place)",
        hint: "if it was moved: --model '\(model.name)=PATH'; a model that was in memory cannot be read again", subject: model.name)
    }
    let placed = IngotRecipes.ModelReference(
      .fields(path: path, revision: nil), adapters: model.adapterLocations, position: reference.position)
    let found = try LocalModels(environment: [:]).open(placed).readable()
    try requireRecorded(found, model, at: path)
    return found
  }

  func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    guard let recorded = models[reference.name], let last = recorded.adapters.last else {
      throw IngotError(.format, "the record has no adapter of this name", subject: reference.name)
    }
    for adapter in recorded.adapters where try fileStatus(adapter.path) == nil {
      throw IngotError(.notFound, "the adapter of \(recorded.name) is not at \(adapter.path)", subject: recorded.name)
    }
    let placed = IngotRecipes.ModelReference(
      .fields(path: recorded.path, revision: nil), adapters: recorded.adapterLocations, position: reference.position)
    let found = try LocalModels(environment: [:]).adapting(model, as: placed)
    try requireRecorded(found, recorded, at: last.path)
    return found
  }

  private func requireRecorded(_ found: ProvidedModel, _ model: MergeRecord.Model, at path: String) throws(IngotError) {
    func changed(_ problem: String) -> IngotError {
      IngotError(
        .stale, "the source \(model.name) has changed since the merge: \(problem)", hint: "bring back the files that were merged",
        subject: path)
    }
    guard found.checkpoint.shards.count == model.shards.count else {
      throw changed("found \(found.checkpoint.shards.count) weight files, expected \(model.shards.count)")
    }
    for (shard, recorded) in zip(found.checkpoint.shards, model.shards) {
      guard shard.name == recorded.name else { throw changed("found \(shard.name), expected \(recorded.name)") }
      guard shard.size == recorded.size else { throw changed("\(shard.name) has \(shard.size) bytes, expected \(recorded.size)") }
      guard ShardIdentity(shard).headerDigest == recorded.headerDigest else { throw changed("\(shard.name) has another header") }
    }
  }

  /// What is worth knowing about sources that pass: their files were written again since.
  func notices(_ plan: Plan) -> [Notice] {
    plan.models.compactMap { planned in
      guard let recorded = models[planned.name] else { return nil }
      let touched = zip(planned.shards, recorded.shards).count { $0.modified != $1.modified }
      guard touched > 0 else { return nil }
      return Notice(.info, "\(touched) weight files were written again since the merge; their headers are the same", subject: planned.name)
    }
  }
}
