package import IngotErrors
package import IngotRecipes

/// Stochastic weight averaging of a series of checkpoints: all count alike.
///
/// The running form mₜ = mₜ₋₁ + (xₜ − mₜ₋₁) / t is the mean, taken here in one pass and rounded once. Shapes: any, equal. Arithmetic: f32.
/// Degenerate: one checkpoint is copied. Bytes: each input once, the output once.
/// Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, arXiv 1803.05407.
package struct SWA: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "swa", title: "Stochastic Weight Averaging", summary: "The mean of a series of checkpoints.",
    formula: "Σ xₜ / T over the checkpoints x₁ … x_T", reference: .init("SWA, arXiv 1803.05407", url: "https://arxiv.org/abs/1803.05407"),
    base: .none, models: 1...Int.max, parameters: [], scopes: [.element],
    notes: [
      "integer buffers come from the first checkpoint",
      "statistics of batch normalisation are averaged like weights: recompute them afterwards",
    ],
    example: """
      merge_method: swa
      models:
        - model: checkpoints/step-1000
        - model: checkpoints/step-2000
        - model: checkpoints/step-3000
      dtype: bfloat16
      """)

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.averagedSegment(of: "swa")
    combination = KnownCombination(meanOf: 0..<request.inputs.count, of: request.inputs.count)
  }
}
