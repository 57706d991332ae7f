package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// Iso-C: flattens the spectrum of the summed task matrices.
///
/// With S = Σ wᵢ τᵢ = U Σ Vᵀ (m × n, r = min(m, n)): W = W₀ + α · σ̄ · U Vᵀ, σ̄ = ‖S‖_* / r. U Vᵀ is the polar factor of S over its range, computed
/// without singular vectors where the condition allows. One m × n accumulator for any number of models. Degenerate: S = 0 gives W₀; directions
/// below `range_tolerance` · σ₁ stay out of U Vᵀ while σ̄ still divides by r. Bytes: each input once, the base twice. Tall matrices of 2²⁵ elements
/// or more, embeddings that is, are read and written in panels of rows, with memory for n × n alone: U Vᵀ = S (SᵀS)^(−1/2), by eigenvectors up to
/// n = 4096 and by `InverseRoot` beyond; bytes: each input twice, the base three times.
/// Source: Marczak et al., No Task Left Behind, arXiv 2502.04959.
package struct IsoC: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "iso_c", title: "Iso-C", summary: "Gives every direction of the summed task matrices the same strength.",
    formula: "W₀ + α (‖S‖_* / r) polar(S),  S = Σ wᵢ τᵢ",
    reference: .init("No Task Left Behind: Isotropic Model Merging, arXiv 2502.04959", url: "https://arxiv.org/abs/2502.04959"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + [
      .rangeTolerance, .polarRoute, .panels,
    ], scopes: [.tensor],
    notes: ["a task sum of zero keeps the base", "directions below range_tolerance are left out, which the reference fills arbitrarily"])

  private let tasks: TaskMatrices
  private let tolerance: Double
  private let route: PolarRoute
  private let panels: PanelRule

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    tolerance = tasks.segment.number("range_tolerance") ?? 1e-6
    route = tasks.segment.text("route").flatMap { PolarRoute(rawValue: $0) } ?? .automatic
    panels = PanelRule(tasks.segment, ratio: 2)
    if panels.isForced && route == .svd {
      throw IngotError(
        .recipe, "the SVD needs the whole matrix, and 'panels: always' keeps none", hint: "use 'route: eigen', or remove 'panels'",
        subject: tasks.segment.name)
    }
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }

  package func streams(rows: Int, columns: Int) -> Bool { route != .svd && panels.streams(rows: rows, columns: columns) }

  /// Up to this side the inverse root is taken by eigenvectors: exact also for a rank-deficient sum, for twice the memory.
  private static let eigenColumns = 4096

  package func merge(_ job: MatrixJob) throws(IngotError) {
    if job.isStreamed { return try mergePanels(job) }
    let sum: Matrix<Float> = try job.workspace.matrix(job.rows, job.columns)
    try job.sumTaskMatrices(weights: tasks.weights, into: sum)
    let polar = try job.algebra.polar(sum, into: job.output, route: route, rangeTolerance: tolerance, job.workspace)
    job.report(polar)
    try job.finish(delta: job.output, scale: tasks.scale * polar.nuclearNorm / Double(max(job.rank, 1)))
  }

  private func mergePanels(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let gram: Matrix<Double> = try workspace.matrix(n, n)
    if route == .eigen || route == .automatic && n <= Self.eigenColumns {
      let sum = TallMatrix.tasks(tasks.terms)
      try sum.gram(into: gram, job)
      let found = try job.factorInverseRoot(of: gram, tolerance: tolerance)
      job.report(found)
      let root: Matrix<Double> = try workspace.matrix(n, n)
      try algebra.gram(gram, into: root)
      return try TallMatrix.product(sum, root).emit(scale: tasks.scale * found.nuclearNorm / Double(max(job.rank, 1)), job)
    }
    let narrow: Matrix<Float> = try workspace.matrix(n, n)
    let panel: Matrix<Float> = try workspace.matrix(job.output.rows, n)
    gram.fill(0)
    try job.forEachTaskSum(weights: tasks.weights, in: panel) { (_, sum) throws(IngotError) in
      try algebra.accumulateGram(widening: sum, into: gram, workspace)
    }
    let root = try InverseRoot(of: gram, narrow: narrow, rangeTolerance: tolerance, algebra, workspace)
    job.report(root.report)
    let scale = tasks.scale * root.report.nuclearNorm / Double(max(job.rank, 1))
    try job.forEachTaskSum(weights: tasks.weights, in: panel) { (range, sum) throws(IngotError) in
      try root.apply(to: sum, into: job.output.rows(0..<sum.rows), workspace)
      try job.finish(range, scale: scale)
      try job.emit(range)
    }
  }
}

extension ParameterDescriptor {
  static let rangeTolerance = ParameterDescriptor(
    "range_tolerance", .number(.fraction),
    "singular values up to this share of the largest count as zero; below 1e-7 float32 resolves nothing",
    default: .number(1e-6))

  static let polarRoute = ParameterDescriptor(
    "route", .choice(["auto", "halley", "eigen", "svd"]),
    "how the polar factor is computed: by size and conditioning, by Halley's iteration where that converges, by eigenvectors of the Gram matrix, or by the SVD",
    default: .text("auto"))
}
