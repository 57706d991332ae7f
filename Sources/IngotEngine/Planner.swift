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
  /// How results of documents reach the documents that read them.
  package var stages = StagePlacement.automatic
  /// Takes the place of the recipe's numerics.
  package var numerics: Recipe.Numerics?
  /// Takes the place of the recipe's `missing`.
  package var missing: Recipe.Missing?
  /// Copies the donor's tokenizer files.
  package var carriesTokenizer = true
  /// Writes README.md and mergekit_config.yml.
  package var writesModelCard = true
  /// Files of the output besides those that follow from the recipe.
  package var extraFiles: [SideFile] = []
  package init() {}
}

extension Recipe {
  /// The model whose names the output has: the base of the first slice or its first source; with modules the recipe's base model, where it has one.
  var namesModel: Int {
    let first = slices.first
    let lead = first?.sources[first?.base ?? 0].model ?? 0
    return form == .modules ? baseModel ?? lead : lead
  }

  /// The settings of every place of the recipe.
  var everySetting: [Setting] {
    let places =
      [settings] + modules.map(\.settings) + slices.flatMap { [$0.settings] + $0.sources.map(\.settings) } + rules.map(\.settings)
    return places.flatMap(\.all)
  }

  /// True when something depends on which layer a tensor is of.
  var needsLayers: Bool {
    if rules.contains(where: { $0.layers != nil || $0.method?.needsLayers == true }) || method.needsLayers { return true }
    return everySetting.contains { setting in
      switch setting {
      case .constant: false
      case .gradient(let values): values.count > 1
      case .conditional(let conditions):
        conditions.contains {
          if case .gradient(let values) = $0.value { return values.count > 1 }
          return false
        }
      }
    }
  }
}

extension Plan {
  /// Works out everything that headers, configs and the recipe tell; reads no tensor data. Throws what the checks find, before any byte is written.
  package static func make(
    _ recipe: Recipe, options: PlanOptions = PlanOptions(), models provider: any ModelProvider
  ) throws(IngotError) -> Plan {
    try make(recipe, options: options, stages: try StageModels(recipe, options: options, models: provider))
  }

  /// Plans one document, given those that it reads.
  static func make(_ recipe: Recipe, options: PlanOptions, stages: StageModels) throws(IngotError) -> Plan {
    var models: [ProvidedModel] = []
    for reference in recipe.models {
      let model = try stages.open(reference)
      do throws(IngotError) {
        models.append(try model.readable())
      } catch {
        var placed = error
        if placed.position == nil { placed.position = reference.position }
        throw placed
      }
    }
    models = try recipe.inDonorsLayout(models)
    let numerics = options.numerics ?? recipe.numerics
    try MethodRegistry.catalog.require(numerics, of: recipe.method)
    var planner = try Planner(recipe: recipe, models: models, seed: options.seed ?? recipe.seed ?? 0, numerics: numerics)
    planner.stages = stages.read(by: recipe)
    return try planner.plan(options)
  }
}

/// Turns a recipe and opened models into a plan.
struct Planner {
  let recipe: Recipe
  let models: [ProvidedModel]
  let seed: UInt64
  let numerics: Recipe.Numerics
  /// The recipe's method, and by rule what takes its place.
  private let method: MethodChoice
  private let ruleMethods: [MethodChoice]
  private var ruleUses: [Int]
  private let sourceOffsets: [Int]
  /// The models' files, then what is computed from them.
  private var sources: [any ByteSource]
  private var tokenizer: TokenizerPlan?
  var notices: [Notice]
  var stages: [PlannedStage] = []
  var tensors: [PlannedTensor] = []
  private var jobs: [PlannedJob] = []
  private var modelScopes: [ModelScope] = []
  private(set) var vocabularySize: Int?

  init(recipe: Recipe, models: [ProvidedModel], seed: UInt64, numerics: Recipe.Numerics) throws(IngotError) {
    let method = try MethodChoice(recipe.method)
    var ruleMethods: [MethodChoice] = []
    for rule in recipe.rules {
      guard let descriptor = rule.method else {
        ruleMethods.append(method)
        continue
      }
      if rule.from == nil { try MethodRegistry.catalog.require(numerics, of: descriptor, position: rule.position) }
      ruleMethods.append(try MethodChoice(descriptor))
    }
    self.ruleMethods = ruleMethods
    ruleUses = recipe.rules.map { _ in 0 }
    self.recipe = recipe
    self.models = models
    self.seed = seed
    self.numerics = numerics
    self.method = method
    var offsets: [Int] = []
    var total = 0
    for model in models {
      offsets.append(total)
      total += model.sources.count
    }
    sourceOffsets = offsets
    sources = models.flatMap(\.sources)
    notices = recipe.notices + models.flatMap { $0.checkpoint.notices + ($0.stage?.notices ?? []) }
  }

