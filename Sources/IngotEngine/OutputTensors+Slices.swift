internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

extension OutputTensorFinder {
  /// A module of layer ranges: what stands before the layers from the first slice, the layers, what stands after them from the last.
  mutating func slices(_ module: Int, owner: Int, _ tensors: [CheckpointTensor]) throws(IngotError) -> [OutputTensor] {
    let range = recipe.modules[module].slices
    var known: [Int: LayerIndex.Stack] = [:]
    for model in Set(recipe.slices[range].flatMap { $0.sources.map(\.model) } + [owner]).sorted() {
      known[model] = try stack(module, in: model)
    }
    guard let own = known[owner] else { throw IngotError(.internalError, "a model without layers") }
    var layered: [OutputTensor] = []
    var sources: [ConfigEdit.LayerSource] = []
    let layers = known.mapValues(\.layers)
    var groups: [Int: [Int: [CheckpointTensor]]] = [:]
    for (model, own) in layers { groups[model] = Dictionary(grouping: checkpoint(model).tensors) { own.layer(of: $0.name) ?? -1 } }
    for number in range {
      try append(number, known: known, groups: groups, own: own, to: &layered, &sources)
      try requireFew(max(layered.count, sources.count))
    }
    if [.text, .encoder, .decoder].contains(own.part) {
      for index in layered.indices { layered[index].layerCount = sources.count }
    }
    stacks.append(ConfigEdit.StackLayers(place: own.place, part: own.part, layers: sources))
    var pre: [OutputTensor] = []
    var post: [OutputTensor] = []
    let (first, last) = (range.lowerBound, range.upperBound - 1)
    for tensor in tensors where own.layers.layer(of: tensor.name) == nil {
      if let extra = own.layers.extraBlock(of: tensor.name) {
        // Extra blocks stand behind the layers, however many those are now.
        let moved = own.layers.moving(tensor.name, to: sources.count + extra, under: own.layers.prefix)
        if let output = try extraBlock(tensor, extra, as: moved, slice: last, owner: owner, known: known) { post.append(output) }
      } else if Self.isBeforeLayers(tensor.name) || layouts[owner].part(of: tensor.name) != own.part {
        if let output = try output(tensor, slice: first, owner: owner) { pre.append(output) }
      } else if let output = try output(tensor, slice: last, owner: owner) {
        post.append(output)
      }
    }
    post += try addHeads(last, owner: owner, known: known, written: Set((pre + post).map(\.name)))
    warnOfOthers(module, owner: owner, known: known, written: Set(post.map(\.name)))
    return pre + layered + post
  }

  /// Says what models of the slices have outside of their layers and the owner of the names lacks: it is not in the output.
  private mutating func warnOfOthers(_ module: Int, owner: Int, known: [Int: LayerIndex.Stack], written: Set<String>) {
    guard let own = known[owner]?.layers else { return }
    for (model, stack) in known.sorted(by: { $0.key < $1.key }) where model != owner {
      let others = checkpoint(model).tensors.map(\.name).filter { name in
        guard stack.layers.layer(of: name) == nil, members.module(of: name, layouts[model]) == module, !written.contains(name) else {
          return false
        }
        let wanted = stack.layers.extraBlock(of: name).map { stack.layers.moving(name, to: own.count + $0, under: own.prefix) } ?? name
        let isTied = TensorNames.isTiedHead(name)
        return !isTied && !TensorNames.isBuffer(name, rank: checkpoint(model)[name]?.shape.rank ?? 0)
          && Self.tensor(wanted, in: checkpoint(owner)) == nil
      }
      guard let first = others.first else { continue }
      let which = others.count == 1 ? first : "\(first) and \(others.count - 1) more"
      notices.append(
        Notice(
          .warning, "outside of its layers \(name(model)) has what \(name(owner)), whose names the output has, lacks; left out: \(which)",
          subject: name(model)))
    }
  }

  /// The stack whose layers a module's slices mean.
  private func stack(_ module: Int, in model: Int) throws(IngotError) -> LayerIndex.Stack {
    let index = layouts[model].index
    let candidates: [LayerIndex.Stack]
    switch members.names[module] {
    case .whole: return try index.requireStack(of: name(model))
    case .part(let part): candidates = index.stacks.filter { $0.part == part }
    case .prefix(let prefix): candidates = index.stacks.filter { $0.layers.prefix.hasPrefix(prefix) }
    }
    let counted = candidates.filter { $0.place != nil }
    let chosen = counted.isEmpty ? candidates : counted
    if let stack = chosen.first, chosen.count == 1 { return stack }
    // A text model has no parts: its only stack is the one.
    if chosen.isEmpty, case .part(.text) = members.names[module] { return try index.requireStack(of: name(model)) }
    let module = recipe.modules[module]
    let found = chosen.isEmpty ? "no stack of layers" : "the stacks " + chosen.map { "\"\($0.layers.prefix)\"" }.joined(separator: " and ")
    throw IngotError(
      .recipe, "the module \(module.name ?? "") has \(found) in model \(name(model)), expected one",
      hint: chosen.isEmpty ? "write models: for it instead of slices:" : "name the module by the beginning of one of them",
      subject: "modules",
      position: module.position)
  }

