package import IngotErrors

extension LinearAlgebra {
  /// The left singular vectors of A as the rows of `left` (r × m, r = min(m, n)), in ascending order of the singular values.
  ///
  /// From the f64 Gram matrix of the shorter side; where what comes out is not orthonormal to 1e-3 (long sides of badly conditioned matrices), or where
  /// the eigensolver does not converge, from the SVD in f64. Values up to `rangeTolerance` · σ₁ count as zero and their vectors are rows of
  /// zeros. The report's residual is ‖U Uᵀ − I‖_F / √rank over the kept vectors. A is not changed.
  package func leftVectors(
    _ a: Matrix<Float>, into left: Matrix<Float>, rangeTolerance: Double = 1e-6, _ workspace: MatrixWorkspace
  ) throws(IngotError) -> PolarReport {
    let r = a.rank
    try require(
      left.rows == r && left.columns == a.rows,
      "\(r) left vectors of a \(a.rows) × \(a.columns) matrix were asked for in \(left.rows) × \(left.columns)")
    var found: PolarReport?
    do throws(IngotError) {
      found = try workspace.scope { () throws(IngotError) -> PolarReport in
        let triplets = try workspace.triplets(r, rows: a.rows, columns: a.columns)
        try singularTriplets(a, into: triplets, rangeTolerance: rangeTolerance, workspace)
        left.copy(triplets.left)
        let values = (0..<r).map { triplets.values[r - 1 - $0] }
        return try report(.eigen, values, left, workspace)
      }
    } catch {
      guard error.status == .internalError else { throw error }
    }
    if let found, found.residual <= 1e-3, !workspace.isMeasuring { return found }
    return try workspace.scope { () throws(IngotError) -> PolarReport in
      let x: Matrix<Double> = try workspace.matrix(a.rows, a.columns)
      let u: Matrix<Double> = try workspace.matrix(a.rows, r)
      let v: Matrix<Double> = try workspace.matrix(r, a.columns)
      let values: Matrix<Double> = try workspace.vector(r)
      x.copy(a)
      try svd(x, u: u, values: values, v: v, workspace)
      let least = rangeTolerance * (r > 0 ? values[0] : 0)
      let sorted = (0..<r).map { values[$0] > least ? values[$0] : 0 }
      for j in 0..<r { left.rows(r - 1 - j..<r - j).copyTransposed(u.columns(j..<j + 1)) }
      for j in 0..<r where sorted[j] == 0 { left.rows(r - 1 - j..<r - j).fill(0) }
      return try report(.svd, sorted, left, workspace)
    }
  }

  /// - Parameters: `values` descend, zeros being those left out; the rows of `left` ascend.
  private func report(
    _ route: PolarRoute, _ values: [Double], _ left: Matrix<Float>, _ workspace: MatrixWorkspace
  ) throws(IngotError) -> PolarReport {
    let r = left.rows
    let kept = workspace.isMeasuring ? r : values.count { $0 > 0 }
    let residual = try workspace.scope { () throws(IngotError) -> Double in
      let square: Matrix<Float> = try workspace.matrix(kept, kept)
      try gram(left.rows(r - kept..<r), .transposed, into: square)
      square.addToDiagonal(-1)
      return square.norm / Double(max(kept, 1)).squareRoot()
    }
    return PolarReport(
      route: route, nuclearNorm: values.reduce(0, +), rank: kept,
      condition: kept > 0 && !workspace.isMeasuring ? values[0] / values[kept - 1] : 1, residual: residual)
  }
}
