package import IngotErrors

/// How a polar factor is computed.
package enum PolarRoute: String, Sendable, CaseIterable {
  /// By conditioning: Halley's iteration, else the eigenvectors of the Gram matrix, else the SVD.
  case automatic = "auto"
  /// Dynamically weighted Halley iteration (QDWH), its first step in f64 on the Gram matrix, the others in f32.
  case halley
  /// Eigenvectors of the f64 Gram matrix of the shorter side; directions below the range tolerance are left out.
  case eigen
  /// The singular vectors, in f64.
  case svd
}

/// What is known of a matrix A from its polar factor.
package struct PolarReport: Sendable, Hashable {
  package var route: PolarRoute
  /// Σσ of A.
  package var nuclearNorm: Double
  /// Directions that were kept.
  package var rank: Int
  /// σ₁ / σ of the last kept direction: an estimate on the route `halley`.
  package var condition: Double
  /// ‖PᵀP − I‖_F / √rank as far as the route measures it; 0 where it holds by construction.
  package var residual: Double
}

extension LinearAlgebra {
  /// The orthogonal polar factor P = U Vᵀ of A = U Σ Vᵀ over the range of A, into `p` of A's shape. A is not changed.
  ///
  /// Singular values up to `rangeTolerance` · σ₁ count as zero and their directions are left out, so a rank-deficient A has a
  /// partial isometry; A = 0 gives P = 0. Routes and their errors: Nakatsukasa, Bai and Gygi, SIAM J. Matrix Anal. Appl. 31(5), 2010
  /// (Halley); the Gram route loses the square of the condition number, in f64, to f32 data of condition up to 1e6.
  package func polar(
    _ a: Matrix<Float>, into p: Matrix<Float>, route: PolarRoute = .automatic, rangeTolerance: Double = 1e-6,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) -> PolarReport {
    try require(
      p.rows == a.rows && p.columns == a.columns, "the polar factor of \(a.rows) × \(a.columns) was asked for in \(p.rows) × \(p.columns)")
    let work = PolarWork(algebra: self, a: a, p: p, tolerance: max(rangeTolerance, 1e-7), workspace: workspace)
    switch route {
    case .svd: return try work.bySVD()
    case .eigen: return try work.byEigenvectors()
    case .halley, .automatic:
      if workspace.isMeasuring {
        // The worst of all routes, since the data decide.
        _ = try work.byHalley()
        return try work.byEigenvectors()
      }
      if let report = try work.byHalley() { return report }
      do throws(IngotError) { return try work.byEigenvectors() } catch {
        // Only an eigensolver that does not converge leads here.
        guard error.status == .internalError else { throw error }
        return try work.bySVD()
      }
    }
  }
}

/// One polar factor under way.
struct PolarWork {
  let algebra: LinearAlgebra
  let a: Matrix<Float>
  let p: Matrix<Float>
  /// Singular values up to this share of the largest count as zero.
  let tolerance: Double
  let workspace: MatrixWorkspace

  /// The shorter side; its Gram matrix is AᵀA of a tall matrix, A Aᵀ of a wide one.
  var size: Int { a.rank }
  var side: Transposition { a.rows >= a.columns ? .plain : .transposed }

  /// target = source · small, or small · source of a wide matrix; `small` is symmetric or made for the side.
  func apply(_ small: Matrix<Float>, to source: Matrix<Float>, into target: Matrix<Float>) throws(IngotError) {
    if side == .plain { try algebra.multiply(source, small, into: target) } else { try algebra.multiply(small, source, into: target) }
  }

  /// The same in f64, in panels.
  func apply(_ small: Matrix<Double>, to source: Matrix<Float>, into target: Matrix<Float>) throws(IngotError) {
    try inPanels(source, into: target) { (from, to) throws(IngotError) in
      if side == .plain { try algebra.multiply(from, small, into: to) } else { try algebra.multiply(small, from, into: to) }
    }
  }

