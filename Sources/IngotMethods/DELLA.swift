package import IngotErrors
package import IngotRecipes

/// MAGPRUNE and a sign vote: larger magnitudes of a row are more likely to stay.
///
/// In each row (last axis; a 1-D tensor is one row) of c values the magnitude of rank r (1 smallest; equal magnitudes share the mean of their
/// ranks) stays with probability (density − ε) + 2ε (r−1)/(c−1); a row of one value with probability density. `rescale` (default true): rule `l1`
/// multiplies by Σ|τ| / Σ|kept τ| of the tensor (mergekit), rule `inverse_keep` divides each survivor by its own probability (the paper).
/// Then signs are elected and what agrees is merged as in TIES, `normalize` default true.
/// Degenerate: density ≥ 1 keeps all, density ≤ 0 drops all; otherwise density ± ε must lie inside (0, 1).
/// Bytes: inputs once with inverse_keep, twice with l1 (once when kept in memory); the output once.
/// Source: Deep et al., DELLA-Merging, arXiv 2406.11617; rule l1 and defaults as in mergekit.
package struct DELLA: SparsifiedMerge {
  package typealias State = MagnitudeDrop.State

  package static let descriptor = MethodDescriptor(
    name: "della", title: "DELLA", summary: "Drops elements at random, small ones more often, then elects signs.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ; P(keep) = density − ε + 2ε (rank − 1) / (row length − 1)",
    reference: .init("DELLA-Merging, arXiv 2406.11617", url: "https://arxiv.org/abs/2406.11617"), base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: true) + MagnitudeDrop.parameters,
    scopes: [.row, .tensor],
    notes: ["density 1 keeps every element", "density ± epsilon must lie strictly between 0 and 1"],
    example: """
      merge_method: della
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
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: true)
    rule = try MagnitudeDrop(request)
  }
}
