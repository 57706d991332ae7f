internal import IngotErrors

/// The weights of one step of Halley's iteration X ← X (b/c I + (a − b/c) (I + c XᵀX)⁻¹) for singular values in [least, 1].
struct HalleyStep {
  let a: Double
  let b: Double
  let c: Double
  /// The least singular value after the step.
  let least: Double

  init(least value: Double) {
    let l = min(max(value, 1e-12), 1)
    let squared = l * l
    let d = HalleyStep.cubeRoot(4 * (1 - squared) / (squared * squared))
    let root = (1 + d).squareRoot()
    let inner = 8 - 4 * d + 8 * (2 - squared) / (squared * root)
    a = root + max(inner, 0).squareRoot() / 2
    b = (a - 1) * (a - 1) / 4
    c = a + b - 1
    least = min(l * (a + b * squared) / (1 + c * squared), 1)
  }

  /// Newton's iteration from a start that exceeds the root; enough for weights that only steer.
  static func cubeRoot(_ value: Double) -> Double {
    guard value > 0 else { return 0 }
    var x = max(value, 1)
    for _ in 0..<200 {
      let next = (2 * x + value / (x * x)) / 3
      if abs(next - x) <= 1e-14 * x { return next }
      x = next
    }
    return x
  }
}

extension PolarWork {
  /// Nil when A is too ill-conditioned for it (about 1e5), or did not converge.
  func byHalley() throws(IngotError) -> PolarReport? {
    if isReduced {
      // f32 loses the square of the condition number: it will do for the well-conditioned, which long matrices often are.
      let report = try halley(least: 0.04, leastTrace: 1e-20) { (gram: Matrix<Float>) throws(IngotError) in
        try algebra.accumulateGram(a, side, into: gram)
      }
      if let report, !workspace.isMeasuring { return report }
    }
    // Directions that the tolerance leaves out need their eigenvectors.
    return try halley(least: max(1e-5, tolerance), leastTrace: 0) { (gram: Matrix<Double>) throws(IngotError) in
      gram.fill(0)
      try algebra.accumulateGram(widening: a, side, into: gram, workspace)
    }
  }

  /// A long matrix is reduced by A = Q Lᵀ, whose polar factor is Q times that of the square Lᵀ.
  private var isReduced: Bool { 2 * max(a.rows, a.columns) > 3 * size }

  /// The iteration from a Gram matrix of this element type, of which `form` makes the lower triangle; nil where the least singular value seems to be
  /// below `least` of the largest, or the squares of the elements add up to `leastTrace` at most.
  private func halley<Element: MatrixElement>(
    least: Double, leastTrace: Double, form: (Matrix<Element>) throws(IngotError) -> Void
  ) throws(IngotError) -> PolarReport? {
    try workspace.scope { () throws(IngotError) -> PolarReport? in
      let gram: Matrix<Element> = try workspace.matrix(size, size)
      let factor: Matrix<Element> = try workspace.matrix(size, size)
      try form(gram)
      let moments = gram.lowerMoments
      guard workspace.isMeasuring || moments.trace > leastTrace else { return nil }
      let (largest, hint) = try bounds(gram, factor, limit: moments.squares.squareRoot())
      if !isReduced, workspace.isMeasuring || (hint ?? least) < least, let wide = gram as? Matrix<Double>,
        let factor = factor as? Matrix<Double>
      {
        return try halleyOfLifted(wide, factor, largest: largest, least: least)
      }
      guard workspace.isMeasuring || (hint ?? 0) >= least else { return nil }
      let found = max(hint ?? 0, 1e-5)
      let start: Matrix<Float> = isReduced ? try workspace.matrix(size, size) : a
      if isReduced {
        start.fill(0)
        // The side of the factor follows that of A: Lᵀ on the right of a tall matrix, L on the left of a wide one.
        if side == .plain { start.copyTransposed(factor) } else { start.copy(factor) }
        start.clearTriangle(side == .plain ? .lower : .upper)
      }
      let target: Matrix<Float> = isReduced ? try workspace.matrix(size, size) : p
      let iterated = try iterate(from: start, gram, largest: largest, least: found, into: target)
      guard let residual = iterated else { return nil }
      if isReduced { try unreduce(target, factor, isWellConditioned: found >= 0.01) }
      return PolarReport(route: .halley, nuclearNorm: p.dot(a), rank: size, condition: 1 / found, residual: residual)
    }
  }

