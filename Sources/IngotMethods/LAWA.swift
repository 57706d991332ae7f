package import IngotErrors
package import IngotRecipes

/// Latest weight averaging: the mean of the last `window` checkpoints of a series.
///
/// Shapes: any, equal. Arithmetic: f32, terms in the series' order, one division. Earlier checkpoints are not read. Degenerate: a series shorter
/// than the window is averaged whole; a window of 1 copies the last checkpoint. Bytes: the window's inputs once, the output once.
/// Source: Kaddour, Stop Wasting My Time!, arXiv 2209.14981; Sanyal et al., Early Weight Averaging meets High Learning Rates, arXiv 2306.03241.
package struct LAWA: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "lawa", title: "Latest Weight Averaging", summary: "The mean of the last checkpoints of a series.",
    formula: "Σ xₜ / k over the last k = window checkpoints",
    reference: .init("LAWA, arXiv 2209.14981", url: "https://arxiv.org/abs/2209.14981"), base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("window", .integer(1...Int.max), "how many of the last checkpoints are averaged", default: .number(5))
    ],
    scopes: [.element],
    notes: ["the models are the checkpoints in the order of the training", "a series shorter than the window is averaged whole"],
    example: """
      merge_method: lawa
      models:
        - model: checkpoints/step-1000
        - model: checkpoints/step-2000
        - model: checkpoints/step-3000
      parameters: {window: 2}
      dtype: bfloat16
      """)

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "lawa")
    let count = request.inputs.count
    let window = segment.number("window").flatMap { Int(exactly: $0) } ?? 5
    combination = KnownCombination(meanOf: max(0, count - max(window, 1))..<count, of: count)
  }
}
