package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// Iso-CTS: a flat spectrum over the common subspace of the summed task matrices and over the leading directions each task has beside it.
///
/// With T tasks, r = min(m, n) and f = `common_space_fraction`: c₀ = ⌊f r⌋, n_t = round((r − c₀) / T) (half to even) directions for each task, c = r − T n_t
/// common ones (at least 0). U_c, σ_c, V_c are the leading c triplets of S = Σ wᵢ τᵢ; of each wᵢ τᵢ − U_c U_cᵀ wᵢ τᵢ the leading n_t follow. All
/// left and right vectors are made orthogonal by polar factors: W = W₀ + α · mean(σ) · Ũ Ṽ. Degenerate: no task vectors give W₀; directions of a task
/// below `range_tolerance` of the largest common one are left out, as rounding.
/// Source: Marczak et al., No Task Left Behind, arXiv 2502.04959.
package struct IsoCTS: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "iso_cts", title: "Iso-CTS", summary: "Iso-C with room in the spectrum for directions of single tasks.",
    formula: "W₀ + α mean(σ) polar([U_c U₁ … U_T]) polar([V_c; V₁; …; V_T])",
    reference: .init("No Task Left Behind: Isotropic Model Merging, arXiv 2502.04959", url: "https://arxiv.org/abs/2502.04959"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + [
      ParameterDescriptor(
        "common_space_fraction", .number(.fraction), "share of the directions that the tasks have in common", default: .number(0.8)),
      .rangeTolerance,
    ], scopes: [.tensor], notes: ["a task sum of zero keeps the common directions out"])

  private let tasks: TaskMatrices
  private let tolerance: Double
  private let fraction: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    fraction = tasks.segment.number("common_space_fraction") ?? 0.8
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }

  /// How r directions are shared out: common ones, and those of each task.
  static func split(rank: Int, tasks: Int, fraction: Double) -> (common: Int, each: Int) {
    let left = rank - Int(Double(rank) * fraction)
    let each = min(Int((Double(left) / Double(max(tasks, 1))).rounded(.toNearestOrEven)), rank / max(tasks, 1))
    return (rank - each * tasks, each)
  }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let (common, each) = Self.split(rank: job.rank, tasks: tasks.taskCount, fraction: fraction)
    let joined = try workspace.triplets(job.rank, rows: job.rows, columns: job.columns)
    try job.sumTaskMatrices(weights: tasks.weights, into: job.output)
    let shared = joined.part(0..<common)
    job.report(try algebra.singularTriplets(job.output, into: shared, rangeTolerance: tolerance, workspace), prefix: "common_")
    if each > 0 {
      let inside: Matrix<Float> = try workspace.matrix(common, job.columns)
      for task in 0..<tasks.taskCount {
        try job.checkStop()
        try job.loadTaskMatrix(task + 1, into: job.output)
        if tasks.weights[task] != 1 { job.output.scale(by: tasks.weights[task]) }
        // Out of the common left space: τ ← τ − U_c (U_cᵀ τ).
        try algebra.multiply(shared.left, job.output, into: inside)
        try algebra.multiply(shared.left, .transposed, inside, into: job.output, alpha: -1, beta: 1)
        let start = common + task * each
        let own = joined.part(start..<start + each)
        job.report(
          try algebra.singularTriplets(job.output, into: own, rangeTolerance: tolerance, workspace), prefix: "task_", model: task)
        // Of a task that the common directions hold whole only rounding is left, which would be made as strong as all others.
        own.clear(below: tolerance * shared.values[common - 1])
      }
    }
    let left: Matrix<Float> = try workspace.matrix(job.rank, job.rows)
    job.report(try algebra.polar(joined.left, into: left, rangeTolerance: tolerance, workspace), prefix: "left_")
    let right: Matrix<Float> = try workspace.matrix(job.rank, job.columns)
    job.report(try algebra.polar(joined.right, into: right, rangeTolerance: tolerance, workspace), prefix: "right_")
    try algebra.multiply(left, .transposed, right, into: job.output)
    let mean = (0..<job.rank).reduce(0.0) { $0 + joined.values[$1] } / Double(max(job.rank, 1))
    try job.finish(delta: job.output, scale: tasks.scale * mean)
  }
}
