internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// Builds, for one output tensor, each model's rows in the order of the output's vocabulary.
struct EmbeddingAssembly {
  let plan: TokenizerPlan
  let recipe: Recipe
  let models: [ProvidedModel]
  /// Name of the output tensor, and its inputs: the plan's models and what they store.
  let name: String
  /// Along which the tokens stand; the other axis of a matrix is a row, or has one element.
  private let axis: Int
  let inputs: [PlannedInput]
  private let sourceOffsets: [Int]
  /// The models whose rows serve others: those of the inputs, others that have the tensor, then the base.
  private var members: [Int]
  private var donors: [RowDonor] = []
  private var donorOf: [Int: Int] = [:]
  private let rowLength: Int

  /// Throws `.shape` when the models' rows have different lengths.
  init(
    _ plan: TokenizerPlan, recipe: Recipe, models: [ProvidedModel], name: String, axis: Int, inputs: [PlannedInput],
    others: [Int], sourceOffsets: [Int]
  ) throws(IngotError) {
    self.plan = plan
    self.recipe = recipe
    self.models = models
    self.name = name
    self.axis = axis
    self.inputs = inputs
    self.sourceOffsets = sourceOffsets
    let first = inputs.first?.shape ?? Shape([])
    rowLength = first.rank == 2 && axis == 0 ? first.dimensions[1] : 1
    for input in inputs {
      try Self.require(
        input.shape, as: first, axis: axis, name: name, model: recipe.models[input.model].name, recipe.models[inputs[0].model].name)
      guard input.dtype.hasArithmetic else {
        throw IngotError(
          .dtype, "tensor \(name) is \(input.dtype.safetensorsName), which has no arithmetic: its rows cannot be moved",
          hint: "leave tokenizer out of the recipe", subject: name)
      }
    }
    var members: [Int] = []
    for input in inputs where !members.contains(input.model) { members.append(input.model) }
    for input in inputs {
      if donorOf[input.model] == nil {
        donorOf[input.model] = donors.count
        let shard = input.source - sourceOffsets[input.model]
        guard models[input.model].sources.indices.contains(shard) else {
          throw IngotError(.internalError, "an input without its file", subject: name)
        }
        donors.append(
          RowDonor(
            identity: "\(input.model) \(input.name)", source: models[input.model].sources[shard], offset: input.offset, dtype: input.dtype,
            rows: input.shape.dimensions[axis]))
      }
    }
    self.members = members
    for model in others where !members.contains(model) {
      if try donor(of: model) != nil { self.members.append(model) }
    }
    if let base = recipe.baseModel { _ = try donor(of: base) }
    for token in plan.requests.values {
      switch token.embedding {
      case .model(let model), .modelToken(let model, _), .modelRow(let model, _): _ = try donor(of: model)
      case .zero, nil: break
      }
    }
  }

  private static func require(
    _ shape: Shape, as first: Shape, axis: Int, name: String, model: String, _ other: String
  ) throws(IngotError) {
    guard shape.rank == first.rank, shape.dimensions.indices.allSatisfy({ $0 == axis || shape.dimensions[$0] == first.dimensions[$0] })
    else {
      throw IngotError(
        .shape, "tensor \(name) has shape \(shape) in model \(model) and \(first) in model \(other)",
        hint: "embeddings may differ in rows, not in their width", subject: name)
    }
  }

  /// The donor that a model's tensor of this name is; nil when the model has none.
  private mutating func donor(of model: Int) throws(IngotError) -> Int? {
    if let known = donorOf[model] { return known }
    guard let tensor = OutputTensorFinder.tensor(name, in: models[model].checkpoint), let first = inputs.first,
      let offset = Int(exactly: tensor.fileOffset), models[model].sources.indices.contains(tensor.shard), tensor.dtype.hasArithmetic
    else { return nil }
    try Self.require(
      tensor.shape, as: first.shape, axis: axis, name: name, model: recipe.models[model].name, recipe.models[first.model].name)
    donorOf[model] = donors.count
    donors.append(
      RowDonor(
        identity: "\(model) \(tensor.name)", source: models[model].sources[tensor.shard], offset: offset, dtype: tensor.dtype,
        rows: tensor.shape.dimensions[axis]))
    return donors.count - 1
  }

  /// The row of a token in a model's tensor; nil where it has none.
  private func row(_ token: Int, in model: Int) -> RowOrigin? {
    guard let donor = donorOf[model] else { return nil }
    let row = plan.numbers[model][token]
    return row >= 0 && Int(row) < donors[donor].rows ? RowOrigin(donor: Int32(truncatingIfNeeded: donor), row: row) : nil
  }

  // MARK: - Rows

  /// The inputs as the merge reads them: those whose rows stand elsewhere point at the sources returned, numbered from `firstSource` on.
  mutating func assemble(firstSource: Int) throws(IngotError) -> (inputs: [PlannedInput], sources: [RowMapSource]) {
    let defaults = try defaultRows()
    var sources: [RowMapSource] = []
    var result: [PlannedInput] = []
    var known: [Int: PlannedInput] = [:]
    for input in inputs {
      if let known = known[input.model] {
        var same = known
        same.name = input.name
        result.append(same)
        continue
      }
      var assembled = input
      var extents = input.shape.dimensions
      extents[axis] = plan.rows
      assembled.shape = Shape(extents)
      let origins = rows(of: input.model, defaults)
      let own = donorOf[input.model].map { Int32(truncatingIfNeeded: $0) } ?? 0
      let isStored = origins.enumerated().allSatisfy { $0.element.donor == own && Int($0.element.row) == $0.offset }
      if !isStored {
        let source = try source(for: input, origins, defaults)
        assembled.source = firstSource + sources.count
        assembled.offset = 0
        assembled.dtype = source.dtype
        sources.append(source)
      }
      known[input.model] = assembled
      result.append(assembled)
    }
    return (result, sources)
  }

