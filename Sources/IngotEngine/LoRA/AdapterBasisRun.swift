internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

extension Engine {
  /// Writes the directory of a basis from which each of several adapters can be made again (`ReversibleBasis`): it appears in one rename when everything
  /// is there. One module at a time; memory is that of its factors of all adapters in f64.
  ///
  /// Throws `.invalidArgument`, `.unsupported` for DoRA, trained biases and whole tensors, `.shape` for adapters of different models, `.nonFinite`,
  /// `.memory` when one module does not fit the budget, and what writing throws.
  package func basis(
    of request: AdapterBasisRequest, to destination: String, options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterBasisReport {
    let start = Watcher.now()
    let run = try AdapterBasisRun(request, kernels: kernels, algebra: try LinearAlgebra.load())
    let written = try write(run, to: destination, options: options, watcher: watcher, since: start)
    return AdapterBasisReport(
      output: destination, modules: run.reports, models: run.record.models, bytes: written.bytes, storageRatio: run.storageRatio,
      seconds: written.seconds, notices: written.notices)
  }
}

/// One basis under way.
private final class AdapterBasisRun: FactorDirectory {
  static let recordName = AdapterBasisRecord.fileName
  static let weightsName = AdapterBasisRecord.weights

  private let request: AdapterBasisRequest
  private let kernels: Kernels
  private let algebra: LinearAlgebra
  private let dtype: DType
  let record: AdapterBasisRecord
  let notices: [Notice]
  private(set) var reports: [AdapterBasisReport.Module] = []

  init(_ request: AdapterBasisRequest, kernels: Kernels, algebra: LinearAlgebra) throws(IngotError) {
    self.request = request
    self.kernels = kernels
    self.algebra = algebra
    dtype = request.dtype ?? .f32
    let names = request.names ?? request.adapters.map(\.name)
    try Self.check(request, names)
    var order: [String] = []
    var found: [String: [AdapterContents.Module]] = [:]
    for adapter in request.adapters {
      for module in adapter.contents.modules {
        if found[module.name] == nil { order.append(module.name) }
        found[module.name, default: []].append(module)
      }
    }
    var modules: [AdapterBasisRecord.Module] = []
    for name in order {
      guard let all = found[name], let first = all.first else { continue }
      for other in all
      where other.outputs != first.outputs || other.inputShape != first.inputShape || other.isEmbedding != first.isEmbedding {
        throw IngotError(
          .shape, "the adapters change a weight of [\(first.outputs), \(first.inputs)] and one of [\(other.outputs), \(other.inputs)]",
          hint: "are these adapters of one model?", subject: name)
      }
      let rank = all.reduce(1) { max($0, $1.rank) }
      let length = request.granularity == .position ? rank : .max
      modules.append(
        .init(
          name: name, isEmbedding: first.isEmbedding, inputShape: first.inputShape, outputs: first.outputs, rank: rank,
          components: ReversibleBasis.components(request.components, models: names.count, length: length)))
    }
    record = AdapterBasisRecord(
      granularity: request.granularity, models: names, configs: request.adapters.map(\.config),
      fanInFanOut: request.adapters.first?.contents.settings.fanInFanOut ?? false, modules: modules)
    var notices = request.adapters.flatMap(\.notices)
    let partial = order.count { (found[$0]?.count ?? 0) < names.count }
    if partial > 0 {
      notices.append(
        Notice(.info, "\(partial) modules are changed by some of the adapters only; in the others they become changes of zero"))
    }
    self.notices = notices
  }

  private static func check(_ request: AdapterBasisRequest, _ names: [String]) throws(IngotError) {
    guard request.adapters.count >= 2, names.count == request.adapters.count else {
      throw IngotError(.invalidArgument, "found \(request.adapters.count) adapters, expected two or more", hint: "name the adapters")
    }
    guard Set(names).count == names.count else {
      throw IngotError(.invalidArgument, "one adapter is named twice", hint: "name each adapter once")
    }
    guard request.components >= 0 else {
      throw IngotError(.invalidArgument, "components is \(request.components), expected 0 or more", subject: "components")
    }
    if let dtype = request.dtype, !dtype.isOutput {
      throw IngotError(.dtype, "results cannot be written as \(dtype.safetensorsName)", hint: "use float32, float16 or bfloat16")
    }
    for adapter in request.adapters {
      let contents = adapter.contents
      let odd: (what: String, hint: String)? =
        contents.settings.usesDora
        ? ("uses DoRA, whose magnitudes are no factors", "apply it to its base, and extract the difference")
        : !contents.whole.isEmpty
          ? ("has tensors whole (modules_to_save, biases), which no basis holds", "remove them from the adapter first")
          : contents.modules.contains(where: { $0.bias != nil })
            ? ("has biases of factors, which no basis holds", "train without lora_bias") : nil
      if let odd { throw IngotError(.unsupported, "the adapter \(odd.what)", hint: odd.hint, subject: adapter.name) }
      guard contents.settings.fanInFanOut == request.adapters[0].contents.settings.fanInFanOut else {
        throw IngotError(.unsupported, "fan_in_fan_out differs between the adapters", subject: adapter.name)
      }
      guard !contents.modules.isEmpty else { throw IngotError(.format, "the adapter changes no module", subject: adapter.name) }
    }
  }

  var tensors: [TensorDescription] { record.modules.flatMap { record.tensors($0, dtype).map(\.tensor) } }

  var identity: String {
    "lora basis \(request.granularity.rawValue) \(request.components) " + record.models.joined(separator: " ")
  }

