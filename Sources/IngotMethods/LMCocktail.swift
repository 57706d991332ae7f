internal import Glibc
package import IngotErrors
package import IngotRecipes

/// LM-Cocktail: models count by their loss on a few examples of the target task.
///
/// wᵢ = softmax(−lossᵢ / temperature) over the models that have a loss. A model with a `fixed_weight` gets that beforehand, and the others share what
/// is left: with the fine-tuned model's fixed_weight α that is α θ_ft + (1 − α) Σ wᵢ θᵢ. A model may have both.
/// Weights are worked out in f64 and rounded to f32. Shapes: any, equal. Arithmetic: f32, terms in model order.
/// Degenerate: one model with a loss is copied. Bytes: each input once, the output once.
/// Source: Xiao et al., LM-Cocktail, arXiv 2311.13534; the temperature's default is that of the authors' code.
package struct LMCocktail: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "lm_cocktail", title: "LM-Cocktail", summary: "The mean of models weighted by their loss on a few examples of the task.",
    formula: "Σ fᵢ θᵢ + (1 − Σ fᵢ) Σ wᵢ θᵢ, w = softmax(−loss / temperature), fᵢ = fixed_weight",
    reference: .init("LM-Cocktail, arXiv 2311.13534", url: "https://arxiv.org/abs/2311.13534"), base: .none, models: 1...Int.max,
    parameters: [
      .loss,
      ParameterDescriptor(
        "temperature", .number(.init(from: .open(0))), "divisor of what the softmax is taken of; a large one makes all alike",
        default: .number(5)),
      ParameterDescriptor(
        "fixed_weight", .number(.fraction), "share that the model gets whatever its loss, the paper's α of the fine-tuned model",
        isPerModel: true),
    ],
    scopes: [.element],
    notes: [
      "a base model is one more input and needs a loss or a fixed_weight",
      "each model needs one of loss and fixed_weight, one model at least a loss",
      "the report has the weights",
    ],
    example: """
      merge_method: lm_cocktail
      models:
        - model: models/french
          parameters: {fixed_weight: 0.5}
        - model: models/code
          parameters: {loss: 2.5}
        - model: models/base
          parameters: {loss: 1.5}
      parameters: {temperature: 5}
      dtype: bfloat16
      """)

  package let combination: KnownCombination
  private let weights: [Double]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "lm_cocktail")
    var losses: [Double?] = []
    var fixed: [Double] = []
    for (model, input) in request.inputs.enumerated() {
      let share = segment.number("fixed_weight", model: model)
      losses.append(share == nil ? try segment.required("loss", model: model, of: input) : segment.number("loss", model: model))
      fixed.append(share ?? 0)
    }
    let rest = 1 - fixed.reduce(0, +)
    guard let least = losses.compactMap(\.self).min() else {
      throw IngotError(
        .recipe, "no model has a loss, so there is nothing to weigh by", hint: "give at least one model its loss", subject: segment.name)
    }
    guard rest >= -1e-9 else {
      throw IngotError(
        .recipe, "the fixed_weight of all models sum to \(1 - rest), expected at most 1", hint: "lower one of them", subject: segment.name)
    }
    let temperature = segment.number("temperature") ?? 5
    let shares = losses.map { loss in loss.map { exp(-($0 - least) / temperature) } ?? 0 }
    let sum = shares.reduce(0, +)
    let weights = zip(fixed, shares).map { $0 + max(rest, 0) * $1 / sum }
    self.weights = weights
    combination = KnownCombination(weights)
  }

  package func findings(_ state: Void) -> [Finding] { weights.enumerated().map { Finding("weight", $1, model: $0) } }
}
