package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling MagMax: of the state and the model's task vector the element of the larger magnitude, of equal ones the model's.
///
/// Not a method of recipes: `Engine.roll` writes the recipe. Inputs: the base, the state, the model; the first step has no state. The result of all
/// steps is that of `magmax` before the base is added, bit for bit. Shapes: any, equal. Arithmetic: f32. Bytes: each input once, the output once.
/// Source: Marczak et al., MagMax, arXiv 2407.06322.
package struct RollingMagMax: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_magmax", title: "Rolling MagMax", summary: "Keeps the larger of a state and a model's task vector.", base: .required,
    models: 1...2, parameters: [], scopes: [.element])

  package init(_ request: MethodRequest) throws(IngotError) {
    try request.requireBase(of: "rolling_magmax")
    _ = try request.onlySegment()
  }

  package var demands: Demands { Demands() }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    let model = tile.inputs[tile.inputs.rows - 1]
    tile.kernels.subtract(model, tile.inputs[0], into: model)
    tile.kernels.largest(of: tile.inputs.dropFirst(), into: output)
  }
}
