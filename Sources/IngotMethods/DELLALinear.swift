package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// MAGPRUNE without a sign vote: larger magnitudes of a row are more likely to stay, and what stays is added.
///
/// Keep probabilities, draws and rescale as in `DELLA`; then θ₀ + λ Σ wᵢ τ̂ᵢ, divided by Σ wᵢ when `normalize` holds (default false).
/// Degenerate: density ≥ 1 keeps all, density ≤ 0 drops all; otherwise density ± ε must lie inside (0, 1).
/// Bytes: inputs once with inverse_keep, twice with l1; the output once.
/// Source: Deep et al., DELLA-Merging, arXiv 2406.11617; rule l1 and defaults as in mergekit.
package struct DELLALinear: MergeMethod {
  package typealias State = MagnitudeDrop.State

  package static let descriptor = MethodDescriptor(
    name: "della_linear", title: "Linear DELLA", summary: "Drops elements at random, small ones more often, then adds them.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ; P(keep) = density − ε + 2ε (rank − 1) / (row length − 1)",
    reference: .init("DELLA-Merging, arXiv 2406.11617", url: "https://arxiv.org/abs/2406.11617"), base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: false) + MagnitudeDrop.parameters,
    scopes: [.row, .tensor],
    notes: ["density 1 keeps every element", "density ± epsilon must lie strictly between 0 and 1"],
    example: """
      merge_method: della_linear
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {weight: 0.5, density: 0.4, epsilon: 0.1}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let drop: MagnitudeDrop

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
    drop = try MagnitudeDrop(request)
  }

  package var demands: Demands { Demands(granularity: .row, scratchRows: 3, maskPlanes: drop.maskPlanes) }

  package func begin() -> Phase<State> { drop.begin() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    drop.gather(tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    drop.settle(state, statistics)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard state.areMasksDrawn else { return nil }
    let merge = combination.fused(segment: segment) { drop.term($0, weight: $1, state) }
    return merge.terms.contains { $0.cut == .nothing } ? nil : merge
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    drop.sparsify(state, tile)
    combination.combine(tile, into: output)
  }

  package func findings(_ state: State) -> [Finding] { drop.findings(state) }
}
