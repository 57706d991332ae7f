package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The model-wise stage of Hi-Merging: each task vector loses its smallest elements and is scaled down, then signs are elected and merged.
///
/// Of the n elements of τᵢ in a tensor the ⌊prune·n⌋ smallest by magnitude go, the rest is multiplied by `scale`; then as `TIES` without another
/// trim: the sign of Σ wᵢ τ̂ᵢ, the sum of the terms that have it, divided by the sum of their weights when `normalize` holds.
/// Shapes: any, equal. Thresholds are exact. Bytes: as `TIES`.
/// Source: Fu et al., Training-free LLM Merging, arXiv 2506.12379. Its second stage needs scores of models on data and is not here.
package struct HiMerging: MergeMethod {
  package typealias State = MagnitudeSearches

  package static let descriptor = MethodDescriptor(
    name: "hi_merging", title: "Hi-Merging, model-wise stage",
    summary: "Prunes the smallest elements of each task vector, scales it down, elects signs and merges.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ; τ̂ᵢ = scale · τᵢ without its prune·n smallest elements",
    reference: .init("Training-free LLM Merging for Multi-task Learning, arXiv 2506.12379", url: "https://arxiv.org/abs/2506.12379"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: true) + [
      ParameterDescriptor(
        "prune", .number(.fraction), "share of the task vector's smallest elements that is dropped", default: .number(0.1), isPerModel: true
      ),
      ParameterDescriptor("scale", .number(.any), "factor of what stays of the task vector", default: .number(0.9), isPerModel: true),
      .ties,
    ],
    scopes: [.tensor],
    notes: [
      "the layer-wise second stage needs scores on data and is not part of it",
      "how the scaled task vectors are put together follows the authors' scripts, which call TIES",
    ],
    example: """
      merge_method: hi_merging
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.5, prune: 0.1, scale: 0.9}
        - model: models/code
          parameters: {weight: 0.5, prune: 0.1, scale: 0.9}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let scales: [Float]
  private let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: true)
    let segment = try request.onlySegment()
    let count = UInt64(try segment.shape.elementCount())
    var searches: [MagnitudeSearch] = []
    var scales: [Float] = []
    for model in 1..<request.inputs.count {
      let pruned = keptCount(density: segment.number("prune", model: model) ?? 0.1, of: count)
      searches.append(
        MagnitudeSearch(population: count, keep: count - pruned, ties: segment.tieRule(), blocks: (count + 65_535) / 65_536))
      scales.append(Float(segment.number("scale", model: model) ?? 0.9))
    }
    self.scales = scales
    initial = MagnitudeSearches(searches)
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> { next(initial) }

  private func next(_ state: State) -> Phase<State> { state.nextRound.map { .gather(state, $0) } ?? .emit(state) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    for model in scales.indices { state.gather(model, tile.inputs[model + 1], tile, statistic) }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.gatherStored(tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    state.settle(statistics)
    return next(state)
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

  package func findings(_ state: State) -> [Finding] { state.findings }
}
