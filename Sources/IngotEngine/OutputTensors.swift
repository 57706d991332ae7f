internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// One tensor of the output before it has parameters, dtype and place: its name, and which tensors it is made of.
struct OutputTensor {
  struct Input {
    /// Index into the recipe's models.
    var model: Int
    /// Index into the slice's sources; nil for a model that is none of them.
    var source: Int?
    var tensor: CheckpointTensor
  }

  var name: String
  var slice: Int
  /// Layer position on gradients.
  var position: Double
  /// The layer of the output's stack; nil outside the layers.
  var layer: Int?
  /// How many layers that stack has; nil outside layers, and in towers beside the text.
  var layerCount: Int?
  /// At most one per source of the slice, in the slice's order; at least one.
  var inputs: [Input]
  /// True: the one input is copied, whatever the method.
  var isCopied = false
}

/// What a finder needs to know of a model besides its tensors, worked out when first asked for.
final class ModelLayout {
  private let checkpoint: Checkpoint
  private(set) lazy var index = LayerIndex(names: checkpoint.tensors.lazy.map(\.name), config: checkpoint.config)
  private(set) lazy var parts = Set(checkpoint.tensors.map { index.part(of: $0.name) })

  init(_ checkpoint: Checkpoint) { self.checkpoint = checkpoint }

  func part(of name: String) -> ModelPart { index.part(of: name) }
}

/// Finds the tensors of the output in the checkpoints themselves: names, layers, parts, tied weights, other spellings.
struct OutputTensorFinder {
  let recipe: Recipe
  let models: [ProvidedModel]
  let missing: Recipe.Missing
  let layouts: [ModelLayout]
  let members: ModuleMembers
  /// The model whose names the output has.
  let donor: Int
  /// How many tensors there may be.
  let most: Int
  var notices: [Notice] = []
  /// Set when tied and untied models meet, or the donor's flag does not fit the output.
  private(set) var tiesEmbeddings = false
  /// Where the layers of each stack come from that are not as they were.
  var stacks: [ConfigEdit.StackLayers] = []
  /// By module and source: names of the source that became part of the output.
  var consumed: [Set<String>] = []

  init(recipe: Recipe, models: [ProvidedModel], missing: Recipe.Missing, most: Int = Limit.plannedTensors) {
    self.recipe = recipe
    self.most = most
    self.missing = missing
    self.models = models
    layouts = models.map { ModelLayout($0.checkpoint) }
    members = ModuleMembers(recipe.modules.map(\.name))
    donor = recipe.namesModel
  }

  func checkpoint(_ model: Int) -> Checkpoint { models[model].checkpoint }

  func name(_ model: Int) -> String { recipe.models[model].name }

  mutating func find() throws(IngotError) -> [OutputTensor] {
    let used = Set(recipe.slices.flatMap { $0.sources.map(\.model) }).union([donor])
    tiesEmbeddings = used.allSatisfy { TensorNames.tiesEmbeddings(checkpoint($0).config) }
    var byModule = [[CheckpointTensor]](repeating: [], count: recipe.modules.count)
    var unnamed: [CheckpointTensor] = []
    for tensor in checkpoint(donor).tensors {
      if let module = members.module(of: tensor.name, layouts[donor]) {
        byModule[module].append(tensor)
      } else {
        unnamed.append(tensor)
      }
    }
    var result: [OutputTensor] = []
    result.reserveCapacity(checkpoint(donor).tensors.count)
    for (number, module) in recipe.modules.enumerated() {
      let (owner, tensors) = try namesOf(number, inDonor: byModule[number])
      if recipe.slices[module.slices.lowerBound].sources.first?.layers == nil {
        result += try wholeModels(number, owner: owner, tensors)
      } else {
        result += try slices(number, owner: owner, tensors)
      }
      try requireFew(result.count)
    }
    for index in result.indices where recipe.slices[result[index].slice].isCopied { result[index].isCopied = true }
    copyUnnamed(unnamed, to: &result)
    return result
  }

  /// Slices that repeat layers, in documents that repeat each other, would otherwise be more than any memory holds.
  func requireFew(_ count: Int) throws(IngotError) {
    guard count > most else { return }
    throw IngotError(
      .recipe, "the recipe makes more tensors than the \(most) that are left of \(Limit.plannedTensors) for all its documents together",
      hint: "fewer slices and documents, or one merge after another", position: recipe.methodPosition)
  }

