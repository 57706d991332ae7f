internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

/// The side files of a recipe: what their metadata say, and which of them were of use.
struct SideFiles {
  /// The keys of a side file's `__metadata__`: what it holds, and modules that share the tensor of another one (an object of names).
  static let kindKey = "kind"
  static let aliasKey = "aliases"

  /// By model: the module whose tensor stands for another's.
  private var aliases: [Int: [String: String]] = [:]
  /// What each file is used as, and whether a tensor of it was.
  private var uses: [Int: (input: SideInputDescriptor, position: SourcePosition, isUsed: Bool)] = [:]
  private(set) var notices: [Notice] = []

  /// Throws `.format` for a table of aliases that is none.
  init(_ recipe: Recipe, models: [ProvidedModel]) throws(IngotError) {
    func add(_ model: Int, _ input: SideInputDescriptor, at position: SourcePosition) throws(IngotError) {
      guard models.indices.contains(model) else { throw IngotError(.internalError, "a side input without its file") }
      uses[model] = (input, position, false)
      for entry in models[model].checkpoint.shards.flatMap(\.metadata) {
        if entry.key == Self.kindKey, entry.value != input.name {
          let message = "the file says that it holds \(entry.value.prefix(60)), and is used as \(input.name)"
          notices.append(Notice(.warning, message, subject: recipe.models[model].name, position: position))
        } else if entry.key == Self.aliasKey {
          aliases[model, default: [:]].merge(try Self.aliases(entry.value, in: recipe.models[model].name)) { first, _ in first }
        }
      }
    }
    for side in recipe.sides + recipe.slices.flatMap(\.sources).flatMap(\.sides) {
      for model in side.models { try add(model, recipe.method.sideInputs[side.input], at: side.position) }
    }
    if let scaling = recipe.activationScaling { try add(scaling.side, Recipe.ActivationScaling.sideInput, at: scaling.position) }
  }

  private static func aliases(_ text: String, in file: String) throws(IngotError) -> [String: String] {
    let origin = "__metadata__.\(aliasKey) of \(file)"
    var table: [String: String] = [:]
    for member in try JSON.parse(text, origin: origin).requireObject(aliasKey, in: origin).members {
      table[member.key] = try member.value.requireString(member.key, in: origin)
    }
    return table
  }

  /// The first of these names that the file has a tensor for, as they stand, by another spelling, or by an alias.
  mutating func tensor(_ names: [String], in model: Int, of checkpoint: Checkpoint) -> CheckpointTensor? {
    for name in names {
      let found =
        OutputTensorFinder.tensor(name, in: checkpoint)
        ?? aliases[model]?[name].flatMap { OutputTensorFinder.tensor($0, in: checkpoint) }
      if let found {
        uses[model]?.isUsed = true
        return found
      }
    }
    return nil
  }

  /// Throws when nothing of a file fits the merge: its names are of another model.
  func requireUse(_ recipe: Recipe, models: [ProvidedModel]) throws(IngotError) {
    for (model, use) in uses.sorted(by: { $0.key < $1.key }) where !use.isUsed {
      let example = models[model].checkpoint.tensors.first?.name ?? ""
      throw IngotError(
        .shape, "no tensor of \(recipe.models[model].name) belongs to a merged tensor; its first is \(example)",
        hint: use.input.form.isOfModules
          ? "its tensors are called as the modules: a weight's name without .weight" : "its tensors are called as the weights",
        subject: use.input.name, position: use.position)
    }
  }
}

/// Finds the side tensors of one output tensor.
struct SideFinder {
  let recipe: Recipe
  let models: [ProvidedModel]
  let sourceOffsets: [Int]
  var files: SideFiles

