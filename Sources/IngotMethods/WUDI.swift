internal import Glibc
package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// WUDI-Merging: the merged task matrix that interferes least with what each task matrix reads, found without data.
///
/// Minimises Σ ‖(θ − τᵢ) τᵢᵀ‖² / ‖τᵢ‖² over θ (m × n). With Gᵢ = τᵢᵀ τᵢ / ‖τᵢ‖², C = Σ Gᵢ and D = Σ τᵢ Gᵢ the gradient is 2 (θ C − D), so
/// a step costs one product. `adam` is the paper's: from Σ τᵢ, rate `lr`, `iterations` steps, β 0.9 and 0.999, ε 1e-8. `closed_form` is the
/// minimum D C⁺ on C's range, Σ τᵢ outside it; `spectral` stops gradient flow at time `time`: the share 1 − exp(−λ t) of the way in each
/// eigendirection of C (trace C is the number of tasks, so t carries over between tensors). Degenerate: a zero task vector takes no part, and none
/// gives the base. Weights scale the task vectors. Source: Cheng et al., arXiv 2503.08099; the spectral form is that of gradient descent.
package struct WUDI: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "wudi", title: "WUDI-Merging", summary: "Solves for the merged task matrix that interferes least with every task.",
    formula: "W₀ + α argmin_θ Σ ‖(θ − wᵢ τᵢ) wᵢ τᵢᵀ‖² / ‖wᵢ τᵢ‖²",
    reference: .init(
      "Whoever Started the Interference Should End It, arXiv 2503.08099", url: "https://arxiv.org/abs/2503.08099"), base: .required,
    models: 1...Int.max, parameters: ParameterDescriptor.taskMatrices() + ParameterDescriptor.interference, scopes: [.tensor],
    notes: [
      "a task vector of zero takes no part", "the paper leaves everything but attention and MLP projections at the base: rest: base",
    ])

  private let tasks: TaskMatrices
  private let solver: InterferenceSolver

  package init(_ request: MethodRequest) throws(IngotError) {
    tasks = try TaskMatrices(request)
    solver = InterferenceSolver(tasks.segment)
  }

  package var isMatrix: Bool { tasks.isMatrix }
  package var rest: RestRule { tasks.rest }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let normal = try InterferenceSystem(job)
    let tau: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    job.output.fill(0)
    for task in 0..<tasks.taskCount {
      try job.checkStop()
      try job.loadTaskMatrix(task + 1, into: tau)
      if tasks.weights[task] != 1 { tau.scale(by: tasks.weights[task]) }
      let squared = tau.dot(tau)
      guard squared > 0 || job.isMeasuring else { continue }
      job.output.add(tau)
      try normal.add(projector: tau, target: tau, weight: 1 / squared, algebra, workspace)
    }
    try solver.solve(normal, job, tau)
    try job.finish(delta: job.output, scale: tasks.scale)
  }
}

/// θ C = D: the normal equations of WUDI and OptMerge, in f64.
struct InterferenceSystem {
  /// n × n, lower triangle until `complete`.
  let c: Matrix<Double>
  /// m × n.
  let d: Matrix<Double>

  init(_ job: MatrixJob) throws(IngotError) {
    c = try job.workspace.matrix(job.columns, job.columns)
    d = try job.workspace.matrix(job.rows, job.columns)
    c.fill(0)
    d.fill(0)
  }

  /// C += weight · LᵀL and D += weight · T LᵀL for the projector L (k × n) and the target T (m × n).
  func add(
    projector: Matrix<Float>, target: Matrix<Float>, weight: Double, _ algebra: LinearAlgebra, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(c.rows, c.rows)
      try algebra.gram(widening: projector, into: gram, workspace)
      gram.scale(by: weight)
      c.add(gram)
      let length = min(target.rows, 1024)
      let panel: Matrix<Double> = try workspace.matrix(length, target.columns)
      for start in stride(from: 0, to: target.rows, by: max(length, 1)) {
        let range = start..<min(start + length, target.rows)
        let part = panel.rows(0..<range.count)
        part.copy(target.rows(range))
        try algebra.multiply(part, gram, into: d.rows(range), beta: 1)
      }
    }
  }
}

/// How θ C = D is solved from a start.
struct InterferenceSolver: Sendable {
  let solver: String
  let steps: Int
  let rate: Double
  let time: Double
  /// Takes the place of Adam: v ← 0.9 v + g, θ ← θ − lr · v.
  var descendsWithMomentum = false

  init(_ segment: MethodRequest.Segment) {
    solver = segment.text("solver") ?? "adam"
    steps = Int(segment.number("iterations") ?? 300)
    rate = segment.number("lr") ?? 1e-5
    time = segment.number("time") ?? 300
  }