  private struct Defaults {
    /// For each token what models without it get.
    var rows: [RowOrigin] = []
    var means: [[RowOrigin]] = []
  }

  private func rows(of model: Int, _ defaults: Defaults) -> [RowOrigin] {
    var origins: [RowOrigin] = []
    origins.reserveCapacity(plan.rows)
    let isToken = tokenMarks
    let own = donorOf[model] ?? 0
    for token in 0..<plan.vocabulary.extent {
      if !isToken[token] {
        // Nobody reads such a row; it stays what it is.
        origins.append(token < donors[own].rows ? RowOrigin(donor: Int32(truncatingIfNeeded: own), row: Int32(token)) : .zero)
      } else if plan.requests[token]?.isForced != true, let own = row(token, in: model) {
        origins.append(own)
      } else {
        origins.append(defaults.rows[token])
      }
    }
    origins.append(contentsOf: repeatElement(.padding, count: plan.rows - origins.count))
    return origins
  }

  /// Numbers without a token are gaps in the donor's vocabulary.
  private var tokenMarks: [Bool] {
    var marks = [Bool](repeating: false, count: plan.vocabulary.extent)
    for token in plan.vocabulary.tokens { marks[token.id] = true }
    return marks
  }

  private func defaultRows() throws(IngotError) -> Defaults {
    var defaults = Defaults()
    defaults.rows = [RowOrigin](repeating: .zero, count: plan.vocabulary.extent)
    for token in plan.vocabulary.tokens {
      if let request = plan.requests[token.id], request.embedding != nil {
        defaults.rows[token.id] = try explicit(request, token.id)
        continue
      }
      let having = members.compactMap { row(token.id, in: $0) }
      if let base = recipe.baseModel.flatMap({ row(token.id, in: $0) }) {
        defaults.rows[token.id] = base
      } else if having.count == 1 {
        defaults.rows[token.id] = having[0]
      } else if having.count > 1, having.count < members.count || plan.requests[token.id]?.isForced == true {
        // Where every model has the token, none asks.
        defaults.rows[token.id] = .mean(defaults.means.count)
        defaults.means.append(having)
      }
    }
    return defaults
  }

  /// The row that the recipe names for a token.
  private func explicit(_ request: TokenizerRequest.Token, _ token: Int) throws(IngotError) -> RowOrigin {
    func absent(_ what: String, in model: Int) -> IngotError {
      IngotError(
        .recipe, "\(recipe.models[model].name) has no row for \(what) in \(name)", hint: "name a model and a token that it has",
        subject: "tokenizer.tokens.\(request.text)", position: request.position)
    }
    switch request.embedding {
    case nil, .zero: return .zero
    case .model(let model):
      guard let found = row(token, in: model) else { throw absent("the token \(quoted(request.text))", in: model) }
      return found
    case .modelToken(let model, let text):
      guard let donor = donorOf[model], let id = plan.vocabularies[model][text], id < donors[donor].rows else {
        throw absent("the token \(quoted(text))", in: model)
      }
      return RowOrigin(donor: Int32(truncatingIfNeeded: donor), row: Int32(truncatingIfNeeded: id))
    case .modelRow(let model, let id):
      guard let donor = donorOf[model], id < donors[donor].rows else { throw absent("the number \(id)", in: model) }
      return RowOrigin(donor: Int32(truncatingIfNeeded: donor), row: Int32(truncatingIfNeeded: id))
    }
  }

  /// A source with the donors and means that these rows need, and no others: its identity is what the output depends on.
  private func source(for input: PlannedInput, _ origins: [RowOrigin], _ defaults: Defaults) throws(IngotError) -> RowMapSource {
    var used: [Int32: Int32] = [:]
    var kept: [RowDonor] = []
    var means: [[RowOrigin]] = []
    func renumbered(_ origin: RowOrigin) -> RowOrigin {
      guard origin.donor >= 0 else { return origin }
      if let known = used[origin.donor] { return RowOrigin(donor: known, row: origin.row) }
      let number = Int32(truncatingIfNeeded: kept.count)
      used[origin.donor] = number
      kept.append(donors[Int(origin.donor)])
      return RowOrigin(donor: number, row: origin.row)
    }
    var rows: [RowOrigin] = []
    rows.reserveCapacity(origins.count)
    var isPlain = true
    for origin in origins {
      if origin.donor == -2 {
        rows.append(.mean(means.count))
        means.append(defaults.means[Int(origin.row)].map(renumbered))
      } else {
        rows.append(renumbered(origin))
      }
      if origin.donor < -1 { isPlain = false }
    }
    let dtype = isPlain && kept.allSatisfy { $0.dtype == input.dtype } ? input.dtype : .f32
    return try RowMapSource(
      name: "\(input.name) of \(recipe.models[input.model].name)", dtype: dtype, rowLength: rowLength, donors: kept, origins: rows,
      means: means, tokenRows: plan.vocabulary.extent)
  }
}
