package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// DARE before a sign vote: random drop and rescale, then the terms that agree with the elected sign are summed.
///
/// `normalize` (default false) divides by the kept weights. There is no trim by magnitude.
/// Shapes: any, equal. Arithmetic: f32; masks are a function of seed, output tensor and model ordinal only. Degenerate: density 1 keeps all and
/// does not rescale; density 0 drops all. Bytes: inputs once with rule inverse_keep, twice with l1 (once when kept in memory); the output once.
/// Source: Yu et al., Language Models are Super Mario, arXiv 2311.03099; rule l1 and defaults as in mergekit.
package struct DARETies: MergeMethod {
  package struct State: Sendable {
    var drop: RandomDrop.State
    var zeroSign: ZeroSignRule
    var isCountingSigns = false
  }

  package static let descriptor = MethodDescriptor(
    name: "dare_ties", title: "DARE TIES", summary: "Drops elements of the task vectors at random, rescales, then elects signs.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ, τ̂ᵢ = τᵢ · mask · rescale, mask ~ Bernoulli(density)",
    reference: .init("Language Models are Super Mario, arXiv 2311.03099", url: "https://arxiv.org/abs/2311.03099"), base: .required,
    models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: false, paper: true) + [
      .densityFromZero, .rescale(true), .rescaleRule, .zeroSign(over: "the model"),
    ],
    scopes: [.tensor, .model],
    notes: ["density 1 keeps every element and does not rescale"],
    example: """
      merge_method: dare_ties
      base_model: {model: {path: models/base}}
      models:
        - model: models/french
        - model: models/code
      parameters: {weight: 0.5, density: 0.1}
      preset: paper
      seed: 7
      """)

  /// A majority is one of the whole model.
  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    parameters["zero_sign"]?.text == "majority" ? .model : .tensor
  }

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let drop: RandomDrop
  private let zeroSign: ZeroSignRule

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: false)
    drop = try RandomDrop(request)
    zeroSign = ZeroSignRule(try request.onlySegment())
  }

  package var demands: Demands { Demands(scratchRows: zeroSign.needsCounting ? 1 : 0, maskPlanes: drop.demands.maskPlanes) }

  package func begin() -> Phase<State> { follow(drop.begin(), zeroSign) }

  /// What comes after a phase of the drop: its round, then the count of signs, then the output.
  private func follow(_ phase: Phase<RandomDrop.State>, _ zeroSign: ZeroSignRule) -> Phase<State> {
    switch phase {
    case .gather(let state, let round): .gather(State(drop: state, zeroSign: zeroSign), round)
    case .emit(let state):
      zeroSign.needsCounting
        ? .gather(State(drop: state, zeroSign: zeroSign, isCountingSigns: true), Round(tallies: 2))
        : .emit(State(drop: state, zeroSign: zeroSign))
    }
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    guard state.isCountingSigns else { return drop.gather(state.drop, tile, statistic) }
    drop.sparsify(state.drop, tile)
    combination.countSigns(tile, statistic)
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.isCountingSigns ? nil : drop.gatherStored(state.drop, tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    guard state.isCountingSigns else { return follow(drop.settle(state.drop, statistics), state.zeroSign) }
    var state = state
    state.isCountingSigns = false
    state.zeroSign.settle(statistics)
    state.drop.areMasksDrawn = true
    return .emit(state)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard state.drop.areMasksDrawn else { return nil }
    return combination.fused(segment: segment, zeroSign: state.zeroSign.elected) {
      drop.term($0, segment: segment, weight: $1, state.drop)
    }
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    drop.sparsify(state.drop, tile)
    combination.combine(tile, zeroSign: state.zeroSign.elected, into: output)
  }

  package func findings(_ state: State) -> [Finding] { drop.findings(state.drop) }
}
