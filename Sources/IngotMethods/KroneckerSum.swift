internal import IngotErrors
internal import IngotLinearAlgebra

/// The operator X ↦ Σ wᵢ Oᵢ X Iᵢ + shift · X on m × n matrices, whose factors are read when they are used: one pair is in memory.
struct KroneckerSum {
  let weights: [Double]
  /// ε of the ridge.
  let shift: Double
  private let inputs: GramSides
  private let outputs: GramSides
  private let ratio: Double
  /// n × n and m × m (0 × 0 without output factors), with scratch to read them.
  private let input: Matrix<Double>
  private let output: Matrix<Double>
  private let stored: (input: Matrix<Float>, output: Matrix<Float>)
  private let half: Matrix<Double>

  var hasOutputs: Bool { !outputs.isEmpty }
  /// The models that take part.
  var models: [Int] { weights.indices.filter { weights[$0] > 0 } }

  init(
    _ inputs: GramSides, _ outputs: GramSides, _ rows: Int, _ columns: Int, weights: [Double], ratio: Double, ridge: Double,
    _ job: MatrixJob
  ) throws(IngotError) {
    let (workspace, m, n) = (job.workspace, outputs.isEmpty ? 0 : rows, columns)
    self.weights = weights
    self.inputs = inputs
    self.outputs = outputs
    self.ratio = ratio
    input = try workspace.matrix(n, n)
    output = try workspace.matrix(m, m)
    stored = (try workspace.matrix(n, n), try workspace.matrix(m, m))
    half = try workspace.matrix(m, n)
    guard ridge > 0, !job.isMeasuring else {
      shift = 0
      return
    }
    // The closures below may not look at a value that is not whole yet.
    let (own, other) = (input, output)
    var mean = 0.0
    for (model, weight) in weights.enumerated() where weight > 0 {
      try inputs.load(model, ratio: ratio, into: input, stored.input, job)
      var trace = (0..<n).reduce(0.0) { $0 + own[$1, $1] } / Double(max(n, 1))
      if m > 0 {
        try outputs.load(model, ratio: ratio, into: output, stored.output, job)
        trace *= (0..<m).reduce(0.0) { $0 + other[$1, $1] } / Double(m)
      }
      mean += weight * trace
    }
    shift = ridge * mean
  }

  /// Reads both factors of a model into the places of this operator.
  private func load(_ model: Int, _ job: MatrixJob) throws(IngotError) {
    try inputs.load(model, ratio: ratio, into: input, stored.input, job)
    if hasOutputs { try outputs.load(model, ratio: ratio, into: output, stored.output, job) }
  }

  /// target += w O X I of one model.
  func apply(_ model: Int, to x: Matrix<Double>, into target: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    try load(model, job)
    if hasOutputs { try job.algebra.multiply(output, x, into: half) }
    try job.algebra.multiply(hasOutputs ? half : x, input, into: target, alpha: weights[model], beta: 1)
  }

  /// target = the operator on X.
  func apply(to x: Matrix<Double>, into target: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    target.fill(0)
    target.add(x, times: shift)
    for model in job.isMeasuring ? Array(weights.indices.prefix(1)) : models { try apply(model, to: x, into: target, job) }
  }

  /// A model's factors, copied. `outputs` is not touched where there are none.
  func factors(_ model: Int, _ inputs: Matrix<Double>, _ outputs: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    try load(model, job)
    inputs.copy(input)
    if hasOutputs { outputs.copy(output) }
  }

  /// Σ wᵢ Iᵢ and Σ wᵢ Oᵢ.
  func sums(_ inputs: Matrix<Double>, _ outputs: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    inputs.fill(0)
    outputs.fill(0)
    for model in job.isMeasuring ? Array(weights.indices.prefix(1)) : models {
      try load(model, job)
      inputs.add(input, times: weights[model])
      if hasOutputs { outputs.add(output, times: weights[model]) }
    }
  }
}

/// Conjugate gradients on a `KroneckerSum`, with a preconditioner or a first guess where they are had cheaply.
///
/// Reports `route` (0 plain, 1 preconditioned by (Σ O) ⊗ (Σ I), 2 two models diagonalised together), `steps` and `residual`: ‖R‖ over that of the start.
struct ConjugateGradients {
  let equations: KroneckerSum
  let steps: Int
  let tolerance: Double
  private var route = 0.0
  /// Cholesky factors of the preconditioner.
  private var factors: (input: Matrix<Double>, output: Matrix<Double>)?
  private var firstNorm: Double?

  init(equations: KroneckerSum, steps: Int, tolerance: Double) {
    self.equations = equations
    self.steps = steps
    self.tolerance = tolerance
  }

  /// A Cholesky factorisation whose diagonal spans more than this is taken for singular.
  private static let leastRatio = 1e-6

  /// Chooses the cheap way by conditioning: a first guess for two models, else the preconditioner, else neither. What it cuts from the workspace must
  /// live until `solve` is done.
  mutating func begin(_ x: Matrix<Double>, _ residual: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let workspace = job.workspace
    let (m, n) = (equations.hasOutputs ? x.rows : 0, x.columns)
    if job.isMeasuring || equations.hasOutputs && equations.models.count == 2 {
      firstNorm = residual.norm
      let isSolved = try workspace.scope { () throws(IngotError) -> Bool in try diagonalise(x, residual, job) }
      if isSolved {
        route = 2
        if !job.isMeasuring { return }
      }
    }
    let pair: (input: Matrix<Double>, output: Matrix<Double>) = (try workspace.matrix(n, n), try workspace.matrix(m, m))
    try equations.sums(pair.input, pair.output, job)
    guard try isWellConditioned(pair.input, job), try isWellConditioned(pair.output, job) else { return }
    factors = pair
    route = 1
  }

