internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotMethods
package import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// What planning may be told besides the recipe.
package struct PlanOptions: Sendable {
  /// Bytes of tensor data in one output file; 0 writes one file.
  package var shardSize = 5_000_000_000
  /// Takes the place of the recipe's seed.
  package var seed: UInt64?
  package init() {}
}

extension Recipe {
  /// True when some parameter changes over the layers, so that layers must be known.
  var usesGradients: Bool {
    func hasGradient(_ settings: Settings) -> Bool {
      method.parameters.indices.contains { index in
        switch settings[index]?.setting {
        case .gradient(let values): values.count > 1
        case .conditional(let conditions):
          conditions.contains {
            if case .gradient(let values) = $0.value { return values.count > 1 }
            return false
          }
        default: false
        }
      }
    }
    return hasGradient(settings) || slices.contains { hasGradient($0.settings) || $0.sources.contains { hasGradient($0.settings) } }
  }
}

extension Plan {
  /// Works out everything that headers, configs and the recipe tell; reads no tensor data. Throws what the checks find, before any byte is written.
  package static func make(
    _ recipe: Recipe, options: PlanOptions = PlanOptions(), models provider: any ModelProvider
  ) throws(IngotError) -> Plan {
    var models: [ProvidedModel] = []
    for reference in recipe.models {
      let model = try provider.open(reference)
      do throws(IngotError) {
        try model.checkpoint.requireUnquantised()
      } catch {
        var placed = error
        if placed.position == nil { placed.position = reference.position }
        throw placed
      }
      models.append(model)
    }
    var planner = try Planner(recipe: recipe, models: models, seed: options.seed ?? recipe.seed ?? 0)
    return try planner.plan(options)
  }
}

/// Turns a recipe and opened models into a plan.
struct Planner {
  let recipe: Recipe
  let models: [ProvidedModel]
  let seed: UInt64
  let method: any MergeMethod.Type
  private let sourceOffsets: [Int]
  var notices: [Notice]
  private var tensors: [PlannedTensor] = []
  private var jobs: [PlannedJob] = []
  private var modelScope: (tensors: [Int], inputs: [MethodRequest.Input], segments: [MethodRequest.Segment])?
  private(set) var vocabularySize: Int?

  init(recipe: Recipe, models: [ProvidedModel], seed: UInt64) throws(IngotError) {
    guard let method = MethodRegistry.method(named: recipe.method.name) else {
      throw IngotError(.internalError, "the method \(recipe.method.name) is in the catalogue but not in the registry")
    }
    self.recipe = recipe
    self.models = models
    self.seed = seed
    self.method = method
    var offsets: [Int] = []
    var total = 0
    for model in models {
      offsets.append(total)
      total += model.sources.count
    }
    sourceOffsets = offsets
    notices = recipe.notices + models.flatMap(\.checkpoint.notices)
  }

  mutating func plan(_ options: PlanOptions) throws(IngotError) -> Plan {
    var finder = OutputTensorFinder(recipe: recipe, models: models)
    let outputs = try finder.find()
    notices += finder.notices
    let cache = ParameterCache(recipe)
    tensors.reserveCapacity(outputs.count)
    for output in outputs { try add(output, cache) }
    if let group = modelScope {
      let request = MethodRequest(inputs: group.inputs, segments: group.segments, seed: seed)
      jobs.append(PlannedJob(tensors: group.tensors, work: .merge(try method.init(request))))
    }
    let files = try layOut(options)
    let side = try SideFilePlanner(recipe: recipe, models: models, tensors: tensors).plan(
      index: files.index, ties: finder.tiesEmbeddings, layers: finder.layerSources, vocabularySize: vocabularySize, notices: &notices)
    let digest = try PlanDigest.plan(recipe: recipe, tensors: tensors, jobs: jobs, files: files.files, seed: seed, cache: cache)
    let planned = zip(recipe.models, models).map { reference, model in
      PlannedModel(
        name: reference.name, path: model.path,
        shards: model.checkpoint.shards.map {
          ShardIdentity(
            name: $0.name, size: $0.size, modified: $0.modificationTime,
            headerDigest: Digest128(high: UInt64($0.headerDigest >> 64), low: UInt64(truncatingIfNeeded: $0.headerDigest)))
        })
    }
    return try Plan(
      recipe: recipe, models: planned, sources: models.flatMap(\.sources), files: files.files, sideFiles: side, tensors: tensors,
      jobs: jobs,
      seed: seed, notices: notices, digest: digest, sourceDigest: try PlanDigest.sources(planned))
  }

