internal import IngotCheckpoints
package import IngotErrors
package import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
package import IngotTensors

/// What an adapter changes, module by module, from its factors alone.
package struct AdapterInspection: Sendable {
  package struct Module: Sendable, Hashable {
    package var name: String
    package var isEmbedding: Bool
    package var outputs: Int
    package var inputs: Int
    package var rank: Int
    package var alpha: Double
    package var scale: Double
    package var dtype: DType
    package var hasMagnitude: Bool
    package var hasBias: Bool
    /// ‖scale · B A‖ in the Frobenius norm.
    package var norm: Double
    /// Singular values of scale · B A, descending; nil when they were not asked for.
    package var spectrum: [Double]?
  }

  /// A tensor that takes the place of the model's.
  package struct Whole: Sendable, Hashable {
    package var name: String
    package var dtype: DType
    package var shape: Shape
  }

  /// ‖Aᵢ Aⱼᵀ‖ / (‖Aᵢ‖ ‖Aⱼ‖) of two adapters, the mean over the modules both change: 0 when they use different inputs.
  package struct Overlap: Sendable, Hashable {
    package var first: String
    package var second: String
    package var modules: Int
    package var mean: Double
    package var largest: Double
  }

  package let name: String
  package let path: String
  package let base: String?
  package let usesDora: Bool
  package let modules: [Module]
  package let whole: [Whole]
  package let parameters: Int
  package let notices: [Notice]

  /// The square root of the sum of the squares of the modules' norms.
  package var norm: Double { modules.reduce(0) { $0 + $1.norm * $1.norm }.squareRoot() }

  /// The modules' fields of a JSON document.
  package func write(to document: inout JSONDocument) {
    document.field("name", name)
    document.field("path", path)
    document.field("base", base)
    document.field("parameters", parameters)
    document.field("norm", norm)
    document.field("use_dora", usesDora)
    document.list("modules") { list in
      for module in modules {
        list.object { entry in
          entry.field("name", module.name)
          entry.field("embedding", module.isEmbedding)
          entry.field("outputs", module.outputs)
          entry.field("inputs", module.inputs)
          entry.field("rank", module.rank)
          entry.field("alpha", module.alpha)
          entry.field("scale", module.scale)
          entry.field("dtype", module.dtype.safetensorsName)
          entry.field("bias", module.hasBias)
          entry.field("norm", module.norm)
          if let spectrum = module.spectrum {
            entry.field("singular_values", json: JSON.text(.array(spectrum.map { .double($0) })))
          }
        }
      }
    }
    document.list("whole_tensors") { list in
      for tensor in whole {
        list.object { entry in
          entry.field("name", tensor.name)
          entry.field("dtype", tensor.dtype.safetensorsName)
          entry.field("shape", json: JSON.text(.array(tensor.shape.dimensions.map { .int($0) })))
        }
      }
    }
    document.list("notices") { list in
      for notice in notices { list.object { notice.write(to: &$0) } }
    }
  }
}

extension OpenedAdapter {
  /// Looks at every module; reads the adapter once. Memory is that of the largest module.
  ///
  /// Throws `.nonFinite` for factors with NaN or infinities, `.notFound` without OpenBLAS, and what reading throws.
  package func inspection(spectrum: Bool) throws(IngotError) -> AdapterInspection {
    let algebra = try LinearAlgebra.load()
    var modules: [AdapterInspection.Module] = []
    for module in contents.modules {
      let (norm, values) = try measure(module, algebra, spectrum: spectrum)
      let isRoot = contents.settings.usesRootRank
      modules.append(
        .init(
          name: module.name, isEmbedding: module.isEmbedding, outputs: module.outputs, inputs: module.inputs, rank: module.rank,
          alpha: module.scale * (isRoot ? Double(module.rank).squareRoot() : Double(module.rank)), scale: module.scale,
          dtype: module.a.dtype, hasMagnitude: module.magnitude != nil, hasBias: module.bias != nil, norm: norm,
          spectrum: spectrum ? values : nil))
    }
    var parameters = 0
    for tensor in model.checkpoint.tensors { parameters += try tensor.shape.elementCount() }
    return AdapterInspection(
      name: name, path: path, base: config["base_model_name_or_path"]?.asString, usesDora: contents.settings.usesDora, modules: modules,
      whole: contents.whole.map { .init(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape) }, parameters: parameters,
      notices: notices)
  }

