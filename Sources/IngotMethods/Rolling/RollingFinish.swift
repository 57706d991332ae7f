package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The end of a rolling merge: state / divisor, with a base model base + lambda · state.
///
/// Not a method of recipes: `Engine.finishRolling` writes the recipe. Shapes: any, equal. Arithmetic: f32. Bytes: each input once, the output once.
package struct RollingFinish: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_finish", title: "Rolling Finish", summary: "Makes a model of a state.", base: .optional, models: 1...1,
    parameters: [
      ParameterDescriptor("divisor", .number(.any), "what the state is divided by, without a base", default: .number(1)),
      ParameterDescriptor("lambda", .number(.any), "factor of the state, with a base", default: .number(1)),
    ], scopes: [.element])

  private let divisor: Float
  private let lambda: Float
  private let hasBase: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.modelCount == 1 else {
      throw IngotError(.internalError, "the end of a rolling merge with \(request.modelCount) models", subject: segment.name)
    }
    divisor = Float(segment.number("divisor") ?? 1)
    lambda = Float(segment.number("lambda") ?? 1)
    hasBase = request.hasBase
  }

  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? {
    hasBase ? nil : FusedMerge(.linear(divisor: divisor), terms: [FusedMerge.Term(weight: 1)])
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    guard hasBase else { return tile.kernels.linearCombination(tile.inputs, weights: [1], divisor: divisor, into: output) }
    tile.kernels.addDelta(tile.inputs[1], scaledBy: lambda, to: tile.inputs[0], into: output)
  }
}
