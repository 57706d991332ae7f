package import IngotErrors
package import IngotRecipes

/// MAGPRUNE without a sign vote: larger magnitudes of a row are more likely to stay, and what stays is added.
///
/// Keep probabilities, draws and rescale as in `DELLA`; then θ₀ + λ Σ wᵢ τ̂ᵢ, divided by Σ wᵢ when `normalize` holds (default false).
/// Degenerate: density ≥ 1 keeps all, density ≤ 0 drops all; otherwise density ± ε must lie inside (0, 1).
/// Bytes: inputs once with inverse_keep, twice with l1; the output once.
/// Source: Deep et al., DELLA-Merging, arXiv 2406.11617; rule l1 and defaults as in mergekit.
package struct DELLALinear: SparsifiedMerge {
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

  package let combination: TaskVectorCombination
  package let rule: MagnitudeDrop

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
    rule = try MagnitudeDrop(request)
  }
}