  /// Bounds of the singular values: one on the largest from above, and the least as a share of it; nil when the Gram matrix has no Cholesky factor.
  /// `factor` becomes that factor. Reads the lower triangle.
  private func bounds<Element: MatrixElement>(
    _ gram: Matrix<Element>, _ factor: Matrix<Element>, limit: Double
  ) throws(IngotError) -> (Double, Double?) {
    try workspace.scope { () throws(IngotError) in
      let x: Matrix<Element> = try workspace.matrix(1, size)
      let y: Matrix<Element> = try workspace.matrix(1, size)
      let largest = try gram.largestEigenvalue(algebra, x, y, limit: limit).squareRoot()
      factor.copy(gram)
      let isDefinite = try algebra.cholesky(factor)
      guard workspace.isMeasuring || (isDefinite && largest > 0 && largest.isFinite) else { return (largest, nil) }
      guard let inverse = try factor.largestInverse(algebra, x) else { return (largest, workspace.isMeasuring ? 1e-5 : nil) }
      // Inverse iteration estimates the least value from above.
      return (largest, 0.5 / inverse.squareRoot() / largest)
    }
  }

  /// Iterates from `start`, the lower triangle of whose Gram matrix is in `gram` (destroyed), into `result`. Nil when it did not converge, else the
  /// last measured ‖XᵀX − I‖_F / √size, squared by the polishing step.
  func iterate<Element: MatrixElement>(
    from start: Matrix<Float>, _ gram: Matrix<Element>, largest: Double, least: Double, into result: Matrix<Float>
  ) throws(IngotError) -> Double? {
    try workspace.scope { () throws(IngotError) -> Double? in
      var step = HalleyStep(least: least)
      // The first step in the Gram matrix's type: c is large, and f32 would lose the small directions.
      gram.scale(by: Element(step.c / (largest * largest)))
      gram.addToDiagonal(1)
      guard try algebra.cholesky(gram) else { return nil }
      try algebra.invertLower(factor: gram)
      gram.scale(by: Element((step.a - step.b / step.c) / largest))
      gram.addToDiagonal(Element(step.b / step.c / largest))
      let square: Matrix<Float> = try workspace.matrix(size, size)
      var x = result
      var other: Matrix<Float> = try workspace.matrix(result.rows, result.columns)
      // Strong directions cancel in this product: f32 would leave 6e-8 a of them, which for a condition of 1e5 is 1e-4 of the result.
      if workspace.isMeasuring || least < 3e-5, let wide = gram as? Matrix<Double> { try apply(symmetric: wide, to: start, into: x) }
      if workspace.isMeasuring || least >= 3e-5 || Element.self == Float.self {
        square.copy(gram)
        try apply(symmetric: square, to: start, into: x)
      }
      for _ in 0..<8 {
        try algebra.accumulateGram(x, side, into: square)
        let distance = distanceFromIdentity(square)
        guard distance.isFinite || workspace.isMeasuring else { return nil }
        if distance < 1e-2 || workspace.isMeasuring {
          // Newton–Schulz from here squares the distance: X (1.5 I − 0.5 XᵀX).
          square.scale(by: -0.5)
          square.addToDiagonal(1.5)
          try apply(symmetric: square, to: x, into: other)
          result.copy(other)
          return 0.375 * distance * distance
        }
        step = HalleyStep(least: min(step.least, 0.95))
        square.scale(by: Float(step.c))
        square.addToDiagonal(1)
        guard try algebra.cholesky(square) else { return nil }
        try algebra.invertLower(factor: square)
        square.scale(by: Float(step.a - step.b / step.c))
        square.addToDiagonal(Float(step.b / step.c))
        try apply(symmetric: square, to: x, into: other)
        swap(&x, &other)
      }
      return nil
    }
  }

