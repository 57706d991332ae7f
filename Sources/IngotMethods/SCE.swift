package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Select, calculate, erase: keeps the elements in which the task vectors differ most, weighs the models by what is left of them, and merges
/// what agrees with the sign of the sum.
///
/// 1. Of the nz elements whose population variance over the models is not zero the ⌊select_topk · nz⌋ with the largest variance stay (the
///    product in f32, as in mergekit). 2. qᵢ = mean of τᵢ² over the tensor, divided by Σ q; where Σ q < 1e-6, 1/N each. 3. Terms with the sign of
///    Σ τᵢ (unweighted, zero counting as plus) stay: θ₀ + Σ qᵢ τᵢ / max(Σ qᵢ, 1e-6) over them.
/// With `sce_apply_mask: false`, the authors' code, the selection decides the qᵢ alone and all elements are merged, and neither floor holds:
/// weights are 1/N only where Σ q is 0, and nothing bounds the last divisor but 0.
/// Shapes: any, equal. Variances: f64, rounded to f32; sums f64. Degenerate: nothing selected gives the base (mergekit returns a tensor of
/// another shape); one model has variance zero, so any select_topk below 1 gives the base.
/// Bytes: inputs a sample and up to three times, twice when select_topk is 1; the output once.
/// Source: Wan et al., FuseChat, arXiv 2408.07990; the mask on the merge and the floors as in mergekit.
package struct SCE: MergeMethod {
  package struct State: Sendable {
    /// Nil when everything is selected.
    var search: MagnitudeSearches?
    /// Mean of all task vectors' squares together, where a round has seen all of them: the most that the selected ones can have.
    var energyBound = Double.infinity
    var isWeighing = false
    var weights: [Float]
  }

  package static let descriptor = MethodDescriptor(
    name: "sce", title: "SCE", summary: "Keeps where the models differ most, weighs them by what is left, merges what agrees in sign.",
    formula:
      "θ₀ + Σ ηᵢ τ̂ᵢ / Σ ηᵢ over the terms whose sign is that of Σ τ̂ᵢ; τ̂ᵢ = τᵢ where the variance over the models is largest, ηᵢ ∝ mean(τ̂ᵢ²)",
    reference: .init("FuseChat, arXiv 2408.07990", url: "https://arxiv.org/abs/2408.07990"), base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "select_topk", .number(.fraction), "share of the elements that differ between the models which is merged", default: .number(1)),
      ParameterDescriptor(
        "sce_apply_mask", .boolean,
        "merge only what was selected (mergekit); false: the selection decides the weights alone, as in the authors' code",
        default: .boolean(true), paperDefault: .boolean(false)),
      .ties,
    ],
    scopes: [.tensor],
    notes: [
      "nothing selected gives the base where only that is merged", "models whose differences are tiny (mean square below 1e-6) weigh alike",
    ],
    example: """
      merge_method: sce
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {select_topk: 0.1}
      dtype: bfloat16
      """)

  /// Below this sum of mean squares all models weigh alike; 0 for the authors' rule.
  private var energyFloor: Double { isMasked ? 1e-6 : 0 }

  private let share: Double
  private let isMasked: Bool
  private let population: UInt64
  private let modelCount: Int
  private let search: MagnitudeSearches?

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "sce")
    modelCount = request.modelCount
    share = segment.number("select_topk") ?? 1
    isMasked = segment.flag("sce_apply_mask", default: true)
    population = UInt64(try segment.shape.elementCount())
    search =
      share >= 1
      ? nil
      : MagnitudeSearches([
        MagnitudeSearch(
          population: population, shareOfNonzero: Float(share), ties: segment.tieRule(), blocks: (population + 65_535) / 65_536)
      ])
  }

  package var demands: Demands { Demands(scratchRows: share >= 1 ? 0 : 1) }

  private var alike: [Float] { [Float](repeating: Float(1 / Double(max(modelCount, 1))), count: modelCount) }

  package func begin() -> Phase<State> { next(State(search: search, weights: alike)) }

  private func next(_ state: State) -> Phase<State> {
    var state = state
    if var round = state.search?.nextRound {
      // Beside what the search asks for: the squares of all task vectors, and how many variances are not zero.
      round.sums = 2
      round.tallies = 2
      return .gather(state, round)
    }
    // The rounding of sums is far below this margin.
    if state.search?.cuts == [.nothing] || state.energyBound < 0.99 * energyFloor { return .emit(state) }
    state.isWeighing = true
    return .gather(state, Round(sums: modelCount))
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    guard !state.isWeighing else {
      let selected = selection(state, tile)
      for model in 0..<modelCount {
        tile.kernels.accumulateEnergy(tile.inputs[0], tile.inputs[model + 1], selected: selected, into: statistic.sum(model))
      }
      return
    }
    let variance = tile.scratch[0]
    let some = tile.kernels.variance(tile.inputs[0], tile.inputs.dropFirst(), into: variance, energy: statistic.sum(1))
    statistic.add(UInt64(some), toTally: 1)
    state.search?.gather(0, variance, tile, statistic)
  }

  /// The variances of the tile that were selected, the others 0; nil when all are.
  private func selection(_ state: State, _ tile: Tile) -> Floats? {
    guard let search = state.search else { return nil }
    let variance = tile.scratch[0]
    tile.variance(into: variance)
    search.trim(0, variance, tile)
    return variance
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    guard state.isWeighing else {
      let isComplete = state.search?.nextRound?.isComplete ?? true
      if isComplete { state.energyBound = statistics.sums[1] / Double(max(population, 1)) }
      state.search?.settle(statistics, nonzero: statistics.tallies[1])
      return next(state)
    }
    let means = statistics.sums.map { $0 / Double(max(population, 1)) }
    let total = means.reduce(0, +)
    state.weights = total < energyFloor || !(total > 0) ? alike : means.map { Float($0 / total) }
    return .emit(state)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.mergeAgreeing(
      tile.inputs[0], tile.inputs.dropFirst(), selected: isMasked ? selection(state, tile) : nil, weights: state.weights,
      floor: isMasked ? 1e-6 : .leastNormalMagnitude, into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    let cuts = (state.search?.cuts ?? []).filter { $0 != .nothing }
    return cuts.flatMap { [Finding("variance_threshold", Double($0.magnitude)), Finding("tied", Double($0.tied))] }
      + state.weights.enumerated().map { Finding("weight", Double($1), model: $0) }
  }
}
