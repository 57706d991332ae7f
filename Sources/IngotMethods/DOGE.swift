package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
internal import IngotTensors

/// DOGE (adaptive projective gradient descent): adds to every task matrix a common correction that takes the interference out, found without data
/// and outside the subspace that the tasks share, and keeps the largest elements of each task.
///
/// λᵢ = wᵢ λ / ‖τᵢ‖, S = Σ λᵢ τᵢ, Λ = Σ λᵢ. δ (m × n) minimises L = Σⱼ Σ_p ⟨τⱼ[p], τⱼ[p] − S[p] − Λ δ[p]⟩² over rows p: from 0, `iterations` steps of Adam
/// (rate `lr`, β 0.9 and 0.999, ε 1e-8) on g − U Uᵀ g. U has the ⌊r / `subspace`⌋ leading left singular vectors of the ⌊r / T⌋ (at least 1) leading left
/// singular vectors of all tasks side by side; r = min(m, n), T tasks. Rows decouple in L: with cⱼ = ⟨τⱼ, τⱼ − S⟩ a step reads every τⱼ twice and forms no
/// product but the projection. W = W₀ + Σ λᵢ maskᵢ ∘ (τᵢ + δ), maskᵢ the `density` largest elements of τᵢ over all matrices of the model.
/// `closed_form` takes the minimum of L itself, row by row, without the projection: δ[p] = T_pᵀ (T_p T_pᵀ)⁺ c_p / Λ. Degenerate: a zero task vector takes
/// no part; no tasks give W₀; where all singular values of the joined vectors are equal, U is undetermined.
/// Memory: the T task matrices and four more of their size. Source: Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent,
/// arXiv 2501.01230.
package struct DOGE: ModelMatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "doge", title: "DOGE",
    summary: "Corrects all task matrices alike, outside their common subspace, and keeps their largest elements.",
    formula: "W₀ + Σ λᵢ maskᵢ ∘ (τᵢ + δ),  λᵢ = λ wᵢ / ‖τᵢ‖,  δ = argmin Σ ⟨τⱼ, τⱼ − Σ λᵢ (τᵢ + δ)⟩² by rows",
    reference: .init(
      "Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent, arXiv 2501.01230", url: "https://arxiv.org/abs/2501.01230"
    ),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's λᵢ", default: .number(1), isPerModel: true),
      ParameterDescriptor("lambda", .number(.any), "factor of every task matrix over its norm", default: .number(0.07)),
      ParameterDescriptor(
        "density", .number(.fraction), "share of the task vector's elements that is kept, over all matrices", default: .number(0.3),
        isPerModel: true),
      ParameterDescriptor(
        "subspace", .number(NumberRange(from: .closed(0))),
        "the shorter side of a matrix over the dimension of the common subspace; 0 projects nothing", default: .number(6)),
      ParameterDescriptor(
        "doge_solver", .choice(["adam", "closed_form"]),
        "adam: the paper's iteration; closed_form: the minimum itself, without the projection",
        default: .text("adam")),
      ParameterDescriptor("iterations", .integer(0...1_000_000), "steps of adam", default: .number(400)),
      ParameterDescriptor("lr", .number(NumberRange(from: .closed(0))), "step size of adam", default: .number(1e-4)),
      .rest("base"), .embeddings, .rangeTolerance,
    ], scopes: [.model],
    notes: [
      "a task vector of zero takes no part",
      "elements as large as the last one that is kept are kept too",
    ])

  private let matrices: [Bool]
  private let weights: [Float]
  private let lambda: Double
  private let divisor: Double
  private let steps: Int
  private let rate: Double
  private let isClosed: Bool
  private let rest: String
  private let tolerance: Double
  private let thresholds: GlobalThresholds

  package init(_ request: MethodRequest) throws(IngotError) {
    let first = try request.onlySegment()
    guard request.hasBase, request.modelCount >= 1 else {
      throw IngotError(.recipe, "the method needs a base model and at least one other", hint: "give base_model", subject: first.name)
    }
    var weights: [Float] = []
    for model in 1..<request.inputs.count { weights.append(Float(try request.uniform("weight", model: model, default: 1))) }
    self.weights = weights
    var matrices: [Bool] = []
    var elements = 0
    for segment in request.segments {
      matrices.append(try TaskMatrices.isMatrix(segment))
      if matrices.last == true { elements += try segment.shape.elementCount() }
    }
    self.matrices = matrices
    lambda = try request.uniform("lambda", default: 0.07)
    divisor = try request.uniform("subspace", default: 6)
    steps = Int(try request.uniform("iterations", default: 400))
    rate = try request.uniform("lr", default: 1e-4)
    isClosed = try request.uniform(text: "doge_solver") == "closed_form"
    rest = try request.uniform(text: "rest") ?? "base"
    tolerance = first.number("range_tolerance") ?? 1e-6
    var shares: [Double] = []
    for model in 1..<request.inputs.count { shares.append(try request.uniform("density", model: model, default: 0.3)) }
    thresholds = GlobalThresholds(shares: shares, elements: elements)
  }

  package func isMatrix(_ segment: Int) -> Bool { matrices.indices.contains(segment) && matrices[segment] }

  // MARK: The thresholds

  package func counters(after passes: [[UInt64]]) -> Int? { thresholds.counters(after: passes) }

  package func count(_ job: MatrixJob, after passes: [[UInt64]], into counters: inout [UInt64]) throws(IngotError) {
    for task in weights.indices {
      try job.checkStop()
      try job.loadTaskMatrix(task + 1, into: job.output)
      thresholds.count(job.output, task: task, after: passes, into: &counters)
    }
  }

  // MARK: The delta

  /// L at δ = 0 and at the end, the elements of the matrices, and how many of each task are kept.
  package func delta(_ job: MatrixJob, isMatrix: Bool, counted passes: [[UInt64]]) throws(IngotError) -> [Double] {
    var sums = [Double](repeating: 0, count: 3 + weights.count)
    guard isMatrix else {
      try others(job)
      return sums
    }
    let workspace = job.workspace
    var tasks: [Matrix<Float>] = []
    var scales: [Double] = []
    for (task, weight) in weights.enumerated() {
      try job.checkStop()
      let tau: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      try job.loadTaskMatrix(task + 1, into: tau)
      let norm = tau.norm
      tasks.append(tau)
      scales.append(norm > 0 ? lambda * Double(weight) / norm : 0)
    }
    let correction: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    correction.fill(0)
    let total = scales.reduce(0, +)
    if total != 0 || job.isMeasuring {
      let rows = try RowProblem(tasks, scales: scales, total: total, job)
      sums[0] = rows.loss(correction)
      if isClosed {
        try workspace.scope { () throws(IngotError) in try rows.minimum(correction, job) }
      } else if steps > 0 {
        try workspace.scope { () throws(IngotError) in try descend(rows, tasks, correction, job) }
      }
      sums[1] = rows.loss(correction)
    }
    job.output.fill(0)
    for (task, scale) in scales.enumerated() where scale != 0 {
      let kept = job.output.addSelected(
        tasks[task], plus: correction, threshold: thresholds.threshold(task, passes), times: Float(scale))
      sums[3 + task] = Double(kept)
    }
    sums[2] = Double(job.rows * job.columns)
    return sums
  }

  /// A tensor that is no matrix.
  private func others(_ job: MatrixJob) throws(IngotError) {
    if rest == "base" { return job.output.fill(0) }
    let sum = weights.reduce(0.0) { $0 + Double($1) }
    try job.sumTaskMatrices(weights: weights, into: job.output)
    if rest == "average", abs(sum) >= 1e-8 { job.output.scale(by: Float(1 / sum)) }
  }

  private func descend(
    _ rows: RowProblem, _ tasks: [Matrix<Float>], _ correction: Matrix<Float>, _ job: MatrixJob
  ) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let shared = try subspace(tasks, job)
    let gradient: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let first: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let second: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    let inside: Matrix<Float> = try workspace.matrix(shared?.rows ?? 0, job.columns)
    first.fill(0)
    second.fill(0)
    var (power, otherPower) = (1.0, 1.0)
    for step in 0..<(job.isMeasuring ? 0 : steps) {
      if step % 16 == 0 { try job.checkStop() }
      rows.gradient(correction, into: gradient)
      if let shared {
        try algebra.multiply(shared, gradient, into: inside)
        try algebra.multiply(shared, .transposed, inside, into: gradient, alpha: -1, beta: 1)
      }
      power *= 0.9
      otherPower *= 0.999
      correction.adamStep(
        gradient: gradient, first: first, second: second, rate: Float(rate / (1 - power)), correction: Float((1 - otherPower).squareRoot()))
    }
  }

  /// The vectors of the common subspace as rows, or nil without one; rows of zeros where the tasks span less.
  private func subspace(_ tasks: [Matrix<Float>], _ job: MatrixJob) throws(IngotError) -> Matrix<Float>? {
    let wanted = divisor > 0 ? Int(min(Double(job.rank) / divisor, Double(job.rank))) : 0
    guard wanted > 0 else { return nil }
    let (algebra, workspace) = (job.algebra, job.workspace)
    let share = max(job.rank / tasks.count, 1)
    let joined: Matrix<Float> = try workspace.matrix(tasks.count * share, job.rows)
    for (task, tau) in tasks.enumerated() {
      try workspace.scope { () throws(IngotError) in
        let triplets = try workspace.triplets(share, rows: job.rows, columns: job.columns)
        try algebra.singularTriplets(tau, into: triplets, rangeTolerance: tolerance, workspace)
        joined.rows(task * share..<(task + 1) * share).copy(triplets.left)
      }
    }
    let basis = try workspace.triplets(min(wanted, joined.rank), rows: joined.rows, columns: joined.columns)
    try algebra.singularTriplets(joined, into: basis, rangeTolerance: tolerance, workspace)
    return basis.right
  }

  package func scale(_ sums: [Double]) -> Double { 1 }

  package func findings(sums: [Double]) -> [Finding] {
    guard sums.count == 3 + weights.count else { return [] }
    var findings = [Finding("loss_before", sums[0]), Finding("loss", sums[1])]
    for task in weights.indices { findings.append(Finding("kept_share", sums[2] > 0 ? sums[3 + task] / sums[2] : 0, model: task)) }
    return findings
  }
}

