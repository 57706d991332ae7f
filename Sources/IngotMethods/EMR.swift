package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// EMR-Merging: elects one vector for all tasks, and rebuilds a task's model from it by a mask and one factor.
///
/// Elect: γⱼ the sign of Σ τᵢⱼ (zero counting as minus), uⱼ = γⱼ times the largest |τᵢⱼ| among the models of that sign, 0 where none has it.
/// The merged model is θ₀ + λ u. With `task`, mask: mⱼ = 1 where τₜⱼ γⱼ > 0; rescale: rₜ = Σ |τₜⱼ| / Σ |mⱼ uⱼ| over the whole model, or, with
/// rescaler tensor_means, the same of the sums over tensors of the means in each; the task's model is θ₀ + λ rₜ m u.
/// Shapes: any, equal. Arithmetic: f32, sums f64. Degenerate: an empty mask gives rₜ = 0 and the base.
/// Bytes: each input once (with `task` twice), the output once. Source: Huang et al., EMR-Merging, arXiv 2405.17461.
package struct EMR: MergeMethod {
  package struct State: Sendable {
    /// The task's factor; 1 for the merged model.
    var factor: Float
  }

  package static let descriptor = MethodDescriptor(
    name: "emr", title: "EMR-Merging", summary: "Elects one vector for all tasks, and rebuilds a task's model from it by mask and factor.",
    formula:
      "u = sgn(Σ τᵢ) max |τᵢ| over the models of that sign; θ₀ + λ u; with task t: θ₀ + λ rₜ u where τₜ has the sign of u, rₜ = Σ|τₜ| / Σ|u there|",
    reference: .init("EMR-Merging, arXiv 2405.17461", url: "https://arxiv.org/abs/2405.17461"), base: .required, models: 1...Int.max,
    parameters: [
      .task,
      ParameterDescriptor(
        "rescaler", .choice(["model", "tensor_means"]),
        "what the task's factor is taken over: model (all elements alike, the paper) or tensor_means (the means of the tensors, the authors' script)",
        default: .text("model")
      ).only(.isNot("task", .number(0))),
      .lambda,
    ],
    scopes: [.element, .model], notes: ["a task whose mask is empty gets the base"],
    example: """
      merge_method: emr
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {task: 1}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    (parameters["task"]?.number ?? 0) == 0 ? .tensor : .model
  }

  package static var cropsToBase: Bool { true }

  private let task: Int?
  private let usesMeans: Bool
  private let counts: [Double]
  private let lambdas: [Float]

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.onlySegment()
    try request.requireBase(of: "emr")
    task = try request.chosenModel()
    usesMeans = try request.uniform(text: "rescaler") == "tensor_means"
    var counts: [Double] = []
    for segment in request.segments { counts.append(Double(try segment.shape.elementCount())) }
    self.counts = counts
    lambdas = request.segments.map { Float($0.number("lambda") ?? 1) }
  }

  package var demands: Demands { Demands(scratchRows: task == nil ? 0 : 1) }

  package func begin() -> Phase<State> { task == nil ? .emit(State(factor: 1)) : .gather(State(factor: 0), Round(sums: 2)) }

  /// The elected vector as far as the task's mask keeps it.
  private func masked(_ task: Int, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    tile.kernels.unify(deltas, into: tile.scratch[0])
    tile.kernels.keepAgreeing(tile.scratch[0], with: deltas[task], into: output)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    guard let task else { return }
    masked(task, tile, into: tile.scratch[0])
    tile.kernels.accumulateAbsolute(tile.inputs[task + 1], into: statistic.sum(0))
    tile.kernels.accumulateAbsolute(tile.scratch[0], into: statistic.sum(1))
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var (all, kept) = (statistics.sums[0], statistics.sums[1])
    if usesMeans {
      (all, kept) = (0, 0)
      for (sums, count) in zip(statistics.segmentSums, counts) where count > 0 {
        all += sums[0] / count
        kept += sums[1] / count
      }
    }
    return .emit(State(factor: kept > 0 ? Float(all / kept) : 0))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    if let task {
      masked(task, tile, into: output)
      tile.kernels.scale(output, by: state.factor, into: output)
    } else {
      tile.kernels.unify(tile.subtractingBase(), into: output)
    }
    tile.kernels.addDelta(output, scaledBy: lambdas[tile.segment], to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] { task.map { [Finding("rescale", Double(state.factor), model: $0)] } ?? [] }
}
