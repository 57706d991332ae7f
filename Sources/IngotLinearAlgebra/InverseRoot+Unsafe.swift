package import IngotErrors

/// What turns rows of a tall A, read in panels and never whole, into rows of its polar factor, from the Gram matrix G = AᵀA alone.
///
/// The factor is A (G + δ I)^(−1/2), δ = max(τ, 1e-6)² · λ₁ for a range tolerance τ: directions of A far above τ σ₁ are kept whole, those far
/// below vanish, and σ in between gets the weight σ / √(σ² + δ). With the Cholesky factor R of G + δ I and X = polar(R) it is A R⁻¹ X: the quotient in
/// f64, the product in f32, so that no condition number enters. X by Halley's iteration (QDWH; Nakatsukasa, Bai and Gygi 2010), its first step in f64.
/// Memory: G's n² f64, whose two triangles hold two matrices, n² f32, and panels.
package struct InverseRoot {
  /// X.
  private let narrow: Matrix<Float>
  /// R, in the upper triangle.
  private let factor: Matrix<Double>
  /// ‖A‖_*, and the rest as for polar factors. `rank` is the shorter side.
  package let report: PolarReport
  private let algebra: LinearAlgebra

  /// Rows of a panel of n × n matrices.
  private static let panelRows = 512

  /// Destroys `gram` (its lower triangle is read) and `narrow`, both n × n, which belong to this value afterwards. Throws `.internalError` where the
  /// iteration does not converge.
  package init(
    of gram: Matrix<Double>, narrow: Matrix<Float>, rangeTolerance: Double, _ algebra: LinearAlgebra, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    try algebra.require(
      gram.rows == gram.columns && narrow.rows == gram.rows && narrow.columns == gram.rows,
      "the inverse root of a \(gram.rows) × \(gram.columns) matrix was asked for in \(narrow.rows) × \(narrow.columns)")
    self.narrow = narrow
    factor = gram
    self.algebra = algebra
    let work = InverseRootWork(
      algebra: algebra, z: gram, x: narrow, tolerance: max(rangeTolerance, 1e-6), panelRows: Self.panelRows, workspace: workspace)
    report = try workspace.scope { () throws(IngotError) in try work.run() }
  }

  /// target = panel · R⁻¹ X, for a panel of rows of A.
  package func apply(to panel: Matrix<Float>, into target: Matrix<Float>, _ workspace: MatrixWorkspace) throws(IngotError) {
    if report.rank == 0, !workspace.isMeasuring { return target.fill(0) }
    try workspace.scope { () throws(IngotError) in
      let wide: Matrix<Double> = try workspace.matrix(panel.rows, panel.columns)
      let quotient: Matrix<Float> = try workspace.matrix(panel.rows, panel.columns)
      wide.copy(panel)
      try algebra.divide(wide, byTransposeOf: factor, .upper)
      quotient.copy(wide)
      try algebra.multiply(quotient, narrow, into: target)
    }
  }
}

/// One inverse root under way. `z` holds symmetric matrices and factors by triangles, with the diagonals of those that are not at work in vectors.
private struct InverseRootWork {
  let algebra: LinearAlgebra
  let z: Matrix<Double>
  let x: Matrix<Float>
  let tolerance: Double
  let panelRows: Int
  let workspace: MatrixWorkspace

  private var size: Int { z.rows }

  func run() throws(IngotError) -> PolarReport {
    let moments = z.lowerMoments
    guard moments.trace > 0 || workspace.isMeasuring else {
      z.fill(0)
      x.fill(0)
      return PolarReport(route: .halley, nuclearNorm: 0, rank: 0, condition: 1, residual: 0)
    }
    let own: Matrix<Double> = try workspace.vector(size)
    let diagonal: Matrix<Double> = try workspace.vector(size)
    let u: Matrix<Double> = try workspace.vector(size)
    let largest = try z.largestEigenvalue(algebra, u, diagonal, limit: moments.squares.squareRoot())
    own.copyDiagonal(of: z)
    let shift = try factorise(own, shift: tolerance * tolerance * largest)
    let inverse = try z.largestInverse(algebra, u, .upper) ?? 1 / max(shift, .leastNormalMagnitude)
    let least = max(0.5 / (inverse * largest).squareRoot(), 0.1 * tolerance)
    // X = R, to be turned into its polar factor.
    diagonal.copyDiagonal(of: z)
    x.copy(z)
    x.clearTriangle(.lower)
    for i in 0..<size { z[i, i] = own[i] + shift }
    let residual = try iterate(largest: largest.squareRoot(), least: least)
    for i in 0..<size { z[i, i] = diagonal[i] }
    var nuclear = 0.0
    let row: Matrix<Double> = try workspace.matrix(1, size)
    for i in 0..<(workspace.isMeasuring ? 0 : size) {
      row.copy(x.rows(i..<i + 1))
      nuclear += z.part(rows: i..<i + 1, columns: i..<size).dot(row.columns(i..<size))
    }
    nuclear -= shift * (try traceOfRoot())
    return PolarReport(route: .halley, nuclearNorm: max(nuclear, 0), rank: size, condition: 1 / least, residual: residual)
  }

