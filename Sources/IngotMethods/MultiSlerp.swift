package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Barycentric interpolation on the sphere of any number of models: the normalised weighted mean direction times the weighted mean norm.
///
/// With uᵢ = vᵢ/(‖vᵢ‖+ε): m = Σ wᵢ uᵢ / ‖Σ wᵢ uᵢ‖ and out = m · Σ wᵢ ‖vᵢ‖; the tangent correction of the published form is zero in exact
/// arithmetic. With a base the vᵢ are differences from it and the base is added. All follows from the Gram matrix: one round, then the output.
/// Degenerate: one model is returned as it is; ‖Σ wᵢ uᵢ‖ < ε with two models gives Σ wᵢ vᵢ, with more an error.
/// Bytes: inputs twice, the output once. Source: mergekit's method of the same name.
package struct MultiSlerp: MergeMethod {
  package struct State: Sendable {
    var coefficients: [Float]
  }

  package static let descriptor = MethodDescriptor(
    name: "multislerp", title: "Multi-SLERP", summary: "Spherical weighted mean of any number of models.",
    formula: "(Σ wᵢ uᵢ / ‖Σ wᵢ uᵢ‖) · Σ wᵢ ‖θᵢ‖, uᵢ = θᵢ / ‖θᵢ‖; with a base the same of τᵢ, added to θ₀",
    reference: .init("Multi-SLERP", url: "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"), base: .optional,
    models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "weight of the model", isRequired: true, isPerModel: true),
      ParameterDescriptor("normalize_weights", .boolean, "divide the weights by their sum", default: .boolean(true)),
      ParameterDescriptor("eps", .number(.any), "added to norms before dividing", default: .number(1e-8)),
    ],
    scopes: [.tensor], copiesLoneModel: true,
    notes: ["two opposite models are averaged, more that cancel out are an error"])

  private let weights: [Double]
  private let epsilon: Double
  private let hasBase: Bool
  private let name: String

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    hasBase = request.hasBase
    name = segment.name
    epsilon = segment.number("eps") ?? 1e-8
    var weights: [Double] = []
    for model in (hasBase ? 1 : 0)..<request.inputs.count {
      weights.append(try segment.required("weight", model: model, of: request.inputs[model]))
    }
    if segment.flag("normalize_weights", default: true) {
      let sum = weights.reduce(0, +)
      guard sum != 0 else {
        throw IngotError(
          .recipe, "the weights of tensor \(segment.name) sum to zero, so they cannot be normalised",
          hint: "change a weight, or set normalize_weights: false", subject: segment.name)
      }
      weights = weights.map { $0 / sum }
    }
    self.weights = weights
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> {
    weights.count == 1 ? .emit(State(coefficients: [1])) : .gather(State(coefficients: []), Round(sums: GramMatrix.sums(weights.count)))
  }

  private func vectors(_ tile: Tile) -> FloatTable {
    guard hasBase else { return tile.inputs }
    for row in 1..<tile.inputs.rows { tile.kernels.subtract(tile.inputs[row], tile.inputs[0], into: tile.inputs[row]) }
    return tile.inputs.dropFirst()
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    GramMatrix.accumulate(vectors(tile), tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let gram = GramMatrix(count: weights.count, sums: statistics.sums)
    let directions = weights.indices.map { weights[$0] / (gram.norm($0) + epsilon) }
    let length = gram.quadratic(directions).squareRoot()
    if length < epsilon {
      guard weights.count == 2 else {
        throw IngotError(
          .unsupported, "the \(weights.count) models cancel out at tensor \(name), so they have no mean direction",
          hint: "change a weight, or merge this tensor linearly", subject: name)
      }
      return .emit(State(coefficients: weights.map { Float($0) }))
    }
    let scale = weights.indices.reduce(0.0) { $0 + weights[$1] * gram.norm($1) } / length
    return .emit(State(coefficients: directions.map { Float($0 * scale) }))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    guard hasBase else {
      tile.kernels.linearCombination(tile.inputs, weights: state.coefficients, divisor: 1, into: output)
      return
    }
    if weights.count == 1 {
      tile.kernels.scale(tile.inputs[1], by: 1, into: output)
      return
    }
    tile.kernels.weightedSum(vectors(tile), weights: state.coefficients, divisor: 1, into: output)
    tile.kernels.addDelta(output, scaledBy: 1, to: tile.inputs[0], into: output)
  }
}