  mutating func plan(_ options: PlanOptions) throws(IngotError) -> Plan {
    var finder = OutputTensorFinder(recipe: recipe, models: models, missing: options.missing ?? recipe.missing)
    let outputs = try finder.find()
    notices += finder.notices + finder.skipped.notices(recipe)
    if let request = recipe.tokenizer {
      var planner = TokenizerPlanner(recipe: recipe, request: request, models: models)
      tokenizer = try planner.plan()
      notices += planner.notices
      vocabularySize = tokenizer?.rows
    }
    let cache = ParameterCache(recipe)
    tensors.reserveCapacity(outputs.count)
    for output in outputs { try add(output, cache) }
    for group in modelScopes {
      let request = MethodRequest(inputs: group.inputs, segments: group.segments, seed: seed)
      jobs.append(PlannedJob(tensors: group.tensors, work: .merge(try group.method.type.init(request))))
    }
    noteUnusedRules()
    let files = try layOut(options)
    let sides = SideFilePlanner(recipe: recipe, models: models, tensors: tensors, options: options, tokenizer: tokenizer)
    let side = try sides.plan(
      index: files.index, ties: finder.tiesEmbeddings, stacks: finder.stacks, vocabularySize: vocabularySize, notices: &notices)
    let digest = try PlanDigest.plan(
      recipe: recipe, tensors: tensors, jobs: jobs, files: files.files, seed: seed, numerics: numerics, cache: cache, sources: sources)
    let planned = zip(recipe.models, models).map { reference, model in
      PlannedModel(
        name: reference.name, path: model.path, isOnDisk: model.files is DirectoryFiles, adapter: model.adapter?.path,
        shards: model.checkpoint.shards.map { ShardIdentity($0) })
    }
    return try Plan(
      recipe: recipe, models: planned, sources: sources, files: files.files, sideFiles: side, tensors: tensors,
      jobs: jobs,
      seed: seed, numerics: numerics, missing: options.missing ?? recipe.missing, notices: notices, digest: digest,
      sourceDigest: try PlanDigest.sources(planned),
      vocabulary: tokenizer?.planned, stages: stages, cardSources: try sides.cardSources())
  }

  // MARK: One output tensor

  private mutating func add(_ output: OutputTensor, _ cache: ParameterCache) throws(IngotError) {
    let slice = recipe.slices[output.slice]
    let rule = recipe.rules.firstIndex { $0.matches(output.name, layer: output.layer) }
    if let rule { ruleUses[rule] += 1 }
    let named = rule.flatMap { recipe.rules[$0].dtype } ?? recipe.outputDType
    if let rule, let model = recipe.rules[rule].from {
      try appendTaken(output, from: model, rule: rule, dtype: named)
      return
    }
    let choice = rule.map { ruleMethods[$0] } ?? method
    let found = output.isCopied ? output.inputs : try inputOrder(output, slice, choice, rule: rule)
    var inputs: [PlannedInput] = []
    for input in found { inputs.append(try planned(input)) }
    // What is stored decides the output's type, not what assembled rows are read as.
    let stored = zip(found, inputs).map { $0.tensor.nominalDType ?? $1.dtype }
    inputs = try inOutputVocabulary(output.name, inputs)
    guard let first = inputs.first else { throw IngotError(.internalError, "an output tensor without inputs", subject: output.name) }
    if output.isCopied {
      try appendCopy(output.name, first, dtype: named, nominal: stored[0])
      return
    }
    if let carried = try carriedInput(output.name, inputs, choice) {
      append(output.name, carried, dtype: carried.dtype, inputs: [carried], work: .copy(input: 0))
      return
    }
    let base = choice.descriptor.baseIsInput ? nil : slice.base
    let shape = try commonShape(output.name, inputs, cropsToBase: choice.type.cropsToBase && base != nil)
    var segment = try makeSegment(output, found, shape: shape, rule: rule, cache)
    if numerics == .stepwise { segment.stepType = recipe.dtype ?? first.dtype.defaultOutput }
    let described = found.map {
      MethodRequest.Input(model: recipe.models[$0.model].name, ordinal: $0.model, isBase: base != nil && $0.source == base)
    }
    let nominal = stored.first ?? first.dtype
    let dtype = named ?? nominal.defaultOutput
    if choice.type.scope(segment.parameters) == .model {
      let number = append(output.name, first, dtype: dtype, inputs: inputs, work: nil, shape: shape)
      addToModelScope(number, segment, described, choice)
      return
    }
    let made = try choice.type.init(MethodRequest(inputs: described, segments: [segment], seed: seed))
    if let copied = made.demands.copiedInput, inputs.indices.contains(copied) {
      let input = inputs[copied]
      // A copy keeps its dtype unless the recipe names another.
      let kept = named ?? stored[copied]
      if kept == input.dtype, input.shape == shape {
        append(output.name, input, dtype: kept, inputs: [input], work: .copy(input: 0))
        return
      }
    }
    if let used = made.demands.usedInputs { inputs = used.filter(inputs.indices.contains).map { inputs[$0] } }
    if named == nil { noteNarrowing(nominal, to: dtype) }
    append(output.name, first, dtype: dtype, inputs: inputs, work: .merge(made), shape: shape)
  }