  // MARK: One output tensor

  private mutating func add(_ output: OutputTensor, _ cache: ParameterCache) throws(IngotError) {
    let slice = recipe.slices[output.slice]
    let order = inputOrder(slice)
    let base = recipe.method.baseIsInput ? nil : slice.base
    var inputs: [PlannedInput] = []
    for index in order {
      let tensor = output.inputs[index]
      let model = slice.sources[index].model
      guard let offset = Int(exactly: tensor.fileOffset) else {
        throw IngotError(.format, "the tensor begins at byte \(tensor.fileOffset), beyond what files have", subject: tensor.name)
      }
      inputs.append(
        PlannedInput(
          model: model, name: tensor.name, source: sourceOffsets[model] + tensor.shard, offset: offset, dtype: tensor.dtype,
          shape: tensor.shape))
    }
    guard let first = inputs.first else { throw IngotError(.internalError, "an output tensor without inputs", subject: output.name) }
    if let carried = try carriedInput(output.name, inputs) {
      append(output.name, carried, dtype: carried.dtype, inputs: [carried], work: .copy(input: 0))
      return
    }
    let shape = try commonShape(output.name, inputs, hasBase: base != nil)
    let segment = try makeSegment(output, slice: slice, order: order, shape: shape, cache)
    let described = order.map { index in
      let source = slice.sources[index]
      return MethodRequest.Input(model: recipe.models[source.model].name, ordinal: source.model, isBase: index == base)
    }
    let dtype = recipe.outputDType ?? first.dtype.defaultOutput
    if method.scope(segment.parameters) == .model {
      let number = append(output.name, first, dtype: dtype, inputs: inputs, work: nil, shape: shape)
      if modelScope == nil { modelScope = ([], described, []) }
      modelScope?.tensors.append(number)
      modelScope?.segments.append(segment)
      return
    }
    let made = try method.init(MethodRequest(inputs: described, segments: [segment], seed: seed))
    if let copied = made.demands.copiedInput, inputs.indices.contains(copied) {
      let input = inputs[copied]
      // A copy keeps its dtype unless the recipe names another.
      let kept = recipe.outputDType ?? input.dtype
      if kept == input.dtype {
        append(output.name, input, dtype: kept, inputs: [input], work: .copy(input: 0))
        return
      }
    }
    noteNarrowing(first.dtype, to: dtype)
    append(output.name, first, dtype: dtype, inputs: inputs, work: .merge(made), shape: shape)
  }

  @discardableResult
  private mutating func append(
    _ name: String, _ lead: PlannedInput, dtype: DType, inputs: [PlannedInput], work: PlannedJob.Work?, shape: Shape? = nil
  ) -> Int {
    let number = tensors.count
    tensors.append(PlannedTensor(name: name, shape: shape ?? lead.shape, dtype: dtype, inputs: inputs))
    if let work { jobs.append(PlannedJob(tensors: [number], work: work)) }
    return number
  }

  /// The base first, then the others in the recipe's order; in that order alone where the base is one more input.
  private func inputOrder(_ slice: Recipe.Slice) -> [Int] {
    guard !recipe.method.baseIsInput, let base = slice.base else { return Array(slice.sources.indices) }
    return [base] + slice.sources.indices.filter { $0 != base }
  }

