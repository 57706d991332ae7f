package import IngotErrors
package import IngotLinearAlgebra
package import IngotTensors

/// A method that needs whole matrices: singular vectors, least squares.
///
/// A tensor that is a matrix for the method (`isMatrix`) runs `merge` once, on one worker, with memory of its own from the budget and all BLAS
/// threads or one. Any other tensor follows the rest rule, through `fused` and `emit`, in tiles like every element-wise method.
/// Results of matrices depend on the BLAS library, the processor and the BLAS thread count within the documented tolerance; they are the same from
/// run to run on one machine.
package protocol MatrixMethod: MergeMethod where State == Void {
  /// True when this job's tensor is merged as a matrix.
  var isMatrix: Bool { get }

  /// Computes `job.output` from the inputs. Also runs with a measuring workspace, while planning, to find the memory it needs: what it cuts from
  /// the workspace may depend on shapes and parameters, and where it depends on data the measuring run must take the most.
  func merge(_ job: MatrixJob) throws(IngotError)

  /// What becomes of tensors that are no matrices.
  var rest: RestRule { get }

  /// True when a matrix of this shape is merged in panels of rows (`job.isStreamed`), with memory for its shorter side alone.
  func streams(rows: Int, columns: Int) -> Bool
}

extension MatrixMethod {
  package static var cropsToBase: Bool { true }
  package func streams(rows: Int, columns: Int) -> Bool { false }
  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? { rest.fused }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) { rest.emit(tile, into: output) }

  /// The bytes that `merge` needs for a matrix of this shape, and `held` elements for the writer where it is streamed.
  package func memory(_ inputs: Int, rows: Int, columns: Int, isScaled: Bool = false, held: Int = 0) throws(IngotError) -> Int {
    let workspace = MatrixWorkspace.measuring()
    let job = try MatrixJob(
      name: "", inputs: inputs, rows: rows, columns: columns, algebra: try LinearAlgebra.load(), kernels: Kernels(.best),
      workspace: workspace, reader: nil, isStreamed: !isScaled && streams(rows: rows, columns: columns))
    if job.isStreamed { _ = try workspace.matrix(1, held, of: Float.self) }
    try job.run(self, scaling: isScaled ? MatrixJob.Scaling(omega: 1, base: 0, norms: 0) : nil)
    return workspace.peak
  }
}

/// Reads inputs of a matrix job as f32; the engine's side of a `MatrixJob`.
package protocol MatrixReader: AnyObject {
  /// Fills `panel` with the rows `rows` of an input. Throws `.nonFinite` for values that are NaN or infinite, and what reading throws.
  func read(_ input: Int, rows: Range<Int>, into panel: Matrix<Float>) throws(IngotError)

  /// Fills `values` with a side tensor's elements from `start` on. Throws as `read` does.
  func readSide(_ side: Int, from start: Int, into values: Floats) throws(IngotError)

  /// Throws when the run was cancelled.
  func checkStop() throws(IngotError)
}

/// Takes a streamed matrix job's output; the engine's side of it.
package protocol MatrixWriter: AnyObject {
  /// Stores the rows `rows`, which follow those of the call before. Throws `.nonFinite` for NaN or infinities, and what writing throws.
  func write(_ panel: Matrix<Float>, rows: Range<Int>) throws(IngotError)
}