  /// The inputs of a tensor that has rows of tokens, with the rows in the order of the output's vocabulary.
  private mutating func inOutputVocabulary(_ name: String, _ inputs: [PlannedInput]) throws(IngotError) -> [PlannedInput] {
    guard let tokenizer, let rank = inputs.first?.shape.rank, TensorNames.isVocabulary(name, rank: rank) else { return inputs }
    var assembly = try EmbeddingAssembly(
      tokenizer, recipe: recipe, models: models, name: name, inputs: inputs, sourceOffsets: sourceOffsets)
    let assembled = try assembly.assemble(firstSource: sources.count)
    sources += assembled.sources
    return assembled.inputs
  }

  private func planned(_ input: OutputTensor.Input) throws(IngotError) -> PlannedInput {
    let (tensor, model) = (input.tensor, input.model)
    guard let offset = Int(exactly: tensor.fileOffset) else {
      throw IngotError(.format, "the tensor begins at byte \(tensor.fileOffset), beyond what files have", subject: tensor.name)
    }
    return PlannedInput(
      model: model, name: tensor.name, source: sourceOffsets[model] + tensor.shard, offset: offset, dtype: tensor.dtype, shape: tensor.shape
    )
  }

  /// One statistic over the whole model: tensors of one method with the same models share a job.
  private mutating func addToModelScope(
    _ tensor: Int, _ segment: MethodRequest.Segment, _ inputs: [MethodRequest.Input], _ choice: MethodChoice
  ) {
    let key = [choice.descriptor.name] + inputs.map { "\($0.ordinal) \($0.isBase)" }
    let place = modelScopes.firstIndex { $0.key == key } ?? modelScopes.count
    if place == modelScopes.count { modelScopes.append(ModelScope(key: key, method: choice, inputs: inputs)) }
    modelScopes[place].tensors.append(tensor)
    modelScopes[place].segments.append(segment)
  }

  /// The tensor of one model, as a rule's `from` asks, perhaps scaled.
  private mutating func appendTaken(_ output: OutputTensor, from model: Int, rule: Int, dtype: DType?) throws(IngotError) {
    let (name, position) = (recipe.models[model].name, recipe.rules[rule].position)
    guard let tensor = OutputTensorFinder.tensor(output.name, in: models[model].checkpoint) else {
      throw IngotError(
        .shape, "tensor \(output.name), which a rule takes from model \(name), is absent there",
        hint: "narrow the rule's match", subject: output.name, position: position)
    }
    let stored = try planned(OutputTensor.Input(model: model, source: nil, tensor: tensor))
    let input = try inOutputVocabulary(output.name, [stored])[0]
    guard output.inputs.contains(where: { $0.tensor.shape == tensor.shape }) else {
      throw IngotError(
        .shape,
        "tensor \(output.name), which a rule takes from model \(name), has shape \(tensor.shape) there, expected "
          + (output.inputs.first.map { "\($0.tensor.shape)" } ?? "another"),
        hint: "narrow the rule's match", subject: output.name, position: position)
    }
    // Not from the recipe's own parameters: what is copied is not scaled unless the rule says so.
    let scaling = ruleMethods[rule].descriptor.parameters.firstIndex { $0.name == "scale" }
    let scale = scaling.flatMap { recipe.rules[rule].settings[$0]?.setting.value(for: output.name, at: output.position) }
    try appendCopy(output.name, input, dtype: dtype, nominal: tensor.nominalDType ?? stored.dtype, scale: scale)
  }

  private mutating func noteUnusedRules() {
    for (rule, uses) in zip(recipe.rules, ruleUses) where uses == 0 {
      notices.append(
        Notice(
          .warning, "the rule \(rule.pattern.text) decides for no tensor of the output: none matches, or an earlier rule has them",
          subject: "tensors", position: rule.position))
    }
  }