  /// The method's side tensors of an output tensor. `found` are its inputs, `inputs` the same as planned.
  ///
  /// Throws `.recipe` (missing), `.shape` or `.dtype` with the place in the recipe.
  mutating func sides(
    of output: OutputTensor, _ found: [OutputTensor.Input], _ inputs: [PlannedInput], shape: Shape
  ) throws(IngotError) -> [PlannedSide] {
    if recipe.method.sideInputs.isEmpty { return [] }
    var sides: [PlannedSide] = []
    for side in recipe.sides {
      // Of the whole merge: named as in the base, whose layers may have moved.
      let lead = found.first { input in input.source.map { recipe.slices[output.slice].sources[$0].isBase } ?? false }
      sides += try self.sides(side, model: nil, names: [lead?.tensor.name ?? output.name, output.name], shape: shape)
    }
    for (place, input) in found.enumerated() {
      guard let source = input.source else { continue }
      for side in recipe.slices[output.slice].sources[source].sides {
        sides += try self.sides(side, model: place, names: [input.tensor.name, output.name], shape: inputs[place].shape)
      }
    }
    return sides
  }

  private mutating func sides(
    _ side: Recipe.Side, model: Int?, names: [String], shape: Shape
  ) throws(IngotError) -> [PlannedSide] {
    let input = recipe.method.sideInputs[side.input]
    var sides: [PlannedSide] = []
    for (item, file) in side.models.enumerated() {
      func planned(_ tensor: CheckpointTensor, _ part: SideTensor.Part, _ expected: [[Int]]) throws(IngotError) -> PlannedSide {
        let described = SideTensor(input: input.name, model: model, item: item, part: part, shape: tensor.shape)
        return try self.planned(tensor, described, in: file, expected, of: names[0], at: side.position)
      }
      switch input.form {
      case .tensor, .optionalTensor, .tensorOrSums:
        if let tensor = files.tensor(names, in: file, of: models[file].checkpoint) {
          sides.append(try planned(tensor, .elements, [shape.dimensions]))
        } else if input.form == .tensorOrSums, shape.rank == 2, let sums = sums(names, in: file) {
          sides.append(try planned(sums.rows, .rowSums, [[shape.dimensions[0]]]))
          sides.append(try planned(sums.columns, .columnSums, [[shape.dimensions[1]]]))
        } else if input.form != .optionalTensor {
          throw missing(names[0], input, in: file, at: side.position)
        }
      case .channels, .rows:
        guard let modules = modules(names), shape.rank > 0, let tensor = files.tensor(modules, in: file, of: models[file].checkpoint)
        else { continue }
        guard input.form == .rows else {
          sides.append(try planned(tensor, .channels, [[shape.rowLength]]))
          continue
        }
        // Any number of rows above 0.
        let count = tensor.shape.rank == 2 ? max(tensor.shape.dimensions[0], 1) : 1
        sides.append(try planned(tensor, .rows, [[count, shape.rowLength]]))
      case .gram, .outputGram:
        guard let modules = modules(names), shape.rank > 0 else { continue }
        func gram(_ tensor: CheckpointTensor, _ part: SideTensor.Part, _ n: Int) throws(IngotError) -> PlannedSide {
          try planned(tensor, part, [[n, n], [n.multipliedReportingOverflow(by: n + 1).partialValue / 2]])
        }
        let isOfInputs = input.form == .gram
        let turned = modules.map { $0 + "." + SideTensor.Part.gramOfRows.rawValue }
        if let tensor = files.tensor(modules, in: file, of: models[file].checkpoint) {
          sides.append(try gram(tensor, isOfInputs ? .gram : .outputGram, isOfInputs ? shape.rowLength : shape.dimensions[0]))
        } else if shape.rank == 2, let tensor = files.tensor(turned, in: file, of: models[file].checkpoint) {
          sides.append(
            try gram(tensor, isOfInputs ? .gramOfRows : .outputGramOfColumns, isOfInputs ? shape.dimensions[0] : shape.rowLength))
        }
      }
    }
    return sides
  }

  private mutating func sums(_ names: [String], in file: Int) -> (rows: CheckpointTensor, columns: CheckpointTensor)? {
    let checkpoint = models[file].checkpoint
    guard let rows = files.tensor(names.map { $0 + "." + SideTensor.Part.rowSums.rawValue }, in: file, of: checkpoint),
      let columns = files.tensor(names.map { $0 + "." + SideTensor.Part.columnSums.rawValue }, in: file, of: checkpoint)
    else { return nil }
    return (rows, columns)
  }

