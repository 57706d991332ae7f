package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
package import IngotTensors

/// One step of a rolling DOP: of each matrix the minimum for the state and the model's task matrix, of other tensors the mean of all task vectors.
///
/// Not a method of recipes: `Engine.roll` writes the recipe. Inputs: the base, the state (W of `DOP`, not scaled), the model; the first step has no state.
/// `count` is how many models the state has. Shapes: any, equal. Memory: that of `dop` with two models, whatever the number of steps, since a step of DOP
/// knows nothing of the models before but their merge.
/// Source: Continual Model Merging without Data: Dual Projections, NeurIPS 2025.
package struct RollingDOP: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_dop", title: "Rolling DOP", summary: "Adds a model to a state, near both in the subspaces that each uses.",
    base: .required,
    models: 1...2,
    parameters: DOP.descriptor.parameters + [
      ParameterDescriptor("count", .integer(0...1_000_000_000), "models in the state", default: .number(0))
    ], scopes: [.tensor])

  private let method: DOP
  private let hasState: Bool
  private let count: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    method = try DOP(request)
    hasState = request.modelCount == 2
    count = Float(try request.onlySegment().number("count") ?? 0)
  }

  package var isMatrix: Bool { method.isMatrix }
  package var rest: RestRule { method.rest }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let merged = job.output
    guard hasState else { return try job.loadTaskMatrix(1, into: merged) }
    try job.load(1, into: merged)
    let next: Matrix<Float> = try job.workspace.matrix(job.rows, job.columns)
    try job.loadTaskMatrix(2, into: next)
    try job.workspace.scope { () throws(IngotError) in try method.add(next, to: merged, job) }
  }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? { nil }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    let model = tile.inputs[tile.inputs.rows - 1]
    tile.kernels.subtract(model, tile.inputs[0], into: model)
    tile.kernels.weightedSum(
      tile.inputs.dropFirst(), weights: hasState ? [count, 1] : [1], divisor: hasState ? count + 1 : 1, into: output)
  }
}