  /// S becomes its Cholesky factor.
  private func isWellConditioned(_ s: Matrix<Double>, _ job: MatrixJob) throws(IngotError) -> Bool {
    guard try job.algebra.cholesky(s) else { return false }
    if job.isMeasuring || s.rows == 0 { return true }
    let diagonal = (0..<s.rows).map { s[$0, $0] }
    return (diagonal.min() ?? 0) > Self.leastRatio * (diagonal.max() ?? 0)
  }

  /// The solution for two models, where the second one's factors (or else the first one's) are well conditioned: with Pᵀ O₂ P = 1, Pᵀ O₁ P = diag a,
  /// Qᵀ I₂ Q = 1 and Qᵀ I₁ Q = diag b it is P [(Pᵀ R Q)_jk / (w₁ a_j b_k + w₂)] Qᵀ. Puts what is left into `residual`.
  private func diagonalise(_ x: Matrix<Double>, _ residual: Matrix<Double>, _ job: MatrixJob) throws(IngotError) -> Bool {
    let (workspace, algebra, m, n) = (job.workspace, job.algebra, x.rows, x.columns)
    let (q, p): (Matrix<Double>, Matrix<Double>) = (try workspace.matrix(n, n), try workspace.matrix(m, m))
    let (i, o): (Matrix<Double>, Matrix<Double>) = (try workspace.matrix(n, n), try workspace.matrix(m, m))
    let (b, a): (Matrix<Double>, Matrix<Double>) = (try workspace.vector(n), try workspace.vector(m))
    let both = job.isMeasuring ? [0, 0] : equations.models
    for (first, second) in [(both[0], both[1]), (both[1], both[0])] {
      try equations.factors(second, i, o, job)
      guard try isWellConditioned(i, job), try isWellConditioned(o, job) else { continue }
      try equations.factors(first, q, p, job)
      try reduce(q, by: i, values: b, job)
      try reduce(p, by: o, values: a, job)
      let half: Matrix<Double> = try workspace.matrix(m, n)
      let inside: Matrix<Double> = try workspace.matrix(m, n)
      try algebra.multiply(p, residual, into: half)
      try algebra.multiply(half, q, .transposed, into: inside)
      let (w, v) = (equations.weights[first], equations.weights[second])
      for j in 0..<(job.isMeasuring ? 0 : m) {
        for k in 0..<n { inside[j, k] /= w * max(a[j], 0) * max(b[k], 0) + v }
      }
      try algebra.multiply(p, .transposed, inside, into: half)
      try algebra.multiply(half, q, into: x)
      try equations.apply(to: x, into: half, job)
      residual.add(half, times: -1)
      return true
    }
    return false
  }

  /// Rows of `g` become the vectors v with v S vᵀ = 1 that diagonalise both G and S = L Lᵀ, whose factor is given; `values` those of v G vᵀ.
  private func reduce(_ g: Matrix<Double>, by factor: Matrix<Double>, values: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    try workspace.scope { () throws(IngotError) in
      let turned: Matrix<Double> = try workspace.matrix(g.rows, g.rows)
      try algebra.divide(g, byTransposeOf: factor)
      turned.copyTransposed(g)
      try algebra.divide(turned, byTransposeOf: factor)
      g.copy(turned)
      try algebra.eigen(g, values: values, workspace)
      try algebra.divide(g, byFactor: factor)
    }
  }

  /// z = the preconditioner's solution for r, or r.
  private func precondition(_ r: Matrix<Double>, into z: Matrix<Double>, _ turned: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    z.copy(r)
    guard let factors else { return }
    try job.algebra.solve(z, factor: factors.input)
    guard equations.hasOutputs else { return }
    turned.copyTransposed(z)
    try job.algebra.solve(turned, factor: factors.output)
    z.copyTransposed(turned)
  }

  /// x ← the solution, given x and the residual that it leaves, which becomes that of the new x.
  func solve(_ x: Matrix<Double>, _ r: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let workspace = job.workspace
    let z: Matrix<Double> = try workspace.matrix(x.rows, x.columns)
    let p: Matrix<Double> = try workspace.matrix(x.rows, x.columns)
    let image: Matrix<Double> = try workspace.matrix(x.rows, x.columns)
    let turned: Matrix<Double> = try workspace.matrix(x.columns, equations.hasOutputs ? x.rows : 0)
    let scale = firstNorm ?? r.norm
    try precondition(r, into: z, turned, job)
    p.copy(z)
    var product = r.dot(z)
    var taken = 0
    if job.isMeasuring { return try equations.apply(to: p, into: image, job) }
    while taken < steps, r.norm > tolerance * scale {
      try job.checkStop()
      try equations.apply(to: p, into: image, job)
      let curvature = p.dot(image)
      let length = product / curvature
      // Not above 0: the equations are singular along p, or rounding is all that is left.
      guard curvature > 0, product > 0, length.isFinite else { break }
      x.add(p, times: length)
      r.add(image, times: -length)
      taken += 1
      try precondition(r, into: z, turned, job)
      let next = r.dot(z)
      p.scale(by: next / product)
      p.add(z)
      product = next
    }
    job.report("route", route)
    job.report("steps", Double(taken))
    job.report("residual", scale > 0 ? r.norm / scale : 0)
  }
}
