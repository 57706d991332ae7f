internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotMethods
package import IngotRecipes
internal import IngotStorage
package import IngotTensors

/// An adapter that is yet to be trained.
package struct AdapterStartRequest: Sendable {
  package var base: ProvidedModel
  /// What adapter_config.json names as the base model.
  package var baseName: String
  package var rank: Int
  /// Which block of the shared basis of inputs is its own, from 1.
  package var task = 1
  /// Adapters whose inputs it is to leave alone.
  package var after: [OpenedAdapter] = []
  /// Patterns of modules' names, or of their last components.
  package var targets: [TensorPattern]
  package var seed: UInt64 = 0
  package var dtype: DType?

  package init(base: ProvidedModel, baseName: String, rank: Int, targets: [TensorPattern]) {
    self.base = base
    self.baseName = baseName
    self.rank = rank
    self.targets = targets
  }
}

extension Engine {
  /// Writes an adapter that changes nothing yet, whose A has rows that no other task's has (`OrthogonalStart`).
  ///
  /// Throws `.invalidArgument` for targets that match nothing, `.shape` for a module with too few inputs, and what writing throws; all before anything is
  /// written.
  package func start(
    _ request: AdapterStartRequest, to destination: String, options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let job = try AdapterStart(request)
    return try write(job, to: destination, options: options, notices: request.after.flatMap(\.notices), watcher: watcher)
  }
}

/// The start of an adapter as something to be written.
struct AdapterStart: AdapterJob {
  let layout: AdapterLayout
  let usesAllThreads = false
  let configs: [JSONValue]
  let base: String?
  let identity: String
  private let request: AdapterStartRequest
  private let start: OrthogonalStart

  init(_ request: AdapterStartRequest) throws(IngotError) {
    self.request = request
    guard (1...Limit.adapterRank).contains(request.rank), (1...Limit.adapterRank).contains(request.task) else {
      throw IngotError(
        .invalidArgument, "the rank is \(request.rank) and the task \(request.task), expected numbers from 1 to \(Limit.adapterRank)",
        subject: "rank"
      )
    }
    if let dtype = request.dtype, !dtype.isOutput {
      throw IngotError(.dtype, "results cannot be written as \(dtype.safetensorsName)", hint: "use float32, float16 or bfloat16")
    }
    start = OrthogonalStart(rank: request.rank, task: request.task)
    let checkpoint = try request.base.readable().checkpoint
    let isTurned = AdapterExtraction.isTurned(checkpoint.config)
    var modules: [AdapterLayout.Module] = []
    var dtype: DType?
    for tensor in checkpoint.tensors
    where tensor.shape.rank == 2 && tensor.name.hasSuffix(".weight") && !TensorNames.isEmbedding(tensor.name) {
      let name = String(tensor.name.dropLast(".weight".count))
      let last = name.split(separator: ".").last.map(String.init) ?? name
      guard request.targets.contains(where: { $0.matches(name) || $0.matches(last) }) else { continue }
      let shape = tensor.shape.dimensions
      let (outputs, inputs) = isTurned ? (shape[1], shape[0]) : (shape[0], shape[1])
      let used = request.after.reduce(0) { $0 + ($1.module(name)?.rank ?? 0) }
      for adapter in request.after {
        guard let other = adapter.module(name), other.inputs != inputs || other.outputs != outputs else { continue }
        throw IngotError(
          .shape,
          "the adapter \(adapter.name) changes a weight of [\(other.outputs), \(other.inputs)], and the base has [\(outputs), \(inputs)]",
          subject: name)
      }
      guard start.needed(used) <= inputs else {
        throw IngotError(
          .shape,
          "the module has \(inputs) inputs, and \(request.task) blocks of \(request.rank) beside \(used) in use need \(start.needed(used))",
          hint: "lower the rank", subject: name)
      }
      dtype = dtype ?? tensor.nominalDType ?? tensor.dtype.defaultOutput
      modules.append(AdapterLayout.Module(name: name, inputShape: [inputs], outputs: outputs, rank: request.rank))
    }
    guard !modules.isEmpty else {
      throw IngotError(
        .invalidArgument, "no weight of two axes matches the targets", hint: "name modules or their last parts, for example q_proj",
        subject: "target")
    }
    let type = request.dtype ?? dtype ?? .f32
    layout = AdapterLayout(modules: modules, whole: [], dtype: type.isOutput ? type : .f32, fanInFanOut: isTurned)
    var object = JSONObject()
    let short = Set(modules.map { module in module.name.split(separator: ".").last.map(String.init) ?? module.name })
    object["target_modules"] = .array(short.sorted().map { .string($0) })
    configs = [.object(object)]
    base = request.baseName
    identity = "lora init \(request.baseName) rank \(request.rank) task \(request.task) seed \(request.seed)"
  }

  func compute(_ number: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule {
    let module = layout.modules[number]
    var after: [LowRank] = []
    for adapter in request.after {
      guard let own = adapter.module(module.name) else { continue }
      after.append(try adapter.factors(of: own, algebra))
    }
    let key = DrawKey(seed: request.seed, stream: xxh3(Array(module.name.utf8)))
    let factors = try start.factors(outputs: module.outputs, inputs: module.inputs, after: after, key: key, algebra)
    return ComputedModule(factors: factors, bias: nil, norm: 0, error: nil)
  }

  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor {
    throw IngotError(.internalError, "a new adapter has no whole tensors")
  }

  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor {
    throw IngotError(.internalError, "a new adapter has no magnitudes")
  }

  func requireUnchanged() throws(IngotError) {
    for adapter in request.after { try adapter.requireUnchanged() }
  }
}
