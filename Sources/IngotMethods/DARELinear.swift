package import IngotErrors
package import IngotRecipes

/// DARE: drops elements of each task vector at random and rescales what stays, then adds the weighted task vectors to the base.
///
/// Shapes: any, equal. Arithmetic: f32; masks are a function of seed, output tensor and model ordinal only. Degenerate: density 1 keeps all and
/// does not rescale; density 0 drops all. Bytes: inputs once with rule inverse_keep, twice with l1 (once when kept in memory); the output once.
/// Source: Yu et al., Language Models are Super Mario, arXiv 2311.03099; rule l1 and defaults as in mergekit.
package struct DARELinear: SparsifiedMerge {
  package typealias State = RandomDrop.State

  package static let descriptor = MethodDescriptor(
    name: "dare_linear", title: "Linear DARE", summary: "Drops elements of the task vectors at random, rescales, then adds them.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ, τ̂ᵢ = τᵢ · mask · rescale, mask ~ Bernoulli(density)",
    reference: .init("Language Models are Super Mario, arXiv 2311.03099", url: "https://arxiv.org/abs/2311.03099"), base: .required,
    models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: false) + [.densityFromZero, .rescale(true), .rescaleRule],
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

  package let combination: TaskVectorCombination
  package let rule: RandomDrop

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
    rule = try RandomDrop(request)
  }
}
