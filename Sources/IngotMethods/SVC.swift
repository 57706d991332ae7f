package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// SVC (singular value calibration): scales down the directions of a merged task matrix in which the tasks' contributions have piled up.
///
/// M = U Σ Vᵀ is the merged task matrix: Σ wᵢ τᵢ (`calibrate: sum`), or that of the first model (`first`), which some other method has merged; the
/// models after it are then the tasks. With the rows a = Uᵀ M and aᵢ = Uᵀ τᵢ, s_ij = ⟨a_j, a_ij⟩ / ‖a_ij‖² says how many times task i's own part
/// the merge has along u_j: γ_j = T / Σᵢ max(α, s_ij), and M′ = U diag(γ) Uᵀ M. Only U is needed: from the Gram matrix, else the SVD. Directions below
/// `range_tolerance` keep γ = 1, a part a_ij of zero counts with α. Task vectors enter s without their weights. Degenerate: M = 0 gives W₀; equal
/// singular values leave their directions, and so γ, undetermined. Tall matrices may stream in panels (`panels`). Source: When Shared Knowledge Hurts, arXiv 2602.05536.
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
      .rangeTolerance, .panels,
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
  private let panels: PanelRule
  package let rest: RestRule

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    isGiven = tasks.segment.text("calibrate") == "first"
    alpha = tasks.segment.number("svc_alpha") ?? 1
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    panels = PanelRule(tasks.segment)
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
  package func streams(rows: Int, columns: Int) -> Bool { panels.streams(rows: rows, columns: columns) }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    if job.isStreamed { return try stream(job) }
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
        count(seen, own, into: &counts)
      }
      let factors = factors(counts, job) { left.rows($0..<$0 + 1).norm > 0 }
      for j in factors.indices { own.rows(j..<j + 1).scale(by: Float(factors[j] - 1)) }
      // M + U diag(γ − 1) Uᵀ M: what lies outside the kept directions stays.
      try algebra.multiply(left, .transposed, own, into: merged, beta: 1)
    }
    try job.finish(delta: merged, scale: tasks.scale)
  }

  /// Adds max(α, ⟨own part, task's part⟩ / ‖task's part‖²) in every direction.
  private func count<Element: MatrixElement>(_ seen: Matrix<Element>, _ own: Matrix<Element>, into counts: inout [Double]) {
    for j in 0..<(seen.isMeasured ? 0 : seen.rows) {
      let part = seen.rows(j..<j + 1)
      let square = part.dot(part)
      counts[j] += square > 0 ? max(alpha, own.rows(j..<j + 1).dot(part) / square) : alpha
    }
  }

  /// γ of every direction; the report has the least and the largest of those that are there.
  private func factors(_ counts: [Double], _ job: MatrixJob, isKept: (Int) -> Bool) -> [Double] {
    if job.isMeasuring { return [] }
    let factors = counts.map { Double(tasks.taskCount - (isGiven ? 1 : 0)) / $0 }
    let kept = factors.indices.filter(isKept).map { factors[$0] }
    if let least = kept.min(), let most = kept.max() {
      job.report("least_factor", least)
      job.report("largest_factor", most)
    }
    return factors
  }

  /// The same of a tall matrix, handed on panel by panel: M′ = M (I + Vᵀ diag(γ − 1) V), and of Uᵀ τᵢ = Σ⁻¹ V Mᵀ τᵢ only the short side is needed.
  private func stream(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let merged = TallMatrix.tasks(isGiven ? [tasks.terms[0]] : tasks.terms)
    let kept: Matrix<Double> = try workspace.matrix(n, n)
    try workspace.scope { () throws(IngotError) in
      let found = try TallMatrix.RightVectors(count: n, columns: n, workspace)
      try merged.rightVectors(into: found, tolerance: tolerance, job)
      job.report("route", 1)
      let own: Matrix<Double> = try workspace.matrix(n, n)
      let seen: Matrix<Double> = try workspace.matrix(n, n)
      own.copy(found.vectors)
      own.scaleRows(by: found.values)
      var counts = [Double](repeating: 0, count: n)
      for task in (isGiven ? 1 : 0)..<tasks.taskCount {
        // The place of the end's coefficients is free until then.
        try merged.cross(.tasks([(task, 1)]), into: kept, job)
        try algebra.multiply(found.vectors, kept, into: seen)
        seen.scaleRows(by: found.inverses)
        count(seen, own, into: &counts)
      }
      let factors = factors(counts, job) { found.values[$0] > 0 }
      own.copy(found.vectors)
      for j in factors.indices { own.rows(j..<j + 1).scale(by: factors[j] - 1) }
      kept.fill(0)
      kept.addToDiagonal(1)
      try algebra.multiply(found.vectors, .transposed, own, into: kept, beta: 1)
    }
    try TallMatrix.product(merged, kept).emit(scale: tasks.scale, job)
  }
}