  /// The tensors of a module, and whose names they are: the donor's, else those of the module's own first model.
  private func namesOf(_ number: Int, inDonor: [CheckpointTensor]) throws(IngotError) -> (Int, [CheckpointTensor]) {
    if !inDonor.isEmpty { return (donor, inDonor) }
    let module = recipe.modules[number]
    let slice = recipe.slices[module.slices.lowerBound]
    let lead = slice.sources[slice.base ?? 0].model
    let tensors = checkpoint(lead).tensors.filter { members.module(of: $0.name, layouts[lead]) == number }
    guard tensors.isEmpty else { return (lead, tensors) }
    let known = layouts[donor].parts.map(\.rawValue).sorted().joined(separator: ", ")
    let prefixes = layouts[donor].index.stacks.map { String($0.layers.prefix.dropLast()) }.joined(separator: ", ")
    throw IngotError(
      .recipe, "no tensor of model \(name(donor)) belongs to the module \(module.name ?? ""), expected one of \(known)",
      hint: "a module may also be the beginning of tensors' names" + (prefixes.isEmpty ? "" : ", such as " + prefixes), subject: "modules",
      position: module.position)
  }

  /// Parts that the recipe does not name come from the donor, so that the output is a whole model.
  private mutating func copyUnnamed(_ tensors: [CheckpointTensor], to result: inout [OutputTensor]) {
    var counts: [ModelPart: Int] = [:]
    for tensor in tensors {
      counts[layouts[donor].part(of: tensor.name), default: 0] += 1
      let input = OutputTensor.Input(model: donor, source: nil, tensor: tensor)
      result.append(OutputTensor(name: tensor.name, slice: 0, position: 0, layer: nil, inputs: [input], isCopied: true))
    }
    for (part, count) in counts.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
      notices.append(
        Notice(
          .info, "the recipe names no module for \(count) tensors of the \(part.rawValue); they are copied from \(name(donor))",
          subject: part.rawValue))
    }
    guard recipe.form == .modules else { return }
    for model in Set(recipe.slices.flatMap { $0.sources.map(\.model) }).sorted() where model != donor {
      for part in layouts[model].parts.subtracting(layouts[donor].parts).sorted(by: { $0.rawValue < $1.rawValue }) {
        let isNamed = checkpoint(model).tensors.contains {
          layouts[model].part(of: $0.name) == part && members.module(of: $0.name, layouts[model]) != nil
        }
        if isNamed { continue }
        notices.append(
          Notice(
            .warning,
            "the \(part.rawValue) of \(name(model)) is not in the output: the recipe does not name it and \(name(donor)) has none",
            subject: part.rawValue))
      }
    }
  }

  // MARK: Names

  /// The tensor of this name, else of another spelling of it, else the one it is tied to.
  static func tensor(_ name: String, in checkpoint: Checkpoint) -> CheckpointTensor? {
    if let found = checkpoint[name] { return found }
    let spellings = TensorNames.aliases(of: name) + TensorNames.respellings(of: name, leading: checkpoint.leadingComponents)
    for spelling in spellings {
      if let found = checkpoint[spelling] { return found }
    }
    if let found = TensorNames.respelledUniquely(name, leading: checkpoint.leadingComponents, has: { checkpoint[$0] != nil }) {
      return checkpoint[found]
    }
    for spelling in [name] + spellings {
      for substitute in TensorNames.substitutes(for: spelling, config: checkpoint.config) {
        if let found = checkpoint[substitute] { return found }
      }
    }
    return nil
  }

  /// Layer and position of a tensor in its own stack of model `owner`; layer nil and position 0 outside. The count is that of text layers, of
  /// an encoder's or a decoder's; nil in other stacks.
  func place(_ name: String, of owner: Int) -> (layer: Int?, position: Double, count: Int?) {
    guard recipe.needsLayers, let found = layouts[owner].index.layer(of: name) else { return (nil, 0, nil) }
    let isText = [.text, .encoder, .decoder].contains(layouts[owner].part(of: name))
    return (found.layer, Recipe.layerPosition(found.layer, of: found.count), isText ? found.count : nil)
  }

  // MARK: One tensor

  /// The tensor of every source of a slice that belongs to the output tensor `name`, which `owner` has.
  ///
  /// Models that lack the whole part (a text model beside a vision model) are left out; where the method cannot do without them the tensor is
  /// copied. Nil when the recipe asks for the intersection and a model lacks the tensor. Throws `.shape` otherwise.
  mutating func output(
    _ tensor: CheckpointTensor, as outputName: String? = nil, slice number: Int, owner: Int, tracking: Bool = false
  ) throws(IngotError) -> OutputTensor? {
    let slice = recipe.slices[number]
    let name = tensor.name
    var inputs: [OutputTensor.Input] = []
    inputs.reserveCapacity(slice.sources.count)
    var missing: [Recipe.Source] = []
    for (index, source) in slice.sources.enumerated() {
      guard let found = source.model == owner ? tensor : Self.tensor(name, in: checkpoint(source.model)) else {
        missing.append(source)
        continue
      }
      if tracking { consumed[index].insert(found.name) }
      inputs.append(OutputTensor.Input(model: source.model, source: index, tensor: found))
    }
    let (layer, position, count) = place(name, of: owner)
    var output = OutputTensor(
      name: outputName ?? name, slice: number, position: position, layer: layer, layerCount: count, inputs: inputs)
    guard let first = missing.first else { return output }
    let part = layouts[owner].part(of: name)
    let isOptional = TensorNames.isBuffer(name, rank: tensor.shape.rank)
    for source in missing where !lacks(source.model, part) && !isOptional && self.missing == .error {
      throw IngotError(
        .shape, "tensor \(name) of model \(self.name(owner)) is absent in model \(self.name(source.model))",
        hint: "the models must have the same architecture; missing: intersection or union in the recipe merges what there is",
        subject: name,
        position: source.position)
    }
    if self.missing == .intersection {
      skipped.intersection.append(name)
      return nil
    }
    if !canMerge(inputs, of: slice) {
      let kept = inputs.first { $0.model == owner } ?? inputs.first
      output.inputs = [kept ?? OutputTensor.Input(model: owner, source: nil, tensor: tensor)]
      output.isCopied = true
    }
    skipped.add(lacks(first.model, part) ? "the \(part.rawValue)" : isOptional ? "buffers" : "some tensors", lackedBy: first.model, output)
    return output
  }

  /// True when the method can work with these inputs alone.
  func canMerge(_ inputs: [OutputTensor.Input], of slice: Recipe.Slice) -> Bool {
    let method = recipe.method
    let hasBase = inputs.contains { input in input.source.map { slice.sources[$0].isBase } ?? false }
    if !method.baseIsInput, slice.base != nil, !hasBase { return false }
    return method.models.contains(inputs.count - (hasBase && !method.baseIsInput ? 1 : 0))
  }

  /// True when a model has nothing of a tower, of what joins it to the text, or of the encoder or decoder.
  func lacks(_ model: Int, _ part: ModelPart) -> Bool { part != .text && part != .shared && !layouts[model].parts.contains(part) }

  /// What was left out of some models, for notices.
  var skipped = Skipped()
}

