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
    try workspace.scope { () throws(IngotError) -> PolarReport? in
      let gram: Matrix<Double> = try workspace.matrix(size, size)
      let factor: Matrix<Double> = try workspace.matrix(size, size)
      try algebra.gram(widening: a, side, into: gram, workspace)
      let (largest, hint) = try bounds(gram, factor)
      guard let hint else { return nil }
      // Directions that the tolerance leaves out need their eigenvectors.
      guard workspace.isMeasuring || hint >= max(1e-5, tolerance) else { return nil }
      let least = max(hint, 1e-5)
      // A tall matrix is reduced by A = Q Lᵀ, whose polar factor is Q times that of the square Lᵀ.
      let isReduced = 2 * max(a.rows, a.columns) > 3 * size
      let start: Matrix<Float> = isReduced ? try workspace.matrix(size, size) : a
      if isReduced {
        start.fill(0)
        // The side of the factor follows that of A: Lᵀ on the right of a tall matrix, L on the left of a wide one.
        for i in 0..<(start.isMeasured ? 0 : size) {
          for j in 0...i { if side == .plain { start[j, i] = Float(factor[i, j]) } else { start[i, j] = Float(factor[i, j]) } }
        }
      }
      let target: Matrix<Float> = isReduced ? try workspace.matrix(size, size) : p
      let iterated = try iterate(from: start, gram, largest: largest, least: least, into: target)
      guard let residual = iterated else { return nil }
      if isReduced { try unreduce(target, factor) }
      return PolarReport(
        route: .halley, nuclearNorm: p.dot(a), rank: size, condition: 1 / least, residual: residual)
    }
  }

  /// Bounds of the singular values: one on the largest from above, and the least as a share of it; nil when the Gram matrix has no Cholesky factor.
  /// `factor` becomes that factor.
  private func bounds(_ gram: Matrix<Double>, _ factor: Matrix<Double>) throws(IngotError) -> (Double, Double?) {
    try workspace.scope { () throws(IngotError) in
      let x: Matrix<Double> = try workspace.matrix(1, size)
      let y: Matrix<Double> = try workspace.matrix(1, size)
      start(x)
      var estimate = 0.0
      for _ in 0..<8 {
        try algebra.multiply(x, gram, into: y)
        estimate = y.norm
        guard estimate > 0 else { break }
        x.copy(y)
        x.scale(by: 1 / estimate)
      }
      // Power iteration estimates from below; Halley's weights forgive what is left above 1.
      let largest = min(1.3 * estimate, gram.largestRowSum).squareRoot()
      factor.copy(gram)
      let isDefinite = try algebra.cholesky(factor)
      guard workspace.isMeasuring || (isDefinite && largest > 0 && largest.isFinite) else { return (largest, nil) }
      start(x)
      var inverse = 0.0
      for _ in 0..<4 {
        try algebra.solve(x, factor: factor)
        inverse = x.norm
        guard inverse > 0, inverse.isFinite else { return (largest, workspace.isMeasuring ? 1e-5 : nil) }
        x.scale(by: 1 / inverse)
      }
      // Inverse iteration estimates the least value from above.
      return (largest, 0.5 / inverse.squareRoot() / largest)
    }
  }

  /// A fixed vector of norm 1 that no structured matrix is orthogonal to.
  private func start(_ x: Matrix<Double>) {
    var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    for i in 0..<x.count {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      x[i] = Double(state >> 40) / Double(1 << 24) - 0.5
    }
    let norm = x.norm
    if norm > 0 { x.scale(by: 1 / norm) }
  }

  /// Iterates from `start`, whose f64 Gram matrix is `gram` (destroyed), into `result`. Nil when it did not converge, else the last measured
  /// ‖XᵀX − I‖_F / √size, squared by the polishing step.
  private func iterate(
    from start: Matrix<Float>, _ gram: Matrix<Double>, largest: Double, least: Double, into result: Matrix<Float>
  ) throws(IngotError) -> Double? {
    try workspace.scope { () throws(IngotError) -> Double? in
      var step = HalleyStep(least: least)
      // The first step in f64: c is large, and f32 would lose the small directions.
      gram.scale(by: step.c / (largest * largest))
      gram.addToDiagonal(1)
      guard try algebra.cholesky(gram) else { return nil }
      try algebra.invert(factor: gram)
      gram.scale(by: (step.a - step.b / step.c) / largest)
      gram.addToDiagonal(step.b / step.c / largest)
      let small: Matrix<Float> = try workspace.matrix(size, size)
      small.copy(gram)
      var x = result
      var other: Matrix<Float> = try workspace.matrix(result.rows, result.columns)
      try apply(small, to: start, into: x)
      let square: Matrix<Float> = try workspace.matrix(size, size)
      for _ in 0..<8 {
        try algebra.gram(x, side, into: square)
        let distance = distanceFromIdentity(square)
        guard distance.isFinite || workspace.isMeasuring else { return nil }
        if distance < 1e-2 || workspace.isMeasuring {
          // Newton–Schulz from here squares the distance: X (1.5 I − 0.5 XᵀX).
          square.scale(by: -0.5)
          square.addToDiagonal(1.5)
          try apply(square, to: x, into: other)
          result.copy(other)
          return 0.375 * distance * distance
        }
        step = HalleyStep(least: min(step.least, 0.95))
        square.scale(by: Float(step.c))
        square.addToDiagonal(1)
        guard try algebra.cholesky(square) else { return nil }
        try algebra.invert(factor: square)
        square.scale(by: Float(step.a - step.b / step.c))
        square.addToDiagonal(Float(step.b / step.c))
        try apply(square, to: x, into: other)
        swap(&x, &other)
      }
      return nil
    }
  }

  private func distanceFromIdentity(_ square: Matrix<Float>) -> Double {
    let total = square.dot(square)
    var trace = 0.0
    for i in 0..<size { trace += Double(square[i, i]) }
    return (max(total - 2 * trace + Double(size), 0) / Double(max(size, 1))).squareRoot()
  }

  /// p = A L⁻ᵀ X, or X L⁻¹ A of a wide matrix, given A = Q Lᵀ (L Q) and the polar factor X of Lᵀ (L).
  private func unreduce(_ x: Matrix<Float>, _ factor: Matrix<Double>) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      // Xᵀ L⁻¹ transposed is L⁻ᵀ X; a wide matrix needs X L⁻¹.
      let small: Matrix<Double> = try workspace.matrix(size, size)
      if side == .plain { small.copyTransposed(x) } else { small.copy(x) }
      try algebra.divide(small, byFactor: factor)
      if side == .plain {
        let turned: Matrix<Double> = try workspace.matrix(size, size)
        turned.copyTransposed(small)
        try apply(turned, to: a, into: p)
      } else {
        try apply(small, to: a, into: p)
      }
    }
  }
}
