package import IngotErrors
package import IngotRecipes

/// Weighted moving average of a series of checkpoints: the t-th counts t-fold.
///
/// Shapes: any, equal. Arithmetic: f32, terms in the series' order, one division by T (T + 1) / 2. Degenerate: one checkpoint is copied.
/// Bytes: each input once, the output once. Source: Model Merging in Pre-training of Large Language Models, arXiv 2505.12082.
package struct WMA: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "wma", title: "Weighted Moving Average", summary: "The mean of a series of checkpoints, later ones counting more.",
    formula: "Σ t · xₜ / (T (T + 1) / 2)",
    reference: .init("Model Merging in Pre-training, arXiv 2505.12082", url: "https://arxiv.org/abs/2505.12082"), base: .none,
    models: 1...Int.max, parameters: [], scopes: [.element],
    notes: ["the models are the checkpoints in the order of the training"],
    example: """
      merge_method: wma
      models:
        - model: checkpoints/step-1000
        - model: checkpoints/step-2000
        - model: checkpoints/step-3000
      dtype: bfloat16
      """)

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.averagedSegment(of: "wma")
    let count = Double(request.inputs.count)
    combination = KnownCombination((0..<request.inputs.count).map { Double($0 + 1) }, divisor: count * (count + 1) / 2)
  }
}
