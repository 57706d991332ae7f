internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
package import IngotMethods
internal import IngotStorage
package import IngotTensors

/// Several adapters and how one is made of them.
package struct AdapterMergeRequest: Sendable {
  /// What becomes of tensors that adapters have whole (modules_to_save, trained biases).
  package enum WholeTensors: String, Sendable, CaseIterable {
    /// An error unless all adapters have the same bytes.
    case refuse
    /// The mean, weighted by the adapters' weights.
    case average
    /// Those of the first adapter that has them.
    case first
    case omit
  }

  package var adapters: [OpenedAdapter]
  /// One for each adapter.
  package var weights: [Double]
  package var method: String
  package var options = LowRankOptions()
  package var seed: UInt64 = 0
  package var wholeTensors = WholeTensors.refuse
  /// Of the output's factors; nil: that of the first adapter's.
  package var dtype: DType?

  package init(adapters: [OpenedAdapter], weights: [Double], method: String) {
    self.adapters = adapters
    self.weights = weights
    self.method = method
  }
}

extension Engine {
  /// Makes one adapter of several and writes it to the directory `destination`.
  ///
  /// Throws `.invalidArgument` for options that do not go together, `.unsupported` for DoRA adapters and what else cannot be combined, `.shape` for
  /// adapters of different models, `.nonFinite`, `.memory` when one module does not fit the budget, and what writing throws. All but
  /// `.nonFinite` and the failures of files come before anything is computed.
  package func merge(
    _ request: AdapterMergeRequest, to destination: String, options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let job = try AdapterMerge(request)
    return try write(job, to: destination, options: options, notices: job.notices, watcher: watcher)
  }

  /// Brings an adapter to another rank: the best approximation of each module's change. DoRA's magnitudes and whole tensors stay as they are.
  package func resize(
    _ adapter: OpenedAdapter, rule: RankRule, dtype: DType? = nil, to destination: String, options: AdapterOutputOptions = .init(),
    watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    var request = AdapterMergeRequest(adapters: [adapter], weights: [1], method: "svd")
    request.options.rank = rule
    request.dtype = dtype
    request.wholeTensors = .first
    let job = try AdapterMerge(request, keepsMagnitudes: true)
    return try write(job, to: destination, options: options, notices: job.notices, watcher: watcher)
  }
}

/// One adapter made of several, by a method on factors.
struct AdapterMerge: AdapterJob {
  private struct Source: Sendable {
    var adapter: Int
    var module: AdapterContents.Module
  }

  let layout: AdapterLayout
  let usesAllThreads = false
  let configs: [JSONValue]
  let base: String? = nil
  let identity: String
  let notices: [Notice]
  private let request: AdapterMergeRequest
  private let method: any LowRankMerge
  /// For each module, where it is.
  private let sources: [[Source]]
  /// For each whole tensor, where it is.
  private let wholes: [[(adapter: Int, tensor: CheckpointTensor)]]

  init(_ request: AdapterMergeRequest, keepsMagnitudes: Bool = false) throws(IngotError) {
    self.request = request
    method = try LowRankMethods.make(request.method, request.options)
    try Self.check(request, keepsMagnitudes: keepsMagnitudes)
    let adapters = request.adapters
    configs = adapters.map(\.config)
    var names: [String] = []
    var found: [String: [Source]] = [:]
    for (index, adapter) in adapters.enumerated() {
      for module in adapter.contents.modules {
        if found[module.name] == nil { names.append(module.name) }
        found[module.name, default: []].append(Source(adapter: index, module: module))
      }
    }
    let dtype = request.dtype ?? adapters.first?.dtype ?? .f32
    var modules: [AdapterLayout.Module] = []
    for name in names { modules.append(try Self.module(name, found[name] ?? [], method, keepsMagnitudes: keepsMagnitudes)) }
    sources = names.map { found[$0] ?? [] }
    let whole = try Self.wholeTensors(request)
    wholes = whole.map(\.sources)
    layout = AdapterLayout(
      modules: modules, whole: whole.map(\.tensor), dtype: dtype,
      fanInFanOut: adapters.first?.contents.settings.fanInFanOut ?? false)
    identity = Self.identity(request)
    notices = Self.notices(request, sources)
  }

