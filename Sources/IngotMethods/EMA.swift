package import IngotErrors
package import IngotRecipes

/// Exponential moving average of a series of checkpoints.
///
/// m₁ = x₁, mₜ = β mₜ₋₁ + (1 − β) xₜ; with `bias_correction` m₀ = 0 and the result is m_T / (1 − β^T). Either is one combination with coefficients
/// worked out in f64 and rounded to f32, so that nothing is rounded between the steps.
/// Shapes: any, equal. Arithmetic: f32, terms in the series' order. Degenerate: one checkpoint is copied; β = 0 copies the last.
/// Bytes: each input once, the output once. Source: Polyak and Juditsky 1992; bias correction as in Kingma and Ba, Adam, arXiv 1412.6980.
package struct EMA: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "ema", title: "Exponential Moving Average", summary: "A moving average of a series of checkpoints in which older ones fade.",
    formula: "m_T, with m₁ = x₁ and mₜ = β mₜ₋₁ + (1 − β) xₜ",
    reference: .init("Acceleration of Stochastic Approximation by Averaging", url: "https://doi.org/10.1137/0330046"), base: .none,
    models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "beta", .number(.init(from: .closed(0), to: .open(1))), "share of the average so far at each step", default: .number(0.9)),
      ParameterDescriptor(
        "bias_correction", .boolean, "begin with zero and divide by 1 − β^T, instead of beginning with the first checkpoint",
        default: .boolean(false)),
    ],
    scopes: [.element], notes: ["the models are the checkpoints in the order of the training"],
    example: """
      merge_method: ema
      models:
        - model: checkpoints/step-1000
        - model: checkpoints/step-2000
        - model: checkpoints/step-3000
      parameters: {beta: 0.8}
      dtype: bfloat16
      """)

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "ema")
    let isCorrected = segment.flag("bias_correction", default: false)
    combination = KnownCombination(
      Self.weights(beta: segment.number("beta") ?? 0.9, count: request.inputs.count, isCorrected: isCorrected))
  }

  /// What each of `count` checkpoints counts; they sum to 1. `beta` is at least 0 and below 1.
  static func weights(beta: Double, count: Int, isCorrected: Bool) -> [Double] {
    var weights: [Double] = []
    var fading = 1.0
    for _ in 0..<count {
      weights.append((1 - beta) * fading)
      fading *= beta
    }
    weights.reverse()
    // 1 − β^T is the sum of the geometric series.
    if isCorrected {
      let sum = weights.reduce(0, +)
      return weights.map { $0 / sum }
    }
    if !weights.isEmpty { weights[0] += fading }
    return weights
  }
}