  /// Widens stretches of the longer side, and narrows what `body` makes of each.
  func inPanels(
    _ source: Matrix<Float>, into target: Matrix<Float>, _ body: (_ from: Matrix<Double>, _ to: Matrix<Double>) throws(IngotError) -> Void
  ) throws(IngotError) {
    let long = max(source.rows, source.columns)
    let length = min(long, LinearAlgebra.panelLength(size))
    try workspace.scope { () throws(IngotError) in
      let isTall = side == .plain
      let from: Matrix<Double> = isTall ? try workspace.matrix(length, size) : try workspace.matrix(size, length)
      let to: Matrix<Double> = isTall ? try workspace.matrix(length, size) : try workspace.matrix(size, length)
      for start in Swift.stride(from: 0, to: long, by: max(length, 1)) {
        let range = start..<min(start + length, long)
        let (x, y) =
          isTall ? (from.rows(0..<range.count), to.rows(0..<range.count)) : (from.columns(0..<range.count), to.columns(0..<range.count))
        x.copy(isTall ? source.rows(range) : source.columns(range))
        try body(x, y)
        (isTall ? target.rows(range) : target.columns(range)).copy(y)
      }
    }
  }

  func nothing(_ route: PolarRoute) -> PolarReport {
    p.fill(0)
    return PolarReport(route: route, nuclearNorm: 0, rank: 0, condition: 1, residual: 0)
  }

  // MARK: Routes

  func bySVD() throws(IngotError) -> PolarReport {
    try workspace.scope { () throws(IngotError) in
      let x: Matrix<Double> = try workspace.matrix(a.rows, a.columns)
      let u: Matrix<Double> = try workspace.matrix(a.rows, size)
      let v: Matrix<Double> = try workspace.matrix(size, a.columns)
      let values: Matrix<Double> = try workspace.vector(size)
      x.copy(a)
      try algebra.svd(x, u: u, values: values, v: v, workspace)
      let largest = values[0]
      let kept = (0..<size).count { values[$0] > tolerance * largest }
      guard largest > 0 || workspace.isMeasuring else { return nothing(.svd) }
      try algebra.multiply(u.columns(0..<kept), v.rows(0..<kept), into: x)
      p.copy(x)
      return PolarReport(
        route: .svd, nuclearNorm: (0..<kept).reduce(0) { $0 + values[$1] }, rank: kept,
        condition: kept > 0 ? largest / values[kept - 1] : 1, residual: 0)
    }
  }

  func byEigenvectors() throws(IngotError) -> PolarReport {
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(size, size)
      let values: Matrix<Double> = try workspace.vector(size)
      try algebra.gram(widening: a, side, into: gram, workspace)
      try algebra.eigen(gram, values: values, workspace)
      let largest = size > 0 ? values[size - 1] : 0
      guard largest > 0 || workspace.isMeasuring else { return nothing(.eigen) }
      let least = tolerance * tolerance * largest
      let dropped = (0..<size).count { values[$0] <= least }
      let weights: Matrix<Double> = try workspace.vector(size)
      var nuclear = 0.0
      for j in min(dropped, size)..<size {
        nuclear += values[j].squareRoot()
        weights[j] = 1 / values[j].squareRoot().squareRoot()
      }
      // H = Σ λ^(−1/2) v vᵀ as the Gram matrix of the scaled vectors; their rows are the eigenvectors.
      let inverseRoot: Matrix<Double> = try workspace.matrix(size, size)
      gram.scaleRows(by: weights)
      let kept = workspace.isMeasuring ? size : size - dropped
      try algebra.gram(gram.rows(size - kept..<size), into: inverseRoot)
      let condition = kept > 0 && !workspace.isMeasuring ? (largest / values[size - kept]).squareRoot() : 1
      try apply(inverseRoot, to: a, into: p)
      return PolarReport(route: .eigen, nuclearNorm: nuclear, rank: kept, condition: condition, residual: 0)
    }
  }
}