  // MARK: Checks

  private static func check(_ request: AdapterMergeRequest, keepsMagnitudes: Bool) throws(IngotError) {
    let adapters = request.adapters
    guard let first = adapters.first else { throw IngotError(.invalidArgument, "no adapters given", hint: "name the adapters to merge") }
    guard request.weights.count == adapters.count, request.weights.allSatisfy(\.isFinite) else {
      throw IngotError(.invalidArgument, "expected a finite weight for each of \(adapters.count) adapters")
    }
    if let dtype = request.dtype, !dtype.isOutput {
      throw IngotError(.dtype, "results cannot be written as \(dtype.safetensorsName)", hint: "use float32, float16 or bfloat16")
    }
    for adapter in adapters {
      let settings = adapter.contents.settings
      guard !settings.usesDora || keepsMagnitudes else {
        throw IngotError(
          .unsupported, "the adapter uses DoRA, whose magnitudes make its change no product of two factors",
          hint: "apply it to its base, and extract the difference: ingot lora apply, ingot lora extract", subject: adapter.name)
      }
      guard settings.fanInFanOut == first.contents.settings.fanInFanOut else {
        throw IngotError(
          .unsupported, "fan_in_fan_out is \(settings.fanInFanOut), and \(!settings.fanInFanOut) in \(first.name)", subject: adapter.name)
      }
    }
    guard adapters.contains(where: { !$0.contents.modules.isEmpty }) else {
      throw IngotError(.format, "the adapter changes no module", subject: first.name)
    }
  }

  private static func module(
    _ name: String, _ sources: [Source], _ method: any LowRankMerge, keepsMagnitudes: Bool
  ) throws(IngotError) -> AdapterLayout.Module {
    guard let first = sources.first?.module else { throw IngotError(.internalError, "a module without a source", subject: name) }
    for source in sources {
      let other = source.module
      guard other.outputs == first.outputs, other.inputShape == first.inputShape, other.isEmbedding == first.isEmbedding else {
        throw IngotError(
          .shape, "the adapters change a weight of [\(first.outputs), \(first.inputs)] and one of [\(other.outputs), \(other.inputs)]",
          hint: "are these adapters of one model?", subject: name)
      }
    }
    var rank: Int
    do throws(IngotError) {
      rank = try method.rankBound(sources.map(\.module.rank), outputs: first.outputs, inputs: first.inputs)
    } catch {
      var named = error
      named.subject = name
      throw named
    }
    rank = max(rank, 1)
    var magnitude: TensorDescription?
    if keepsMagnitudes, let stored = first.magnitude {
      magnitude = TensorDescription(name: stored.name, dtype: stored.dtype, shape: stored.shape)
    }
    return AdapterLayout.Module(
      name: name, isEmbedding: first.isEmbedding, inputShape: first.inputShape, outputs: first.outputs, rank: rank, magnitude: magnitude,
      hasBias: sources.contains { $0.module.bias != nil })
  }

