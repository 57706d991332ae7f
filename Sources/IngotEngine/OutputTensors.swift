internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// One tensor of the output before it has parameters, dtype and place: its name, and which tensor of which source it comes from.
struct OutputTensor {
  var name: String
  var slice: Int
  /// Layer position on gradients.
  var position: Double
  /// One per source of the slice, in the slice's order.
  var inputs: [CheckpointTensor]
}

/// Finds the tensors of the output in the checkpoints themselves: names, layers, tied weights, aliases.
struct OutputTensorFinder {
  let recipe: Recipe
  let models: [ProvidedModel]
  private(set) var notices: [Notice] = []
  /// Set when tied and untied models meet, or the donor's flag does not fit the output.
  private(set) var tiesEmbeddings = false
  /// Where each output layer comes from; nil when layers stay as they are.
  private(set) var layerSources: [ConfigEdit.LayerSource]?

  init(recipe: Recipe, models: [ProvidedModel]) {
    self.recipe = recipe
    self.models = models
  }

  private func checkpoint(_ source: Recipe.Source) -> Checkpoint { models[source.model].checkpoint }

  private func name(_ source: Recipe.Source) -> String { recipe.models[source.model].name }

  mutating func find() throws(IngotError) -> [OutputTensor] {
    switch recipe.form {
    case .models: try wholeModels()
    case .slices: try slices()
    }
  }

  // MARK: Whole models

  private mutating func wholeModels() throws(IngotError) -> [OutputTensor] {
    guard let slice = recipe.slices.first else { throw IngotError(.internalError, "a recipe without slices") }
    let donor = slice.sources[slice.base ?? 0]
    let layers = try donorLayers(donor)
    var result: [OutputTensor] = []
    result.reserveCapacity(checkpoint(donor).tensors.count)
    var consumed = slice.sources.map { _ in Set<String>() }
    for tensor in checkpoint(donor).tensors {
      let inputs = try resolve(tensor.name, slice.sources, donor: donor, consumed: &consumed)
      result.append(OutputTensor(name: tensor.name, slice: 0, position: position(tensor.name, layers), inputs: inputs))
    }
    tiesEmbeddings = slice.sources.allSatisfy { TensorNames.tiesEmbeddings(checkpoint($0).config) }
    try addLeftovers(slice.sources, donor: donor, consumed: &consumed, to: &result)
    return result
  }

  /// Layers are needed only for gradients; a model whose layers cannot be numbered merges without them.
  private func donorLayers(_ donor: Recipe.Source) throws(IngotError) -> LayerIndex.Layers? {
    guard recipe.usesGradients else { return nil }
    return try layerIndex(donor).layers(of: name(donor))
  }

  private func layerIndex(_ source: Recipe.Source) -> LayerIndex {
    let checkpoint = checkpoint(source)
    return LayerIndex(names: checkpoint.tensors.lazy.map(\.name), config: checkpoint.config)
  }

  private func position(_ name: String, _ layers: LayerIndex.Layers?) -> Double {
    guard let layers, let layer = layers.layer(of: name) else { return 0 }
    return Recipe.layerPosition(layer, of: layers.count)
  }

  /// The tensor of every source that belongs to output tensor `name` of the donor.
  private func resolve(
    _ name: String, _ sources: [Recipe.Source], donor: Recipe.Source, consumed: inout [Set<String>]
  ) throws(IngotError) -> [CheckpointTensor] {
    var inputs: [CheckpointTensor] = []
    inputs.reserveCapacity(sources.count)
    for (index, source) in sources.enumerated() {
      guard let found = Self.tensor(name, in: checkpoint(source)) else {
        throw IngotError(
          .shape, "tensor \(name) of model \(self.name(donor)) is absent in model \(self.name(source))",
          hint: "the models must have the same architecture", subject: name, position: source.position)
      }
      if source.model != donor.model { consumed[index].insert(found.name) }
      inputs.append(found)
    }
    return inputs
  }

  /// The tensor of this name, else of an alias, else the one it is tied to.
  private static func tensor(_ name: String, in checkpoint: Checkpoint) -> CheckpointTensor? {
    if let found = checkpoint[name] { return found }
    for alias in TensorNames.aliases(of: name) {
      if let found = checkpoint[alias] { return found }
    }
    for substitute in TensorNames.substitutes(for: name, config: checkpoint.config) {
      if let found = checkpoint[substitute] { return found }
    }
    return nil
  }

  /// Tensors that a model has and the donor lacks: a head that the donor ties is added, anything else is an error. Nothing is dropped silently.
  private mutating func addLeftovers(
    _ sources: [Recipe.Source], donor: Recipe.Source, consumed: inout [Set<String>], to result: inout [OutputTensor]
  ) throws(IngotError) {
    var added: Set<String> = []
    for (index, source) in sources.enumerated() where source.model != donor.model {
      for tensor in checkpoint(source).tensors where !consumed[index].contains(tensor.name) && !added.contains(tensor.name) {
        let tied = TensorNames.substitutes(for: tensor.name, config: checkpoint(donor).config)
        guard tied.contains(where: { checkpoint(donor)[$0] != nil }) else {
          throw IngotError(
            .shape, "tensor \(tensor.name) of model \(name(source)) is absent in model \(name(donor))",
            hint: "the models must have the same architecture", subject: tensor.name, position: source.position)
        }
        added.insert(tensor.name)
        if tiesEmbeddings {
          notices.append(
            Notice(.info, "\(tensor.name) is tied in every model and is not written", subject: tensor.name))
          continue
        }
        let inputs = try resolve(tensor.name, sources, donor: donor, consumed: &consumed)
        result.append(OutputTensor(name: tensor.name, slice: 0, position: 0, inputs: inputs))
        notices.append(
          Notice(.info, "\(tensor.name) is written because \(name(source)) does not tie it", subject: tensor.name))
      }
    }
  }

