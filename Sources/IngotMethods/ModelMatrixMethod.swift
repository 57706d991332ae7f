package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
package import IngotTensors

/// A matrix method whose tensors share numbers of the whole model, such as the norm of the merged delta.
///
/// A first pass computes every tensor's delta and adds up its sums, a second writes base + scale · delta. Between them deltas of matrices are kept
/// where the memory budget has room, else computed again. Tensors that are no matrices come in pieces of one row.
package protocol ModelMatrixMethod: MergeMethod where State == Void {
  /// True when tensor `segment` of the job is a matrix for the method.
  func isMatrix(_ segment: Int) -> Bool

  /// Computes the delta of a matrix, or of a piece of another tensor, into `job.output`, and returns its sums: as many for every call. Also runs
  /// with a measuring workspace, as `MatrixMethod.merge` does.
  func delta(_ job: MatrixJob, isMatrix: Bool) throws(IngotError) -> [Double]

  /// The scale of all deltas, from the sums over the whole model.
  func scale(_ sums: [Double]) -> Double

  /// What the report should say, from the same sums.
  func findings(sums: [Double]) -> [Finding]
}

extension ModelMatrixMethod {
  package static var cropsToBase: Bool { true }
  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }
  package var demands: Demands { Demands() }

  /// The base: the engine computes the output of such methods from whole matrices and calls this for none.
  package func emit(_ state: Void, _ tile: Tile, into output: Floats) { tile.kernels.scale(tile.inputs[0], by: 1, into: output) }

  /// The bytes that `delta` and the output step need for a matrix (or piece) of this shape.
  package func memory(_ inputs: Int, rows: Int, columns: Int, isMatrix: Bool) throws(IngotError) -> Int {
    let workspace = MatrixWorkspace.measuring()
    let job = try MatrixJob(
      name: "", inputs: inputs, rows: rows, columns: columns, algebra: try LinearAlgebra.load(), kernels: Kernels(.best),
      workspace: workspace, reader: nil)
    _ = try delta(job, isMatrix: isMatrix)
    return workspace.peak
  }
}