  private static func wholeTensors(
    _ request: AdapterMergeRequest
  ) throws(IngotError) -> [(tensor: TensorDescription, sources: [(adapter: Int, tensor: CheckpointTensor)])] {
    var names: [String] = []
    var found: [String: [(adapter: Int, tensor: CheckpointTensor)]] = [:]
    for (index, adapter) in request.adapters.enumerated() {
      for whole in adapter.contents.whole {
        if found[whole.name] == nil { names.append(whole.name) }
        found[whole.name, default: []].append((index, whole.tensor))
      }
    }
    if request.wholeTensors == .omit { return [] }
    if request.wholeTensors == .refuse {
      for name in names where try !areEqual(found[name] ?? [], request) {
        throw IngotError(
          .unsupported, "the adapters differ in \(names.count) tensors that they have whole (modules_to_save, biases)",
          hint: "say what becomes of them with --modules-to-save average, first or omit", subject: name)
      }
    }
    var result: [(tensor: TensorDescription, sources: [(adapter: Int, tensor: CheckpointTensor)])] = []
    for name in names {
      guard let all = found[name], let first = all.first?.tensor else { continue }
      guard request.wholeTensors == .average, all.count > 1 else {
        result.append((TensorDescription(name: name, dtype: first.dtype, shape: first.shape), [all[0]]))
        continue
      }
      for (_, tensor) in all where tensor.shape != first.shape || !tensor.dtype.hasArithmetic {
        throw IngotError(
          .shape,
          "the adapters have it as \(first.dtype.safetensorsName) \(first.shape) and \(tensor.dtype.safetensorsName) \(tensor.shape)",
          hint: "take that of the first adapter with --modules-to-save first", subject: name)
      }
      guard all.reduce(0, { $0 + request.weights[$1.adapter] }) != 0 else {
        throw IngotError(
          .invalidArgument, "the weights sum to 0, so there is no mean", hint: "use --modules-to-save first or omit", subject: name)
      }
      result.append((TensorDescription(name: name, dtype: first.dtype.defaultOutput, shape: first.shape), all))
    }
    return result
  }

  private static let pieceBytes = 1 << 20

  /// True when every adapter has the tensor with the same bytes: PEFT saves embeddings whole beside factors that change them.
  private static func areEqual(
    _ all: [(adapter: Int, tensor: CheckpointTensor)], _ request: AdapterMergeRequest
  ) throws(IngotError) -> Bool {
    guard let first = all.first, all.count == request.adapters.count else { return false }
    let scratch = ReadScratch(2 * pieceBytes)
    for other in all.dropFirst() {
      guard other.tensor.dtype == first.tensor.dtype, other.tensor.shape == first.tensor.shape else { return false }
      let (a, b) = (try request.adapters[first.adapter].bytes(first.tensor), try request.adapters[other.adapter].bytes(other.tensor))
      guard try StoredBytes.areEqual(a, b, scratch) else { return false }
    }
    return true
  }

  private static func identity(_ request: AdapterMergeRequest) -> String {
    var words = ["lora merge", request.method, "seed \(request.seed)"]
    for (adapter, weight) in zip(request.adapters, request.weights) { words.append("\(adapter.name)=\(weight)") }
    if let rank = request.options.rank { words.append("rank \(rank)") }
    if let density = request.options.density { words.append("density \(density)") }
    if let drop = request.options.drop { words.append("drop \(drop)") }
    if let clusters = request.options.clusters { words.append("clusters \(clusters)") }
    return words.joined(separator: " ")
  }

  private static func notices(_ request: AdapterMergeRequest, _ sources: [[Source]]) -> [Notice] {
    var notices = request.adapters.flatMap(\.notices)
    let bases = request.adapters.compactMap { $0.config["base_model_name_or_path"]?.asString }.filter { !$0.isEmpty }
    if let first = bases.first, let odd = bases.first(where: { $0 != first }) {
      notices.append(Notice(.warning, "the adapters name different base models: \(first.prefix(200)) and \(odd.prefix(200))"))
    }
    let partial = sources.count { $0.count < request.adapters.count }
    if partial > 0 {
      notices.append(Notice(.info, "\(partial) modules are changed by some of the adapters only, and are merged from those"))
    }
    return notices
  }

  // MARK: Work

