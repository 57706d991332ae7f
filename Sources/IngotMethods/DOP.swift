package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// DOP: adds one model after the other, near the merge so far and near the new model in the subspaces that each one's task matrix uses.
///
/// For the merged task matrix τ_a and the next one τ_b, weights γ (`merged_weight` and the rest to 1): minimises Σ γᵢ (‖τᵢᵀ (W − τᵢ)‖² + ‖(W − τᵢ) τᵢᵀ‖²).
/// With Ā = Σ γᵢ τᵢ τᵢᵀ = Qᵀ Λ Q and B̄ = Σ γᵢ τᵢᵀ τᵢ = Pᵀ Γ P the minimum solves Ā W + W B̄ = 2 Σ γᵢ τᵢ τᵢᵀ τᵢ: each element of Q W Pᵀ by one division. Elements
/// whose Λⱼ + Γₖ is below 1e-12 of the largest are free and keep the mean of the two. This is the minimum itself with fixed weights, all
/// directions kept; the paper stops Adam after 200 steps and may choose the weights by MGDA. Weights scale the task vectors.
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
        "merged_weight", .number(.fraction), "weight of what is merged already against the next model", default: .number(0.8))
    ], scopes: [.tensor],
    notes: [
      "the result depends on the order of the models",
      "the closed form of the paper's problem with fixed weights, not its early-stopped Adam",
    ])

  private let tasks: TaskMatrices
  private let mergedWeight: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    mergedWeight = tasks.segment.number("merged_weight") ?? 0.8
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
      try job.workspace.scope { () throws(IngotError) in try combine(merged, next, job) }
    }
    try job.finish(delta: merged, scale: tasks.scale)
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
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(n, n)
      let wide: Matrix<Double> = try workspace.matrix(m, n)
      for (matrix, weight) in [(merged, mergedWeight), (next, 1 - mergedWeight)] where weight > 0 || job.isMeasuring {
        try algebra.accumulateGram(widening: matrix, .transposed, alpha: weight, into: left, workspace)
        try algebra.gram(widening: matrix, into: gram, workspace)
        right.add(gram, times: weight)
        wide.copy(matrix)
        try algebra.multiply(wide, gram, into: goal, alpha: 2 * weight, beta: 1)
      }
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
