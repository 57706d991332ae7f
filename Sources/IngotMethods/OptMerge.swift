package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// OptMerge: WUDI on task matrices from which the noise has been taken.
///
/// K = ⌊r / T⌋ (at least 1). Minimises Σ ‖(θ − Tᵢ) Lᵢᵀ‖² / ‖τᵢ‖² where Lᵢ is the rank-K truncation of τᵢ itself. `variant: full` (full fine-tuning):
/// Tᵢ = τ̄ + [τᵢ − τ̄]_K, start Σ τᵢ, Adam; `variant: lora`: Tᵢ = [τᵢ]_K, start τ̄, gradient descent with momentum 0.9 and rate `lr`. The other
/// solvers are those of WUDI. [·]_K keeps the K leading singular triplets. Weights scale the task vectors. A zero task vector takes no part.
/// Source: Wei et al., Unifying Multimodal LLM Capabilities and Modalities via Model Merging, arXiv 2505.19892.
package struct OptMerge: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "optmerge", title: "OptMerge", summary: "WUDI-Merging on task matrices cut to their leading singular directions.",
    formula: "W₀ + α argmin_θ Σ ‖(θ − Tᵢ) [τᵢ]_Kᵀ‖² / ‖τᵢ‖²",
    reference: .init(
      "Unifying Multimodal LLM Capabilities and Modalities via Model Merging, arXiv 2505.19892", url: "https://arxiv.org/abs/2505.19892"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + ParameterDescriptor.interference + [
      ParameterDescriptor(
        "variant", .choice(["full", "lora"]),
        "full: for full fine-tuning, from the sum of the task vectors; lora: for adapters, from their mean",
        default: .text("full")),
      .rangeTolerance,
    ], scopes: [.tensor],
    notes: [
      "a task vector of zero takes no part",
      "solver: adam means momentum descent under variant: lora, for which the paper's rate is 1e-4",
    ])

  private let tasks: TaskMatrices
  private let solver: InterferenceSolver
  private let isLoRA: Bool
  private let tolerance: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    isLoRA = tasks.segment.text("variant") == "lora"
    var solver = InterferenceSolver(tasks.segment)
    solver.descendsWithMomentum = isLoRA
    self.solver = solver
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let count = max(job.rank / tasks.taskCount, 1)
    let share = 1 / Float(tasks.taskCount)
    let normal = try InterferenceSystem(job)
    let tau: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    // The output holds the mean until the start is formed.
    try job.sumTaskMatrices(weights: tasks.weights.map { $0 * share }, into: job.output)
    try workspace.scope { () throws(IngotError) in
      let target: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      let triplets = try workspace.triplets(count, rows: job.rows, columns: job.columns)
      let values: Matrix<Float> = try workspace.vector(count)
      for task in 0..<tasks.taskCount {
        try job.checkStop()
        try job.loadTaskMatrix(task + 1, into: tau)
        if tasks.weights[task] != 1 { tau.scale(by: tasks.weights[task]) }
        let squared = tau.dot(tau)
        guard squared > 0 || job.isMeasuring else { continue }
        if !isLoRA {
          tau.add(job.output, times: -1)
          try algebra.singularTriplets(tau, into: triplets, rangeTolerance: tolerance, workspace)
          values.copy(triplets.values)
          triplets.right.scaleRows(by: values)
          target.copy(job.output)
          try algebra.multiply(triplets.left, .transposed, triplets.right, into: target, beta: 1)
          tau.add(job.output)
        }
        let found = try algebra.singularTriplets(tau, into: triplets, rangeTolerance: tolerance, workspace)
        job.report(found, prefix: "task_", model: task)
        values.copy(triplets.values)
        triplets.right.scaleRows(by: values)
        if isLoRA { try algebra.multiply(triplets.left, .transposed, triplets.right, into: target) }
        // Σ V of the leading triplets: the zero rows of the reference add nothing.
        try normal.add(projector: triplets.right, target: target, weight: 1 / squared, algebra, workspace)
      }
    }
    if !isLoRA { job.output.scale(by: Float(tasks.taskCount)) }
    try solver.solve(normal, job, tau)
    try job.finish(delta: job.output, scale: tasks.scale)
  }
}
