internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
package import IngotMethods
package import IngotRecipes
internal import IngotStorage
package import IngotTensors

/// A fine-tuned model and its base, and how the difference becomes an adapter.
package struct ExtractionRequest: Sendable {
  package enum ModuleRule: Sendable, Hashable {
    case rank(RankRule)
    /// As without a rule.
    case usual
    /// Left out: the module stays as it is in the base.
    case skip
    /// Stored whole (modules_to_save).
    case whole
  }

  /// What becomes of embeddings and heads that differ.
  package enum Embeddings: String, Sendable, CaseIterable {
    case whole
    case lora
    case skip
  }

  /// What becomes of other tensors that differ: norms, biases, convolutions.
  package enum Others: String, Sendable, CaseIterable {
    case whole
    case skip
  }

  package var base: ProvidedModel
  package var tuned: ProvidedModel
  /// What adapter_config.json names as the base model.
  package var baseName: String
  package var rule: RankRule
  /// The most that a rank becomes under rules that count singular values.
  package var mostRank = 128
  /// The first pattern that matches a module's name decides; then `rule`.
  package var rules: [(pattern: TensorPattern, rule: ModuleRule)] = []
  package var embeddings = Embeddings.whole
  package var others = Others.whole
  /// Exact decompositions of large modules too.
  package var isExact = false
  package var seed: UInt64 = 0
  /// Of the factors; nil: the fine-tuned model's.
  package var dtype: DType?

  package init(base: ProvidedModel, tuned: ProvidedModel, baseName: String, rule: RankRule) {
    self.base = base
    self.tuned = tuned
    self.baseName = baseName
    self.rule = rule
  }
}

extension Engine {
  /// Writes the difference of two models as a PEFT adapter.
  ///
  /// One module at a time on all threads; memory is that of the largest module's difference in f32 and its factors. Throws `.shape` for models
  /// that do not go together, `.unsupported`, `.memory`, `.nonFinite`, and what writing throws; all that headers tell before anything is computed.
  package func extract(
    _ request: ExtractionRequest, to destination: String, options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let job = try AdapterExtraction(request)
    return try write(job, to: destination, options: options, notices: job.notices, watcher: watcher)
  }
}

/// An adapter out of the difference of two models.
struct AdapterExtraction: AdapterJob {
  /// A weight of both models.
  private struct Pair: Sendable {
    var base: CheckpointTensor
    var tuned: CheckpointTensor
    /// The weight is [in, out].
    var isTurned: Bool
    var rule: RankRule
  }

  let layout: AdapterLayout
  let usesAllThreads = true
  let configs: [JSONValue]
  let base: String?
  let identity: String
  let notices: [Notice]
  private let request: ExtractionRequest
  private let baseModel: ProvidedModel
  private let tunedModel: ProvidedModel
  private let pairs: [Pair]
  private let wholes: [CheckpointTensor]
  private let kernels = Kernels(.best)

  /// Model types whose layers keep weights as [in, out].
  private static let turnedTypes: Set<String> = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"]

  static func isTurned(_ config: JSONValue?) -> Bool { (config?["model_type"]?.asString).map(turnedTypes.contains) ?? false }