  private func distanceFromIdentity(_ square: Matrix<Float>) -> Double {
    let (trace, squares) = square.lowerMoments
    return (max(squares - 2 * trace + Double(size), 0) / Double(max(size, 1))).squareRoot()
  }

  /// target = source · S, or S · source of a wide matrix, for a symmetric S of which the lower triangle is read.
  private func apply(symmetric s: Matrix<Float>, to source: Matrix<Float>, into target: Matrix<Float>) throws(IngotError) {
    try algebra.multiply(source, bySymmetric: s, on: side == .plain ? .right : .left, into: target)
  }

  /// The same in f64, in panels.
  private func apply(symmetric s: Matrix<Double>, to source: Matrix<Float>, into target: Matrix<Float>) throws(IngotError) {
    try inPanels(source, into: target) { (from, to) throws(IngotError) in
      try algebra.multiply(from, bySymmetric: s, on: side == .plain ? .right : .left, into: to)
    }
  }

  /// p = A L⁻ᵀ X, or X L⁻¹ A of a wide matrix, given A = Q Lᵀ (L Q) and the polar factor X of Lᵀ (L).
  private func unreduce<Element: MatrixElement>(
    _ x: Matrix<Float>, _ factor: Matrix<Element>, isWellConditioned: Bool
  ) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let small: Matrix<Element> = try workspace.matrix(size, size)
      small.copy(x)
      if side == .plain { try algebra.divide(small, onLeftBy: factor) } else { try algebra.divide(small, byFactor: factor) }
      if let wide = small as? Matrix<Double>, !isWellConditioned || workspace.isMeasuring { return try apply(wide, to: a, into: p) }
      x.copy(small)
      try apply(x, to: a, into: p)
    }
  }
}

extension Matrix {
  /// A fixed matrix of norm 1 that no structured matrix is orthogonal to.
  func fillStart() {
    var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    for i in 0..<rows {
      for j in 0..<columns {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        self[i, j] = Element(Double(state >> 40) / Double(1 << 24) - 0.5)
      }
    }
    let norm = self.norm
    if norm > 0 { scale(by: Element(1 / norm)) }
  }

  /// About the largest eigenvalue of this positive semidefinite matrix, of which the lower triangle is read, and no more than `limit`. Power iteration
  /// estimates from below, so 1.3 times what it says; Halley's weights forgive what is still above it. `x` and `y` are rows for it to use.
  func largestEigenvalue(_ algebra: LinearAlgebra, _ x: Matrix, _ y: Matrix, limit: Double) throws(IngotError) -> Double {
    x.fillStart()
    var estimate = 0.0
    for _ in 0..<8 {
      try algebra.multiply(symmetric: self, vector: x, into: y)
      estimate = y.norm
      guard estimate > 0 else { break }
      x.copy(y)
      x.scale(by: Element(1 / estimate))
    }
    return Swift.min(1.3 * estimate, limit)
  }

  /// About the largest eigenvalue of S⁻¹, from below, of a matrix that holds S's Cholesky factor; nil where it is beyond this type.
  func largestInverse(_ algebra: LinearAlgebra, _ x: Matrix, _ triangle: Triangle = .lower) throws(IngotError) -> Double? {
    x.fillStart()
    var inverse = 0.0
    for _ in 0..<4 {
      try algebra.solve(vector: x, factor: self, triangle)
      inverse = x.norm
      guard inverse > 0, inverse.isFinite else { return nil }
      x.scale(by: Element(1 / inverse))
    }
    return inverse
  }

  /// Zeros in one triangle, the diagonal excepted.
  func clearTriangle(_ triangle: Triangle) {
    for i in 0..<rows {
      rows(i..<i + 1).columns(triangle == .lower ? 0..<Swift.min(i, columns) : Swift.min(i + 1, columns)..<columns).fill(0)
    }
  }
}
