internal import Glibc
package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// R-TSVM: TSV-M with weights from the outliers of each task matrix and ranks from its sparsity. A reconstruction: the paper gives the idea, and
/// the formulas here are ours.
///
/// oᵢ is the sum of |τ| above mean + `outlier_sigma` standard deviations of |τ| in its row; wᵢ = T oᵢ / Σ o (`emphasize`), T oᵢ⁻¹ / Σ o⁻¹ (`suppress`) or 1.
/// ρᵢ is the share of elements below `sparsity_eps` · rms; kᵢ = round(r / T · ((1 − ρᵢ) / mean(1 − ρ))^β), β = `sparsity_factor`, kept in 1...r and cut in
/// proportion where they add up to more than r. TSV-M then keeps kᵢ triplets with values wᵢ σᵢ. β = 0 with `none` is TSV-M.
/// Source of the idea: Yang et al., Mix Data or Merge Models?, arXiv 2502.06876.
package struct RTSVM: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "r_tsvm", title: "R-TSVM (reconstruction)",
    summary: "TSV-M weighted by outliers, with ranks by sparsity; our reading of the paper.",
    formula: "TSV-M with values wᵢ σᵢ and ranks kᵢ",
    reference: .init("Mix Data or Merge Models?, arXiv 2502.06876", url: "https://arxiv.org/abs/2502.06876"), base: .required,
    models: 1...Int.max,
    parameters: ParameterDescriptor.taskMatrices() + [
      ParameterDescriptor(
        "outlier_mode", .choice(["emphasize", "suppress", "none"]), "what the outliers of a task matrix do to its weight",
        default: .text("emphasize")),
      ParameterDescriptor(
        "outlier_sigma", .number(NumberRange(from: .closed(0))),
        "standard deviations above a row's mean from which a magnitude is an outlier",
        default: .number(3)),
      ParameterDescriptor(
        "sparsity_eps", .number(NumberRange(from: .closed(0))), "share of the rms below which an element counts as zero",
        default: .number(0.1)),
      ParameterDescriptor("sparsity_factor", .number(.any), "exponent with which density decides the rank", default: .number(1)),
      .rangeTolerance, .panels,
    ], scopes: [.tensor], notes: ["the formulas are a reconstruction: the paper names the statistics and not how they enter"])

  private let tasks: TaskMatrices
  private let tolerance: Double
  private let panels: PanelRule
  private let mode: String
  private let sigma: Double
  private let least: Double
  private let exponent: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    let segment = tasks.segment
    tolerance = segment.number("range_tolerance") ?? 1e-6
    panels = PanelRule(segment)
    mode = segment.text("outlier_mode") ?? "emphasize"
    sigma = segment.number("outlier_sigma") ?? 3
    least = segment.number("sparsity_eps") ?? 0.1
    exponent = segment.number("sparsity_factor") ?? 1
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }
  package func streams(rows: Int, columns: Int) -> Bool { panels.streams(rows: rows, columns: columns) }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    var outliers: [Double] = []
    var densities: [Double] = []
    for task in 0..<tasks.taskCount {
      let found = try statistics(task, job)
      outliers.append(found.outliers)
      densities.append(found.density)
    }
    let ranks = Self.ranks(densities, rank: job.rank, exponent: exponent)
    let weights = zip(tasks.weights, Self.weights(outliers, mode: mode)).map { $0 * Float($1) }
    for task in 0..<tasks.taskCount {
      job.report("rank", Double(ranks[task]), model: task)
      job.report("weight", Double(weights[task]), model: task)
    }
    // Ranks depend on data; measured is the most that they can be together.
    let chosen = job.isMeasuring ? Self.most(job.rank, tasks.taskCount) : ranks
    if job.isStreamed {
      return try TSVM.stream(job, weights: weights.map(Double.init), ranks: chosen, tolerance: tolerance, scale: tasks.scale)
    }
    try TSVM.merge(job, weights: weights, ranks: chosen, tolerance: tolerance)
    try job.finish(delta: job.output, scale: tasks.scale)
  }

  /// The sum of a task matrix's outliers, and the share of its elements that are not small.
  private func statistics(_ task: Int, _ job: MatrixJob) throws(IngotError) -> (outliers: Double, density: Double) {
    guard job.isStreamed else {
      try job.loadTaskMatrix(task + 1, into: job.output)
      return job.isMeasuring ? (1, 1) : job.output.outliers(sigma: sigma, least: least)
    }
    // Rows are whole in a panel; the root mean square is of all of them.
    var (square, outliers, dense) = (0.0, 0.0, 0.0)
    try job.forEachTask(task, in: job.output) { (_, panel) in square += panel.dot(panel) }
    let rms = (square / Double(max(job.rows * job.columns, 1))).squareRoot()
    try job.forEachTask(task, in: job.output) { (_, panel) in
      let found = panel.outliers(sigma: sigma, floor: least * rms)
      outliers += found.outliers
      dense += found.density * Double(panel.count)
    }
    return job.isMeasuring ? (1, 1) : (outliers, dense / Double(max(job.rows * job.columns, 1)))
  }

  private static func most(_ rank: Int, _ tasks: Int) -> [Int] {
    [max(rank, tasks) - (tasks - 1)] + [Int](repeating: 1, count: tasks - 1)
  }

  static func weights(_ outliers: [Double], mode: String) -> [Double] {
    let count = Double(outliers.count)
    let ones = outliers.map { _ in 1.0 }
    switch mode {
    case "emphasize":
      let sum = outliers.reduce(0, +)
      return sum > 0 ? outliers.map { count * $0 / sum } : ones
    case "suppress":
      guard outliers.allSatisfy({ $0 > 0 }) else { return ones }
      let sum = outliers.reduce(0) { $0 + 1 / $1 }
      return outliers.map { count / $0 / sum }
    default: return ones
    }
  }

  /// Ranks of at least 1 that together are at most `rank` (or one each, where there are more tasks than that).
  static func ranks(_ densities: [Double], rank: Int, exponent: Double) -> [Int] {
    let count = densities.count
    let mean = densities.reduce(0, +) / Double(max(count, 1))
    let equal = max(rank / max(count, 1), 1)
    if exponent == 0 || !(mean > 0) { return densities.map { _ in equal } }
    var ranks = densities.map { density in
      let wanted = Double(rank) / Double(count) * pow(density / mean, exponent)
      return wanted.isFinite ? min(max(Int(min(wanted, Double(rank)).rounded()), 1), rank) : rank
    }
    let sum = ranks.reduce(0, +)
    if sum > rank { ranks = ranks.map { max($0 * rank / sum, 1) } }
    while ranks.reduce(0, +) > max(rank, count), let largest = ranks.indices.max(by: { ranks[$0] < ranks[$1] }) { ranks[largest] -= 1 }
    return ranks
  }
}