  /// The sources of one slice: their layers, ranges of one length, and tensors by layer.
  private struct SliceSources {
    var layers: [LayerIndex.Layers] = []
    var ranges: [Range<Int>] = []
    var tensors: [[Int: [CheckpointTensor]]] = []
    /// Index of the source whose tensors decide: the base, else the first.
    var lead: Int
  }

  private func sources(
    of slice: Recipe.Slice, known: [Int: LayerIndex.Stack], groups: [Int: [Int: [CheckpointTensor]]]
  ) throws(IngotError) -> SliceSources {
    var found = SliceSources(lead: slice.base ?? 0)
    for source in slice.sources {
      guard let layers = known[source.model]?.layers else { throw IngotError(.internalError, "a model without layers") }
      let range = source.layers ?? 0..<layers.count
      guard range.lowerBound >= 0, range.upperBound <= layers.count else {
        throw IngotError(
          .recipe,
          "layer_range [\(range.lowerBound), \(range.upperBound)] leaves model \(name(source.model)), which has \(layers.count) layers",
          hint: "layers count from 0 and the end is not included: the last one is [\(layers.count - 1), \(layers.count)]",
          subject: "layer_range", position: source.position)
      }
      found.layers.append(layers)
      found.ranges.append(range)
      found.tensors.append(groups[source.model] ?? [:])
    }
    let count = found.ranges[found.lead].count
    if let other = found.ranges.first(where: { $0.count != count }) {
      throw IngotError(
        .recipe, "the sources of one slice have \(count) and \(other.count) layers, expected the same number",
        hint: "make the layer ranges equally long", subject: "layer_range", position: slice.position)
    }
    return found
  }

  private mutating func append(
    _ number: Int, known: [Int: LayerIndex.Stack], groups: [Int: [Int: [CheckpointTensor]]], own: LayerIndex.Stack,
    to result: inout [OutputTensor], _ layerSources: inout [ConfigEdit.LayerSource]
  ) throws(IngotError) {
    let slice = recipe.slices[number]
    let sources = try sources(of: slice, known: known, groups: groups)
    let (leadLayers, leadRange) = (sources.layers[sources.lead], sources.ranges[sources.lead])
    let model = slice.sources[sources.lead].model
    for step in 0..<leadRange.count {
      let layer = layerSources.count
      let position = Recipe.layerPosition(step, of: leadRange.count)
      var used = slice.sources.map { _ in Set<String>() }
      let there = (sources.tensors[sources.lead][leadRange.lowerBound + step] ?? []).filter { !TensorNames.isOfFirstLayer($0.name) }
      // What a stack keeps in its first layer for all of them stands in the output's first layer, whichever that is.
      let shared = layer > 0 ? [] : (sources.tensors[sources.lead][0] ?? []).filter { TensorNames.isOfFirstLayer($0.name) }
      for (place, tensor) in (there + shared).enumerated() {
        let (inputs, lacking) = try counterparts(of: tensor, slice, sources, step: place < there.count ? step : nil)
        for input in inputs { if let index = input.source { used[index].insert(input.tensor.name) } }
        let output = OutputTensor(
          name: leadLayers.moving(tensor.name, to: layer, under: own.layers.prefix), slice: number, position: position, layer: layer,
          inputs: inputs)
        guard let lacking else {
          result.append(output)
          continue
        }
        if let kept = withoutAll(output, lackedBy: lacking, slice, buffer: isBuffer(tensor)) { result.append(kept) }
      }
      var others: [String: OutputTensor] = [:]
      for (source, tensor) in try left(slice, sources, step: step, used: used) {
        let name = sources.layers[source].moving(tensor.name, to: layer, under: own.layers.prefix)
        let input = OutputTensor.Input(model: slice.sources[source].model, source: source, tensor: tensor)
        others[name, default: OutputTensor(name: name, slice: number, position: position, layer: layer, inputs: [])].inputs.append(input)
      }
      for (_, output) in others.sorted(by: { $0.key < $1.key }) {
        if let kept = withoutAll(output, lackedBy: model, slice, buffer: false) { result.append(kept) }
      }
      layerSources.append(
        .init(config: checkpoint(model).config, place: known[model]?.place, layer: leadRange.lowerBound + step))
    }
  }

  private func isBuffer(_ tensor: CheckpointTensor) -> Bool { TensorNames.isBuffer(tensor.name, rank: tensor.shape.rank) }

  /// A tensor that not every source has: left out, merged from those that have it, or copied where the method needs more.
  private mutating func withoutAll(
    _ output: OutputTensor, lackedBy model: Int, _ slice: Recipe.Slice, buffer: Bool
  ) -> OutputTensor? {
    if missing == .intersection {
      skipped.intersection.append(output.name)
      return nil
    }
    var output = output
    if !canMerge(output.inputs, of: slice), let first = output.inputs.first {
      output.inputs = [first]
      output.isCopied = true
    }
    skipped.add(buffer ? "buffers" : "some tensors", lackedBy: model, output)
    return output
  }