  /// The input that a tensor without arithmetic comes from: the base, else the first model. Nil for tensors that can be merged.
  private mutating func carriedInput(_ name: String, _ inputs: [PlannedInput]) throws(IngotError) -> PlannedInput? {
    guard let first = inputs.first, let other = inputs.first(where: { !$0.dtype.hasArithmetic }) else { return nil }
    if inputs.count == 1 { return recipe.method.name == "passthrough" || !first.dtype.hasArithmetic ? first : nil }
    guard first.dtype == other.dtype, inputs.allSatisfy({ $0.dtype == first.dtype && $0.shape == first.shape }) else {
      let found = inputs.map { "\($0.dtype.safetensorsName) \($0.shape) in \(recipe.models[$0.model].name)" }.joined(separator: ", ")
      throw IngotError(
        .dtype, "tensor \(name) has types that cannot be combined: \(found)", hint: "the models must agree on it", subject: name)
    }
    switch other.dtype {
    case .i64, .i32, .i16, .i8, .u64, .u32, .u16, .u8, .bool: break
    default:
      throw IngotError(
        .dtype, "tensor \(name) is \(other.dtype.safetensorsName), which has no arithmetic here",
        hint: "it can only be copied: use passthrough", subject: name)
    }
    if try differs(inputs) {
      notices.append(
        Notice(
          .warning, "\(name) holds integers that differ between the models; it is taken from \(recipe.models[first.model].name)",
          subject: name))
    }
    return first
  }

  /// Compares small integer tensors byte by byte; large ones are left unread while planning.
  private func differs(_ inputs: [PlannedInput]) throws(IngotError) -> Bool {
    guard let first = inputs.first else { return false }
    let count = try first.shape.byteCount(first.dtype)
    guard count <= 1 << 20 else { return false }
    let expected = try bytes(first, count)
    for input in inputs.dropFirst() where try bytes(input, count) != expected { return true }
    return false
  }

