internal import IngotErrors
internal import IngotLinearAlgebra

/// A tall matrix (m × k, m the rows of a streamed job's tensor) that is never in memory as a whole: computed from the task matrices a panel of rows at
/// a time, in f64, as often as it is needed.
///
/// Whatever the Gram routes of a tall matrix have on its long side is of this kind: sums of task matrices, their products with small matrices (left singular
/// vectors U = A Vᵀ Σ⁻¹, polar factors A (AᵀA)^(−1/2)), what one has outside another. In memory stay the small matrices, and a panel for each step of an
/// expression. Bytes read: the base and the tasks that occur in it, once for each pass over it.
indirect enum TallMatrix {
  /// Σ wᵢ τᵢ.
  case tasks([(task: Int, weight: Double)])
  /// X B.
  case product(TallMatrix, Matrix<Double>)
  /// X Bᵀ.
  case projection(TallMatrix, Matrix<Double>)
  /// X diag(f).
  case scaled(TallMatrix, Matrix<Double>)
  /// X + f Y.
  case sum(TallMatrix, TallMatrix, times: Double)
  /// Side by side.
  case joined([TallMatrix])
  /// One that occurs more than once in an expression: computed once for each panel.
  case shared(SharedPanel)

  /// The last panel of a matrix that others are made of.
  final class SharedPanel {
    fileprivate let source: TallMatrix
    fileprivate let panel: Matrix<Double>
    fileprivate var rows: Range<Int>?

    /// Takes its panel from the job's workspace, so it lives as long as the scope in which it is made.
    init(_ source: TallMatrix, _ job: MatrixJob) throws(IngotError) {
      self.source = source
      panel = try job.workspace.matrix(job.output.rows, source.columns(job))
    }
  }

  func columns(_ job: MatrixJob) -> Int {
    switch self {
    case .tasks: job.columns
    case .product(_, let b): b.columns
    case .projection(_, let b): b.rows
    case .scaled(let x, _): x.columns(job)
    case .sum(let x, _, _): x.columns(job)
    case .joined(let parts): parts.reduce(0) { $0 + $1.columns(job) }
    case .shared(let shared): shared.panel.columns
    }
  }

  /// The rows `rows` into `panel`, of as many rows and this matrix's columns.
  private func compute(_ rows: Range<Int>, into panel: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    switch self {
    case .tasks(let terms): try job.sumTaskRows(rows, terms, into: panel)
    case .product(let x, let b):
      try x.with(rows, job) { (part) throws(IngotError) in try job.algebra.multiply(part, b, into: panel) }
    case .projection(let x, let b):
      try x.with(rows, job) { (part) throws(IngotError) in try job.algebra.multiply(part, b, .transposed, into: panel) }
    case .scaled(let x, let factors):
      try x.compute(rows, into: panel, job)
      panel.scaleColumns(by: factors)
    case .sum(let x, let y, let factor):
      try x.compute(rows, into: panel, job)
      try y.with(rows, job) { (part) throws(IngotError) in panel.add(part, times: factor) }
    case .joined(let parts):
      var start = 0
      for part in parts {
        let range = start..<start + part.columns(job)
        try part.compute(rows, into: panel.columns(range), job)
        start = range.upperBound
      }
    case .shared: try with(rows, job) { (part) throws(IngotError) in panel.copy(part) }
    }
  }

  /// Runs `body` with the rows `rows`.
  private func with(
    _ rows: Range<Int>, _ job: MatrixJob, _ body: (_ panel: Matrix<Double>) throws(IngotError) -> Void
  ) throws(IngotError) {
    try job.workspace.scope { () throws(IngotError) in
      if case .shared(let shared) = self {
        let part = shared.panel.rows(0..<rows.count)
        // A measuring run must see it computed wherever it may be.
        if shared.rows != rows || job.isMeasuring {
          shared.rows = nil
          try shared.source.compute(rows, into: part, job)
          shared.rows = rows
        }
        return try body(part)
      }
      let part: Matrix<Double> = try job.workspace.matrix(rows.count, columns(job))
      try compute(rows, into: part, job)
      try body(part)
    }
  }

  // MARK: Passes

  /// Runs `body` with one panel after the other.
  func forEachPanel(
    _ job: MatrixJob, _ body: (_ rows: Range<Int>, _ panel: Matrix<Double>) throws(IngotError) -> Void
  ) throws(IngotError) {
    try job.forEachStreamedPanel { (rows) throws(IngotError) in
      try with(rows, job) { (panel) throws(IngotError) in try body(rows, panel) }
    }
  }

  /// The lower triangle of XᵀX into `gram`.
  func gram(into gram: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    gram.fill(0)
    try forEachPanel(job) { (_, panel) throws(IngotError) in try job.algebra.accumulateGram(panel, into: gram, beta: 1) }
  }

  /// XᵀY into `target`.
  func cross(_ other: TallMatrix, into target: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    target.fill(0)
    try forEachPanel(job) { (rows, panel) throws(IngotError) in
      try other.with(rows, job) { (part) throws(IngotError) in try job.algebra.multiply(panel, .transposed, part, into: target, beta: 1) }
    }
  }

  /// The squared Frobenius norm.
  func squaredNorm(_ job: MatrixJob) throws(IngotError) -> Double {
    var total = 0.0
    try forEachPanel(job) { (_, panel) throws(IngotError) in total += panel.dot(panel) }
    return total
  }

  /// Hands on base + scale · X as the job's output.
  func emit(scale: Double, _ job: MatrixJob) throws(IngotError) {
    try forEachPanel(job) { (rows, panel) throws(IngotError) in
      job.output.rows(0..<rows.count).copy(panel)
      try job.finish(rows, scale: scale)
      try job.emit(rows)
    }
  }

  // MARK: Factors

  /// Leading right singular vectors, as rows, and singular values, both ascending; and the values' inverses, 0 where the value is.
  struct RightVectors {
    let vectors: Matrix<Double>
    let values: Matrix<Double>
    let inverses: Matrix<Double>

    init(count: Int, columns: Int, _ workspace: MatrixWorkspace) throws(IngotError) {
      self.init(
        vectors: try workspace.matrix(count, columns), values: try workspace.vector(count), inverses: try workspace.vector(count))
    }

    private init(vectors: Matrix<Double>, values: Matrix<Double>, inverses: Matrix<Double>) {
      self.vectors = vectors
      self.values = values
      self.inverses = inverses
    }

    func part(_ range: Range<Int>) -> RightVectors {
      RightVectors(vectors: vectors.rows(range), values: values.columns(range), inverses: inverses.columns(range))
    }

    /// Values up to `floor` count as zero, and so do their vectors.
    func clear(below floor: Double) {
      for j in 0..<values.count where !(values[j] > floor) {
        values[j] = 0
        inverses[j] = 0
        vectors.rows(j..<j + 1).fill(0)
      }
    }
  }

  /// The leading `found.values.count` right singular vectors, by the eigenvectors of XᵀX; values up to `tolerance` · σ₁ count as zero.
  func rightVectors(into found: RightVectors, tolerance: Double, _ job: MatrixJob) throws(IngotError) {
    let (workspace, n, count) = (job.workspace, columns(job), found.values.count)
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(n, n)
      try self.gram(into: gram, job)
      // As for whole matrices: few vectors are cheaper one by one.
      if 10 * count <= n {
        try job.algebra.topEigen(gram, values: found.values, vectors: found.vectors, workspace)
      } else {
        let all: Matrix<Double> = try workspace.vector(n)
        try job.algebra.eigen(gram, values: all, workspace)
        found.vectors.copy(gram.rows(n - count..<n))
        for j in 0..<count { found.values[j] = all[n - count + j] }
      }
    }
    for j in 0..<(job.isMeasuring ? 0 : count) {
      let value = max(found.values[j], 0).squareRoot()
      found.values[j] = value
      found.inverses[j] = value > 0 ? 1 / value : 0
    }
    if count > 0, !job.isMeasuring { found.clear(below: max(tolerance, 1e-7) * found.values[count - 1]) }
  }

  /// U = X Vᵀ Σ⁻¹ of such vectors; columns of zeros where the value is zero.
  func leftVectors(_ found: RightVectors) -> TallMatrix { .scaled(.projection(self, found.vectors), found.inverses) }
}

