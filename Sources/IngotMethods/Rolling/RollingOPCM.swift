package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// One step of a rolling OPCM: state + the model's task vector without what it says along the singular directions of the state.
///
/// Not a method of recipes: `Engine.roll` writes the recipe. Inputs: the base, the state (D of `OPCM`, not scaled), the model; the first step has no
/// state. The norms that the end scales by are in the findings. Shapes: any, equal. Memory: that of `opcm` with two models, whatever the number of steps.
/// Source: Tang et al., Merging Models on the Fly Without Retraining, arXiv 2501.09522.
package struct RollingOPCM: ModelMatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_opcm", title: "Rolling OPCM", summary: "Adds a model to a state, orthogonally to what is in it.", base: .required,
    models: 1...2, parameters: OPCM.descriptor.parameters, scopes: [.model])

  /// Findings: ‖τ‖ of the model that the step added, and ‖D‖ after it.
  package static let taskNorm = "task_norm"
  package static let stateNorm = "state_norm"

  private let method: OPCM
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    method = try OPCM(request)
    hasState = request.modelCount == 2
  }

  package func isMatrix(_ segment: Int) -> Bool { method.isMatrix(segment) }

  /// ‖τ‖² and ‖D‖².
  package func delta(_ job: MatrixJob, isMatrix: Bool, counted passes: [[UInt64]]) throws(IngotError) -> [Double] {
    let merged = job.output
    guard hasState else {
      try job.loadTaskMatrix(1, into: merged)
      let square = merged.dot(merged)
      return [square, square]
    }
    try job.load(1, into: merged)
    return try job.workspace.scope { () throws(IngotError) -> [Double] in
      let tau: Matrix<Float> = try job.workspace.matrix(job.rows, job.columns)
      try job.loadTaskMatrix(2, into: tau)
      let square = tau.dot(tau)
      if isMatrix { try job.workspace.scope { () throws(IngotError) in try method.project(tau, merged, job, 0) } }
      merged.add(tau)
      return [square, merged.dot(merged)]
    }
  }

  package func scale(_ sums: [Double]) -> Double { 1 }

  /// The state is the delta itself.
  package func finish(_ job: MatrixJob, scale: Double) throws(IngotError) {}

  package func findings(sums: [Double]) -> [Finding] {
    guard sums.count == 2 else { return [] }
    return [Finding(Self.taskNorm, sums[0].squareRoot()), Finding(Self.stateNorm, sums[1].squareRoot())]
  }
}
