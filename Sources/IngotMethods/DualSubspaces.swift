internal import IngotErrors
internal import IngotLinearAlgebra

/// The subspaces that a task matrix τ uses, as DOP sees them: A = τ τᵀ of its outputs and B = τᵀ τ of its inputs, or of its leading directions.
struct DualSubspaces {
  struct Choice: Sendable {
    var usesOutputs: Bool
    var usesInputs: Bool
    /// Leading directions count as long as their singular values add up to less than this share of all; 1 keeps all.
    var share: Double
  }

  private let tau: Matrix<Float>
  private let choice: Choice
  private let job: MatrixJob

  init(_ tau: Matrix<Float>, _ choice: Choice, _ job: MatrixJob) {
    self.tau = tau
    self.choice = choice
    self.job = job
  }

  /// left += w A (lower triangle), right += w B, goal += w (A τ + τ B); what the choice leaves out adds nothing.
  func add(to left: Matrix<Double>, _ right: Matrix<Double>, goal: Matrix<Double>, weight: Double) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    // A τ and τ B are the same.
    let times = (choice.usesOutputs ? weight : 0) + (choice.usesInputs ? weight : 0)
    try workspace.scope { () throws(IngotError) in
      if choice.share >= 1 {
        let gram: Matrix<Double> = try workspace.matrix(job.columns, job.columns)
        let wide: Matrix<Double> = try workspace.matrix(job.rows, job.columns)
        if choice.usesOutputs { try algebra.accumulateGram(widening: tau, .transposed, alpha: weight, into: left, workspace) }
        try algebra.gram(widening: tau, into: gram, workspace)
        if choice.usesInputs { right.add(gram, times: weight) }
        wide.copy(tau)
        return try algebra.multiply(wide, gram, into: goal, alpha: times, beta: 1)
      }
      let (u, v) = try leading()
      // Rows σ u and σ v; then σ² u.
      if choice.usesOutputs { try algebra.accumulateGram(u, into: left, alpha: weight, beta: 1) }
      if choice.usesInputs {
        let gram: Matrix<Double> = try workspace.matrix(job.columns, job.columns)
        try algebra.gram(v, into: gram)
        right.add(gram, times: weight)
      }
      for j in 0..<u.rows {
        let row = u.rows(j..<j + 1)
        row.scale(by: row.norm)
      }
      try algebra.multiply(u, .transposed, v, into: goal, alpha: times, beta: 1)
    }
  }

  /// The leading directions as rows σ u (q × m) and σ v (q × n).
  private func leading() throws(IngotError) -> (u: Matrix<Double>, v: Matrix<Double>) {
    let (workspace, r) = (job.workspace, job.rank)
    let u: Matrix<Double> = try workspace.matrix(r, job.rows)
    let v: Matrix<Double> = try workspace.matrix(r, job.columns)
    var kept = job.isMeasuring ? r : 0
    try workspace.scope { () throws(IngotError) in
      let triplets = try workspace.triplets(r, rows: job.rows, columns: job.columns)
      try job.algebra.singularTriplets(tau, into: triplets, rangeTolerance: 1e-6, workspace)
      u.copy(triplets.left)
      v.copy(triplets.right)
      u.scaleRows(by: triplets.values)
      v.scaleRows(by: triplets.values)
      let total = (0..<r).reduce(0.0) { $0 + triplets.values[$1] }
      var running = 0.0
      while kept < r {
        running += triplets.values[r - 1 - kept]
        if running >= choice.share * total { break }
        kept += 1
      }
    }
    return (u.rows(r - kept..<r), v.rows(r - kept..<r))
  }
}

/// DOP's iteration for two task matrices: Adam on Σ γᵢ Lᵢ(W), Lᵢ = ⟨W − τᵢ, Aᵢ (W − τᵢ) + (W − τᵢ) Bᵢ⟩, from their mean.
struct DualDescent: Sendable {
  let steps: Int
  let rate: Double
  /// γ of the first matrix.
  let weight: Double
  /// Of the moving average of the weights that the gradients give; nil keeps γ.
  let beta: Double?

