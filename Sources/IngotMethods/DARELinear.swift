package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// DARE: drops elements of each task vector at random and rescales what stays, then adds the weighted task vectors to the base.
///
/// Shapes: any, equal. Arithmetic: f32; masks are a function of seed, output tensor and model ordinal only. Degenerate: density 1 keeps all and
/// does not rescale; density 0 drops all. Bytes: inputs once with rule inverse_keep, twice with l1 (once when kept in memory); the output once.
/// Source: Yu et al., Language Models are Super Mario, arXiv 2311.03099; rule l1 and defaults as in mergekit.
package struct DARELinear: MergeMethod {
  package typealias State = RandomDrop.State

  package static let descriptor = MethodDescriptor(
    name: "dare_linear", title: "Linear DARE", summary: "Drops elements of the task vectors at random, rescales, then adds them.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ, τ̂ᵢ = τᵢ · mask · rescale, mask ~ Bernoulli(density)",
    reference: .init("Language Models are Super Mario, arXiv 2311.03099", url: "https://arxiv.org/abs/2311.03099"), base: .required,
    models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: false) + [.density, .rescale(true), .rescaleRule],
    scopes: [.tensor],
    notes: ["density 1 keeps every element and does not rescale"],
    example: """
      merge_method: dare_linear
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {weight: 0.5, density: 0.2}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let drop: RandomDrop

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
    drop = try RandomDrop(request)
  }

  package var demands: Demands { Demands(maskPlanes: drop.maskPlanes) }

  package func begin() -> Phase<State> { drop.begin() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    drop.gather(tile, statistic)
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    drop.gatherStored(tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    drop.settle(state, statistics)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard state.areMasksDrawn else { return nil }
    return combination.fused(segment: segment) { drop.term($0, segment: segment, weight: $1, state) }
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    drop.sparsify(state, tile)
    combination.combine(tile, into: output)
  }

  package func findings(_ state: State) -> [Finding] { drop.findings(state) }
}
