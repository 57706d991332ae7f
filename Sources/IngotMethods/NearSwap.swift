package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Moves each element of the base towards the other model's by at most `t`: elements that are close are taken over, distant ones hardly move.
///
/// out = θ₀ + w (θ₁ − θ₀) with w = clamp(t / max(|θ₁ − θ₀|, 1e-6), 0, 1); where w is 1, θ₁ itself. Shapes: any, equal. Arithmetic: f32.
/// Degenerate: t ≤ 0 gives the base. Bytes: both inputs once, the output once. Source: alchemonaut, QuartetAnemoi; rules as in mergekit.
package struct NearSwap: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "nearswap", title: "NearSwap", summary: "Takes over what is close in the other model and moves the rest by a fixed step.",
    formula: "θ₀ + clamp(t / |τ|, 0, 1) · τ",
    reference: .init("QuartetAnemoi-70B", url: "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"), base: .required,
    models: 1...1,
    parameters: [
      ParameterDescriptor("t", .number(.any), "difference up to which an element is taken over", isRequired: true)
    ],
    scopes: [.element], notes: ["t of 0 or below gives the base"],
    example: """
      merge_method: nearswap
      base_model: models/base
      models:
        - model: models/french
      parameters: {t: 0.0001}
      dtype: bfloat16
      """)

  private let t: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.inputs.count == 2 else {
      throw IngotError(
        .recipe, "nearswap takes the base and exactly one other model, found \(request.inputs.count) inputs for \(segment.name)",
        hint: "list one model besides base_model", subject: segment.name)
    }
    guard let t = segment.number("t") else {
      throw IngotError(
        .recipe, "parameter 't' is missing at tensor \(segment.name)", hint: "add t: 0.0001 under parameters", subject: segment.name)
    }
    self.t = Float(t)
  }

  package var demands: Demands { Demands() }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    tile.kernels.nearswap(tile.inputs[0], tile.inputs[1], t: t, into: output)
  }
}