  /// Solves in place: `job.output` holds the start and takes the solution. `spare` is of the same shape and is overwritten.
  func solve(_ system: InterferenceSystem, _ job: MatrixJob, _ spare: Matrix<Float>) throws(IngotError) {
    switch solver {
    case "closed_form": try filter(system, job) { _ in 1 }
    case "spectral": try filter(system, job) { eigenvalue in -expm1(-eigenvalue * time) }
    default: try adam(system, job, spare)
    }
  }

  /// θ ← θ + (D C⁺ − θ) V diag(f(λ)) Vᵀ on the range of C, whose eigenvectors are V; eigenvalues up to 1e-8 of the largest count as zero.
  private func filter(_ system: InterferenceSystem, _ job: MatrixJob, _ share: (Double) -> Double) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let n = job.columns
    try workspace.scope { () throws(IngotError) in
      let values: Matrix<Double> = try workspace.vector(n)
      try algebra.eigen(system.c, values: values, workspace)
      let largest = n > 0 ? values[n - 1] : 0
      let shares: Matrix<Double> = try workspace.vector(n)
      let inverses: Matrix<Double> = try workspace.vector(n)
      var kept = 0
      for j in 0..<n where values[j] > 1e-8 * largest && values[j] > 0 {
        shares[j] = share(values[j])
        inverses[j] = 1 / values[j]
        kept += 1
      }
      // In panels of rows: x = D Vᵀ Λ⁻¹, y = θ Vᵀ, θ += ((x − y) ∘ f) V.
      let length = min(job.rows, 512)
      let x: Matrix<Double> = try workspace.matrix(length, n)
      let y: Matrix<Double> = try workspace.matrix(length, n)
      let theta: Matrix<Double> = try workspace.matrix(length, n)
      for start in stride(from: 0, to: job.rows, by: max(length, 1)) {
        let range = start..<min(start + length, job.rows)
        let part = 0..<range.count
        theta.rows(part).copy(job.output.rows(range))
        try algebra.multiply(system.d.rows(range), system.c, .transposed, into: x.rows(part))
        x.rows(part).scaleColumns(by: inverses)
        try algebra.multiply(theta.rows(part), system.c, .transposed, into: y.rows(part))
        x.rows(part).add(y.rows(part), times: -1)
        x.rows(part).scaleColumns(by: shares)
        try algebra.multiply(x.rows(part), system.c, into: theta.rows(part), beta: 1)
        job.output.rows(range).copy(theta.rows(part))
      }
      job.report("rank", Double(kept))
      job.report("condition", kept > 0 && n > 0 ? largest / values[n - kept] : 1)
    }
  }

  private func adam(_ system: InterferenceSystem, _ job: MatrixJob, _ gradient: Matrix<Float>) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    try workspace.scope { () throws(IngotError) in
      system.c.mirrorLowerTriangle()
      let c: Matrix<Float> = try workspace.matrix(job.columns, job.columns)
      let d: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      c.copy(system.c)
      d.copy(system.d)
      let first: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      let second: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
      first.fill(0)
      second.fill(0)
      var (power, otherPower) = (1.0, 1.0)
      for step in 0..<(job.isMeasuring ? 0 : steps) {
        if step % 16 == 0 { try job.checkStop() }
        gradient.copy(d)
        try algebra.multiply(job.output, c, into: gradient, alpha: 2, beta: -2)
        if descendsWithMomentum {
          first.scale(by: 0.9)
          first.add(gradient)
          job.output.add(first, times: Float(-rate))
          continue
        }
        power *= 0.9
        otherPower *= 0.999
        job.output.adamStep(
          gradient: gradient, first: first, second: second, rate: Float(rate / (1 - power)),
          correction: Float((1 - otherPower).squareRoot()))
      }
      gradient.copy(d)
      try algebra.multiply(job.output, c, into: gradient, beta: -1)
      job.report("steps", Double(steps))
      job.report("residual", gradient.norm / max(d.norm, .leastNormalMagnitude))
    }
  }
}

extension ParameterDescriptor {
  /// Parameters of WUDI's and OptMerge's solver.
  static let interference = [
    ParameterDescriptor(
      "solver", .choice(["adam", "closed_form", "spectral"]),
      "adam: the paper's iteration; closed_form: the minimum itself; spectral: gradient flow up to a time, in one step",
      default: .text("adam")),
    ParameterDescriptor("iterations", .integer(0...1_000_000), "steps of adam", default: .number(300)),
    ParameterDescriptor(
      "lr", .number(NumberRange(from: .closed(0))), "step size of adam: no element moves further in one step", default: .number(1e-5)),
    ParameterDescriptor("time", .number(NumberRange(from: .closed(0))), "time at which the spectral solver stops", default: .number(300)),
  ]
}
