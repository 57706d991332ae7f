package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// DOP: adds one model after the other, near the merge so far and near the new model in the subspaces that each one's task matrix uses.
///
/// For the merged task matrix τ_a and the next one τ_b, weights γ (`merged_weight` and the rest to 1): minimises Σ γᵢ (‖τᵢᵀ (W − τᵢ)‖² + ‖(W − τᵢ) τᵢᵀ‖²).
/// With Ā = Σ γᵢ τᵢ τᵢᵀ = Qᵀ Λ Q and B̄ = Σ γᵢ τᵢᵀ τᵢ = Pᵀ Γ P the minimum solves Ā W + W B̄ = 2 Σ γᵢ τᵢ τᵢᵀ τᵢ: each element of Q W Pᵀ by one division. Elements
/// whose Λⱼ + Γₖ is below 1e-12 of the largest are free and keep the mean of the two. That is `closed_form`, the minimum itself; `adam` is the paper's: from
/// the mean of the two, `iterations` steps of rate `lr`, with `mgda` the weights being a moving average (`ema_beta`, from γ) of those of least norm for
/// the gradients over their losses. `dop_space` keeps one of the two terms. `svd_epsilon` below 1 keeps of each τᵢ only the leading directions
/// whose singular values add up to less than that share (the paper's 0.99999, which leaves out at least the last one). Weights scale the task vectors.
/// Source: Continual Model Merging without Data: Dual Projections, NeurIPS 2025.
package struct DOP: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "dop", title: "DOP", summary: "Adds models one after the other by least squares in the subspaces that each uses.",
    formula: "W ← argmin Σ γᵢ (‖τᵢᵀ (W − τᵢ)‖² + ‖(W − τᵢ) τᵢᵀ‖²)",
    reference: .init("Continual Model Merging without Data: Dual Projections for Balancing Stability and Plasticity, NeurIPS 2025"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + [
      ParameterDescriptor(
        "merged_weight", .number(.fraction), "weight of what is merged already against the next model", default: .number(0.8)),
      ParameterDescriptor(
        "dop_solver", .choice(["closed_form", "adam"]), "closed_form: the minimum for fixed weights; adam: the paper's iteration",
        default: .text("closed_form"), paperDefault: .text("adam")),
      ParameterDescriptor(
        "dop_space", .choice(["uv", "u", "v"]), "the subspaces in which the result is to be near: of outputs and inputs, or of one of them",
        default: .text("uv")),
      ParameterDescriptor(
        "svd_epsilon", .number(.fraction), "share of a task matrix's singular values whose directions count; 1 keeps all",
        default: .number(1), paperDefault: .number(0.99999)),
      ParameterDescriptor("iterations", .integer(0...1_000_000), "steps of adam", default: .number(200)),
      ParameterDescriptor("lr", .number(NumberRange(from: .closed(0))), "step size of adam", default: .number(1e-4)),
      ParameterDescriptor(
        "mgda", .boolean, "adam finds the weights of the two from their gradients", default: .boolean(false),
        paperDefault: .boolean(true)),
      ParameterDescriptor(
        "ema_beta", .number(.fraction), "share of the weights so far at each step of mgda", default: .number(0.999)),
    ], scopes: [.tensor],
    notes: [
      "the result depends on the order of the models",
      "mgda needs dop_solver: adam",
    ])

  private let tasks: TaskMatrices
  private let mergedWeight: Double
  private let subspaces: DualSubspaces.Choice
  private let descent: DualDescent?

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    let segment = tasks.segment
    mergedWeight = segment.number("merged_weight") ?? 0.8
    subspaces = DualSubspaces.Choice(
      usesOutputs: segment.text("dop_space") != "v", usesInputs: segment.text("dop_space") != "u", share: segment.number("svd_epsilon") ?? 1
    )
    let usesGradients = segment.flag("mgda", default: false)
    guard segment.text("dop_solver") == "adam" else {
      if usesGradients {
        throw IngotError(
          .recipe, "'mgda' weighs gradients, and the closed form has none", hint: "add 'dop_solver: adam', or remove 'mgda'",
          subject: segment.name)
      }
      descent = nil
      return
    }
    descent = DualDescent(
      steps: Int(segment.number("iterations") ?? 200), rate: segment.number("lr") ?? 1e-4, weight: mergedWeight,
      beta: usesGradients ? segment.number("ema_beta") ?? 0.999 : nil)
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let merged = job.output
    try job.loadTaskMatrix(1, into: merged)
    merged.scale(by: tasks.weights[0])
    let next: Matrix<Float> = try job.workspace.matrix(job.rows, job.columns)
    for task in 1..<max(tasks.taskCount, 1) {
      try job.checkStop()
      try job.loadTaskMatrix(task + 1, into: next)
      next.scale(by: tasks.weights[task])
      try job.workspace.scope { () throws(IngotError) in try add(next, to: merged, job) }
    }
    try job.finish(delta: merged, scale: tasks.scale)
  }

  /// merged ← the minimum for it and the next one, or where the iteration ends.
  func add(_ next: Matrix<Float>, to merged: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    if let descent { try descent.combine(merged, next, subspaces, job) } else { try combine(merged, next, job) }
  }

  /// merged ← the minimum for these two.
  private func combine(_ merged: Matrix<Float>, _ next: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, m, n) = (job.algebra, job.workspace, job.rows, job.columns)
    let left: Matrix<Double> = try workspace.matrix(m, m)
    let right: Matrix<Double> = try workspace.matrix(n, n)
    let goal: Matrix<Double> = try workspace.matrix(m, n)
    left.fill(0)
    right.fill(0)
    goal.fill(0)
    for (matrix, weight) in [(merged, mergedWeight), (next, 1 - mergedWeight)] where weight > 0 || job.isMeasuring {
      try DualSubspaces(matrix, subspaces, job).add(to: left, right, goal: goal, weight: weight)
    }
    let (rows, columns): (Matrix<Double>, Matrix<Double>) = (try workspace.vector(m), try workspace.vector(n))
    try algebra.eigen(left, values: rows, workspace)
    try algebra.eigen(right, values: columns, workspace)
    let half: Matrix<Double> = try workspace.matrix(m, n)
    let turned: Matrix<Double> = try workspace.matrix(m, n)
    try algebra.multiply(left, goal, into: half)
    try algebra.multiply(half, right, .transposed, into: turned)
    // The start: the mean of the two, in the same bases.
    goal.copy(merged)
    goal.add(next)
    goal.scale(by: 0.5)
    let start = goal
    try algebra.multiply(left, start, into: half)
    try algebra.multiply(half, right, .transposed, into: start)
    let floor = 1e-12 * (max(m > 0 ? rows[m - 1] : 0, 0) + max(n > 0 ? columns[n - 1] : 0, 0))
    var free = 0
    for j in 0..<(job.isMeasuring ? 0 : m) {
      for k in 0..<n {
        let sum = rows[j] + columns[k]
        if sum > floor {
          turned[j, k] /= sum
        } else {
          turned[j, k] = start[j, k]
          free += 1
        }
      }
    }
    job.report("free_share", Double(free) / Double(max(m * n, 1)))
    try algebra.multiply(left, .transposed, turned, into: half)
    try algebra.multiply(half, right, into: turned)
    merged.copy(turned)
  }
}
