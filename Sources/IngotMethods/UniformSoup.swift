package import IngotErrors
package import IngotRecipes

/// The plain mean of the models: `linear` with every weight 1.
///
/// Shapes: any, equal. Arithmetic: f32, terms in model order, one division by their number. One model is copied. A base model is one more input.
/// Bytes: each input once, the output once. Source: Wortsman et al., Model soups, arXiv 2203.05482, section 2.
package struct UniformSoup: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "uniform_soup", title: "Uniform Soup", summary: "The plain mean of the models.", formula: "Σ θᵢ / N",
    reference: .init("Model soups, arXiv 2203.05482", url: "https://arxiv.org/abs/2203.05482"), base: .none, models: 1...Int.max,
    parameters: [], scopes: [.element], notes: ["one model is copied", "the greedy soup needs a score: ingot.greedy_soup in Python"])

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.averagedSegment(of: "uniform_soup")
    combination = KnownCombination(meanOf: 0..<request.inputs.count, of: request.inputs.count)
  }
}