  /// Values of the basis over those of the factors of all adapters.
  var storageRatio: Double {
    var (stored, all) = (0.0, 0.0)
    for tensor in tensors { stored += Double((try? tensor.shape.elementCount()) ?? 0) }
    for adapter in request.adapters {
      for module in adapter.contents.modules { all += Double(module.rank) * Double(module.inputs + module.outputs) }
    }
    return all > 0 ? stored / all : 1
  }

  var recordBytes: [UInt8] { record.bytes }

  var moduleNames: [String] { record.modules.map(\.name) }

  func requireUnchanged() throws(IngotError) {
    for adapter in request.adapters { try adapter.requireUnchanged() }
  }

  func workspaceBytes(of place: Int) throws(IngotError) -> Int {
    let module = record.modules[place]
    let workspace = MatrixWorkspace.measuring()
    _ = try factors(module, LowRankAlgebra(algebra, workspace))
    // The values of the basis in f64, and the vectors of a group.
    let values = module.rank * (module.inputs + module.outputs)
    return workspace.peak + 8 * values * (record.models.count + module.components + 2) + 4096
  }

  /// The factors of every model with the scale in both, all of one rank.
  private func factors(_ module: AdapterBasisRecord.Module, _ low: LowRankAlgebra) throws(IngotError) -> [LowRank] {
    var all: [LowRank] = []
    for adapter in request.adapters {
      let result = try low.empty(outputs: module.outputs, inputs: module.inputs, rank: module.rank)
      result.a.fill(0)
      result.b.fill(0)
      all.append(result)
      guard let own = adapter.module(module.name) else { continue }
      try low.workspace.scope { () throws(IngotError) in
        let stored = try adapter.factors(of: own, low)
        let root = abs(own.scale).squareRoot()
        stored.a.scale(by: root)
        stored.b.scale(by: own.scale < 0 ? -root : root)
        let used = request.isBalanced ? try low.balanced(stored, rank: module.rank) : stored
        result.a.copy(used.a)
        result.b.copy(used.b)
      }
    }
    return all
  }

  // MARK: Work

  func write(_ place: Int, to writer: TensorFileWriter, _ file: OutputFile, _ workspace: MatrixWorkspace) throws(IngotError) {
    let module = record.modules[place]
    let parts = try workspace.scope { () throws(IngotError) -> [AdapterBasisRecord.Role: [Float]] in
      let factors = try algebra.withThreads(1) { () throws(IngotError) in try self.factors(module, LowRankAlgebra(algebra, workspace)) }
      return request.granularity == .position ? byPosition(module, factors) : byModule(module, factors)
    }
    for (_, role) in record.tensors(module, dtype) { try writer.write(parts[role] ?? [], to: file, kernels) }
  }

  func writeRest(to writer: TensorFileWriter, _ file: OutputFile) throws(IngotError) {}

  private func byPosition(_ module: AdapterBasisRecord.Module, _ factors: [LowRank]) -> [AdapterBasisRecord.Role: [Float]] {
    let (count, rank, p) = (factors.count, module.rank, module.components)
    let basis = ReversibleBasis(models: count, components: p)
    var parts: [AdapterBasisRecord.Role: [Float]] = [:]
    var (lost, total) = (0.0, 0.0)
    for isA in [true, false] {
      let matrices = factors.map { isA ? $0.a : $0.b }
      let positions = isA ? module.inputs : module.outputs
      var (means, directions): ([Float], [Float]) = ([], [])
      var coefficients = [Float](repeating: 0, count: count * positions * p)
      var vectors = [Double](repeating: 0, count: count * rank)
      for position in 0..<positions {
        for (model, matrix) in matrices.enumerated() { for unit in 0..<rank { vectors[model * rank + unit] = matrix[position, unit] } }
        let part = basis.fit(vectors, length: rank)
        means += part.mean.map { Float($0) }
        directions += part.directions.map { Float($0) }
        for model in 0..<count {
          for place in 0..<p { coefficients[(model * positions + position) * p + place] = Float(part.coefficients[model * p + place]) }
        }
        lost += part.lost
        total += part.total
      }
      parts[.mean(isA: isA)] = means
      parts[.directions(isA: isA)] = directions
      parts[.coefficients(isA: isA)] = coefficients
    }
    reports.append(.init(name: module.name, components: p, error: total > 0 ? (max(lost, 0) / total).squareRoot() : 0))
    return parts
  }

  private func byModule(_ module: AdapterBasisRecord.Module, _ factors: [LowRank]) -> [AdapterBasisRecord.Role: [Float]] {
    let (rank, p) = (module.rank, module.components)
    let (first, length) = (module.inputs * rank, (module.inputs + module.outputs) * rank)
    var vectors: [Double] = []
    vectors.reserveCapacity(factors.count * length)
    for factor in factors {
      for matrix in [factor.a, factor.b] {
        for row in 0..<matrix.rows { for unit in 0..<rank { vectors.append(matrix[row, unit]) } }
      }
    }
    let part = ReversibleBasis(models: factors.count, components: p).fit(vectors, length: length)
    var parts: [AdapterBasisRecord.Role: [Float]] = [:]
    func slice(_ values: [Double], _ start: Int, _ range: Range<Int>) -> [Float] {
      values[start + range.lowerBound..<start + range.upperBound].map { Float($0) }
    }
    for (isA, range) in [(true, 0..<first), (false, first..<length)] {
      parts[.mean(isA: isA)] = slice(part.mean, 0, range)
      parts[.directions(isA: isA)] = (0..<p).flatMap { slice(part.directions, $0 * length, range) }
    }
    parts[.coefficients(isA: true)] = part.coefficients.map { Float($0) }
    reports.append(.init(name: module.name, components: p, error: part.total > 0 ? (max(part.lost, 0) / part.total).squareRoot() : 0))
    return parts
  }
}
