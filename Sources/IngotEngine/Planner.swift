internal import IngotCheckpoints
internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

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
  private var sideFinder: SideFinder
  /// The models' files, then what is computed from them.
  private var sources: [any ByteSource]
  private var tokenizer: TokenizerPlan?
  var notices: [Notice]
  var stages: [PlannedStage] = []
  var mostTensors = Limit.plannedTensors
  var tensors: [PlannedTensor] = []
  private var jobs: [PlannedJob] = []
  /// Jobs of several tensors, and where each is, by method, group and inputs.
  private var sharedJobs: [SharedJob] = []
  private var sharedJobPlaces: [[String]: Int] = [:]
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
    sideFinder = SideFinder(
      recipe: recipe, models: models, sourceOffsets: offsets, files: try SideFiles(recipe, models: models))
    sources = models.flatMap(\.sources)
    notices = recipe.notices + models.flatMap(\.checkpoint.notices)
    // Documents that several others read have something to say once.
    var seen = Set(notices)
    for notice in models.flatMap({ $0.stage?.notices ?? [] }) where seen.insert(notice).inserted { notices.append(notice) }
  }

  mutating func plan(_ options: PlanOptions) throws(IngotError) -> Plan {
    var finder = OutputTensorFinder(recipe: recipe, models: models, missing: options.missing ?? recipe.missing, most: mostTensors)
    let outputs = try finder.find()
    notices += finder.notices + finder.skipped.notices(recipe)
    if let request = recipe.tokenizer {
      var planner = TokenizerPlanner(recipe: recipe, request: request, models: Array(models.prefix(recipe.modelCount)))
      tokenizer = try planner.plan()
      notices += planner.notices
      vocabularySize = tokenizer?.rows
    }
    let cache = ParameterCache(recipe)
    tensors.reserveCapacity(outputs.count)
    for output in outputs { try add(output, cache) }
    if let request = recipe.tokenizer { try tokenizer?.requireRows(in: tensors, at: request.position) }
    for shared in sharedJobs {
      let request = MethodRequest(inputs: shared.inputs, segments: shared.segments, seed: seed)
      jobs.append(PlannedJob(tensors: shared.tensors, work: .merge(try shared.method.type.init(request))))
    }
    noteUnusedRules()
    try sideFinder.files.requireUse(recipe, models: models)
    notices += sideFinder.files.notices
    let files = try layOut(options)
    let sides = SideFilePlanner(
      recipe: recipe, models: Array(models.prefix(recipe.modelCount)), tensors: tensors, options: options, tokenizer: tokenizer)
    let side = try sides.plan(
      index: files.index, ties: finder.tiesEmbeddings, stacks: finder.stacks, vocabularySize: vocabularySize, notices: &notices)
    let digest = try PlanDigest.plan(
      recipe: recipe, tensors: tensors, jobs: jobs, files: files.files, seed: seed, numerics: numerics, cache: cache, sources: sources)
    let planned = models.indices.map { index in
      let model = models[index]
      return PlannedModel(
        name: recipe.models[index].name, path: model.path, isOnDisk: model.files is DirectoryFiles,
        adapters: model.adapters.map { PlannedModel.Adapter(path: $0.path, task: $0.task) }, isSide: index >= recipe.modelCount,
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
    let agreement = InputAgreement(name: output.name, inputs: inputs, recipe: recipe)
    if let (carried, notice) = try agreement.carried(by: choice.descriptor, sources) {
      if let notice { notices.append(notice) }
      append(output.name, carried, dtype: carried.dtype, inputs: [carried], work: .copy(input: 0))
      return
    }
    let base = choice.descriptor.baseIsInput ? nil : slice.base
    let (shape, cropping) = try agreement.shape(cropsToBase: choice.type.cropsToBase && base != nil)
    if let cropping {
      notices.append(cropping)
      vocabularySize = shape.dimensions.first
    }
    let extra = try sides(output, found, inputs, choice, shape: shape)
    var segment = try makeSegment(output, found, shape: shape, rule: rule, cache)
    segment.sides = extra.method.map(\.tensor)
    if numerics == .stepwise { segment.stepType = recipe.dtype ?? first.dtype.defaultOutput }
    let described = found.map {
      MethodRequest.Input(model: recipe.models[$0.model].name, ordinal: $0.model, isBase: base != nil && $0.source == base)
    }
    let nominal = stored.first ?? first.dtype
    let dtype = named ?? nominal.defaultOutput
    let scope = choice.type.scope(segment.parameters)
    if scope != .tensor {
      let number = append(output.name, first, dtype: dtype, inputs: inputs, work: nil, shape: shape)
      extra.add(to: &tensors[number])
      addToSharedJob(number, segment, described, choice, group: scope == .group ? choice.type.group(of: output.name) : "")
      return
    }
    let made = try choice.type.init(MethodRequest(inputs: described, segments: [segment], seed: seed))
    if let copied = made.demands.copiedInput, inputs.indices.contains(copied), extra.scaling == nil {
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
    let number = append(output.name, first, dtype: dtype, inputs: inputs, work: .merge(made), shape: shape)
    var used = extra
    // What follows the rest rule does without: a Gram matrix would be held whole by every worker.
    if let matrix = made as? any MatrixMethod, !matrix.isMatrix { used.drop() }
    used.add(to: &tensors[number])
  }

  /// What a tensor needs besides its inputs: side tensors of the method, and those of the last step.
  private struct Extra {
    var method: [PlannedSide] = []
    var last: [PlannedSide] = []
    var scaling: PlannedScaling?

    /// Leaves the last step's side tensors alone. Matrix methods have no side tensors that are read element by element, so the base stays in place.
    mutating func drop() {
      scaling?.norms -= method.count
      method = []
    }

    func add(to tensor: inout PlannedTensor) {
      tensor.sides = method + last
      tensor.scaling = scaling
    }
  }

  private mutating func sides(
    _ output: OutputTensor, _ found: [OutputTensor.Input], _ inputs: [PlannedInput], _ choice: MethodChoice, shape: Shape
  ) throws(IngotError) -> Extra {
    var extra = Extra()
    if choice.descriptor.name == recipe.method.name { extra.method = try sideFinder.sides(of: output, found, inputs, shape: shape) }
    if let last = try sideFinder.scaling(of: output, found, shape: shape) {
      extra.last = last.sides
      var scaling = last.scaling
      scaling.norms = extra.method.count
      if last.needsBase { scaling.base = inputs.count + extra.method.count(where: \.isStreamed) }
      extra.scaling = scaling
    }
    let isReordered = tokenizer != nil && TensorNames.vocabularyAxis(output.name, shape) != nil
    guard isReordered, (extra.method + extra.last).contains(where: { $0.isStreamed || $0.tensor.part == .rowSums }) else { return extra }
    throw IngotError(
      .unsupported, "the rows of \(output.name) are put in the order of the output's tokenizer, and its side tensors cannot be",
      hint: "merge it by a rule with another method, or without tokenizer settings", subject: output.name)
  }

  /// The inputs of a tensor that has rows of tokens, with the rows in the order of the output's vocabulary.
  /// Rows that none of them has are those of `others`, models that have the tensor, too.
  private mutating func inOutputVocabulary(
    _ name: String, _ inputs: [PlannedInput], others: [Int] = []
  ) throws(IngotError) -> [PlannedInput] {
    guard let tokenizer, let shape = inputs.first?.shape, let axis = TensorNames.vocabularyAxis(name, shape) else { return inputs }
    var assembly = try EmbeddingAssembly(
      tokenizer, recipe: recipe, models: models, name: name, axis: axis, inputs: inputs, others: others, sourceOffsets: sourceOffsets)
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

  /// Tensors of one method with the same models share a job, all of them or those of one group.
  private mutating func addToSharedJob(
    _ tensor: Int, _ segment: MethodRequest.Segment, _ inputs: [MethodRequest.Input], _ choice: MethodChoice, group: String
  ) {
    let key = [choice.descriptor.name, group] + inputs.map { "\($0.ordinal) \($0.isBase)" }
    let place = sharedJobPlaces[key] ?? sharedJobs.count
    if place == sharedJobs.count {
      sharedJobPlaces[key] = place
      sharedJobs.append(SharedJob(method: choice, inputs: inputs))
    }
    sharedJobs[place].tensors.append(tensor)
    sharedJobs[place].segments.append(segment)
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
    let input = try inOutputVocabulary(output.name, [stored], others: output.inputs.map(\.model))[0]
    // Rows of tokens are in the output's order and number by now, however many the model has.
    let isAssembled = tokenizer != nil && TensorNames.vocabularyAxis(output.name, tensor.shape) != nil
    guard isAssembled || output.inputs.contains(where: { $0.tensor.shape == tensor.shape }) else {
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

  private mutating func noteNarrowing(_ found: DType, to dtype: DType) {
    guard found != dtype else { return }
    let message = "tensors of type \(found.safetensorsName) are merged into \(dtype.safetensorsName)"
    if !notices.contains(where: { $0.message == message }) { notices.append(Notice(.info, message)) }
  }
}
