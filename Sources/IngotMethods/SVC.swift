package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// SVC (singular value calibration): scales down the directions of a merged task matrix in which the tasks' contributions have piled up.
///
/// M = U Σ Vᵀ is the merged task matrix: Σ wᵢ τᵢ (`calibrate: sum`), or that of the first model (`first`), which some other method has merged; the
/// models after it are then the tasks. With the rows a = Uᵀ M and aᵢ = Uᵀ τᵢ, s_ij = ⟨a_j, a_ij⟩ / ‖a_ij‖² says how many times task i's own part
/// the merge has along u_j: γ_j = T / Σᵢ max(α, s_ij), and M′ = U diag(γ) Uᵀ M. Only U is needed: from the Gram matrix, else the SVD. Directions below
/// `range_tolerance` keep γ = 1, a part a_ij of zero counts with α. Task vectors enter s without their weights. Degenerate: M = 0 gives W₀; equal
/// singular values leave their directions, and so γ, undetermined. Source: When Shared Knowledge Hurts, arXiv 2602.05536.
package struct SVC: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "svc", title: "SVC", summary: "Scales down the singular directions of a merge in which the tasks' contributions have piled up.",
    formula: "W₀ + λ U diag(γ) Uᵀ M,  γⱼ = T / Σᵢ max(α, ⟨uⱼᵀ M, uⱼᵀ τᵢ⟩ / ‖uⱼᵀ τᵢ‖²)",
    reference: .init(
      "When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging, arXiv 2602.05536", url: "https://arxiv.org/abs/2602.05536"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + [
      ParameterDescriptor(
        "calibrate", .choice(["sum", "first"]),
        "what is calibrated: the weighted sum of the task vectors, or the first model, a merge of those after it", default: .text("sum")),
      ParameterDescriptor(
        "svc_alpha", .number(NumberRange(from: .open(0))), "the least that a task counts for in a direction", default: .number(1)),
      .rangeTolerance,
    ], scopes: [.tensor],
    notes: [
      "with calibrate: first, tensors that are no matrices are the first model's, whatever rest says",
      "equal singular values of the merge leave the result undetermined",
    ],
    example: """
      merge_method: svc
      base_model: models/base
      models:
        - model: models/merged
        - model: models/french
        - model: models/code
      parameters: {calibrate: first}
      dtype: bfloat16
      """)

  private let tasks: TaskMatrices
  private let isGiven: Bool
  private let alpha: Double
  private let tolerance: Double
  package let rest: RestRule

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    isGiven = tasks.segment.text("calibrate") == "first"
    alpha = tasks.segment.number("svc_alpha") ?? 1
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    guard isGiven else {
      rest = tasks.rest
      return
    }
    guard tasks.taskCount >= 2 else {
      throw IngotError(
        .recipe, "'calibrate: first' takes the first model for a merge of the others, and there is one model beside the base",
        hint: "list the models that it was merged from behind it", subject: tasks.segment.name)
    }
    rest = RestRule(
      "task_arithmetic", weights: tasks.weights.enumerated().map { $0.offset == 0 ? $0.element : 0 }, scale: tasks.scale)
  }

  package var isMatrix: Bool { tasks.isMatrix }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, r) = (job.algebra, job.workspace, job.rank)
    let merged = job.output
    if isGiven {
      try job.loadTaskMatrix(1, into: merged)
      merged.scale(by: tasks.weights[0])
    } else {
      try job.sumTaskMatrices(weights: tasks.weights, into: merged)
    }
    let first = isGiven ? 1 : 0
    try workspace.scope { () throws(IngotError) in
      let left: Matrix<Float> = try workspace.matrix(r, job.rows)
      job.report(try algebra.leftVectors(merged, into: left, rangeTolerance: tolerance, workspace))
      let own: Matrix<Float> = try workspace.matrix(r, job.columns)
      let seen: Matrix<Float> = try workspace.matrix(r, job.columns)
      let tau: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      try algebra.multiply(left, merged, into: own)
      var counts = [Double](repeating: 0, count: r)
      for task in first..<tasks.taskCount {
        try job.checkStop()
        try job.loadTaskMatrix(task + 1, into: tau)
        try algebra.multiply(left, tau, into: seen)
        for j in 0..<(job.isMeasuring ? 0 : r) {
          let part = seen.rows(j..<j + 1)
          let square = part.dot(part)
          counts[j] += square > 0 ? max(alpha, own.rows(j..<j + 1).dot(part) / square) : alpha
        }
      }
      var (least, most) = (Double.infinity, 0.0)
      for j in 0..<(job.isMeasuring ? 0 : r) {
        let factor = Double(tasks.taskCount - first) / counts[j]
        own.rows(j..<j + 1).scale(by: Float(factor - 1))
        let vector = left.rows(j..<j + 1)
        if vector.dot(vector) > 0 { (least, most) = (min(least, factor), max(most, factor)) }
      }
      if most > 0 {
        job.report("least_factor", least)
        job.report("largest_factor", most)
      }
      // M + U diag(γ − 1) Uᵀ M: what lies outside the kept directions stays.
      try algebra.multiply(left, .transposed, own, into: merged, beta: 1)
    }
    try job.finish(delta: merged, scale: tasks.scale)
  }
}
