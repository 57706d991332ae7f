package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
package import IngotTensors

/// A matrix method whose tensors share numbers of the whole model, such as the norm of the merged delta.
///
/// A first pass computes every tensor's delta and adds up its sums, a second writes base + scale · delta. Between them deltas of matrices are kept
/// where the memory budget has room, else computed again. Tensors that are no matrices come in pieces of one row. A method that must know
/// something of all matrices before any delta, such as the threshold of a selection, counts first: one pass or more over the matrices.
package protocol ModelMatrixMethod: MergeMethod where State == Void {
  /// True when tensor `segment` of the job is a matrix for the method.
  func isMatrix(_ segment: Int) -> Bool

  /// How many counters the next pass over the matrices has, given those of the passes so far; nil when no further pass is needed.
  func counters(after passes: [[UInt64]]) -> Int?

  /// Adds the counts of one matrix to the counters of the pass that follows `passes`. It has the memory that `delta` needs.
  func count(_ job: MatrixJob, after passes: [[UInt64]], into counters: inout [UInt64]) throws(IngotError)

  /// Computes the delta of a matrix, or of a piece of another tensor, into `job.output`, and returns its sums: as many for every call. `passes` are
  /// the counters of all passes. Also runs with a measuring workspace and no counters, as `MatrixMethod.merge` does.
  func delta(_ job: MatrixJob, isMatrix: Bool, counted passes: [[UInt64]]) throws(IngotError) -> [Double]

  /// True when a matrix of this shape is merged in panels of rows (`job.isStreamed`): `delta` then returns the sums and leaves no delta, and `emit`
  /// computes it again and hands on the output.
  func streams(rows: Int, columns: Int) -> Bool

  /// Hands on base + scale · delta of a streamed job.
  func emit(_ job: MatrixJob, scale: Double) throws(IngotError)

  /// Makes the output, in place of the delta in `job.output`: base + scale · delta unless the method says otherwise.
  func finish(_ job: MatrixJob, scale: Double) throws(IngotError)

  /// The scale of all deltas, from the sums over the whole model.
  func scale(_ sums: [Double]) -> Double

  /// What the report should say, from the same sums.
  func findings(sums: [Double]) -> [Finding]
}

extension ModelMatrixMethod {
  package static var cropsToBase: Bool { true }
  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }
  package var demands: Demands { Demands() }

  package func counters(after passes: [[UInt64]]) -> Int? { nil }
  package func count(_ job: MatrixJob, after passes: [[UInt64]], into counters: inout [UInt64]) throws(IngotError) {}
  package func streams(rows: Int, columns: Int) -> Bool { false }
  package func emit(_ job: MatrixJob, scale: Double) throws(IngotError) {
    throw IngotError(.internalError, "a method without panels was asked for some", subject: job.name)
  }
  package func finish(_ job: MatrixJob, scale: Double) throws(IngotError) { try job.finish(delta: job.output, scale: scale) }

  /// The base: the engine computes the output of such methods from whole matrices and calls this for none.
  package func emit(_ state: Void, _ tile: Tile, into output: Floats) { tile.kernels.scale(tile.inputs[0], by: 1, into: output) }

  /// The bytes that `delta` and the output step need for a matrix (or piece) of this shape, and `held` elements for the writer where it is streamed.
  package func memory(_ inputs: Int, rows: Int, columns: Int, isMatrix: Bool, held: Int = 0) throws(IngotError) -> Int {
    let workspace = MatrixWorkspace.measuring()
    let job = try MatrixJob(
      name: "", inputs: inputs, rows: rows, columns: columns, algebra: try LinearAlgebra.load(), kernels: Kernels(.best),
      workspace: workspace, reader: nil, isStreamed: isMatrix && streams(rows: rows, columns: columns))
    if job.isStreamed {
      _ = try workspace.matrix(1, held, of: Float.self)
      try workspace.scope { () throws(IngotError) in try emit(job, scale: 1) }
    }
    _ = try delta(job, isMatrix: isMatrix, counted: [])
    return workspace.peak
  }
}
