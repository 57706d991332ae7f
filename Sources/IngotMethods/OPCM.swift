package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// OPCM: adds one model after the other, each without what it says along the singular directions of the merge so far.
///
/// D₁ = τ₁; for every further model, in the recipe's order, D = U Σ Vᵀ (thin, σ above `range_tolerance` · σ₁), dⱼ = uⱼᵀ τ vⱼ, q the number of leading σ
/// before their running share exceeds `projection_alpha`, E = U_qᵀ τ V_q without its diagonal: D ← D + τ − U diag(d) Vᵀ − U_q E V_qᵀ. Tensors that are
/// no matrices add τ whole. At the end W = W₀ + D · N̄ / ‖D‖, N̄ the mean of the models' ‖τ‖, norms over all merged tensors. (The paper
/// scales after every model; as it takes the scale back before the next, only the last one counts.) Degenerate: ‖D‖ = 0 gives W₀; equal σ leave
/// their directions, and so d, undetermined. Of tall matrices that stream in panels (`panels`) D is never whole: D Zₜ + τₜ with an n × n matrix Zₜ for each
/// further model. Source: Tang et al., Merging Models on the Fly Without Retraining, arXiv 2501.09522.
package struct OPCM: ModelMatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "opcm", title: "OPCM", summary: "Adds models one after the other, orthogonally to what is merged already.",
    formula: "D ← D + τ − U diag(Uᵀ τ V) Vᵀ − U_q E V_qᵀ;  W₀ + D N̄ / ‖D‖",
    reference: .init("Merging Models on the Fly Without Retraining, arXiv 2501.09522", url: "https://arxiv.org/abs/2501.09522"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "projection_alpha", .number(.fraction),
        "share of the singular values whose directions are closed to further models altogether", default: .number(0.5)),
      ParameterDescriptor(
        "embeddings", .choice(["rest", "matrix"]),
        "whether embeddings and output heads follow the rest rule, or are matrices like others (costly, and their spectra follow token frequency)",
        default: .text("rest")),
      .rangeTolerance, .panels,
    ], scopes: [.model],
    notes: ["the result depends on the order of the models", "tensors that are no matrices add up without a projection"])

  private let matrices: [Bool]
  private let count: Int
  private let threshold: Double
  private let tolerance: Double
  private let panels: PanelRule

  package init(_ request: MethodRequest) throws(IngotError) {
    let first = try request.onlySegment()
    guard request.hasBase, request.modelCount >= 1 else {
      throw IngotError(.recipe, "the method needs a base model and at least one other", hint: "give base_model", subject: first.name)
    }
    var matrices: [Bool] = []
    for segment in request.segments { matrices.append(try TaskMatrices.isMatrix(segment)) }
    self.matrices = matrices
    count = request.modelCount
    threshold = first.number("projection_alpha") ?? 0.5
    tolerance = first.number("range_tolerance") ?? 1e-6
    panels = PanelRule(first)
  }

  package func isMatrix(_ segment: Int) -> Bool { matrices.indices.contains(segment) && matrices[segment] }
  package func streams(rows: Int, columns: Int) -> Bool { panels.streams(rows: rows, columns: columns) }

  /// ‖D‖², then ‖τ‖² of every model.
  package func delta(_ job: MatrixJob, isMatrix: Bool, counted passes: [[UInt64]]) throws(IngotError) -> [Double] {
    if job.isStreamed {
      let (merged, squares) = try streamed(job)
      return [try merged.squaredNorm(job)] + squares
    }
    let merged = job.output
    var sums = [0.0]
    try job.loadTaskMatrix(1, into: merged)
    sums.append(merged.dot(merged))
    try job.workspace.scope { () throws(IngotError) in
      let tau: Matrix<Float> = try job.workspace.matrix(job.rows, job.columns)
      for model in 1..<max(count, 1) {
        try job.checkStop()
        try job.loadTaskMatrix(model + 1, into: tau)
        sums.append(tau.dot(tau))
        if isMatrix { try job.workspace.scope { () throws(IngotError) in try project(tau, merged, job, model) } }
        merged.add(tau)
      }
    }
    sums[0] = merged.dot(merged)
    return sums
  }

  /// Takes out of `tau` what lies along the singular directions of `merged`.
  func project(_ tau: Matrix<Float>, _ merged: Matrix<Float>, _ job: MatrixJob, _ model: Int) throws(IngotError) {
    let (algebra, workspace, r) = (job.algebra, job.workspace, job.rank)
    let triplets = try workspace.triplets(r, rows: job.rows, columns: job.columns)
    // Every direction counts by itself here, and f32 mixes those of near values.
    let found = try algebra.singularTriplets(merged, into: triplets, rangeTolerance: tolerance, isExact: true, workspace)
    let q = job.isMeasuring ? r : leading(triplets.values)
    job.report(found, prefix: "merged_", model: model)
    job.report("merged_condition", condition(triplets.values), model: model)
    let seen: Matrix<Float> = try workspace.matrix(r, job.columns)
    try algebra.multiply(triplets.left, tau, into: seen)
    let block: Matrix<Float> = try workspace.matrix(q, q)
    let top = r - q..<r
    try algebra.multiply(seen.rows(top), triplets.right.rows(top), .transposed, into: block)
    for i in 0..<q { block[i, i] = 0 }
    let removed = seen
    for j in 0..<(job.isMeasuring ? 0 : r) {
      let (from, direction) = (seen.rows(j..<j + 1), triplets.right.rows(j..<j + 1))
      let strength = Float(from.dot(direction))
      removed.rows(j..<j + 1).copy(direction)
      removed.rows(j..<j + 1).scale(by: strength)
    }
    try algebra.multiply(block, triplets.right.rows(top), into: removed.rows(top), beta: 1)
    try algebra.multiply(triplets.left, .transposed, removed, into: tau, alpha: -1, beta: 1)
  }

  package func emit(_ job: MatrixJob, scale: Double) throws(IngotError) { try streamed(job).merged.emit(scale: scale, job) }

  /// D of a streamed job, which lives as long as the job's memory, and ‖τ‖² of every model.
  private func streamed(_ job: MatrixJob) throws(IngotError) -> (merged: TallMatrix, squares: [Double]) {
    let n = job.columns
    var merged = TallMatrix.tasks([(0, 1)])
    var squares = [try merged.squaredNorm(job)]
    for model in 1..<max(count, 1) {
      let tau = TallMatrix.tasks([(model, 1)])
      squares.append(try tau.squaredNorm(job))
      let kept: Matrix<Double> = try job.workspace.matrix(n, n)
      try job.workspace.scope { () throws(IngotError) in try project(tau, merged, into: kept, job, model) }
      merged = .sum(.product(merged, kept), tau, times: 1)
    }
    return (merged, squares)
  }

  /// kept = Z with D Z = D − U diag(d) Vᵀ − U_q E V_qᵀ: I − Vᵀ Σ⁻¹ F V, rows V, F = Uᵀ τ V on its diagonal and leading block.
  private func project(
    _ tau: TallMatrix, _ merged: TallMatrix, into kept: Matrix<Double>, _ job: MatrixJob, _ model: Int
  ) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let found = try TallMatrix.RightVectors(count: n, columns: n, workspace)
    try merged.rightVectors(into: found, tolerance: tolerance, job)
    job.report("merged_route", 1, model: model)
    job.report("merged_condition", condition(found.values), model: model)
    let top = n - (job.isMeasuring ? n : leading(found.values))
    let half: Matrix<Double> = try workspace.matrix(n, n)
    let seen: Matrix<Double> = try workspace.matrix(n, n)
    try merged.cross(tau, into: seen, job)
    try algebra.multiply(found.vectors, seen, into: half)
    half.scaleRows(by: found.inverses)
    try algebra.multiply(half, found.vectors, .transposed, into: seen)
    for i in 0..<(job.isMeasuring ? 0 : n) {
      for j in 0..<n where i != j && (i < top || j < top) { seen[i, j] = 0 }
    }
    seen.scaleRows(by: found.inverses)
    try algebra.multiply(seen, found.vectors, into: half)
    kept.fill(0)
    kept.addToDiagonal(1)
    try algebra.multiply(found.vectors, .transposed, half, into: kept, alpha: -1, beta: 1)
  }

  /// The largest over the least value above 0; 1 without any.
  private func condition(_ ascending: Matrix<Double>) -> Double {
    let n = ascending.count
    guard let least = (0..<n).first(where: { ascending[$0] > 0 }) else { return 1 }
    return ascending[n - 1] / ascending[least]
  }

  /// How many leading values stand before the one with which their running share exceeds the threshold; none when none does.
  private func leading(_ ascending: Matrix<Double>) -> Int {
    let n = ascending.count
    let sum = (0..<n).reduce(0.0) { $0 + ascending[$1] }
    guard sum > 0 else { return 0 }
    var running = 0.0
    for index in 0..<n {
      running += ascending[n - 1 - index]
      if running / sum > threshold { return index }
    }
    return 0
  }

  package func scale(_ sums: [Double]) -> Double {
    let norm = max(sums.first ?? 0, 0).squareRoot()
    let mean = sums.dropFirst().reduce(0.0) { $0 + max($1, 0).squareRoot() } / Double(max(sums.count - 1, 1))
    return norm > 0 ? mean / norm : 0
  }

  package func findings(sums: [Double]) -> [Finding] {
    let scale = scale(sums)
    return scale > 0 ? [Finding("lambda", 1 / scale)] : []
  }
}
