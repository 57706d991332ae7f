package import IngotErrors
package import IngotRecipes

/// Model Breadcrumbs: the ⌊γ·n⌋ largest magnitudes of each task vector are dropped as outliers, the next ⌊density·n⌋ kept;
/// then the terms that agree with the elected sign are summed.
///
/// Shapes: any, equal. Thresholds are exact, and per tensor or (`scope: row`) per row. `normalize` (default false) divides by the weights that entered.
/// Degenerate: γ·n below 1 drops no outlier (mergekit then drops everything, a slip of an end index). Bytes: as `TIES`.
/// Source: Davari and Belilovsky, Model Breadcrumbs, arXiv 2312.06795; per tensor and without rescale as in mergekit.
package struct BreadcrumbsTies: SparsifiedMerge {
  package typealias State = OutlierTrim.State

  package static let descriptor = MethodDescriptor(
    name: "breadcrumbs_ties", title: "Model Breadcrumbs with TIES",
    summary: "Drops outliers and small elements of the task vectors, then elects signs.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ, τ̂ᵢ trimmed as in breadcrumbs",
    reference: .init("Model Breadcrumbs, arXiv 2312.06795", url: "https://arxiv.org/abs/2312.06795"), base: .required,
    models: 1...Int.max, parameters: ParameterDescriptor.taskVectorFamily(normalize: false) + OutlierTrim.parameters,
    scopes: [.tensor, .row],
    hasStepwiseNumerics: true,
    notes: ["gamma × elements below 1 drops no outlier", "by row, density × length below 1 keeps nothing of a row"],
    example: """
      merge_method: breadcrumbs_ties
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
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: false)
    rule = try OutlierTrim(request)
  }
}
