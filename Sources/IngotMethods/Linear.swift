package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Weighted average: out = Σ wᵢ θᵢ, divided by Σ wᵢ when `normalize` holds.
///
/// Shapes: any, all equal. Arithmetic: f32, terms in model order, one division. A base model is one more input, as in mergekit.
/// Degenerate: Σ wᵢ = 0 with `normalize` is an error (mergekit returns infinities). Bytes: each input once, the output once.
/// Source: Wortsman et al., Model soups, arXiv 2203.05482.
package struct Linear: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "linear", title: "Linear", summary: "Weighted average of the models.",
    formula: "Σ wᵢ θᵢ / Σ wᵢ",
    reference: .init("Model soups, arXiv 2203.05482", url: "https://arxiv.org/abs/2203.05482"),
    base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "weight of the model", isRequired: true, isPerModel: true),
      ParameterDescriptor("normalize", .boolean, "divide by the sum of the weights", default: .boolean(true)),
    ],
    scopes: [.element], hasStepwiseNumerics: true,
    notes: ["weights that sum to zero with normalize are an error"],
    example: """
      merge_method: linear
      models:
        - model: models/french
          parameters: {weight: 0.7}
        - model: models/code
          parameters: {weight: 0.3}
      dtype: bfloat16
      """)

  private let weights: [Float]
  private let divisor: Float
  private let steps: StepRounding?

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    var weights: [Float] = []
    for (model, input) in request.inputs.enumerated() {
      weights.append(Float(try segment.required("weight", model: model, of: input)))
    }
    steps = StepRounding(segment)
    let sum: Double
    if let steps {
      weights = weights.map { steps.rounded($0) }
      sum = Double(steps.sum(weights))
    } else {
      sum = weights.reduce(0.0) { $0 + Double($1) }
    }
    let normalize = segment.flag("normalize", default: true)
    if normalize && sum == 0 {
      throw IngotError(
        .recipe, "the weights of tensor \(segment.name) sum to zero, so they cannot be normalised",
        hint: "change a weight, or set normalize: false", subject: segment.name)
    }
    self.weights = weights
    divisor = normalize ? Float(sum) : 1
  }

  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? {
    steps == nil ? FusedMerge(.linear(divisor: divisor), terms: weights.map { FusedMerge.Term(weight: $0) }) : nil
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    guard let steps else { return tile.kernels.linearCombination(tile.inputs, weights: weights, divisor: divisor, into: output) }
    steps.round(tile)
    steps.scale(tile.inputs, by: weights, tile.kernels)
    let sum = tile.inputs[0]
    tile.kernels.linearCombination(tile.inputs, weights: steps.ones(weights.count), into: sum)
    tile.kernels.round(sum, to: steps.dtype)
    tile.kernels.linearCombination(tile.inputs, weights: [1], divisor: divisor, into: output)
    tile.kernels.round(output, to: steps.dtype)
  }
}
