package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Hi-Merging: each task vector loses its smallest elements and is scaled down, layers in conflict lose more of it, then signs are elected and merged.
///
/// Model-wise: of the n elements of τᵢ in a tensor the ⌊prune·n⌋ smallest by magnitude go, the rest is multiplied by `scale`. Layer-wise, where
/// the recipe has what models contributed to a layer, measured on data by whoever runs them: `contribution` cᵢ of the layer to model i alone,
/// `merged_contribution` c′ᵢ of the model's part of it to the merged model. All c′ᵢ < 0, of two models or more: a severe conflict, the model of
/// the least cᵢ (of equal ones the first) leaves the layer. Some c′ᵢ < 0: a partial one, and these models lose another ⌊layer_prune·n⌋ elements
/// and are multiplied by `layer_scale`. None: nothing happens. Then as `TIES` without another trim: the sign of Σ wᵢ τ̂ᵢ, the sum of the
/// terms that have it, divided by the sum of their weights when `normalize` holds.
/// Shapes: any, equal. Thresholds are exact. Bytes: as `TIES`.
/// Source: Fu et al., Training-free LLM Merging, arXiv 2506.12379, whose formulas for the second stage were not available: the classes and what
/// becomes of them are ours.
package struct HiMerging: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "hi_merging", title: "Hi-Merging",
    summary: "Prunes and scales each task vector, more so in layers where it was measured to do harm, elects signs and merges.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ; τ̂ᵢ = scale · τᵢ without its prune·n smallest elements",
    reference: .init("Training-free LLM Merging for Multi-task Learning, arXiv 2506.12379", url: "https://arxiv.org/abs/2506.12379"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: true) + [
      ParameterDescriptor(
        "prune", .number(.fraction), "share of the task vector's smallest elements that is dropped", default: .number(0.1), isPerModel: true
      ),
      ParameterDescriptor("scale", .number(.any), "factor of what stays of the task vector", default: .number(0.9), isPerModel: true),
      ParameterDescriptor(
        "contribution", .number(.any),
        "what the layer contributes to the model by itself, measured: the score that its removal costs plus the score that it alone brings the base",
        isPerModel: true),
      ParameterDescriptor(
        "merged_contribution", .number(.any), "the same of the model's part of the layer in the merged model", isPerModel: true),
      ParameterDescriptor(
        "layer_prune", .number(.fraction), "further share of the smallest elements that a model loses in a layer where it does harm",
        default: .number(0.1), isPerModel: true),
      ParameterDescriptor(
        "layer_scale", .number(.any), "further factor of its task vector there", default: .number(0.9), isPerModel: true),
      .ties,
    ],
    scopes: [.tensor], needsLayers: true,
    notes: [
      "contributions are given as lists with a number for each layer, or by filters, for all models or none; without them there is no layer-wise stage",
      "a layer that does harm in all models loses that of the least contribution; the rule is ours, since the paper's was not available",
      "measuring contributions, and measuring again after a merge, is left to whoever runs the models; the report has the conflict of each tensor",
      "how the scaled task vectors are put together follows the authors' scripts, which call TIES",
    ],
    example: """
      merge_method: hi_merging
      base_model: models/base
      models:
        - model: models/french
          parameters:
            weight: 0.5
            contribution: [{filter: layers.3., value: 0.02}, {value: 0.05}]
            merged_contribution: [{filter: layers.3., value: -0.01}, {value: 0.04}]
        - model: models/code
          parameters:
            weight: 0.5
            contribution: 0.06
            merged_contribution: [{filter: layers.3., value: -0.02}, {value: 0.05}]
      parameters: {prune: 0.1, scale: 0.9}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let scales: [Float]
  private let conflict: Conflict?
  package let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: true)
    let segment = try request.onlySegment()
    let count = UInt64(try segment.shape.elementCount())
    var searches: [MagnitudeSearch] = []
    var scales: [Float] = []
    conflict = try Conflict(request, segment)
    for model in 1..<request.inputs.count {
      var pruned = keptCount(density: segment.number("prune", model: model) ?? 0.1, of: count)
      var scale = segment.number("scale", model: model) ?? 0.9
      switch conflict?.actions[model - 1] {
      case nil, .keep?: break
      case .weaken?:
        pruned += keptCount(density: segment.number("layer_prune", model: model) ?? 0.1, of: count)
        scale *= segment.number("layer_scale", model: model) ?? 0.9
      case .drop?: pruned = count
      }
      searches.append(
        MagnitudeSearch(
          population: count, keep: count - min(pruned, count), ties: segment.tieRule(), blocks: (count + 65_535) / 65_536))
      scales.append(Float(scale))
    }
    self.scales = scales
    initial = MagnitudeSearches(searches)
  }

  package var demands: Demands { Demands() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    for model in scales.indices { state.gather(model, tile.inputs[model + 1], tile, statistic) }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.gatherStored(tile, statistic)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    for (model, scale) in scales.enumerated() {
      let delta = tile.inputs[model + 1]
      state.trim(model, delta, tile)
      tile.kernels.scale(delta, by: scale, into: delta)
    }
    combination.combine(tile, into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    guard let conflict else { return state.findings }
    return state.findings + [
      Finding("conflict", conflict.degree), Finding("conflict_severe", conflict.isSevere ? 1 : 0),
      Finding("conflict_models", Double(conflict.actions.count { $0 != .keep })),
    ]
  }
}

/// What the measured contributions of a layer say, and what becomes of the models there.
private struct Conflict: Sendable {
  enum Action: Sendable { case keep, weaken, drop }

  /// Contributions below it do harm: not 0, because of what interpolating a list of them may leave of a zero.
  private static let harm = -1e-12

  /// Σ max(0, cᵢ − c′ᵢ).
  let degree: Double
  let isSevere: Bool
  let actions: [Action]

  /// Nil outside layers and without contributions. Throws `.recipe` where some of them are missing.
  init?(_ request: MethodRequest, _ segment: MethodRequest.Segment) throws(IngotError) {
    guard case .layer = segment.place else { return nil }
    var (alone, merged): ([Double], [Double]) = ([], [])
    for model in 1..<request.inputs.count {
      if let value = segment.number("contribution", model: model) { alone.append(value) }
      if let value = segment.number("merged_contribution", model: model) { merged.append(value) }
    }
    if alone.isEmpty && merged.isEmpty { return nil }
    guard alone.count == request.modelCount, merged.count == request.modelCount else {
      throw IngotError(
        .recipe,
        "\(segment.name) has contribution of \(alone.count) and merged_contribution of \(merged.count) of \(request.modelCount) models, expected all of both",
        hint: "give both for every model, or neither", subject: segment.name)
    }
    degree = zip(alone, merged).reduce(0) { $0 + max(0, $1.0 - $1.1) }
    isSevere = merged.count > 1 && merged.allSatisfy { $0 < Self.harm }
    if isSevere {
      let least = alone.firstIndex(of: alone.min() ?? 0)
      actions = alone.indices.map { $0 == least ? .drop : .keep }
    } else {
      actions = merged.map { $0 < Self.harm ? .weaken : .keep }
    }
  }
}
