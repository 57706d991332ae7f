internal import Glibc
package import IngotErrors
package import IngotRecipes

/// Metrics-weighted averaging: checkpoints count by their loss or by their training steps.
///
/// q = (1 / L)^p for `metric: loss`, (s / s_max)^p for `steps`, exp(−p (L − L_min)) for `softmax`; weights q / Σ q, worked out in f64 and rounded
/// to f32. The paper's abstract names metric and penalty factor; the formula itself is ours. p = 0 is the plain mean.
/// Shapes: any, equal. Arithmetic: f32, terms in model order. Adapters' factors A and B are averaged apart, which is not the average of B·A.
/// Degenerate: a loss of 0 or below, negative steps, or no steps at all are errors. Bytes: each input once, the output once.
/// Source: Wang et al., Metrics-Weighted Averaging, arXiv 2504.18580.
package struct MetricsWeighted: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "metrics_weighted", title: "Metrics-Weighted Averaging", summary: "The mean of checkpoints weighted by their loss or steps.",
    formula: "Σ qᵢ θᵢ / Σ qᵢ, qᵢ = (1 / lossᵢ)^penalty, or (stepsᵢ / most steps)^penalty, or exp(−penalty · (lossᵢ − least loss))",
    reference: .init("Metrics-Weighted Averaging, arXiv 2504.18580", url: "https://arxiv.org/abs/2504.18580"), base: .none,
    models: 1...Int.max,
    parameters: [
      .loss,
      ParameterDescriptor("steps", .number(.init(from: .closed(0))), "training steps of the model", isPerModel: true),
      ParameterDescriptor("metric", .choice(["loss", "steps", "softmax"]), "what the weights are made of", default: .text("loss")),
      ParameterDescriptor(
        "penalty", .number(.init(from: .closed(0))), "how much the metric counts; 0 is the plain mean", default: .number(1)),
    ],
    scopes: [.element],
    notes: [
      "the formula is ours: the paper's own could not be read, only that it has a metric and one penalty factor",
      "the report has the weights, so that others can be given to linear",
      "a loss of 0 or below needs metric: softmax",
    ],
    example: """
      merge_method: metrics_weighted
      models:
        - model: checkpoints/step-1000
          parameters: {loss: 2.31}
        - model: checkpoints/step-2000
          parameters: {loss: 2.05}
        - model: checkpoints/step-3000
          parameters: {loss: 2.11}
      parameters: {penalty: 2}
      dtype: bfloat16
      """)

  package let combination: KnownCombination
  private let weights: [Double]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "metrics_weighted")
    let metric = segment.text("metric") ?? "loss"
    let source = metric == "steps" ? "steps" : "loss"
    var values: [Double] = []
    for (model, input) in request.inputs.enumerated() {
      let value = try segment.required(source, model: model, of: input)
      guard metric != "loss" || value > 0 else {
        throw IngotError(
          .recipe, "the loss of model \(input.model) is \(value), expected a number above 0 for metric: loss",
          hint: "use metric: softmax, which takes any loss", subject: segment.name)
      }
      values.append(value)
    }
    if metric == "steps", !values.contains(where: { $0 > 0 }) {
      throw IngotError(
        .recipe, "no model has more than 0 steps, expected a number above 0 for one at least", hint: "give each model its steps",
        subject: segment.name)
    }
    weights = Self.weights(values, metric: metric, penalty: segment.number("penalty") ?? 1)
    combination = KnownCombination(weights)
  }

  /// The weights of models with these losses or steps; they sum to 1. Powers are taken of quotients of at most 1, so that none overflows.
  static func weights(_ values: [Double], metric: String, penalty: Double) -> [Double] {
    let (least, most) = (values.min() ?? 1, values.max() ?? 1)
    let shares = values.map { value in
      switch metric {
      case "steps": penalty == 0 ? 1 : pow(value / most, penalty)
      case "softmax": exp(-penalty * (value - least))
      default: pow(least / value, penalty)
      }
    }
    let sum = shares.reduce(0, +)
    return shares.map { $0 / sum }
  }

  package func findings(_ state: Void) -> [Finding] { weights.enumerated().map { Finding("weight", $1, model: $0) } }
}

extension ParameterDescriptor {
  static let loss = ParameterDescriptor("loss", .number(.any), "loss of the model on held-out data", isPerModel: true)
}