/// DOGE's loss of one matrix: Σⱼ Σ_p (c_jp − Λ ⟨τⱼ[p], δ[p]⟩)² with c_jp = ⟨τⱼ[p], τⱼ[p] − S[p]⟩. Dot products in f64.
private struct RowProblem {
  private let tasks: [Matrix<Float>]
  private let total: Double
  /// T × m.
  private let constants: Matrix<Double>

  init(_ tasks: [Matrix<Float>], scales: [Double], total: Double, _ job: MatrixJob) throws(IngotError) {
    self.tasks = tasks
    self.total = total
    constants = try job.workspace.matrix(tasks.count, job.rows)
    for p in 0..<(job.isMeasuring ? 0 : job.rows) {
      for (j, task) in tasks.enumerated() {
        let own = task.rows(p..<p + 1)
        var constant = own.dot(own)
        for (other, scale) in zip(tasks, scales) where scale != 0 { constant -= scale * own.dot(other.rows(p..<p + 1)) }
        constants[j, p] = constant
      }
    }
  }

  func loss(_ correction: Matrix<Float>) -> Double {
    var sum = 0.0
    for p in 0..<(correction.isMeasured ? 0 : correction.rows) {
      for (j, task) in tasks.enumerated() {
        let error = constants[j, p] - total * task.rows(p..<p + 1).dot(correction.rows(p..<p + 1))
        sum += error * error
      }
    }
    return sum
  }