  /// One input unchanged, but for the dtype where one is named.
  private mutating func appendCopy(
    _ name: String, _ input: PlannedInput, dtype named: DType?, nominal: DType?, scale: ParameterValue? = nil
  ) throws(IngotError) {
    let dtype = named ?? nominal?.defaultOutput ?? (scale == nil ? input.dtype : input.dtype.defaultOutput)
    guard dtype != input.dtype || scale != nil, input.dtype.hasArithmetic else {
      append(name, input, dtype: input.dtype, inputs: [input], work: .copy(input: 0))
      return
    }
    let described = MethodRequest.Input(model: recipe.models[input.model].name, ordinal: input.model, isBase: false)
    let segment = MethodRequest.Segment(
      name: name, shape: input.shape, parameters: [:], modelParameters: [scale.map { ["scale": $0] } ?? [:]], streams: [0])
    let method = try Passthrough(MethodRequest(inputs: [described], segments: [segment], seed: seed))
    append(name, input, dtype: dtype, inputs: [input], work: .merge(method))
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
  ///
  /// A rule's method that knows no base does not get one that the recipe names only as the base of its own method.
  private func inputOrder(
    _ output: OutputTensor, _ slice: Recipe.Slice, _ choice: MethodChoice, rule: Int?
  ) throws(IngotError) -> [OutputTensor.Input] {
    let method = choice.descriptor
    var inputs = output.inputs
    var others = inputs
    if !method.baseIsInput, let base = slice.base {
      others = inputs.filter { $0.source != base }
      inputs = inputs.filter { $0.source == base } + others
    } else if method.baseIsInput, !recipe.method.baseIsInput {
      inputs = inputs.filter { !($0.source.map { slice.sources[$0].isImplicit } ?? false) }
      others = inputs
    }
    guard let rule, recipe.rules[rule].method != nil else { return inputs }
    if method.models.contains(others.count), method.base != .required || slice.base != nil { return inputs }
    throw IngotError(
      .recipe, "the rule's method \(method.name) gets \(others.count) models for this tensor, expected \(method.modelsExpectation)",
      hint: "narrow the rule's match", subject: output.name, position: recipe.rules[rule].position)
  }

  /// The input that a tensor without arithmetic comes from: the base, else the first model. Nil for tensors that can be merged.
  private mutating func carriedInput(_ name: String, _ inputs: [PlannedInput], _ choice: MethodChoice) throws(IngotError) -> PlannedInput? {
    guard let first = inputs.first, let other = inputs.first(where: { !$0.dtype.hasArithmetic }) else { return nil }
    if inputs.count == 1 { return choice.descriptor.name == "passthrough" || !first.dtype.hasArithmetic ? first : nil }
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
  private mutating func commonShape(_ name: String, _ inputs: [PlannedInput], cropsToBase: Bool) throws(IngotError) -> Shape {
    guard let first = inputs.first else { return Shape([]) }
    guard let other = inputs.first(where: { $0.shape != first.shape }) else { return first.shape }
    let isCroppable =
      TensorNames.isEmbedding(name) && inputs.allSatisfy { $0.shape.rank == 2 && $0.shape.rowLength == first.shape.rowLength }
    let rows = inputs.compactMap { $0.shape.dimensions.first }
    let wanted = cropsToBase ? first.shape.dimensions.first : rows.min()
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
    guard found != dtype else { return }
    let message = "tensors of type \(found.safetensorsName) are merged into \(dtype.safetensorsName)"
    if !notices.contains(where: { $0.message == message }) { notices.append(Notice(.info, message)) }
  }

  private func makeSegment(
    _ output: OutputTensor, _ inputs: [OutputTensor.Input], shape: Shape, rule: Int?, _ cache: ParameterCache
  ) throws(IngotError) -> MethodRequest.Segment {
    let tensor = try cache.parameters(output: output.name, slice: output.slice, at: output.position, rule: rule)
    var perModel: [[String: ParameterValue]] = []
    var streams: [UInt64] = []
    for input in inputs {
      perModel.append(
        try cache.parameters(
          output: output.name, input: input.tensor.name, source: input.source ?? 0, slice: output.slice, at: output.position,
          rule: rule))
      streams.append(Self.stream(output.name, ordinal: input.model))
    }
    var segment = MethodRequest.Segment(
      name: output.name, shape: shape, parameters: tensor, modelParameters: perModel, streams: streams)
    if let layer = output.layer, let count = output.layerCount {
      segment.place = .layer(layer, of: count)
    } else if TensorNames.isInputEmbedding(output.name) {
      segment.place = .embedding
    } else if TensorNames.isEmbedding(output.name) {
      segment.place = .head
    }
    return segment
  }

  /// XXH3-64 of the output tensor's name, a zero byte and the model's ordinal in 8 bytes, little-endian.
  static func stream(_ name: String, ordinal: Int) -> UInt64 {
    var bytes = Array(name.utf8)
    bytes.append(0)
    for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: ordinal >> (8 * shift))) }
    return xxh3(bytes)
  }
}
