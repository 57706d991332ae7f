package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
internal import IngotTensors

/// MaTS: the weights that match every model's in the subspace that its task uses, by conjugate gradients.
///
/// Solves Σ wᵢ Oᵢ W Iᵢ = Σ wᵢ Oᵢ Wᵢ Iᵢ for W (m × n), where Iᵢ = E[x xᵀ] (n × n) of the layer's inputs and Oᵢ = E[g gᵀ] (m × m) of the gradients at its
/// outputs: K-FAC's block of the Fisher information. Without the Oᵢ they are the identity (RegMean's equations). Gram matrices enter as
/// α G + (1 − α) diag G, α = `reduce_non_diagonal_ratio`. `mats_solver: cg` is the paper's: `iterations` steps from `initialization`, or until the residual is
/// `tolerance` of the first one; stopping early regularises towards the start. `exact` goes on to the solution: two models by simultaneous
/// diagonalisation, others with the preconditioner (Σ Oᵢ) ⊗ (Σ Iᵢ) where that is well conditioned, and the result is polished by the same
/// iteration. `ridge` adds ε (W − start) with ε = ridge · the mean diagonal of Σ wᵢ Oᵢ ⊗ Iᵢ; directions that no model sees keep the start.
/// A weight that is stored as [in, out] is solved for as its transpose. All in f64, the Gram matrices read again in every step: memory does not grow with the models. Weights without Gram matrices take the mean.
/// Source: Tam et al., Merging by Matching Models in Task Subspaces, arXiv 2312.04339.
package struct MaTS: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "mats", title: "MaTS", summary: "Matches every model in the subspace that its task uses, by conjugate gradients on K-FAC blocks.",
    formula: "Σ wᵢ Oᵢ W Iᵢ = Σ wᵢ Oᵢ Wᵢ Iᵢ,  Oᵢ = E[g gᵀ], Iᵢ = E[x xᵀ]",
    reference: .init("Merging by Matching Models in Task Subspaces, arXiv 2312.04339", url: "https://arxiv.org/abs/2312.04339"),
    base: .optional, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's equations, 0 or more", default: .number(1), isPerModel: true),
      ParameterDescriptor(
        "reduce_non_diagonal_ratio", .number(.fraction), "factor of the Gram matrices' elements off the diagonal", default: .number(1)),
      ParameterDescriptor(
        "initialization", .choice(["average", "task_arithmetic", "base"]),
        "where the iteration starts: the weighted mean; the base and `start_lambda` times the sum of the task vectors; the base",
        default: .text("average"), paperDefault: .text("task_arithmetic")),
      ParameterDescriptor(
        "start_lambda", .number(.any), "factor of the sum of the task vectors at the start", default: .number(0.3)),
      ParameterDescriptor(
        "mats_solver", .choice(["cg", "exact"]), "cg: plain conjugate gradients, as in the paper; exact: the solution, by the cheapest way",
        default: .text("cg")),
      ParameterDescriptor("iterations", .integer(0...1_000_000), "the most steps of conjugate gradients", default: .number(100)),
      ParameterDescriptor(
        "tolerance", .number(.fraction), "share of the first residual at which the iteration ends", default: .number(1e-6)),
      ParameterDescriptor(
        "ridge", .number(NumberRange(from: .closed(0))), "how strongly the solution is held to the start", default: .number(0)),
    ], scopes: [.tensor],
    sideInputs: [
      SideInputDescriptor("gram", .gram, "mean of x xᵀ over the inputs x of each linear layer, n × n or its packed upper triangle"),
      SideInputDescriptor(
        "output_gram", .outputGram, "mean of g gᵀ over the gradients g at the outputs of each linear layer, m × m or packed",
        isRequired: false),
    ],
    notes: [
      "weights that have no Gram matrix take the weighted mean; a weight that only some models have one of is an error",
      "without output_gram the equations are RegMean's",
    ],
    example: """
      merge_method: mats
      models:
        - model: models/french
          side: {gram: grams/french.safetensors, output_gram: grams/french_outputs.safetensors}
        - model: models/code
          side: {gram: grams/code.safetensors, output_gram: grams/code_outputs.safetensors}
      parameters: {iterations: 100}
      dtype: bfloat16
      """)

  private enum Start: Sendable {
    case mean
    case taskArithmetic(lambda: Double)
    case base
  }

  private let weights: [Float]
  private let hasBase: Bool
  private let ratio: Double
  private let start: Start
  private let isExact: Bool
  private let steps: Int
  private let tolerance: Double
  private let ridge: Double
  private let inputs: GramSides
  private let outputs: GramSides
  package let isMatrix: Bool
  package let rest: RestRule

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    hasBase = request.hasBase
    let models = request.inputs.indices.filter { !request.inputs[$0].isBase }
    weights = models.map { Float(segment.number("weight", model: $0) ?? 1) }
    for (weight, model) in zip(weights, models) where weight < 0 {
      throw IngotError(
        .recipe, "the weight of \(request.inputs[model].model) is \(weight), and a Gram matrix takes no negative factor",
        hint: "give 0 or more", subject: segment.name)
    }
    guard weights.contains(where: { $0 > 0 }) else {
      throw IngotError(.recipe, "every weight is 0", hint: "give some model a weight above 0", subject: segment.name)
    }
    ratio = segment.number("reduce_non_diagonal_ratio") ?? 1
    let name = segment.text("initialization") ?? "average"
    switch name {
    case "task_arithmetic": start = .taskArithmetic(lambda: segment.number("start_lambda") ?? 0.3)
    case "base": start = .base
    default: start = .mean
    }
    if name != "average", !hasBase {
      throw IngotError(
        .recipe, "'initialization: \(name)' starts from the base model, and the recipe names none",
        hint: "add 'base_model: PATH', or use 'initialization: average'", subject: "initialization")
    }
    isExact = segment.text("mats_solver") == "exact"
    steps = Int(segment.number("iterations") ?? 100)
    tolerance = segment.number("tolerance") ?? 1e-6
    ridge = segment.number("ridge") ?? 0
    rest = hasBase ? RestRule("average", weights: weights, scale: 1) : RestRule(mean: weights)
    inputs = try GramSides("gram", .gram, turned: .gramOfRows, request, segment)
    outputs = try GramSides("output_gram", .outputGram, turned: .outputGramOfColumns, request, segment)
    if inputs.isEmpty && !outputs.isEmpty {
      throw IngotError(
        .shape, "\(segment.name) has an output_gram and no gram", hint: "collect both for the same modules", subject: segment.name)
    }
    if !outputs.isEmpty && inputs.isTurned != outputs.isTurned {
      throw IngotError(
        .shape, "of gram and output_gram of \(segment.name) one is of a weight stored as [in, out] and the other is not",
        hint: "collect both of the same model", subject: segment.name)
    }
    isMatrix = !inputs.isEmpty && segment.shape.rank == 2 && segment.shape.dimensions.allSatisfy { $0 > 0 }
    if isMatrix { _ = try LinearAlgebra.load() }
  }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let workspace = job.workspace
    let panel: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    try makeStart(job, panel)
    let (m, n) = inputs.isTurned ? (job.columns, job.rows) : (job.rows, job.columns)
    let equations = try KroneckerSum(inputs, outputs, m, n, weights: weights.map(Double.init), ratio: ratio, ridge: ridge, job)
    // Everything is the difference from the start, as [out, in].
    let residual: Matrix<Double> = try workspace.matrix(m, n)
    let change: Matrix<Double> = try workspace.matrix(m, n)
    residual.fill(0)
    change.fill(0)
    try workspace.scope { () throws(IngotError) in
      let difference: Matrix<Double> = try workspace.matrix(m, n)
      for (model, weight) in weights.enumerated() where weight > 0 || job.isMeasuring {
        try job.checkStop()
        try job.load(hasBase ? model + 1 : model, into: panel)
        panel.add(job.output, times: -1)
        if inputs.isTurned { difference.copyTransposed(panel) } else { difference.copy(panel) }
        try equations.apply(model, to: difference, into: residual, job)
      }
    }
    var solver = ConjugateGradients(equations: equations, steps: steps, tolerance: tolerance)
    try workspace.scope { () throws(IngotError) in
      if isExact { try solver.begin(change, residual, job) }
      try solver.solve(change, residual, job)
    }
    job.report("ridge", equations.shift)
    guard inputs.isTurned else { return job.output.add(change) }
    panel.copyTransposed(change)
    job.output.add(panel)
  }

  /// The start, into `job.output`.
  private func makeStart(_ job: MatrixJob, _ panel: Matrix<Float>) throws(IngotError) {
    switch start {
    case .base: try job.load(0, into: job.output)
    case .taskArithmetic(let lambda):
      let delta = panel
      try job.sumTaskMatrices(weights: weights.map { $0 > 0 ? 1 : 0 }, into: delta)
      try job.finish(delta: delta, scale: lambda)
    case .mean:
      job.output.fill(0)
      let total = weights.reduce(0.0) { $0 + Double($1) }
      for (model, weight) in weights.enumerated() where weight > 0 {
        try job.load(hasBase ? model + 1 : model, into: panel)
        job.output.add(panel, times: Float(Double(weight) / total))
      }
    }
  }
}