  init(_ request: ExtractionRequest) throws(IngotError) {
    self.request = request
    if let dtype = request.dtype, !dtype.isOutput {
      throw IngotError(.dtype, "results cannot be written as \(dtype.safetensorsName)", hint: "use float32, float16 or bfloat16")
    }
    baseModel = try request.base.readable()
    tunedModel = try request.tuned.readable()
    let isTurned = Self.isTurned(tunedModel.checkpoint.config)
    var sorter = DifferenceSorter(request, base: baseModel, tuned: tunedModel, isTurned: isTurned)
    try sorter.sort()
    pairs = sorter.modules.map { Pair(base: $0.base, tuned: $0.tuned, isTurned: $0.isTurned, rule: $0.rule) }
    wholes = sorter.wholes
    var modules: [AdapterLayout.Module] = []
    for module in sorter.modules {
      let shape = module.tuned.shape.dimensions
      let (outputs, inputs) = module.isTurned ? (shape[1], shape[0]) : (shape[0], shape[1])
      let approximation = BestApproximation(rule: module.rule, cap: request.mostRank, isExact: request.isExact)
      modules.append(
        AdapterLayout.Module(
          name: module.name, isEmbedding: module.isEmbedding, inputShape: [inputs], outputs: outputs,
          rank: approximation.bound(rows: shape[0], columns: shape[1])))
    }
    guard !modules.isEmpty || !wholes.isEmpty else {
      throw IngotError(
        .invalidArgument, "nothing to extract: no tensor is left, or none differs", hint: "look at the models with 'ingot diff'",
        subject: request.tuned.path)
    }
    let dtype = request.dtype ?? sorter.modules.first.map { $0.tuned.nominalDType ?? $0.tuned.dtype.defaultOutput } ?? .f32
    layout = AdapterLayout(
      modules: modules, whole: wholes.map { TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape) },
      dtype: dtype.isOutput ? dtype : .f32, fanInFanOut: isTurned)
    configs = [Self.inherited(sorter, baseModel, tunedModel)]
    base = request.baseName
    identity = "lora extract \(request.baseName) \(request.tuned.path) \(request.rule) most \(request.mostRank) seed \(request.seed)"
    notices = sorter.notices
  }

  /// The last components of the modules' names where they name these modules and no others; the task.
  private static func inherited(_ sorter: DifferenceSorter, _ base: ProvidedModel, _ tuned: ProvidedModel) -> JSONValue {
    var object = JSONObject()
    func last(_ name: String) -> String { name.split(separator: ".").last.map(String.init) ?? name }
    let short = Set(sorter.modules.map { last($0.name) })
    let chosen = Set(sorter.modules.map(\.name))
    let isClear = base.checkpoint.tensors.allSatisfy { tensor in
      guard tensor.name.hasSuffix(".weight") else { return true }
      let module = String(tensor.name.dropLast(".weight".count))
      return chosen.contains(module) || !short.contains(last(module))
    }
    object["target_modules"] = .array((isClear ? short.sorted() : sorter.modules.map(\.name)).map { .string($0) })
    let architectures = tuned.checkpoint.config?["architectures"]?.asArray?.compactMap(\.asString) ?? []
    if architectures.contains(where: { $0.hasSuffix("ForCausalLM") }) { object["task_type"] = .string("CAUSAL_LM") }
    return .object(object)
  }

  // MARK: Work

  func compute(_ number: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule {
    let pair = pairs[number]
    let shape = pair.tuned.shape.dimensions
    let approximation = BestApproximation(rule: pair.rule, cap: request.mostRank, isExact: request.isExact)
    let delta: Matrix<Float> = try algebra.workspace.matrix(shape[0], shape[1])
    if !algebra.workspace.isMeasuring { try load(pair, into: delta.floats) }
    let key = DrawKey(seed: request.seed, stream: xxh3(Array(layout.modules[number].name.utf8)))
    let found = try approximation.factor(delta, key: key, algebra)
    let factors = pair.isTurned ? LowRank(b: found.factors.a, a: found.factors.b) : found.factors
    return ComputedModule(factors: factors, bias: nil, norm: found.norm, error: found.error)
  }

  /// Values that are subtracted at once.
  private static let pieceElements = 1 << 16

  /// tuned − base.
  private func load(_ pair: Pair, into delta: Floats) throws(IngotError) {
    let tuned = FloatReader(try StoredBytes(pair.tuned, of: tunedModel), pair.tuned.dtype)
    let base = FloatReader(try StoredBytes(pair.base, of: baseModel), pair.base.dtype)
    let scratch = ReadScratch(4 * Self.pieceElements)
    var first = 0
    while first < delta.count {
      let count = min(Self.pieceElements, delta.count - first)
      let part = delta.slice(from: first, count: count)
      let other = scratch.floats(0, count)
      try tuned.load(first, into: part)
      try base.load(first, into: other)
      kernels.subtract(part, other, into: part)
      first += count
    }
    withExtendedLifetime(scratch) {}
  }

  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor { try StoredBytes(wholes[index], of: tunedModel) }

  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor {
    throw IngotError(.internalError, "an extracted adapter has no magnitudes")
  }

  func requireUnchanged() throws(IngotError) {
    for source in baseModel.sources + tunedModel.sources { try source.requireUnchanged() }
  }
}