  func compute(_ number: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule {
    let name = layout.modules[number].name
    var terms: [LowRankTerm] = []
    for source in sources[number] {
      let factors = try request.adapters[source.adapter].factors(of: source.module, algebra)
      terms.append(LowRankTerm(factors, weight: request.weights[source.adapter], scale: source.module.scale))
    }
    let key = DrawKey(seed: request.seed, stream: xxh3(Array(name.utf8)))
    let merged = try method.merge(terms, key: key, algebra)
    var bias: [Float]?
    if layout.modules[number].hasBias, !algebra.workspace.isMeasuring { bias = try self.bias(number) }
    let norm = try algebra.norm(merged)
    return ComputedModule(factors: merged, bias: bias, norm: norm, error: try distance(terms, merged, norm: norm, algebra))
  }

  private func bias(_ number: Int) throws(IngotError) -> [Float] {
    var sum = [Double](repeating: 0, count: layout.modules[number].outputs)
    for source in sources[number] {
      guard let stored = source.module.bias else { continue }
      let factor = request.weights[source.adapter] * source.module.scale
      for (index, value) in try request.adapters[source.adapter].values(stored).enumerated() where sum.indices.contains(index) {
        sum[index] += factor * Double(value)
      }
    }
    return sum.map { Float($0) }
  }

  /// ‖S − M‖ / ‖S‖ with S the exact sum, from inner products of factors. Nil for a sum of 0.
  private func distance(
    _ terms: [LowRankTerm], _ merged: LowRank, norm: Double, _ algebra: LowRankAlgebra
  ) throws(IngotError) -> Double? {
    var square = 0.0
    var product = 0.0
    for (place, term) in terms.enumerated() {
      product += term.coefficient * (try algebra.inner(term.factors, merged))
      for (other, second) in terms.enumerated() where other <= place {
        let inner = try algebra.inner(term.factors, second.factors) * term.coefficient * second.coefficient
        square += other == place ? inner : 2 * inner
      }
    }
    guard square > 0 else { return nil }
    let share = max(0, square - 2 * product + norm * norm) / square
    return share < 1e-14 ? 0 : share.squareRoot()
  }

  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor {
    let all = wholes[index]
    var parts: [(reader: FloatReader, weight: Float)] = []
    guard let first = all.first else { throw IngotError(.internalError, "a tensor without a source") }
    if all.count == 1 { return try request.adapters[first.adapter].bytes(first.tensor) }
    let total = all.reduce(0) { $0 + request.weights[$1.adapter] }
    for (adapter, tensor) in all {
      parts.append(
        (FloatReader(try request.adapters[adapter].bytes(tensor), tensor.dtype), Float(request.weights[adapter] / total)))
    }
    return AveragedTensor(parts: parts, dtype: layout.whole[index].dtype)
  }

  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor {
    guard let source = sources[module].first, let tensor = source.module.magnitude else {
      throw IngotError(.internalError, "a magnitude without a source", subject: layout.modules[module].name)
    }
    return try request.adapters[source.adapter].bytes(tensor)
  }

  func requireUnchanged() throws(IngotError) {
    for adapter in request.adapters { try adapter.requireUnchanged() }
  }
}

/// Σ weight · x, rounded once.
private final class AveragedTensor: DerivedTensor {
  private let parts: [(reader: FloatReader, weight: Float)]
  private let dtype: DType
  private let kernels = Kernels(.best)

  init(parts: [(reader: FloatReader, weight: Float)], dtype: DType) {
    self.parts = parts
    self.dtype = dtype
  }

  /// Read while an adapter is written, not by runs of plans.
  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor { self }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard let base = destination.baseAddress else { return }
    let width = dtype.bits / 8
    let count = destination.count / width
    let scratch = ReadScratch(8 * count + 128)
    let (sum, part) = (scratch.floats(0, count), scratch.floats((4 * count + 63) / 64 * 64, count))
    for (place, entry) in parts.enumerated() {
      try entry.reader.load(offset / width, into: part)
      if place == 0 {
        kernels.scale(part, by: entry.weight, into: sum)
      } else {
        kernels.addDelta(part, scaledBy: entry.weight, to: sum, into: sum)
      }
    }
    // SAFETY: the destination has as many whole elements; the scratch lives to the end of this function.
    kernels.store(sum, into: unsafe MutableElementSlice(unsafe: base, dtype: dtype, count: count))
    withExtendedLifetime(scratch) {}
  }
}
