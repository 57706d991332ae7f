package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// WISE's merge of side memories: task vectors that live in random subspaces, cut to their masks and put together by TIES.
///
/// A side memory is a copy of a few weights that was edited only where its mask says so. τ̂ᵢ = mᵢ ⊙ τᵢ, of which the ⌊density·n⌋ largest of a tensor
/// stay; then as `TIES`: where masks overlap the sign of Σ wᵢ τ̂ᵢ is elected and the terms of that sign are averaged, where only one has a value
/// it stays. Masks are the side input `mask`, 0 outside; a tensor or a model without one counts whole, which is the same where
/// training left everything outside the mask as it was. Shapes: any, equal. Thresholds are exact. Bytes: as `TIES`, and the masks as often.
/// Source: Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing, arXiv 2405.14768; masks from files are ours.
package struct WISE: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "wise", title: "WISE's merge of side memories", summary: "Merges side memories that were edited in random subspaces.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ; τ̂ᵢ = the density·n largest magnitudes of maskᵢ ⊙ τᵢ",
    reference: .init(
      "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing, arXiv 2405.14768", url: "https://arxiv.org/abs/2405.14768"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", default: .number(1), isPerModel: true),
      ParameterDescriptor("normalize", .boolean, "divide by the sum of the weights that entered", default: .boolean(true)),
      .lambda, .densityFromZero, .ties,
    ],
    scopes: [.tensor],
    sideInputs: [
      SideInputDescriptor("mask", .optionalTensor, "where the side memory was edited: numbers, 0 outside", isRequired: false)
    ],
    notes: [
      "weights that were not edited are the base's", "that masks are read from files, rather than told by what changed, is ours",
      "the router between main and side memory is not part of it",
    ],
    example: """
      merge_method: wise
      base_model: models/base
      models:
        - model: models/edits-1
          side: {mask: sides/mask-1}
        - model: models/edits-2
          side: {mask: sides/mask-2}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  package let initial: MagnitudeSearches
  /// Where each model's mask is among the side tensors.
  private let masks: [Int?]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "wise")
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: true)
    masks = (1..<request.inputs.count).map { segment.side("mask", model: $0) }
    initial = try MagnitudeSearches(trimming: request)
  }

  private var isMasked: Bool { masks.contains { $0 != nil } }

  package var demands: Demands { Demands(scratchRows: isMasked ? 1 : 0) }

  /// The task vectors of a tile, cut to their masks, in place.
  private func split(_ tile: Tile) {
    combination.subtractBase(tile)
    guard isMasked else { return }
    let zeros = tile.scratch[0]
    tile.kernels.subtract(tile.inputs[0], tile.inputs[0], into: zeros)
    for (model, place) in masks.enumerated() {
      guard let place else { continue }
      let delta = tile.inputs[model + 1]
      tile.kernels.selectImportant(tile.sides[place], threshold: .leastNonzeroMagnitude, base: zeros, other: delta, into: delta)
    }
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    split(tile)
    for model in masks.indices { state.gather(model, tile.inputs[model + 1], tile, statistic) }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    isMasked ? nil : state.gatherStored(tile, statistic)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    split(tile)
    for model in masks.indices { state.trim(model, tile.inputs[model + 1], tile) }
    combination.combine(tile, into: output)
  }

  package func findings(_ state: State) -> [Finding] { state.findings }
}
