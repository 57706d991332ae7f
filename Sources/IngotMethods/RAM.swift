package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Reinforced Agent Merging: what one model alone has changed is added in full, what several have changed as their mean.
///
/// A model is active at an element where |τᵢ| > `epsilon`. One active model: θ₀ + τᵢ; several: θ₀ + Σ τᵢ / (their number); none: θ₀.
/// Shapes: any, equal. Arithmetic: f32, terms in model order. Bytes: each input once, the output once.
/// Source: Reinforced Agent Merging, arXiv 2601.13572; rules as in mergekit.
package struct RAM: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "ram", title: "Reinforced Agent Merging", summary: "Adds what one model changed in full and what several changed as their mean.",
    formula: "θ₀ + τᵢ where |τᵢ| > epsilon for one model only, θ₀ + the mean of those τᵢ where for several, else θ₀",
    reference: .init("Reinforced Agent Merging, arXiv 2601.13572", url: "https://arxiv.org/abs/2601.13572"), base: .required,
    models: 1...Int.max, parameters: [.activityThreshold], scopes: [.element])

  private let epsilon: Float
  private let ones: [Float]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "ram")
    epsilon = Float(segment.number("epsilon") ?? 1e-5)
    ones = [Float](repeating: 1, count: request.modelCount)
  }

  package var demands: Demands { Demands() }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    tile.kernels.meanOfActive(tile.subtractingBase(), epsilon: epsilon, unique: ones, into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }
}

extension ParameterDescriptor {
  static let activityThreshold = ParameterDescriptor(
    "epsilon", .number(.init(from: .closed(0))), "differences up to this size do not count as changes", default: .number(1e-5))
}

extension Tile {
  /// Turns the models into task vectors, in place, and gives them.
  func subtractingBase() -> FloatTable {
    for row in 1..<max(inputs.rows, 1) { kernels.subtract(inputs[row], inputs[0], into: inputs[row]) }
    return inputs.dropFirst()
  }
}

extension MethodRequest {
  /// Throws `.recipe` for a job without base model or without another one.
  func requireBase(of method: String) throws(IngotError) {
    guard hasBase, modelCount > 0 else {
      throw IngotError(
        .recipe, "\(method) takes the base and at least one other model, found \(inputs.count) inputs", hint: "give base_model and models",
        subject: segments.first?.name)
    }
  }
}
