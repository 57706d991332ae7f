package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// ComPEFT's task vector: of the whole model exactly ⌊density · d⌋ elements with the largest magnitudes stay, each as its sign times α · σ.
///
/// σ is the standard deviation of the whole task vector before it is sparsified (with n − 1). The output is that vector, without the base; packs
/// store it, so it is no method of recipes. One job over the whole model, whose inputs are base and model. Elements that are kept and zero stay zero.
/// Bytes: both inputs up to twice for the statistics (a sample, one round). Degenerate: one element, or a task vector of equal elements, has σ = 0
/// and becomes zero.
/// Source: Yadav et al., arXiv 2311.13171, section 3. Deviates from its code in the number of elements that stay (⌊density · d⌋ + 1 there) and in
/// the order among equal magnitudes.
package struct ComPEFT: MergeMethod {
  package struct State: Sendable {
    var searches: MagnitudeSearches
    /// Σ τ and Σ τ², once the round that adds them up is over.
    var moments: (sum: Double, squares: Double)?
    var isAdding = false
    var isSearching = false

    /// Which elements stay.
    package var cut: MagnitudeCut { searches.cuts.first ?? .everything }
    /// What their signs are multiplied by.
    package fileprivate(set) var magnitude: Float = 0
  }

  package static let descriptor = MethodDescriptor(
    name: "compeft", title: "ComPEFT", summary: "Keeps the signs of the largest differences, all with one magnitude.",
    reference: .init("ComPEFT, arXiv 2311.13171", url: "https://arxiv.org/abs/2311.13171"), base: .required, models: 1...1,
    parameters: [
      ParameterDescriptor(
        "density", .number(NumberRange(from: .open(0), to: .closed(1))), "share of the elements that stay", default: .number(0.2)),
      ParameterDescriptor(
        "alpha", .number(NumberRange(from: .open(0))), "the magnitude, in standard deviations of the task vector", default: .number(1)),
    ],
    scopes: [.model])

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }
  package static var cropsToBase: Bool { true }

  private let initial: MagnitudeSearches
  private let population: UInt64
  private let alpha: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    let first = try request.onlySegment()
    guard request.hasBase, request.modelCount == 1 else {
      throw IngotError(.recipe, "found \(request.modelCount) models, expected a base and one model")
    }
    var population: UInt64 = 0
    var blocks: UInt64 = 0
    for segment in request.segments {
      let count = UInt64(try segment.shape.elementCount())
      population += count
      blocks += (count + 65_535) / 65_536
    }
    self.population = population
    alpha = first.number("alpha") ?? 1
    let keep = keptCount(density: first.number("density") ?? 1, of: population)
    initial = MagnitudeSearches([MagnitudeSearch(population: population, keep: keep, ties: .hash, blocks: blocks)])
  }

  package var demands: Demands { Demands(scratchRows: 1) }

  package func begin() -> Phase<State> { next(State(searches: initial)) }

  private func next(_ state: State) -> Phase<State> {
    var state = state
    var round = state.searches.nextRound
    state.isSearching = round != nil
    state.isAdding = state.moments == nil && round?.isComplete ?? true
    if state.isAdding {
      // The search's own rounds have no sums before the last.
      var adding = round ?? Round()
      adding.sums = 2
      round = adding
    }
    return round.map { .gather(state, $0) } ?? .emit(state)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let delta = tile.inputs[1]
    tile.kernels.subtract(delta, tile.inputs[0], into: delta)
    if state.isAdding {
      let ones = tile.scratch[0]
      for index in 0..<ones.count { ones[index] = 1 }
      tile.kernels.accumulateDot(delta, ones, into: statistic.sum(0))
      tile.kernels.accumulateDot(delta, delta, into: statistic.sum(1))
    }
    if state.isSearching { state.searches.gather(0, delta, tile, statistic) }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    if state.isAdding {
      let moments = (sum: statistics.sums[0], squares: statistics.sums[1])
      state.moments = moments
      state.magnitude = Float(alpha * Self.deviation(moments, population))
    }
    if state.isSearching { state.searches.settle(statistics) }
    return next(state)
  }

  /// √((Σ τ² − (Σ τ)² / n) / (n − 1)).
  private static func deviation(_ moments: (sum: Double, squares: Double), _ count: UInt64) -> Double {
    guard count > 1 else { return 0 }
    let n = Double(count)
    return (max(moments.squares - moments.sum * moments.sum / n, 0) / (n - 1)).squareRoot()
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let delta = tile.inputs[1]
    tile.kernels.subtract(delta, tile.inputs[0], into: delta)
    state.searches.trim(0, delta, tile)
    for index in 0..<output.count {
      let value = delta[index]
      output[index] = value > 0 ? state.magnitude : value < 0 ? -state.magnitude : 0
    }
  }

  package func findings(_ state: State) -> [Finding] {
    [Finding("threshold", Double(state.cut.magnitude)), Finding("magnitude", Double(state.magnitude))]
  }
}