  /// The names without `.weight`; nil for tensors that are not the weight of a module.
  private func modules(_ names: [String]) -> [String]? {
    let modules = names.compactMap { $0.hasSuffix(".weight") ? String($0.dropLast(7)) : nil }
    return modules.isEmpty ? nil : modules
  }

  private func planned(
    _ tensor: CheckpointTensor, _ described: SideTensor, in file: Int, _ expected: [[Int]], of name: String, at position: SourcePosition
  ) throws(IngotError) -> PlannedSide {
    guard expected.contains(tensor.shape.dimensions) else {
      throw IngotError(
        .shape,
        "\(described.input) \(tensor.name) of \(recipe.models[file].name) has shape \(tensor.shape), expected "
          + expected.map { "\(Shape($0))" }.joined(separator: " or ") + " for \(name)",
        hint: "it must have been taken of this model", subject: tensor.name, position: position)
    }
    guard tensor.dtype.hasArithmetic else {
      throw IngotError(
        .dtype, "\(described.input) \(tensor.name) of \(recipe.models[file].name) is \(tensor.dtype.safetensorsName), expected numbers",
        hint: "side tensors are F32, F16, BF16 or F64", subject: tensor.name, position: position)
    }
    guard let offset = Int(exactly: tensor.fileOffset) else {
      throw IngotError(.format, "the tensor begins at byte \(tensor.fileOffset), beyond what files have", subject: tensor.name)
    }
    return PlannedSide(
      tensor: described,
      source: PlannedInput(
        model: file, name: tensor.name, source: sourceOffsets[file] + tensor.shard, offset: offset, dtype: tensor.dtype, shape: tensor.shape
      ))
  }

  private func missing(_ name: String, _ input: SideInputDescriptor, in file: Int, at position: SourcePosition) -> IngotError {
    IngotError(
      .shape, "\(recipe.models[file].name) has no \(input.name) of \(name)",
      hint: "a rule under tensors can merge such a tensor with another method", subject: name, position: position)
  }

  // MARK: Activation-informed merging

  /// What the last step needs of an output tensor, when its module is in the file: the norms, and the base unless that is an input already.
  mutating func scaling(
    of output: OutputTensor, _ found: [OutputTensor.Input], shape: Shape
  ) throws(IngotError) -> (sides: [PlannedSide], scaling: PlannedScaling, needsBase: Bool)? {
    guard let scaling = recipe.activationScaling, shape.rank > 0 else { return nil }
    let place = found.firstIndex { $0.model == scaling.base }
    let base = place.map { found[$0].tensor } ?? OutputTensorFinder.tensor(output.name, in: models[scaling.base].checkpoint)
    guard let modules = modules([base?.name ?? output.name, output.name]),
      let tensor = files.tensor(modules, in: scaling.side, of: models[scaling.side].checkpoint)
    else { return nil }
    let input = Recipe.ActivationScaling.sideInput.name
    let norms = try planned(
      tensor, SideTensor(input: input, model: nil, part: .channels, shape: tensor.shape), in: scaling.side, [[shape.rowLength]],
      of: output.name, at: scaling.position)
    guard let base else {
      throw IngotError(
        .shape, "the base \(recipe.models[scaling.base].name) of aim has no tensor \(output.name)",
        hint: "the models must have the same architecture", subject: output.name, position: scaling.position)
    }
    if let place { return ([norms], PlannedScaling(omega: scaling.omega, base: place, norms: 0), false) }
    guard base.shape == shape else {
      throw IngotError(
        .shape, "tensor \(output.name) has shape \(base.shape) in the base of aim, \(recipe.models[scaling.base].name), and \(shape) here",
        subject: output.name, position: scaling.position)
    }
    let described = SideTensor(input: "base_model", model: nil, part: .elements, shape: base.shape)
    let own = try planned(base, described, in: scaling.base, [shape.dimensions], of: output.name, at: scaling.position)
    return ([norms, own], PlannedScaling(omega: scaling.omega, base: 0, norms: 0), true)
  }
}
