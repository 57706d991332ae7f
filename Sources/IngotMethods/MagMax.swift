package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// MagMax: of all task vectors, the element of the largest magnitude.
///
/// θ₀ + λ τ with τⱼ that of the τᵢⱼ whose magnitude is the largest; of equal ones the last model's. Made for checkpoints that were fine-tuned one
/// after another, in that order. Shapes: any, equal. Arithmetic: f32. Degenerate: equal models give themselves at λ = 1.
/// Bytes: each input once, the output once. Source: Marczak et al., MagMax, arXiv 2407.06322, whose scripts use λ near 0.5.
package struct MagMax: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "magmax", title: "MagMax", summary: "Takes of all task vectors the element of the largest magnitude.",
    formula: "θ₀ + λ τ, τ of each element that τᵢ whose magnitude is the largest",
    reference: .init("MagMax, arXiv 2407.06322", url: "https://arxiv.org/abs/2407.06322"), base: .required, models: 1...Int.max,
    parameters: [.lambda], scopes: [.element], notes: ["of equal magnitudes the later model's is taken"],
    example: """
      merge_method: magmax
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {lambda: 0.5}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let lambda: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "magmax")
    lambda = Float(segment.number("lambda") ?? 1)
  }

  package var demands: Demands { Demands() }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    tile.kernels.largest(of: tile.subtractingBase(), into: output)
    tile.kernels.addDelta(output, scaledBy: lambda, to: tile.inputs[0], into: output)
  }
}
