package import IngotErrors
package import IngotRecipes

/// Model Breadcrumbs: the ⌊γ·n⌋ largest magnitudes of each task vector are dropped as outliers, the next ⌊density·n⌋ kept;
/// then the weighted task vectors are added to the base.
///
/// Shapes: any, equal. Thresholds are exact, and per tensor or (`scope: row`) per row. `normalize` (default false) divides by the weights that entered.
/// Degenerate: γ·n below 1 drops no outlier (mergekit then drops everything, a slip of an end index). Bytes: as `TIES`.
/// Source: Davari and Belilovsky, Model Breadcrumbs, arXiv 2312.06795; per tensor and without rescale as in mergekit.
package struct Breadcrumbs: SparsifiedMerge {
  package typealias State = OutlierTrim.State

  package static let descriptor = MethodDescriptor(
    name: "breadcrumbs", title: "Model Breadcrumbs", summary: "Drops outliers and small elements of the task vectors, then adds them.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ, τ̂ᵢ = τᵢ without its ⌊γn⌋ largest and, after the next ⌊density·n⌋, its smallest magnitudes",
    reference: .init("Model Breadcrumbs, arXiv 2312.06795", url: "https://arxiv.org/abs/2312.06795"), base: .required,
    models: 1...Int.max, parameters: ParameterDescriptor.taskVectorFamily(normalize: false) + OutlierTrim.parameters,
    scopes: [.tensor, .row],
    hasStepwiseNumerics: true,
    notes: ["gamma × elements below 1 drops no outlier", "by row, density × length below 1 keeps nothing of a row"],
    example: """
      merge_method: breadcrumbs
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {weight: 0.5, density: 0.9, gamma: 0.01}
      dtype: bfloat16
      """)

  package let combination: TaskVectorCombination
  package let rule: OutlierTrim

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
    rule = try OutlierTrim(request)
  }
}