  private func bytes(_ input: PlannedInput, _ count: Int) throws(IngotError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var failure: IngotError?
    let shard = input.source - sourceOffsets[input.model]
    guard models[input.model].sources.indices.contains(shard) else { return bytes }
    let source = models[input.model].sources[shard]
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(IngotError) { try unsafe source.read(buffer, at: input.offset) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  /// The shape of the result. Embeddings may differ in rows; anything else must agree.
  private mutating func commonShape(_ name: String, _ inputs: [PlannedInput], hasBase: Bool) throws(IngotError) -> Shape {
    guard let first = inputs.first else { return Shape([]) }
    guard let other = inputs.first(where: { $0.shape != first.shape }) else { return first.shape }
    let isCroppable =
      TensorNames.isEmbedding(name) && inputs.allSatisfy { $0.shape.rank == 2 && $0.shape.rowLength == first.shape.rowLength }
    let rows = inputs.compactMap { $0.shape.dimensions.first }
    let wanted = method.cropsToBase && hasBase ? first.shape.dimensions.first : rows.min()
    guard isCroppable, let wanted, rows.allSatisfy({ $0 >= wanted }) else {
      throw IngotError(
        .shape,
        "tensor \(name) has shape \(other.shape) in model \(recipe.models[other.model].name) and \(first.shape) in model \(recipe.models[first.model].name)",
        hint: isCroppable
          ? "the base has more rows than a model: extend the model's vocabulary" : "the models must have the same architecture",
        subject: name)
    }
    notices.append(
      Notice(.warning, "\(name) has \(rows.min() ?? 0) to \(rows.max() ?? 0) rows; the first \(wanted) are merged", subject: name))
    vocabularySize = wanted
    return Shape([wanted] + first.shape.dimensions.dropFirst())
  }

  private mutating func noteNarrowing(_ found: DType, to dtype: DType) {
    guard recipe.outputDType == nil, found != dtype else { return }
    let message = "tensors of type \(found.safetensorsName) are merged into \(dtype.safetensorsName)"
    if !notices.contains(where: { $0.message == message }) { notices.append(Notice(.info, message)) }
  }

  private func makeSegment(
    _ output: OutputTensor, slice: Recipe.Slice, order: [Int], shape: Shape, _ cache: ParameterCache
  ) throws(IngotError) -> MethodRequest.Segment {
    let tensor = try cache.parameters(output: output.name, slice: output.slice, at: output.position)
    var perModel: [[String: ParameterValue]] = []
    var streams: [UInt64] = []
    for index in order {
      perModel.append(
        try cache.parameters(
          output: output.name, input: output.inputs[index].name, source: index, slice: output.slice, at: output.position))
      streams.append(Self.stream(output.name, ordinal: slice.sources[index].model))
    }
    return MethodRequest.Segment(name: output.name, shape: shape, parameters: tensor, modelParameters: perModel, streams: streams)
  }

  /// XXH3-64 of the output tensor's name, a zero byte and the model's ordinal in 8 bytes, little-endian.
  static func stream(_ name: String, ordinal: Int) -> UInt64 {
    var bytes = Array(name.utf8)
    bytes.append(0)
    for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: ordinal >> (8 * shift))) }
    return xxh3(bytes)
  }

  // MARK: Layout

  private mutating func layOut(_ options: PlanOptions) throws(IngotError) -> (files: [WeightFile], index: ShardLayout.Index?) {
    guard let limit = UInt64(exactly: options.shardSize) else {
      throw IngotError(.invalidArgument, "the shard size is \(options.shardSize) bytes, expected 0 or more")
    }
    // Only what follows from the plan: equal plans give equal bytes.
    let metadata = [
      MetadataEntry("format", "pt"), MetadataEntry("merge_method", recipe.method.name), MetadataEntry("merge_seed", String(seed)),
    ]
    let described = tensors.map { TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
    let layout = try ShardLayout(tensors: described, limit: limit, metadata: metadata)
    var files: [WeightFile] = []
    for (number, shard) in layout.shards.enumerated() {
      guard let size = Int(exactly: shard.layout.fileSize) else {
        throw IngotError(.shape, "an output file of \(shard.layout.fileSize) bytes is beyond what files can be", subject: shard.fileName)
      }
      files.append(WeightFile(name: shard.fileName, header: shard.layout.header, byteCount: size))
      for (place, index) in shard.tensors.enumerated() {
        tensors[index].file = number
        tensors[index].offset = Int(shard.layout.fileOffsets[place])
        tensors[index].byteCount = shard.layout.byteCounts[place]
      }
    }
    return (files, layout.index)
  }
}

/// Resolves parameters, and remembers the answers of slices in which nothing depends on the tensor: plans of 100,000 tensors ask millions of times.
final class ParameterCache {
  private let recipe: Recipe
  private let isUniform: Bool
  private var known: [[Int]: [String: ParameterValue]] = [:]

  init(_ recipe: Recipe) {
    self.recipe = recipe
    func varies(_ settings: Settings) -> Bool {
      recipe.method.parameters.indices.contains { index in
        switch settings[index]?.setting {
        case nil, .constant: false
        default: true
        }
      }
    }
    isUniform = !(varies(recipe.settings) || recipe.slices.contains { varies($0.settings) || $0.sources.contains { varies($0.settings) } })
  }

  func parameters(
    output: String, input: String? = nil, source: Int? = nil, slice: Int, at position: Double
  ) throws(IngotError) -> [String: ParameterValue] {
    let key = [slice, source ?? -1]
    if isUniform, let found = known[key] { return found }
    var values: [String: ParameterValue] = [:]
    for parameter in recipe.method.parameters where parameter.isPerModel == (source != nil) {
      values[parameter.name] = try recipe.value(
        of: parameter.name, outputName: output, inputName: input, source: source, slice: slice, at: position)
    }
    if isUniform { known[key] = values }
    return values
  }
}
