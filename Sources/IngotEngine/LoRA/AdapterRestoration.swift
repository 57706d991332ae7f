internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotRecipes
package import IngotTensors

extension Engine {
  /// Makes one of the adapters of a basis again and writes it to the directory `destination`. `model` is its name in the record, or its number from 1.
  ///
  /// Throws `.notFound` and `.format` for a directory that is no basis, `.invalidArgument` for a model that is not in it, and what writing throws.
  package func restore(
    _ model: String, ofBasis directory: String, dtype: DType? = nil, to destination: String, models provider: any ModelProvider,
    options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let job = try AdapterRestoration(model, directory, dtype, provider)
    return try write(job, to: destination, options: options, notices: [], watcher: watcher)
  }
}

/// One adapter out of a basis: factors of mean + Σ coefficient · direction.
struct AdapterRestoration: AdapterJob {
  let layout: AdapterLayout
  let usesAllThreads = false
  let configs: [JSONValue]
  let base: String? = nil
  let identity: String
  private let record: AdapterBasisRecord
  /// Which of the models.
  private let number: Int
  private let stored: ProvidedModel
  private let kernels = Kernels(.best)

  init(_ model: String, _ directory: String, _ dtype: DType?, _ provider: any ModelProvider) throws(IngotError) {
    let record = try AdapterBasisRecord(directory)
    guard let number = record.models.firstIndex(of: model) ?? Int(model).flatMap({ record.models.indices.contains($0 - 1) ? $0 - 1 : nil })
    else {
      throw IngotError(
        .invalidArgument, "the basis has no model \"\(model.prefix(60))\"",
        hint: "it has " + record.models.enumerated().map { "\($0 + 1): \($1)" }.joined(separator: ", "), subject: directory)
    }
    self.record = record
    self.number = number
    if let dtype, !dtype.isOutput {
      throw IngotError(.dtype, "results cannot be written as \(dtype.safetensorsName)", hint: "use float32, float16 or bfloat16")
    }
    let path = RecordFile.path(of: AdapterBasisRecord.weights, in: directory)
    let position = SourcePosition(origin: "command line", line: 1, column: 1)
    stored = try provider.open(IngotRecipes.ModelReference(.fields(path: path, revision: nil), position: position)).readable()
    var type = DType.f32
    for module in record.modules {
      for (expected, _) in record.tensors(module, .f32) {
        guard let tensor = stored.checkpoint[expected.name], tensor.shape == expected.shape, tensor.dtype.hasArithmetic else {
          let found = stored.checkpoint[expected.name].map { "\($0.dtype.safetensorsName) \($0.shape)" } ?? "no such tensor"
          throw IngotError(
            .format, "found \(found), expected \(expected.shape) as the record says", hint: "the files are not of one basis",
            subject: expected.name)
        }
        type = tensor.dtype.defaultOutput
      }
    }
    configs = [record.configs[number]]
    layout = AdapterLayout(
      modules: record.modules.map {
        AdapterLayout.Module(name: $0.name, isEmbedding: $0.isEmbedding, inputShape: $0.inputShape, outputs: $0.outputs, rank: $0.rank)
      }, whole: [], dtype: dtype ?? type, fanInFanOut: record.fanInFanOut)
    identity = "lora restore \(model) \(directory)"
  }

  func compute(_ place: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule {
    let module = record.modules[place]
    let result = try algebra.empty(outputs: module.outputs, inputs: module.inputs, rank: module.rank)
    for (factor, isA) in [(result.a, true), (result.b, false)] {
      try algebra.workspace.scope { () throws(IngotError) in try restore(factor, isA: isA, module, algebra.workspace) }
    }
    return ComputedModule(factors: result, bias: nil, norm: try algebra.norm(result), error: nil)
  }

  /// One factor, positions × rank.
  private func restore(
    _ factor: Matrix<Double>, isA: Bool, _ module: AdapterBasisRecord.Module, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (positions, rank, p) = (factor.rows, module.rank, module.components)
    let mean: Matrix<Float> = try workspace.matrix(positions, rank)
    let directions: Matrix<Float> = try workspace.matrix(p * positions, rank)
    let isByPosition = record.granularity == .position
    let coefficients: Matrix<Float> = try workspace.matrix(isByPosition ? positions : 1, p)
    guard !workspace.isMeasuring else { return }
    for (tensor, role) in record.tensors(module, .f32) {
      switch role {
      case .mean(isA): try load(tensor.name, 0, mean)
      case .directions(isA): try load(tensor.name, 0, directions)
      case .coefficients(let ofA) where ofA == isA || !isByPosition: try load(tensor.name, number * coefficients.count, coefficients)
      default: break
      }
    }
    factor.copy(mean)
    for position in 0..<positions {
      let target = factor.rows(position..<position + 1)
      for place in 0..<p {
        let row = isByPosition ? position * p + place : place * positions + position
        target.add(directions.rows(row..<row + 1), times: Double(coefficients[isByPosition ? position : 0, place]))
      }
    }
  }

  private func load(_ name: String, _ first: Int, _ matrix: Matrix<Float>) throws(IngotError) {
    guard let tensor = stored.checkpoint[name] else { throw IngotError(.internalError, "a tensor that was there", subject: name) }
    try FloatReader(try StoredBytes(tensor, of: stored), tensor.dtype).load(first, into: matrix.floats)
    guard matrix.isFinite else {
      throw IngotError(.nonFinite, "the basis has values that are NaN or infinite", hint: "make it again", subject: name)
    }
  }

  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor {
    throw IngotError(.internalError, "a restored adapter has no whole tensors")
  }

  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor {
    throw IngotError(.internalError, "a restored adapter has no magnitudes")
  }

  func requireUnchanged() throws(IngotError) {
    for source in stored.sources { try source.requireUnchanged() }
  }
}
