package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Reinforced Agent Merging Plus, tensor by tensor: as `RAM`, with what a model alone has changed scaled up the more it shares with others.
///
/// ρᵢ = (elements that model i shares) / max(elements it alone changed, epsilon); λᵢ = 1 + r · clamp(ρᵢ, 0, alpha); τᵢ counts λᵢ-fold where only
/// model i is active. Shapes: any, equal. Arithmetic: f32; counts are exact. Bytes: inputs twice (once when kept in memory), the output once.
/// Source: Reinforced Agent Merging, arXiv 2601.13572 (which counts over the whole model); per tensor as in mergekit.
package struct RAMPlus: MergeMethod {
  package struct State: Sendable {
    /// λ of each model; empty until counted.
    var factors: [Float]
  }

  package static let descriptor = MethodDescriptor(
    name: "ramplus_tl", title: "Reinforced Agent Merging Plus (Tensor-Local)",
    summary: "RAM with what one model alone changed scaled up by what it shares.",
    formula: "as ram, with τᵢ counted 1 + r · clamp(ρᵢ, 0, alpha) fold where model i is alone; ρᵢ = elements shared / elements alone",
    reference: .init("Reinforced Agent Merging, arXiv 2601.13572", url: "https://arxiv.org/abs/2601.13572"), base: .required,
    models: 1...Int.max,
    parameters: [
      .activityThreshold,
      ParameterDescriptor("r", .number(.any), "how much a model's share counts", default: .number(0.1)),
      ParameterDescriptor("alpha", .number(.init(from: .closed(0))), "the largest share that counts", default: .number(0.2)),
    ],
    scopes: [.tensor])

  private let epsilon: Double
  private let r: Double
  private let alpha: Double
  private let modelCount: Int

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "ramplus_tl")
    epsilon = segment.number("epsilon") ?? 1e-5
    r = segment.number("r") ?? 0.1
    alpha = segment.number("alpha") ?? 0.2
    modelCount = request.modelCount
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> { .gather(State(factors: []), Round(tallies: 2 * modelCount)) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    tile.kernels.countActive(tile.subtractingBase(), epsilon: Float(epsilon), into: statistic.tallies)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let factors = (0..<modelCount).map { model in
      let share = Double(statistics.tallies[2 * model + 1]) / max(Double(statistics.tallies[2 * model]), epsilon)
      // 0 / 0, for a model that changed nothing when epsilon is 0, counts as no share.
      return Float(1 + r * (share.isNaN ? 0 : min(max(share, 0), alpha)))
    }
    return .emit(State(factors: factors))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.meanOfActive(tile.subtractingBase(), epsilon: Float(epsilon), unique: state.factors, into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    state.factors.enumerated().map { Finding("factor", Double($1), model: $0) }
  }
}
