package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// TSV-M: keeps the leading singular vectors of each task matrix and makes those of different tasks orthogonal to each other.
///
/// For T tasks and r = min(m, n): the k = ⌊r / T⌋ (at least 1) leading triplets of every wᵢ τᵢ, concatenated to B (m × Tk), s and C (Tk × n); then
/// W = W₀ + α · polar(B) diag(s) polar(C). One model gives W₀ + α w τ. Polar factors are over the range, so tasks that share a direction share it.
/// More models than r: one direction each, of which the polar factors keep r. Bytes: base and inputs once, the base twice more; of tall matrices in
/// panels (`panels`), which keep nothing of the long side, base and inputs three times each.
/// Source: Gargiulo et al., Task Singular Vectors, arXiv 2412.00081.
package struct TSVM: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "tsv_m", title: "TSV-M", summary: "Concatenates the tasks' leading singular vectors and decorrelates them.",
    formula: "W₀ + α polar([U₁ … U_T]) diag(σ) polar([V₁; …; V_T])",
    reference: .init(
      "Task Singular Vectors: Reducing Task Interference in Model Merging, arXiv 2412.00081", url: "https://arxiv.org/abs/2412.00081"),
    base: .required, models: 1...Int.max, parameters: ParameterDescriptor.taskMatrices() + [.rangeTolerance, .panels], scopes: [.tensor],
    notes: [
      "a single model gives its own task vector",
      "with more models than the shorter side of a matrix each keeps one direction",
    ])

  private let tasks: TaskMatrices
  private let tolerance: Double
  private let panels: PanelRule

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    panels = PanelRule(tasks.segment)
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }
  package func streams(rows: Int, columns: Int) -> Bool { panels.streams(rows: rows, columns: columns) }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    if tasks.taskCount == 1 {
      if job.isStreamed { return try TallMatrix.tasks(tasks.terms).emit(scale: tasks.scale, job) }
      try job.sumTaskMatrices(weights: tasks.weights, into: job.output)
      return try job.finish(delta: job.output, scale: tasks.scale)
    }
    let ranks = [Int](repeating: max(job.rank / tasks.taskCount, 1), count: tasks.taskCount)
    if job.isStreamed {
      return try TSVM.stream(job, weights: tasks.terms.map(\.weight), ranks: ranks, tolerance: tolerance, scale: tasks.scale)
    }
    try TSVM.merge(job, weights: tasks.weights, ranks: ranks, tolerance: tolerance)
    try job.finish(delta: job.output, scale: tasks.scale)
  }

  /// The same of a tall matrix, handed on panel by panel: the vectors of the long side are Uᵢ = wᵢ τᵢ Vᵢᵀ Σᵢ⁻¹ and never stored.
  static func stream(_ job: MatrixJob, weights: [Double], ranks: [Int], tolerance: Double, scale: Double) throws(IngotError) {
    let right = try TallMatrix.RightVectors(count: ranks.reduce(0, +), columns: job.columns, job.workspace)
    var left: [TallMatrix] = []
    var start = 0
    for (task, rank) in ranks.enumerated() {
      let own = right.part(start..<start + rank)
      let tau = TallMatrix.tasks([(task, weights[task])])
      try tau.rightVectors(into: own, tolerance: tolerance, job)
      job.report("task_route", 1, model: task)
      left.append(tau.leftVectors(own))
      start += rank
    }
    try job.emitPolar(.joined(left), right.vectors, values: right.values, tolerance: tolerance, scale: scale)
  }

  /// polar(B) diag(s) polar(C) of the leading `ranks[i]` triplets of each weighted task matrix, into `job.output`.
  static func merge(_ job: MatrixJob, weights: [Float], ranks: [Int], tolerance: Double) throws(IngotError) {
    let total = ranks.reduce(0, +)
    let (algebra, workspace) = (job.algebra, job.workspace)
    try workspace.scope { () throws(IngotError) in
      let joined = try workspace.triplets(total, rows: job.rows, columns: job.columns)
      var start = 0
      for (task, rank) in ranks.enumerated() {
        try job.checkStop()
        let range = start..<start + rank
        try workspace.scope { () throws(IngotError) in
          // The output is free until the end: it holds the task matrix.
          try job.loadTaskMatrix(task + 1, into: job.output)
          if weights[task] != 1 { job.output.scale(by: weights[task]) }
          let found = try algebra.singularTriplets(job.output, into: joined.part(range), rangeTolerance: tolerance, workspace)
          job.report(found, prefix: "task_", model: task)
        }
        start += rank
      }
      let left: Matrix<Float> = try workspace.matrix(total, job.rows)
      job.report(try algebra.polar(joined.left, into: left, rangeTolerance: tolerance, workspace), prefix: "left_")
      // The vectors' place is taken by the scaled polar factor.
      let right = joined.right
      let turned: Matrix<Float> = try workspace.matrix(total, job.columns)
      job.report(try algebra.polar(right, into: turned, rangeTolerance: tolerance, workspace), prefix: "right_")
      let values: Matrix<Float> = try workspace.vector(total)
      values.copy(joined.values)
      turned.scaleRows(by: values)
      try algebra.multiply(left, .transposed, turned, into: job.output)
    }
  }
}
