package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// Iso-CTS: a flat spectrum over the common subspace of the summed task matrices and over the leading directions each task has beside it.
///
/// With T tasks, r = min(m, n) and f = `common_space_fraction`: c₀ = ⌊f r⌋, n_t = round((r − c₀) / T) (half to even) directions for each task, c = r − T n_t
/// common ones (at least 0). U_c, σ_c, V_c are the leading c triplets of S = Σ wᵢ τᵢ; of each wᵢ τᵢ − U_c U_cᵀ wᵢ τᵢ the leading n_t follow. All
/// left and right vectors are made orthogonal by polar factors: W = W₀ + α · mean(σ) · Ũ Ṽ. Degenerate: no task vectors give W₀; directions of a task
/// below `range_tolerance` of the largest common one are left out, as rounding. Common directions, and what a task has outside them, are found in f64: beside
/// a sum a hundred times as large, as of bf16 weights, the rest of a task would be rounding in f32. Tall matrices may stream in panels (`panels`).
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
      .rangeTolerance, .panels,
    ], scopes: [.tensor], notes: ["a task sum of zero keeps the common directions out"])

  private let tasks: TaskMatrices
  private let tolerance: Double
  private let panels: PanelRule
  private let fraction: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    panels = PanelRule(tasks.segment)
    fraction = tasks.segment.number("common_space_fraction") ?? 0.8
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }
  package func streams(rows: Int, columns: Int) -> Bool { panels.streams(rows: rows, columns: columns) }

  /// How r directions are shared out: common ones, and those of each task.
  static func split(rank: Int, tasks: Int, fraction: Double) -> (common: Int, each: Int) {
    let left = rank - Int(Double(rank) * fraction)
    let each = min(Int((Double(left) / Double(max(tasks, 1))).rounded(.toNearestOrEven)), rank / max(tasks, 1))
    return (rank - each * tasks, each)
  }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let (common, each) = Self.split(rank: job.rank, tasks: tasks.taskCount, fraction: fraction)
    if job.isStreamed { return try stream(job, common: common, each: each) }
    let joined = try workspace.triplets(job.rank, rows: job.rows, columns: job.columns)
    try job.sumTaskMatrices(weights: tasks.weights, into: job.output)
    let shared = joined.part(0..<common)
    job.report(
      try algebra.singularTriplets(job.output, into: shared, rangeTolerance: tolerance, isExact: true, workspace), prefix: "common_")
    if each > 0 {
      let outside = try OrthogonalComplement(shared.left, job)
      for task in 0..<tasks.taskCount {
        try job.checkStop()
        try job.loadTaskMatrix(task + 1, into: job.output)
        if tasks.weights[task] != 1 { job.output.scale(by: tasks.weights[task]) }
        try outside.keep(job.output, job)
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

  /// The same of a tall matrix, handed on panel by panel. Of the long side U_c = S V_cᵀ Σ_c⁻¹ and Uᵢ = (τᵢ Vᵢᵀ − U_c Fᵢ) Σᵢ⁻¹ with Fᵢ = U_cᵀ τᵢ Vᵢᵀ.
  private func stream(_ job: MatrixJob, common: Int, each: Int) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let right = try TallMatrix.RightVectors(count: job.rank, columns: n, workspace)
    let shared = right.part(0..<common)
    let sum = TallMatrix.tasks(tasks.terms)
    try sum.rightVectors(into: shared, tolerance: tolerance, job)
    job.report("common_route", 1)
    let vectors = TallMatrix.shared(try TallMatrix.SharedPanel(sum.leftVectors(shared), job))
    var left = [vectors]
    for task in 0..<(each > 0 ? tasks.taskCount : 0) {
      let tau = TallMatrix.tasks([tasks.terms[task]])
      let start = common + task * each
      let own = right.part(start..<start + each)
      let seen: Matrix<Double> = try workspace.matrix(common, each)
      try workspace.scope { () throws(IngotError) in
        let inside: Matrix<Double> = try workspace.matrix(common, n)
        try vectors.cross(tau, into: inside, job)
        try TallMatrix.sum(tau, .product(vectors, inside), times: -1).rightVectors(into: own, tolerance: tolerance, job)
        own.clear(below: tolerance * shared.values[common - 1])
        try algebra.multiply(inside, own.vectors, .transposed, into: seen)
      }
      job.report("task_route", 1, model: task)
      left.append(.scaled(.sum(.projection(tau, own.vectors), .product(vectors, seen), times: -1), own.inverses))
    }
    let mean = (0..<job.rank).reduce(0.0) { $0 + right.values[$1] } / Double(max(job.rank, 1))
    try job.emitPolar(.joined(left), right.vectors, values: nil, tolerance: tolerance, scale: tasks.scale * mean)
  }
}

/// τ ↦ τ − Uᵀ U τ in f64, for orthonormal rows U (c × m), by panels of columns.
private struct OrthogonalComplement {
  private let vectors: Matrix<Double>

  /// Takes its memory from the job's workspace.
  init(_ rows: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    vectors = try job.workspace.matrix(rows.rows, rows.columns)
    vectors.copy(rows)
  }

  /// Columns of a panel.
  private static let width = 512

  func keep(_ tau: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    let length = min(Self.width, tau.columns)
    try job.workspace.scope { () throws(IngotError) in
      let panel: Matrix<Double> = try job.workspace.matrix(tau.rows, length)
      let seen: Matrix<Double> = try job.workspace.matrix(vectors.rows, length)
      for start in stride(from: 0, to: tau.columns, by: max(length, 1)) {
        let range = start..<min(start + length, tau.columns)
        let (part, inside) = (panel.columns(0..<range.count), seen.columns(0..<range.count))
        part.copy(tau.columns(range))
        try job.algebra.multiply(vectors, part, into: inside)
        try job.algebra.multiply(vectors, .transposed, inside, into: part, alpha: -1, beta: 1)
        tau.columns(range).copy(part)
      }
    }
  }
}
