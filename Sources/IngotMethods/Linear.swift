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
    reference: .init("Model soups, arXiv 2203.05482", url: "https://arxiv.org/abs/2203.05482"),
    base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "weight of the model", isRequired: true, isPerModel: true),
      ParameterDescriptor("normalize", .boolean, "divide by the sum of the weights", default: .boolean(true)),
    ],
    scopes: [.element],
    notes: ["weights that sum to zero with normalize are an error"])

  private let weights: [Float]
  private let divisor: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    var weights: [Float] = []
    for (model, input) in request.inputs.enumerated() {
      weights.append(Float(try segment.required("weight", model: model, of: input)))
    }
    let sum = weights.reduce(0.0) { $0 + Double($1) }
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
    FusedMerge(.linear(divisor: divisor), terms: weights.map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    tile.kernels.linearCombination(tile.inputs, weights: weights, divisor: divisor, into: output)
  }
}