  private struct Side {
    var target: Matrix<Float>
    var left: Matrix<Float>
    var right: Matrix<Float>
    var gradient: Matrix<Float>

    init(_ tau: Matrix<Float>, _ choice: DualSubspaces.Choice, _ job: MatrixJob) throws(IngotError) {
      let (workspace, m, n) = (job.workspace, job.rows, job.columns)
      target = tau
      left = try workspace.matrix(m, m)
      right = try workspace.matrix(n, n)
      gradient = try workspace.matrix(m, n)
      try workspace.scope { () throws(IngotError) in
        let a: Matrix<Double> = try workspace.matrix(m, m)
        let b: Matrix<Double> = try workspace.matrix(n, n)
        let goal: Matrix<Double> = try workspace.matrix(m, n)
        a.fill(0)
        b.fill(0)
        goal.fill(0)
        try DualSubspaces(tau, choice, job).add(to: a, b, goal: goal, weight: 1)
        a.mirrorLowerTriangle()
        left.copy(a)
        right.copy(b)
      }
    }

    /// The loss at W; `gradient` becomes 2 (A (W − τ) + (W − τ) B). `difference` is scratch.
    func evaluate(_ w: Matrix<Float>, _ difference: Matrix<Float>, _ algebra: LinearAlgebra) throws(IngotError) -> Double {
      difference.copy(w)
      difference.add(target, times: -1)
      try algebra.multiply(left, difference, into: gradient, alpha: 2)
      try algebra.multiply(difference, right, into: gradient, alpha: 2, beta: 1)
      return difference.dot(gradient) / 2
    }
  }

  /// merged ← the iteration's end for it and `next`.
  func combine(
    _ merged: Matrix<Float>, _ next: Matrix<Float>, _ choice: DualSubspaces.Choice, _ job: MatrixJob
  ) throws(IngotError) {
    let (workspace, algebra) = (job.workspace, job.algebra)
    let (first, second) = (try Side(merged, choice, job), try Side(next, choice, job))
    let w: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let difference: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let mean: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let square: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    w.copy(merged)
    w.add(next)
    w.scale(by: 0.5)
    mean.fill(0)
    square.fill(0)
    var share = weight
    var (power, otherPower) = (1.0, 1.0)
    for step in 0..<(job.isMeasuring ? 0 : steps) {
      if step % 16 == 0 { try job.checkStop() }
      let losses = (try first.evaluate(w, difference, algebra), try second.evaluate(w, difference, algebra))
      if let beta, let found = Self.leastNorm(first.gradient, second.gradient, losses) { share = beta * share + (1 - beta) * found }
      let gradient = first.gradient
      gradient.scale(by: Float(share))
      gradient.add(second.gradient, times: Float(1 - share))
      power *= 0.9
      otherPower *= 0.999
      w.adamStep(
        gradient: gradient, first: mean, second: square, rate: Float(rate / (1 - power)), correction: Float((1 - otherPower).squareRoot()))
    }
    job.report("steps", Double(steps))
    job.report("merged_weight", share)
    merged.copy(w)
  }

  /// The share of the first of two gradients, each over its loss, in their convex combination of least norm; nil where a loss is 0.
  private static func leastNorm(_ first: Matrix<Float>, _ second: Matrix<Float>, _ losses: (Double, Double)) -> Double? {
    guard losses.0 > 0, losses.1 > 0 else { return nil }
    let one = first.dot(first) / (losses.0 * losses.0)
    let two = second.dot(second) / (losses.1 * losses.1)
    let cross = first.dot(second) / (losses.0 * losses.1)
    let apart = one + two - 2 * cross
    guard apart > 0, apart.isFinite else { return nil }
    return min(max((two - cross) / apart, 0), 1)
  }
}