/// What is known of X from the eigenvalues of XᵀX: ‖X‖_*, the directions that were kept, and σ₁ over the least kept σ.
struct InverseRootReport {
  var nuclearNorm: Double
  var rank: Int
  var condition: Double
}

extension MatrixJob {
  /// Turns a Gram matrix G = XᵀX (k × k, lower triangle) into W with WᵀW = G^(−1/2) over the range of G: X WᵀW is the polar factor of X. Singular values
  /// of X up to `tolerance` · σ₁ are left out.
  func factorInverseRoot(of gram: Matrix<Double>, tolerance: Double) throws(IngotError) -> InverseRootReport {
    try workspace.scope { () throws(IngotError) in
      let size = gram.rows
      let values: Matrix<Double> = try workspace.vector(size)
      let weights: Matrix<Double> = try workspace.vector(size)
      try algebra.eigen(gram, values: values, workspace)
      let largest = size > 0 ? max(values[size - 1], 0) : 0
      let floor = max(tolerance, 1e-7) * max(tolerance, 1e-7) * largest
      var (kept, nuclear) = (0, 0.0)
      for j in 0..<(isMeasuring ? 0 : size) where values[j] > floor {
        kept += 1
        nuclear += values[j].squareRoot()
        weights[j] = 1 / values[j].squareRoot().squareRoot()
      }
      // Rows λ^(−1/4) v; those left out are zeros.
      gram.scaleRows(by: weights)
      return InverseRootReport(
        nuclearNorm: nuclear, rank: kept, condition: kept > 0 ? (largest / values[size - kept]).squareRoot() : 1)
    }
  }