/// Tensors that some models lack.
struct Skipped {
  var intersection: [String] = []
  private var groups: [String: (count: Int, copied: Int, model: Int, from: Int, example: String)] = [:]

  mutating func add(_ what: String, lackedBy model: Int, _ output: OutputTensor) {
    let key = "\(what)\(model)"
    var group = groups[key] ?? (0, 0, model, output.inputs.first?.model ?? 0, what)
    group.count += 1
    if output.isCopied { group.copied += 1 }
    groups[key] = group
  }

  func notices(_ recipe: Recipe) -> [Notice] {
    var notices = groups.sorted { $0.key < $1.key }.map { _, group in
      let (lacking, from) = (recipe.models[group.model].name, recipe.models[group.from].name)
      let (tensors, they) = group.count == 1 ? ("1 tensor", "it is") : ("\(group.count) tensors", "they are")
      let rest =
        group.copied == group.count
        ? "\(they) copied from \(from)" : group.copied == 0 ? "\(they) merged from the others" : "\(they) merged from the others or copied"
      return Notice(.info, "\(lacking) lacks \(group.example): \(tensors); \(rest)", subject: lacking)
    }
    if let first = intersection.first {
      notices.append(
        Notice(
          .warning,
          "\(intersection.count) tensors are not in every model and are left out, as missing: intersection asks (the first is \(first))",
          subject: "missing"))
    }
    return notices
  }
}