  private func measure(
    _ module: AdapterContents.Module, _ algebra: LinearAlgebra, spectrum: Bool
  ) throws(IngotError) -> (norm: Double, values: [Double]) {
    func run(_ workspace: MatrixWorkspace) throws(IngotError) -> (Double, [Double]) {
      let low = LowRankAlgebra(algebra, workspace)
      let factors = try factors(of: module, low)
      guard spectrum else { return (abs(module.scale) * (try low.norm(factors)), []) }
      let values = try low.spectrum(factors).map { $0 * abs(module.scale) }
      return (values.reduce(0) { $0 + $1 * $1 }.squareRoot(), values)
    }
    return try Self.measured(algebra, run)
  }

  /// Runs `body` without memory first, then with as much as it asked for.
  private static func measured<Result>(
    _ algebra: LinearAlgebra, _ body: (MatrixWorkspace) throws(IngotError) -> Result
  ) throws(IngotError) -> Result {
    let measuring = MatrixWorkspace.measuring()
    _ = try body(measuring)
    // The last matrix is rounded up to the alignment.
    let workspace = try MatrixWorkspace(capacity: measuring.peak + 64)
    return try algebra.withThreads(1) { () throws(IngotError) in try body(workspace) }
  }

  /// The factors of a module, without its scale. Reads nothing on a measuring workspace.
  func factors(of module: AdapterContents.Module, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let result = try algebra.empty(outputs: module.outputs, inputs: module.inputs, rank: module.rank)
    try algebra.workspace.scope { () throws(IngotError) in
      let a: Matrix<Float> = try algebra.workspace.matrix(module.rank, module.inputs)
      let b: Matrix<Float> = try algebra.workspace.matrix(module.outputs, module.rank)
      guard !algebra.workspace.isMeasuring else { return }
      try FloatReader(try bytes(module.a), module.a.dtype).load(0, into: a.floats)
      try FloatReader(try bytes(module.b), module.b.dtype).load(0, into: b.floats)
      guard a.isFinite, b.isFinite else {
        throw IngotError(.nonFinite, "the adapter \(name) has values that are NaN or infinite", subject: module.name)
      }
      result.a.copyTransposed(a)
      result.b.copy(b)
    }
    return result
  }

  /// How much the inputs that two adapters use have in common (the test of Orthogonal Adaptation, arXiv 2312.02432). Nil without a common module.
  package func overlap(with other: OpenedAdapter) throws(IngotError) -> AdapterInspection.Overlap? {
    let algebra = try LinearAlgebra.load()
    var shares: [Double] = []
    for module in contents.modules {
      guard let second = other.module(module.name), second.inputs == module.inputs else { continue }
      func run(_ workspace: MatrixWorkspace) throws(IngotError) -> Double {
        let low = LowRankAlgebra(algebra, workspace)
        let (a, c) = (try factors(of: module, low).a, try other.factors(of: second, low).a)
        let product: Matrix<Double> = try workspace.matrix(a.columns, c.columns)
        try algebra.multiply(a, .transposed, c, .plain, into: product)
        let norms = a.norm * c.norm
        return norms > 0 ? product.norm / norms : 0
      }
      shares.append(try Self.measured(algebra, run))
    }
    guard !shares.isEmpty else { return nil }
    return .init(
      first: name, second: other.name, modules: shares.count, mean: shares.reduce(0, +) / Double(shares.count), largest: shares.max() ?? 0)
  }
}
