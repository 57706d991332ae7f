package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes

/// Twin-Merging whose exclusive parts are compressed by singular values.
///
/// Shared: θₛ = θ₀ + λ Σ τᵢ. Of each matrix (m × n, r = min(m, n)) the own part θᵢ − θₛ is replaced by its best approximation of rank
/// max(1, ⌊density·r⌋); other tensors keep theirs whole. Result: θₛ + Σ wᵢ vᵢ, the wᵢ being what the paper's router gives for an input; weights of
/// 0 (the default) give the shared model, `task` the model of one task. Memory: the shared sum, one own part and its triplets.
/// Shapes: any, equal. Degenerate: an own part of zero adds nothing; directions below 1e-6 σ₁ stay out.
/// Bytes: base and inputs once, those whose own part is added and the base once more. Source: Lu et al., Twin-Merging, arXiv 2406.15479.
package struct TwinSVD: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "twin_svd", title: "Twin-Merging by singular values",
    summary: "Adds to what the models share what each has of its own, compressed to a low rank, by given weights.",
    formula: "S + Σ wᵢ svd_k(Wᵢ − S), S = W₀ + λ Σ τᵢ, k = max(1, ⌊density · r⌋)",
    reference: .init("Twin-Merging, arXiv 2406.15479", url: "https://arxiv.org/abs/2406.15479"), base: .required, models: 1...Int.max,
    parameters: [
      .task, .share, ParameterDescriptor("lambda", .number(.any), "factor of the sum of the task vectors", default: .number(0.3)),
      ParameterDescriptor(
        "density", .number(.fraction), "share of the singular values of the model's own part that is kept, at least one",
        default: .number(0.1), isPerModel: true),
      .embeddings,
    ],
    scopes: [.tensor],
    notes: [
      "tensors that are no matrices keep their own parts whole, and so do embeddings and heads unless asked for",
      "'ingot lora extract' of the shared model and a model gives the same own parts as adapters",
      "the router that finds weights for an input is not part of it",
    ],
    example: """
      merge_method: twin_svd
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.7, density: 0.2}
        - model: models/code
          parameters: {weight: 0.3, density: 0.2}
      parameters: {lambda: 0.3}
      dtype: bfloat16
      """)

  private let shares: [Float]
  private let densities: [Double]
  private let lambda: Float
  package let isMatrix: Bool
  package let rest: RestRule

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "twin_svd")
    let shares = try request.shares(segment)
    let lambda = segment.number("lambda") ?? 0.3
    densities = (1..<request.inputs.count).map { segment.number("density", model: $0) ?? 0.1 }
    // θₛ + Σ wᵢ (τᵢ − λ Σ τ) = θ₀ + Σ (wᵢ + λ (1 − Σ w)) τᵢ.
    let common = lambda * (1 - shares.reduce(0.0) { $0 + Double($1) })
    rest = RestRule(sum: shares.map { Float(Double($0) + common) })
    isMatrix = try TaskMatrices.isMatrix(segment)
    self.shares = shares
    self.lambda = Float(lambda)
  }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let shared: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    try job.sumTaskMatrices(weights: [Float](repeating: lambda, count: shares.count), into: shared)
    job.output.copy(shared)
    job.report("shared", shared.norm)
    for (model, share) in shares.enumerated() where share != 0 {
      try job.checkStop()
      try workspace.scope { () throws(IngotError) in
        let own: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
        try job.loadTaskMatrix(model + 1, into: own)
        own.add(shared, times: -1)
        let rank = max(1, Int(keptCount(density: densities[model], of: UInt64(job.rank))))
        if rank < job.rank {
          let size = own.norm
          let triplets = try workspace.triplets(rank, rows: job.rows, columns: job.columns)
          try algebra.singularTriplets(own, into: triplets, workspace)
          if !job.isMeasuring { job.report("kept", size > 0 ? triplets.values.norm / size : 1, model: model) }
          let values: Matrix<Float> = try workspace.vector(rank)
          values.copy(triplets.values)
          triplets.right.scaleRows(by: values)
          try algebra.multiply(triplets.left, .transposed, triplets.right, into: own)
        }
        job.output.add(own, times: share)
      }
    }
    try job.finish(delta: job.output, scale: 1)
  }
}