  /// The tensor of every source that belongs to one of the lead's, and a model that lacks it, where that is allowed; `step` nil: in the first layer
  /// of the models.
  private func counterparts(
    of tensor: CheckpointTensor, _ slice: Recipe.Slice, _ sources: SliceSources, step: Int?
  ) throws(IngotError) -> (inputs: [OutputTensor.Input], lacking: Int?) {
    var inputs: [OutputTensor.Input] = []
    var lacking: Int?
    for (index, source) in slice.sources.enumerated() {
      let from = step.map { sources.ranges[index].lowerBound + $0 } ?? 0
      let wanted = sources.layers[sources.lead].moving(tensor.name, to: from, under: sources.layers[index].prefix)
      if let found = Self.tensor(wanted, in: checkpoint(source.model)) {
        inputs.append(OutputTensor.Input(model: source.model, source: index, tensor: found))
        continue
      }
      lacking = lacking ?? source.model
      guard missing == .error, !isBuffer(tensor) else { continue }
      throw IngotError(
        .shape, "tensor \(wanted) is absent in model \(name(source.model))", hint: Self.mismatchHint, subject: wanted,
        position: source.position)
    }
    return (inputs, lacking)
  }

  private static let mismatchHint =
    "the models must have the same architecture; missing: intersection or union in the recipe merges what there is"

  /// The tensors of sources in their layer that became part of nothing. Throws where the recipe does not say what to do with them.
  private func left(
    _ slice: Recipe.Slice, _ sources: SliceSources, step: Int, used: [Set<String>]
  ) throws(IngotError) -> [(source: Int, tensor: CheckpointTensor)] {
    var left: [(source: Int, tensor: CheckpointTensor)] = []
    for (index, source) in slice.sources.enumerated() where index != sources.lead {
      for tensor in sources.tensors[index][sources.ranges[index].lowerBound + step] ?? []
      where !used[index].contains(tensor.name) && !isBuffer(tensor) && !TensorNames.isOfFirstLayer(tensor.name) {
        guard missing == .error else {
          left.append((index, tensor))
          continue
        }
        throw IngotError(
          .shape,
          "tensor \(tensor.name) of model \(name(source.model)) has no counterpart in model \(name(slice.sources[sources.lead].model))",
          hint: Self.mismatchHint, subject: tensor.name, position: source.position)
      }
    }
    return left
  }

  /// A block beyond the layers, which every source has behind its own layers; copied when one has none.
  private func extraBlock(
    _ tensor: CheckpointTensor, _ extra: Int, as outputName: String, slice number: Int, owner: Int, known: [Int: LayerIndex.Stack]
  ) throws(IngotError) -> OutputTensor? {
    let slice = recipe.slices[number]
    guard let own = known[owner]?.layers else { return nil }
    var inputs: [OutputTensor.Input] = []
    for (index, source) in slice.sources.enumerated() {
      guard let layers = known[source.model]?.layers else { continue }
      let wanted = own.moving(tensor.name, to: layers.count + extra, under: layers.prefix)
      guard let found = checkpoint(source.model)[wanted] else { continue }
      inputs.append(OutputTensor.Input(model: source.model, source: index, tensor: found))
    }
    if inputs.count == slice.sources.count {
      return OutputTensor(name: outputName, slice: number, position: 0, layer: nil, inputs: inputs)
    }
    let input = OutputTensor.Input(model: owner, source: nil, tensor: tensor)
    return OutputTensor(name: outputName, slice: number, position: 0, layer: nil, inputs: [input], isCopied: true)
  }

  /// Heads that a model of the last slice has and the owner of the names ties.
  private mutating func addHeads(
    _ number: Int, owner: Int, known: [Int: LayerIndex.Stack], written: Set<String>
  ) throws(IngotError) -> [OutputTensor] {
    var result: [OutputTensor] = []
    for source in recipe.slices[number].sources where source.model != owner {
      for tensor in checkpoint(source.model).tensors where TensorNames.isTiedHead(tensor.name) {
        let isThere = written.contains(tensor.name) || result.contains { $0.name == tensor.name }
        if isThere || Self.exact(tensor.name, in: checkpoint(owner)) { continue }
        if let output = try leftover(tensor, of: source, slice: number, owner: owner, tracking: false) { result.append(output) }
      }
    }
    return result
  }

  /// True when a checkpoint has the tensor itself, in whatever spelling, rather than one it is tied to.
  private static func exact(_ name: String, in checkpoint: Checkpoint) -> Bool {
    ([name] + TensorNames.aliases(of: name) + TensorNames.respellings(of: name, leading: checkpoint.leadingComponents))
      .contains { checkpoint[$0] != nil }
  }

  /// True for tensors that come before the layers: embeddings and what belongs to them. Heads and final norms come after.
  private static func isBeforeLayers(_ name: String) -> Bool {
    if TensorNames.isTiedHead(name) { return false }
    let marks = ["embed", "wte", "wpe", "shared.", "word_", "position_ids", "rotary"]
    return marks.contains { name.contains($0) }
  }
}
