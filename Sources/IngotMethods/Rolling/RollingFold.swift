package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling sum: factor · state + weight · model, with a base model factor · state + weight · (model − base).
///
/// Not a method of recipes: `Engine.roll` writes the recipe. Inputs: the model, then the state; with a base model the base, the state, the model.
/// The first step has no state. Shapes: any, equal. Arithmetic: f32, the order of terms that a merge of all models at once has.
/// Bytes: each input once, the output once.
package struct RollingFold: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_fold", title: "Rolling Fold", summary: "Adds a model, or its task vector, to a state.", base: .optional, models: 1...2,
    parameters: [
      ParameterDescriptor("factor", .number(.any), "factor of the state", default: .number(1)),
      ParameterDescriptor("weight", .number(.any), "factor of the model", default: .number(1)),
    ], scopes: [.element])

  private let factor: Float
  private let weight: Float
  private let hasBase: Bool
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard (1...2).contains(request.modelCount) else {
      throw IngotError(.internalError, "a rolling step with \(request.modelCount) models", subject: segment.name)
    }
    factor = Float(segment.number("factor") ?? 1)
    weight = Float(segment.number("weight") ?? 1)
    hasBase = request.hasBase
    hasState = request.modelCount == 2
  }

  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? {
    if hasBase { return nil }
    return FusedMerge(.linear(divisor: 1), terms: (hasState ? [weight, factor] : [weight]).map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    guard hasBase else {
      return tile.kernels.linearCombination(tile.inputs, weights: hasState ? [weight, factor] : [weight], into: output)
    }
    let model = tile.inputs[tile.inputs.rows - 1]
    tile.kernels.subtract(model, tile.inputs[0], into: model)
    tile.kernels.weightedSum(tile.inputs.dropFirst(), weights: hasState ? [factor, weight] : [weight], into: output)
  }
}
