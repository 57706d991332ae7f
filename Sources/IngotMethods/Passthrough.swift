package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One model's tensor unchanged, or times `scale`.
///
/// Without a scale and without a change of dtype the bytes are copied and never decoded, so signalling NaNs survive.
/// Used for layer stacking (frankenmerges). Source: mergekit's method of the same name.
package struct Passthrough: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "passthrough", title: "Passthrough", summary: "Copies one model's tensors, optionally scaled.",
    formula: "scale · θ₁",
    base: .none, models: 1...1,
    parameters: [
      ParameterDescriptor("scale", .number(.any), "factor of the tensor; absent copies the bytes", isPerModel: true)
    ], scopes: [.element],
    example: """
      merge_method: passthrough
      slices:
        - sources:
            - {model: models/french, layer_range: [0, 16]}
        - sources:
            - model: models/code
              layer_range: [8, 24]
              parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1}]}
      dtype: float16
      """)

  private let factor: Float?

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.inputs.count == 1 else {
      throw IngotError(
        .recipe, "passthrough takes exactly one model for each tensor, found \(request.inputs.count) for \(segment.name)",
        hint: "remove base_model, or list one source in each slice", subject: segment.name)
    }
    factor = segment.number("scale", model: 0).map { Float($0) }
  }

  package var demands: Demands { Demands(copiedInput: factor == nil ? 0 : nil) }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    tile.kernels.scale(tile.inputs[0], by: factor ?? 1, into: output)
  }
}
