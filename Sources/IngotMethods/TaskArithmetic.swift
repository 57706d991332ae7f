package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// θ₀ + λ Σ wᵢ (θᵢ − θ₀): addition, negation and analogies of task vectors by signed weights.
///
/// Shapes: any, equal. Arithmetic: f32 in delta form, so an input equal to the base adds exactly nothing. `normalize` (default false) divides by
/// Σ wᵢ. Bytes: each input once, the output once. Source: Ilharco et al., arXiv 2212.04089.
package struct TaskArithmetic: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "task_arithmetic", title: "Task Arithmetic", summary: "Adds weighted task vectors to the base.",
    formula: "θ₀ + λ Σ wᵢ τᵢ",
    reference: .init("Editing Models with Task Arithmetic, arXiv 2212.04089", url: "https://arxiv.org/abs/2212.04089"), base: .required,
    models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: false), scopes: [.element],
    hasStepwiseNumerics: true,
    example: """
      merge_method: task_arithmetic
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 1}
        - model: models/code
          parameters: {weight: -0.5}
      parameters: {lambda: 0.4}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: false, normalizesByDefault: false)
  }

  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? {
    combination.isStepwise ? nil : combination.fused(segment: segment) { FusedMerge.Term(weight: $1) }
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    combination.combine(tile, into: output)
  }
}