/// One matrix to merge: its inputs, to be read as often as needed, its memory, and the place of the result. Borrowed during `merge`.
package final class MatrixJob {
  /// The output tensor, for messages.
  package let name: String
  /// Inputs, the base first when there is one.
  package let inputs: Int
  package let rows: Int
  package let columns: Int
  package let algebra: LinearAlgebra
  package let kernels: Kernels
  package let workspace: MatrixWorkspace
  /// The result: f32, rounded to the output's type by the engine. Undefined on entry. Of a streamed job it is one panel of rows, which the method hands
  /// to `emit` from the first rows to the last.
  package let output: Matrix<Float>
  package let isStreamed: Bool
  /// What the report should say.
  package private(set) var findings: [Finding] = []
  private let reader: (any MatrixReader)?
  private let writer: (any MatrixWriter)?
  /// Two panels, for an input and its base.
  private let panels: (Matrix<Float>, Matrix<Float>)

  /// Elements of a panel: 1 MiB of f32, or one row.
  private static let panelElements = 1 << 18
  /// Rows of a streamed job's panel: enough for products with a square matrix to run at full speed.
  package static let streamedRows = 512

  /// - Parameters: `reader` is nil when measuring; a streamed job has a writer.
  package init(
    name: String, inputs: Int, rows: Int, columns: Int, algebra: LinearAlgebra, kernels: Kernels, workspace: MatrixWorkspace,
    reader: (any MatrixReader)?, isStreamed: Bool = false, writer: (any MatrixWriter)? = nil
  ) throws(IngotError) {
    self.name = name
    self.inputs = inputs
    self.rows = rows
    self.columns = columns
    self.algebra = algebra
    self.kernels = kernels
    self.workspace = workspace
    self.reader = reader
    self.writer = writer
    self.isStreamed = isStreamed
    let length = min(rows, max(1, isStreamed ? Self.streamedRows : Self.panelElements / max(columns, 1)))
    output = try workspace.matrix(isStreamed ? length : rows, columns)
    panels = (try workspace.matrix(length, columns), try workspace.matrix(length, columns))
  }

  /// The shorter side.
  package var rank: Int { min(rows, columns) }
  package var isMeasuring: Bool { workspace.isMeasuring }

  package func report(_ name: String, _ value: Double, model: Int? = nil) {
    if !isMeasuring { findings.append(Finding(name, value, model: model)) }
  }

  package func report(_ polar: PolarReport, prefix: String = "") {
    let route: Double =
      switch polar.route {
      case .automatic, .svd: 0
      case .eigen: 1
      case .halley: 2
      }
    report(prefix + "route", route)
    report(prefix + "rank", Double(polar.rank))
    report(prefix + "condition", polar.condition)
    report(prefix + "residual", polar.residual)
  }

  /// `route` 2: singular vectors by f32 eigenvectors, refined, with `strong` ones apart; 1: by those of the f64 Gram matrix.
  package func report(_ triplets: TripletReport, prefix: String = "", model: Int? = nil) {
    report(prefix + "route", triplets.route == .single ? 2 : 1, model: model)
    if triplets.route == .single { report(prefix + "residual", triplets.residual, model: model) }
    if triplets.strong > 0 { report(prefix + "strong", Double(triplets.strong), model: model) }
  }

  package func checkStop() throws(IngotError) { try reader?.checkStop() }

  /// The last step of activation-informed merging: places among the job's inputs and side tensors.
  package struct Scaling {
    package var omega: Double
    package var base: Int
    package var norms: Int

    package init(omega: Double, base: Int, norms: Int) {
      self.omega = omega
      self.base = base
      self.norms = norms
    }
  }

  /// Runs `method`, then the last step where there is one.
  package func run(_ method: any MatrixMethod, scaling: Scaling?) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in try method.merge(self) }
    guard let scaling else { return }
    let factors: Matrix<Float> = try workspace.vector(columns)
    try reader?.readSide(scaling.norms, from: 0, into: factors.floats)
    ActivationFactors.make(factors.floats, omega: scaling.omega)
    try forEachPanel { (range) throws(IngotError) in
      let base = panels.1.rows(0..<range.count)
      try reader?.read(scaling.base, rows: range, into: base)
      let part = output.rows(range).floats
      kernels.scaleChannels(
        part, factors: factors.floats, firstIndex: UInt64(range.lowerBound * columns), base: base.floats, into: part)
    }
  }

  /// Side tensor `side` of the request's segment, of the matrix's shape.
  package func loadSide(_ side: Int, into matrix: Matrix<Float>) throws(IngotError) {
    try reader?.readSide(side, from: 0, into: matrix.floats)
  }

  /// Side tensor `side` of the request's segment, n × n: whole, or made whole from its packed upper triangle of `count` values.
  package func loadGram(_ side: Int, isPacked: Bool, into gram: Matrix<Float>) throws(IngotError) {
    guard let reader else { return }
    if !isPacked { return try reader.readSide(side, from: 0, into: gram.floats) }
    // Row i of the triangle has n − i values.
    var start = 0
    for i in 0..<gram.rows {
      let row = gram.part(rows: i..<i + 1, columns: i..<gram.columns)
      try reader.readSide(side, from: start, into: row.floats)
      for j in i + 1..<max(gram.columns, i + 1) { gram[j, i] = gram[i, j] }
      start += gram.columns - i
    }
  }

  private func forEachPanel(_ body: (_ range: Range<Int>) throws(IngotError) -> Void) throws(IngotError) {
    guard reader != nil else { return }
    let length = max(panels.0.rows, 1)
    for start in stride(from: 0, to: rows, by: length) { try body(start..<min(start + length, rows)) }
  }

  /// The whole of an input.
  package func load(_ input: Int, into matrix: Matrix<Float>) throws(IngotError) {
    try forEachPanel { (range) throws(IngotError) in try reader?.read(input, rows: range, into: matrix.rows(range)) }
  }

  /// Input − base, whole. Input 0 is the base.
  package func loadTaskMatrix(_ input: Int, into matrix: Matrix<Float>) throws(IngotError) {
    try forEachPanel { (range) throws(IngotError) in try loadTaskRows(input - 1, range, into: matrix.rows(range)) }
  }

  /// Σ wᵢ τᵢ in one accumulator, with weights for the inputs 1...; one panel of an input at a time is in memory beside it.
  package func sumTaskMatrices(weights: [Float], into sum: Matrix<Float>) throws(IngotError) {
    try forEachPanel { (range) throws(IngotError) in try sumTaskRows(range, weights: weights, into: sum.rows(range)) }
  }

  /// The rows `range` of Σ wᵢ τᵢ. Those of the base are in the job's second panel afterwards.
  private func sumTaskRows(_ range: Range<Int>, weights: [Float], into target: Matrix<Float>) throws(IngotError) {
    let (part, base) = (panels.0.rows(0..<range.count), panels.1.rows(0..<range.count))
    target.fill(0)
    try reader?.read(0, rows: range, into: base)
    for (index, weight) in weights.enumerated() {
      try reader?.read(index + 1, rows: range, into: part)
      kernels.subtract(part.floats, base.floats, into: part.floats)
      target.add(part, times: weight)
    }
    try requireFinite(target)
  }

  /// Throws `.nonFinite` where differences or sums of finite values have left f32: no factorisation may meet such.
  private func requireFinite<Element: MatrixElement>(_ rows: Matrix<Element>) throws(IngotError) {
    if rows.dot(rows).isFinite { return }
    throw IngotError(
      .nonFinite, "tensor \(name): the difference to the base is beyond the numbers of float32",
      hint: "look for extreme values in the inputs", subject: name)
  }

  /// The panels of Σ wᵢ τᵢ of a streamed job, from the first rows to the last, in `panel`. Runs once, on a whole panel, when measuring.
  package func forEachTaskSum(
    weights: [Float], in panel: Matrix<Float>, _ body: (_ rows: Range<Int>, _ sum: Matrix<Float>) throws(IngotError) -> Void
  ) throws(IngotError) {
    try forEachStreamedPanel { (range) throws(IngotError) in
      let part = panel.rows(0..<range.count)
      if !isMeasuring { try sumTaskRows(range, weights: weights, into: part) }
      try body(range, part)
    }
  }

  /// The rows `range` of an input.
  package func load(_ input: Int, rows range: Range<Int>, into panel: Matrix<Float>) throws(IngotError) {
    try reader?.read(input, rows: range, into: panel)
  }

  /// The panels of one task matrix of a streamed job, in `panel`.
  package func forEachTask(
    _ task: Int, in panel: Matrix<Float>, _ body: (_ rows: Range<Int>, _ tau: Matrix<Float>) throws(IngotError) -> Void
  ) throws(IngotError) {
    try forEachStreamedPanel { (range) throws(IngotError) in
      let part = panel.rows(0..<range.count)
      try loadTaskRows(task, range, into: part)
      try body(range, part)
    }
  }

  private func loadTaskRows(_ task: Int, _ range: Range<Int>, into target: Matrix<Float>) throws(IngotError) {
    let base = panels.1.rows(0..<range.count)
    try reader?.read(task + 1, rows: range, into: target)
    try reader?.read(0, rows: range, into: base)
    kernels.subtract(target.floats, base.floats, into: target.floats)
    try requireFinite(target)
  }

  /// The panels of rows of a streamed job, from the first to the last. Runs once, for a whole panel, when measuring.
  package func forEachStreamedPanel(_ body: (_ rows: Range<Int>) throws(IngotError) -> Void) throws(IngotError) {
    if isMeasuring { return try body(0..<output.rows) }
    try forEachPanel { (range) throws(IngotError) in
      try checkStop()
      try body(range)
    }
  }

  /// target = the rows `range` of Σ wᵢ τᵢ over these tasks, in f64. Other inputs are not read.
  package func sumTaskRows(
    _ range: Range<Int>, _ terms: [(task: Int, weight: Double)], into target: Matrix<Double>
  ) throws(IngotError) {
    let (part, base) = (panels.0.rows(0..<range.count), panels.1.rows(0..<range.count))
    target.fill(0)
    guard let reader else { return }
    try reader.read(0, rows: range, into: base)
    for (task, weight) in terms {
      try reader.read(task + 1, rows: range, into: part)
      kernels.subtract(part.floats, base.floats, into: part.floats)
      target.add(part, times: weight)
    }
    try requireFinite(target)
  }

  /// Hands on the rows `range` of the output, which lie in the first rows of `output`.
  package func emit(_ range: Range<Int>) throws(IngotError) {
    try writer?.write(output.rows(0..<range.count), rows: range)
  }

  /// The rows `range` of the base + scale · delta, where the delta lies in the first rows of `output`, which it overwrites.
  package func finish(_ range: Range<Int>, scale: Double) throws(IngotError) {
    if isMeasuring { return }
    let (part, base) = (output.rows(0..<range.count), panels.1.rows(0..<range.count))
    try reader?.read(0, rows: range, into: base)
    kernels.addDelta(part.floats, scaledBy: Float(scale), to: base.floats, into: part.floats)
  }

  /// output = base + scale · delta. The delta may be `output` itself.
  package func finish(delta: Matrix<Float>, scale: Double) throws(IngotError) {
    try forEachPanel { (range) throws(IngotError) in
      let base = panels.1.rows(0..<range.count)
      try reader?.read(0, rows: range, into: base)
      kernels.addDelta(delta.rows(range).floats, scaledBy: Float(scale), to: base.floats, into: output.rows(range).floats)
    }
  }
}