  /// `route` 1: by eigenvectors of the f64 Gram matrix.
  func report(_ root: InverseRootReport, prefix: String = "") {
    report(prefix + "route", 1)
    report(prefix + "rank", Double(root.rank))
    report(prefix + "condition", root.condition)
  }

  /// Hands on base + scale · polar(left) diag(values) polar(right) as the output, for `left` m × k and `right` k × n; without `values` the two polar
  /// factors alone.
  func emitPolar(
    _ left: TallMatrix, _ right: Matrix<Double>, values: Matrix<Double>?, tolerance: Double, scale: Double
  ) throws(IngotError) {
    let (count, n) = (right.rows, right.columns)
    let turned: Matrix<Double> = try workspace.matrix(count, n)
    // The Gram matrices, and then the coefficients of the end, lie in one place.
    let place: Matrix<Double> = try workspace.matrix(count, max(count, n))
    let (square, coefficients) = (place.reshaped(count, count), place.reshaped(count, n))
    try algebra.accumulateGram(right, .transposed, into: square)
    report(try factorInverseRoot(of: square, tolerance: tolerance), prefix: "right_")
    try workspace.scope { () throws(IngotError) in
      let root: Matrix<Double> = try workspace.matrix(count, count)
      try algebra.gram(square, into: root)
      try algebra.multiply(root, right, into: turned)
    }
    if let values { turned.scaleRows(by: values) }
    try left.gram(into: square, self)
    report(try factorInverseRoot(of: square, tolerance: tolerance), prefix: "left_")
    try workspace.scope { () throws(IngotError) in
      let root: Matrix<Double> = try workspace.matrix(count, count)
      try algebra.gram(square, into: root)
      try algebra.multiply(root, turned, into: coefficients)
    }
    try TallMatrix.product(left, coefficients).emit(scale: scale, self)
  }
}