  /// The upper triangle becomes R of G + δ I = RᵀR; the lower one keeps G without its diagonal. Returns δ, raised where rounding asks for it.
  private func factorise(_ own: Matrix<Double>, shift: Double) throws(IngotError) -> Double {
    var shift = shift
    for _ in 0..<4 {
      z.mirrorLowerTriangle()
      for i in 0..<size { z[i, i] = own[i] + shift }
      if try algebra.cholesky(z, .upper) || workspace.isMeasuring { return shift }
      shift *= 100
    }
    throw failure("has no Cholesky factor")
  }

  private func failure(_ what: String) -> IngotError {
    IngotError(
      .internalError, "the Gram matrix of a task matrix \(what)", hint: "look for extreme values in the inputs, or exclude the tensor")
  }

  /// Turns X into its polar factor. The lower triangle of `z`, G + δ I at first, is overwritten.
  private func iterate(largest: Double, least: Double) throws(IngotError) -> Double {
    var step = HalleyStep(least: least)
    z.scaleLowerTriangle(by: step.c / (largest * largest), diagonal: 1)
    guard try algebra.cholesky(z) || workspace.isMeasuring else { throw failure("is not finite") }
    try algebra.invertLower(factor: z)
    z.scaleLowerTriangle(by: (step.a - step.b / step.c) / largest, diagonal: step.b / step.c / largest)
    try forEachPanel { (range) throws(IngotError) in
      let from: Matrix<Double> = try workspace.matrix(range.count, size)
      let to: Matrix<Double> = try workspace.matrix(range.count, size)
      from.copy(x.rows(range))
      try algebra.multiply(from, bySymmetric: z, into: to)
      x.rows(range).copy(to)
    }
    // An f32 matrix of which the lower triangle lies in that of `z`, below the diagonal but for element (0, 0).
    // SAFETY: row i takes the first i + 1 f32 of row i of `z`, which has 2 i of them below the diagonal, or the diagonal's own (restored later).
    let square = unsafe Matrix<Float>(
      unsafe: z.base.map { unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: Float.self) }, rows: size, columns: size,
      stride: 2 * z.stride)
    for _ in 0..<12 {
      try algebra.accumulateGram(x, into: square)
      let (trace, squares) = square.lowerMoments
      let distance = (max(squares - 2 * trace + Double(size), 0) / Double(max(size, 1))).squareRoot()
      let isNear = distance < 1e-2
      guard distance.isFinite || workspace.isMeasuring else { throw failure("overflows") }
      if isNear {
        // Newton–Schulz squares the distance.
        square.scaleLowerTriangle(by: -0.5, diagonal: 1.5)
      } else {
        step = HalleyStep(least: min(step.least, 0.95))
        square.scaleLowerTriangle(by: Float(step.c), diagonal: 1)
        guard try algebra.cholesky(square) || workspace.isMeasuring else { throw failure("overflows") }
        try algebra.invertLower(factor: square)
        square.scaleLowerTriangle(by: Float(step.a - step.b / step.c), diagonal: Float(step.b / step.c))
      }
      try forEachPanel { (range) throws(IngotError) in
        let to: Matrix<Float> = try workspace.matrix(range.count, size)
        try algebra.multiply(x.rows(range), bySymmetric: square, into: to)
        x.rows(range).copy(to)
      }
      if isNear || workspace.isMeasuring { return 0.375 * distance * distance }
    }
    throw failure("needs more than 12 steps of Halley's iteration")
  }

  /// The trace of R⁻¹ X, which is (G + δ I)^(−1/2).
  private func traceOfRoot() throws(IngotError) -> Double {
    var trace = 0.0
    try forEachPanel { (range) throws(IngotError) in
      let part: Matrix<Double> = try workspace.matrix(size, range.count)
      part.copy(x.columns(range))
      try algebra.divide(part, onLeftBy: z, .upper)
      for i in range { trace += part[i, i - range.lowerBound] }
    }
    return trace
  }

  private func forEachPanel(_ body: (_ range: Range<Int>) throws(IngotError) -> Void) throws(IngotError) {
    for start in Swift.stride(from: 0, to: size, by: panelRows) {
      try workspace.scope { () throws(IngotError) in try body(start..<min(start + panelRows, size)) }
    }
  }
}

extension Matrix {
  /// A row of the elements of a square matrix's diagonal.
  func copyDiagonal(of other: Matrix) {
    for i in 0..<Swift.min(count, other.rank) { self[i] = other[i, i] }
  }

  /// Multiplies the lower triangle by `factor` and adds `diagonal` to the diagonal; the rest stays.
  func scaleLowerTriangle(by factor: Element, diagonal: Element) {
    for i in 0..<rank {
      rows(i..<i + 1).columns(0..<i + 1).scale(by: factor)
      self[i, i] += diagonal
    }
  }
}
