package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// TALL masks and Consensus merging: drops from the sum of the task vectors what only few tasks use.
///
/// With τ = Σ τᵢ, task i uses element j where |τᵢⱼ| > tall_lambdaᵢ · |τⱼ − τᵢⱼ|. The merged model is θ₀ + λ τ at the elements that at least
/// `consensus_k` tasks use, θ₀ elsewhere; with `task` it is that task's own reconstruction, θ₀ + λ τ where the task uses the element.
/// consensus_k 0 is task arithmetic, more than there are models gives the base. Shapes: any, equal. Arithmetic: f32, sums in model order.
/// Bytes: each input once, the output once. Source: Wang et al., Localizing Task Information, arXiv 2405.07813.
package struct Consensus: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "consensus", title: "Consensus merging with TALL masks",
    summary: "Sums the task vectors where enough tasks use the sum, or rebuilds one task's model from it.",
    formula: "θ₀ + λ Σ τᵢ where at least consensus_k models have |τᵢ| > tall_lambdaᵢ |Σ τₖ − τᵢ|, else θ₀; with task t, where model t has",
    reference: .init(
      "Localizing Task Information for Improved Model Merging and Compression, arXiv 2405.07813", url: "https://arxiv.org/abs/2405.07813"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "tall_lambda", .number(.init(from: .closed(0))),
        "how much larger than this share of the others' sum a task's element must be to be used by it",
        default: .number(0.4), isPerModel: true),
      ParameterDescriptor("consensus_k", .integer(0...Int.max), "how many tasks must use an element", default: .number(2)),
      .task, .lambda,
    ],
    scopes: [.element], notes: ["a task that changed nothing uses nothing", "the sum is that of task arithmetic, not of TIES"],
    example: """
      merge_method: consensus
      base_model: models/base
      models:
        - model: models/french
          parameters: {tall_lambda: 0.4}
        - model: models/code
          parameters: {tall_lambda: 0.6}
      parameters: {consensus_k: 2, lambda: 0.3}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let thresholds: [Float]
  private let least: Int
  private let task: Int?
  private let lambda: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "consensus")
    thresholds = (1..<request.inputs.count).map { Float(segment.number("tall_lambda", model: $0) ?? 0.4) }
    least = Int(exactly: segment.number("consensus_k") ?? 2) ?? Int.max
    task = try request.chosenModel()
    lambda = Float(segment.number("lambda") ?? 1)
  }

  package var demands: Demands { Demands() }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    if let task {
      tile.kernels.localize(deltas, row: task, threshold: thresholds[task], into: output)
    } else {
      tile.kernels.consensus(deltas, thresholds: thresholds, atLeast: least, into: output)
    }
    tile.kernels.addDelta(output, scaledBy: lambda, to: tile.inputs[0], into: output)
  }
}
