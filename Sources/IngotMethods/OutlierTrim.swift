package import IngotErrors
package import IngotRecipes
internal import IngotTensors

/// The trim of Model Breadcrumbs: the largest magnitudes of each task vector go as outliers, then the small ones.
///
/// Of n values ⌊γ·n⌋ largest are dropped and the next ⌊density·n⌋ kept; when both together exceed n, fewer outliers are dropped, as in mergekit.
/// n counts over the tensor, or over each row by itself (the authors' code), which takes no statistic.
package struct OutlierTrim: Sparsifier {
  /// Two cuts per model: what is an outlier, and what is an outlier or kept.
  package struct State: Sendable {
    var searches: MagnitudeSearches
    /// Factor of each kept delta, when `rescale` asks for one; empty until measured.
    var factors: [Float] = []
    var isMeasuringMass = false
  }

  package static let parameters: [ParameterDescriptor] = [
    .density,
    ParameterDescriptor(
      "gamma", .number(.fraction), "share of the largest elements that is dropped as outliers", default: .number(0.01), isPerModel: true),
    ParameterDescriptor(
      "scope", .choice(["tensor", "row"]), "what gamma and density count over: tensor (mergekit, the paper) or row (the authors' code)",
      default: .text("tensor")),
    .rescale(false), .ties,
  ]

  private let initial: MagnitudeSearches
  private let modelCount: Int
  private let rescales: Bool
  private let steps: StepRounding?
  /// Of every row: how many outliers and how many elements after them, by model; nil where the tensor is one.
  private let rowCounts: [(drop: Int, keep: Int)]?
  private let ties: TieRule

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    let isByRow = segment.text("scope") == "row"
    let count = isByRow ? UInt64(max(segment.shape.rowLength, 0)) : UInt64(try segment.shape.elementCount())
    let blocks = (count + 65_535) / 65_536
    modelCount = request.modelCount
    steps = StepRounding(segment)
    rescales = segment.flag("rescale", default: false)
    ties = segment.tieRule()
    var searches: [MagnitudeSearch] = []
    var rowCounts: [(drop: Int, keep: Int)] = []
    for model in 1..<request.inputs.count {
      let target = keptCount(density: segment.number("density", model: model) ?? 1, of: count)
      let wanted = keptCount(density: segment.number("gamma", model: model) ?? 0.01, of: count)
      // Outliers give way when outliers and kept elements together are more than there are.
      let outliers = min(wanted, count - target)
      rowCounts.append((Int(outliers), Int(target)))
      if isByRow { continue }
      searches.append(MagnitudeSearch(population: count, keep: outliers, ties: segment.tieRule(), blocks: blocks))
      searches.append(MagnitudeSearch(population: count, keep: outliers + target, ties: segment.tieRule(), blocks: blocks))
    }
    self.rowCounts = isByRow ? rowCounts : nil
    initial = MagnitudeSearches(searches)
  }

  /// A run for the outliers, or room for the keys of a row.
  package var demands: Demands { rowCounts == nil ? Demands(scratchRows: 1) : Demands(granularity: .row, scratchRows: 2) }

  package func begin() -> Phase<State> { next(State(searches: initial)) }

  private func next(_ state: State) -> Phase<State> {
    if let round = state.searches.nextRound { return .gather(state, round) }
    if rescales && state.factors.isEmpty {
      var measuring = state
      measuring.isMeasuringMass = true
      return .gather(measuring, Round(sums: 2 * modelCount))
    }
    return .emit(state)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    if state.isMeasuringMass {
      for model in 0..<modelCount { tile.kernels.accumulateAbsolute(tile.inputs[model + 1], into: statistic.sum(2 * model)) }
      trim(state, tile)
      for model in 0..<modelCount { tile.kernels.accumulateAbsolute(tile.inputs[model + 1], into: statistic.sum(2 * model + 1)) }
      return
    }
    for model in 0..<modelCount {
      state.searches.gather(2 * model, tile.inputs[model + 1], tile, statistic)
      state.searches.gather(2 * model + 1, tile.inputs[model + 1], tile, statistic)
    }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.isMeasuringMass || steps != nil ? nil : state.searches.gatherStored(tile, statistic, perModel: 2)
  }

  package func settle(_ state: State, _ statistics: Statistics) -> Phase<State> {
    var state = state
    if state.isMeasuringMass {
      state.isMeasuringMass = false
      state.factors = (0..<modelCount).map { massFactor(all: statistics.sums[2 * $0], kept: statistics.sums[2 * $0 + 1], steps) }
      return .emit(state)
    }
    state.searches.settle(statistics)
    return next(state)
  }

  /// Zeroes outliers and small elements of the task vectors and scales the rest, in place.
  package func sparsify(_ state: State, _ tile: Tile) {
    trim(state, tile)
    for (model, factor) in state.factors.enumerated() {
      tile.kernels.scale(tile.inputs[model + 1], by: factor, into: tile.inputs[model + 1])
      if let steps { tile.kernels.round(tile.inputs[model + 1], to: steps.dtype) }
    }
  }

  private func trim(_ state: State, _ tile: Tile) {
    if let rowCounts { return trimRows(rowCounts, tile) }
    for model in 0..<modelCount {
      let delta = tile.inputs[model + 1]
      let outliers = tile.scratch[0]
      state.searches.trim(2 * model + 1, delta, tile)
      tile.kernels.scale(delta, by: 1, into: outliers)
      state.searches.trim(2 * model, outliers, tile)
      // x − x is exactly zero and x − 0 exactly x: what remains is kept and no outlier.
      tile.kernels.subtract(delta, outliers, into: delta)
    }
  }

  private func trimRows(_ counts: [(drop: Int, keep: Int)], _ tile: Tile) {
    let length = max(tile.rowLength, 1)
    for (model, count) in counts.enumerated() {
      for start in stride(from: 0, to: tile.count, by: length) {
        tile.kernels.trimRow(
          tile.inputs[model + 1].slice(from: start, count: length), firstIndex: tile.jobIndex + UInt64(start), ties: ties, drop: count.drop,
          keep: count.keep, scratch: tile.joinedScratch)
      }
    }
  }

  package func findings(_ state: State) -> [Finding] {
    state.searches.cuts.enumerated().flatMap { index, cut in
      cut == .everything || cut == .nothing
        ? [] : [Finding(index % 2 == 0 ? "outlier_threshold" : "threshold", Double(cut.magnitude), model: index / 2)]
    }
  }
}