  /// −2 Λ Σⱼ e_jp τⱼ[p] for every row p.
  func gradient(_ correction: Matrix<Float>, into gradient: Matrix<Float>) {
    gradient.fill(0)
    for p in 0..<correction.rows {
      let (at, target) = (correction.rows(p..<p + 1), gradient.rows(p..<p + 1))
      for (j, task) in tasks.enumerated() {
        let row = task.rows(p..<p + 1)
        target.add(row, times: Float(-2 * total * (constants[j, p] - total * row.dot(at))))
      }
    }
  }

  /// δ[p] = T_pᵀ (T_p T_pᵀ)⁺ c_p / Λ for every row: eigenvalues up to 1e-10 of a row's largest count as zero.
  func minimum(_ correction: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, count) = (job.algebra, job.workspace, tasks.count)
    let gram: Matrix<Double> = try workspace.matrix(count, count)
    let values: Matrix<Double> = try workspace.vector(count)
    // Measuring, one row tells what every row needs.
    for p in 0..<(job.isMeasuring ? min(1, job.rows) : job.rows) {
      if p % 256 == 0 { try job.checkStop() }
      for i in 0..<count {
        for j in 0...i {
          gram[i, j] = tasks[i].rows(p..<p + 1).dot(tasks[j].rows(p..<p + 1))
        }
      }
      try algebra.eigen(gram, values: values, workspace)
      let target = correction.rows(p..<p + 1)
      for k in 0..<count where values[k] > 1e-10 * values[count - 1] && values[k] > 0 {
        let along = (0..<count).reduce(0.0) { $0 + gram[k, $1] * constants[$1, p] } / (values[k] * total)
        for j in 0..<count { target.add(tasks[j].rows(p..<p + 1), times: Float(along * gram[k, j])) }
      }
    }
  }
}
