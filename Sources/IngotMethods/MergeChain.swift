package import IngotErrors
package import IngotRecipes

/// A chain of two-way merges, as Model-GLUE's selective merging builds one: each model is added to what was merged so far.
///
/// m₁ = θ₁, mₖ = cₖ mₖ₋₁ + (1 − cₖ) θₖ with cₖ the model's `coefficient`; where it is not given, (k − 1) / k, which makes all models so far count alike.
/// The result is one combination with the weights (1 − cₖ) Π cⱼ over j > k, worked out in f64 and rounded to f32: nothing is rounded between the links.
/// Shapes: any, equal. Arithmetic: f32, terms in model order. Degenerate: one model is copied; a coefficient of 0 starts afresh.
/// Bytes: each input that counts once, the output once. Source: Zhao et al., Model-GLUE, arXiv 2410.05357.
package struct MergeChain: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "merge_chain", title: "Chain of Merges", summary: "Adds model after model to what was merged so far, rounding once.",
    formula: "m_N, with m₁ = θ₁ and mₖ = cₖ mₖ₋₁ + (1 − cₖ) θₖ, cₖ = coefficient",
    reference: .init("Model-GLUE, arXiv 2410.05357", url: "https://arxiv.org/abs/2410.05357"), base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "coefficient", .number(.fraction), "share of what was merged so far when the model is added; absent counts all models so far alike",
        isPerModel: true)
    ],
    scopes: [.element],
    notes: ["the first model's coefficient is not used", "the report has the weights"],
    example: """
      merge_method: merge_chain
      models:
        - model: models/french
        - model: models/code
          parameters: {coefficient: 0.6}
        - model: models/maths
          parameters: {coefficient: 0.75}
      dtype: bfloat16
      """)

  package let combination: KnownCombination
  private let weights: [Double]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "merge_chain")
    var weights = [1.0]
    for model in request.inputs.indices.dropFirst() {
      let share = segment.number("coefficient", model: model) ?? Double(model) / Double(model + 1)
      weights = weights.map { $0 * share } + [1 - share]
    }
    self.weights = weights
    combination = KnownCombination(weights)
  }

  package func findings(_ state: Void) -> [Finding] { weights.enumerated().map { Finding("weight", $1, model: $0) } }
}
