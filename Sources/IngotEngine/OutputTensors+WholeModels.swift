internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

extension OutputTensorFinder {
  /// A module of whole models: every tensor of `owner`, and what the others have besides.
  mutating func wholeModels(_ module: Int, owner: Int, _ tensors: [CheckpointTensor]) throws(IngotError) -> [OutputTensor] {
    let number = recipe.modules[module].slices.lowerBound
    var result: [OutputTensor] = []
    result.reserveCapacity(tensors.count)
    consumed = recipe.slices[number].sources.map { _ in [] }
    for tensor in tensors {
      if let output = try output(tensor, slice: number, owner: owner, tracking: true) { result.append(output) }
    }
    try addLeftovers(module, slice: number, owner: owner, to: &result)
    return result
  }

  /// Tensors that a model has and the owner of the names lacks: a head that the owner ties is added, anything else is an error unless the
  /// recipe says what to do. Nothing is dropped silently.
  private mutating func addLeftovers(
    _ module: Int, slice number: Int, owner: Int, to result: inout [OutputTensor]
  ) throws(IngotError) {
    var seen: Set<String> = []
    for (index, source) in recipe.slices[number].sources.enumerated() where source.model != owner {
      for tensor in checkpoint(source.model).tensors where !consumed[index].contains(tensor.name) && !seen.contains(tensor.name) {
        guard members.module(of: tensor.name, layouts[source.model]) == module else { continue }
        seen.insert(tensor.name)
        if let output = try leftover(tensor, of: source, slice: number, owner: owner) { result.append(output) }
      }
    }
  }

  /// The output tensor for one that only `source` and perhaps others have; nil when it is left out and said so.
  mutating func leftover(
    _ tensor: CheckpointTensor, of source: Recipe.Source, slice: Int, owner: Int, tracking: Bool = true
  ) throws(IngotError) -> OutputTensor? {
    let spellings = [tensor.name] + TensorNames.respellings(of: tensor.name, leading: checkpoint(owner).leadingComponents)
    let tied = spellings.flatMap { TensorNames.substitutes(for: $0, config: checkpoint(owner).config) }
    if tied.contains(where: { checkpoint(owner)[$0] != nil }) {
      if tiesEmbeddings {
        notices.append(Notice(.info, "\(tensor.name) is tied in every model and is not written", subject: tensor.name))
        return nil
      }
      let output = try output(tensor, slice: slice, owner: source.model, tracking: tracking)
      notices.append(
        Notice(.info, "\(tensor.name) is written because \(name(source.model)) does not tie it", subject: tensor.name))
      return output
    }
    if TensorNames.isBuffer(tensor.name, rank: tensor.shape.rank) {
      notices.append(
        Notice(.info, "the buffer \(tensor.name) of \(name(source.model)) is not in \(name(owner)) and is left out", subject: tensor.name))
      return nil
    }
    switch missing {
    case .union: return try output(tensor, slice: slice, owner: source.model, tracking: tracking)
    case .intersection:
      skipped.intersection.append(tensor.name)
      return nil
    case .error:
      let part = layouts[source.model].part(of: tensor.name)
      throw IngotError(
        .shape, "tensor \(tensor.name) of model \(name(source.model)) is absent in model \(name(owner))",
        hint: lacks(owner, part)
          ? "\(name(owner)) has no \(part.rawValue): make \(name(source.model)) the base model, or the first, and its \(part.rawValue) is kept"
          : "the models must have the same architecture; missing: intersection or union in the recipe merges what there is",
        subject: tensor.name, position: source.position)
    }
  }
}