  // MARK: Slices of layers

  private mutating func slices() throws(IngotError) -> [OutputTensor] {
    guard let first = recipe.slices.first, let last = recipe.slices.last else {
      throw IngotError(.internalError, "a recipe without slices")
    }
    var known: [Int: LayerIndex.Layers] = [:]
    for slice in recipe.slices {
      for source in slice.sources where known[source.model] == nil {
        known[source.model] = try layerIndex(source).requireLayers(of: name(source))
      }
    }
    let donor = first.sources[first.base ?? 0]
    guard let donorLayers = known[donor.model] else { throw IngotError(.internalError, "a model without layers") }
    var pre: [OutputTensor] = []
    var post: [OutputTensor] = []
    var none = first.sources.map { _ in Set<String>() }
    for tensor in checkpoint(donor).tensors where donorLayers.layer(of: tensor.name) == nil {
      if Self.isBeforeLayers(tensor.name) {
        let inputs = try resolve(tensor.name, first.sources, donor: donor, consumed: &none)
        pre.append(OutputTensor(name: tensor.name, slice: 0, position: 0, inputs: inputs))
      } else {
        var none = last.sources.map { _ in Set<String>() }
        let inputs = try resolve(tensor.name, last.sources, donor: donor, consumed: &none)
        post.append(OutputTensor(name: tensor.name, slice: recipe.slices.count - 1, position: 0, inputs: inputs))
      }
    }
    var layered: [OutputTensor] = []
    var sources: [ConfigEdit.LayerSource] = []
    for (index, slice) in recipe.slices.enumerated() {
      try append(slice, index, known: known, donorLayers: donorLayers, to: &layered, &sources)
    }
    layerSources = sources
    let used = Set(recipe.slices.flatMap { $0.sources.map(\.model) })
    tiesEmbeddings = used.allSatisfy { TensorNames.tiesEmbeddings(models[$0].checkpoint.config) }
    return pre + layered + post
  }

  private func append(
    _ slice: Recipe.Slice, _ index: Int, known: [Int: LayerIndex.Layers], donorLayers: LayerIndex.Layers,
    to result: inout [OutputTensor], _ layerSources: inout [ConfigEdit.LayerSource]
  ) throws(IngotError) {
    var ranges: [(layers: LayerIndex.Layers, range: Range<Int>)] = []
    for source in slice.sources {
      guard let layers = known[source.model] else { throw IngotError(.internalError, "a model without layers") }
      let range = source.layers ?? 0..<layers.count
      guard range.lowerBound >= 0, range.upperBound <= layers.count else {
        throw IngotError(
          .recipe, "layer_range [\(range.lowerBound), \(range.upperBound)] leaves model \(name(source)), which has \(layers.count) layers",
          hint: "layers count from 0 and the end is not included: the last one is [\(layers.count - 1), \(layers.count)]",
          subject: "layer_range", position: source.position)
      }
      ranges.append((layers, range))
    }
    guard let reference = slice.base ?? slice.sources.indices.first else { return }
    let lead = slice.sources[reference]
    let (leadLayers, leadRange) = ranges[reference]
    if let other = ranges.first(where: { $0.range.count != leadRange.count }) {
      throw IngotError(
        .recipe, "the sources of one slice have \(leadRange.count) and \(other.range.count) layers, expected the same number",
        hint: "make the layer ranges equally long", subject: "layer_range", position: slice.position)
    }
    let byLayer = Dictionary(grouping: checkpoint(lead).tensors) { leadLayers.layer(of: $0.name) ?? -1 }
    for step in 0..<leadRange.count {
      let outputLayer = layerSources.count
      for tensor in byLayer[leadRange.lowerBound + step] ?? [] {
        var inputs: [CheckpointTensor] = []
        for (number, source) in slice.sources.enumerated() {
          let (layers, range) = ranges[number]
          let renamed = leadLayers.renaming(tensor.name, toLayer: range.lowerBound + step)
          let wanted = layers.prefix == leadLayers.prefix ? renamed : layers.prefix + renamed.dropFirst(leadLayers.prefix.count)
          guard let found = Self.tensor(wanted, in: checkpoint(source)) else {
            throw IngotError(
              .shape, "tensor \(wanted) is absent in model \(name(source))", hint: "the models must have the same architecture",
              subject: wanted, position: source.position)
          }
          inputs.append(found)
        }
        let inner = leadLayers.renaming(tensor.name, toLayer: outputLayer)
        let output = donorLayers.prefix == leadLayers.prefix ? inner : donorLayers.prefix + inner.dropFirst(leadLayers.prefix.count)
        result.append(
          OutputTensor(
            name: output, slice: index, position: Recipe.layerPosition(step, of: leadRange.count), inputs: inputs))
      }
      layerSources.append(.init(config: checkpoint(lead).config, layer: leadRange.lowerBound + step))
    }
  }

  /// True for tensors that come before the layers: embeddings and what belongs to them. Heads and final norms come after.
  private static func isBeforeLayers(_ name: String) -> Bool {
    if TensorNames.isTiedHead(name) { return false }
    let marks = ["embed", "wte", "wpe", "shared.", "word_", "position_ids", "rotary"]
    return marks.contains { name.contains($0) }
  }
}
