package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// PCB-Merging: elements compete within their own task vector by size and between the models by agreement; the losers are dropped and the
/// rest weighted by how far they won.
///
/// Over the whole model, of d elements: 1. the magnitudes of τᵢ are clamped to their ascending order statistics ⌊c·d⌋ and ⌊(1−c)·d − 1⌋
/// (c = `pcb_clip`); u is the place of a clamped magnitude between these two, 0 to 1. 2. βᵢ = exp(N u²) · tanh(τᵢ Σ τₖ), N models; in the
/// `vision` variant exp(N u²) · Σₖ tanh(zᵢ zₖ) with z = sign(τ) u. 3. With cut the order statistic ⌊(1−r)·d⌋ of βᵢ (r = `pcb_ratio`) and top its
/// largest, bᵢ is the place of βᵢ between them, 0 at the cut and below. 4. θ₀ + λ · Σ bᵢ wᵢ τ̄ᵢ / max(Σ bᵢ, 1e-12), τ̄ᵢ the clamped task vector.
/// Shapes: any, equal. Order statistics are exact; β is computed in f64 and rounded to f32 once, the sums of step 4 are f64.
/// Degenerate: a task vector of one magnitude has u = 0; one whose β are all alike has b = 0, and where all b are 0 the base stays.
/// Bytes: inputs five times (a sample and a round for the bounds, the same for the cuts, the output; fewer when kept in memory), the output once.
/// Source: Du et al., Parameter Competition Balancing for Model Merging, arXiv 2410.02396, in the two forms of the released code.
package struct PCB: MergeMethod {
  package struct State: Sendable {
    fileprivate enum Stage: Sendable {
      case magnitudes
      /// Cut and top among the positive scores, the others counting as 0.
      case scores
      /// The same among the negative ones, where the positive ones did not reach that far down.
      case negatives
    }

    fileprivate var stage = Stage.magnitudes
    fileprivate var searches: MagnitudeSearches
    /// Lowest and highest magnitude of each model.
    fileprivate var bounds: [Float]
    /// Cut and top of each model's scores.
    fileprivate var cuts: [(cut: Float, top: Float)] = []
    /// Bounds, cut, top and weight of each model, for every tensor: what the last step needs of a tile at once.
    fileprivate var limits: [[Float]] = []
  }

  package static let descriptor = MethodDescriptor(
    name: "pcb", title: "PCB-Merging", summary: "Weighs every element by how it wins within its task vector and between the models.",
    formula:
      "θ₀ + λ Σ bᵢ wᵢ τ̄ᵢ / Σ bᵢ, bᵢ the place of βᵢ = exp(N uᵢ²) · tanh(τᵢ Σ τₖ) between its cut and its largest, uᵢ that of |τᵢ| in its model",
    reference: .init("Parameter Competition Balancing for Model Merging, arXiv 2410.02396", url: "https://arxiv.org/abs/2410.02396"),
    base: .required, models: 1...modelLimit,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", default: .number(1), isPerModel: true),
      ParameterDescriptor("pcb_ratio", .number(.fraction), "share of the scores above the cut", default: .number(0.05)),
      ParameterDescriptor(
        "pcb_clip", .number(.init(from: .closed(0), to: .open(0.5))),
        "share of the magnitudes that is clamped at each end; 0.0001 (raw) or 0.01 (vision) when not given"),
      ParameterDescriptor(
        "pcb_variant", .choice(["raw", "vision"]),
        "which form of the released code: raw (agreement with the sum of the task vectors) or vision (pairwise, of normalised ones)",
        default: .text("raw")),
      .lambda,
    ],
    scopes: [.model],
    notes: ["exp and tanh as in the released code; the paper writes softmax", "where nothing is above its cut the base stays"],
    example: """
      merge_method: pcb
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {pcb_ratio: 0.1}
      dtype: bfloat16
      """)

  /// exp(N) must stay a finite f32.
  package static let modelLimit = 64

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }

  package static var cropsToBase: Bool { true }

  private let modelCount: Int
  private let population: UInt64
  private let blocks: UInt64
  private let initial: MagnitudeSearches
  /// Ascending place of the cut.
  private let cutPlace: UInt64
  private let isPairwise: Bool
  private let weights: [[Float]]
  private let lambdas: [Float]

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.onlySegment()
    try request.requireBase(of: "pcb")
    modelCount = request.modelCount
    guard modelCount <= Self.modelLimit else {
      throw IngotError(.recipe, "pcb takes up to \(Self.modelLimit) models, found \(modelCount)", hint: "merge them in groups")
    }
    isPairwise = try request.uniform(text: "pcb_variant") == "vision"
    let clip = try request.uniform("pcb_clip", default: isPairwise ? 0.01 : 1e-4)
    let ratio = try request.uniform("pcb_ratio", default: 0.05)
    (population, blocks) = try request.population()
    let (count, last) = (Double(population), max(population, 1) - 1)
    let low = min(UInt64(count * clip), last)
    let high = min(max(UInt64(max(count * (1 - clip) - 1, 0)), low), last)
    cutPlace = min(UInt64(count * (1 - ratio)), last)
    var searches: [MagnitudeSearch] = []
    for _ in 0..<modelCount { for place in [low, high] { searches.append(Self.search(place, population, blocks)) } }
    initial = MagnitudeSearches(searches)
    weights = request.segments.map { segment in
      (1..<request.inputs.count).map { Float(segment.number("weight", model: $0) ?? 1) }
    }
    lambdas = request.segments.map { Float($0.number("lambda") ?? 1) }
  }

  /// Finds the value of an ascending place.
  private static func search(_ place: UInt64, _ population: UInt64, _ blocks: UInt64) -> MagnitudeSearch {
    MagnitudeSearch(population: population, rank: max(population, 1) - 1 - place, ties: .ge, blocks: blocks)
  }

  /// A row for each model's scores.
  package var demands: Demands { Demands(scratchRows: modelCount) }

  package func begin() -> Phase<State> { next(State(searches: initial, bounds: [])) }

  private func next(_ state: State) -> Phase<State> {
    var state = state
    while true {
      if let round = state.searches.nextRound { return .gather(state, round) }
      let values = state.searches.cuts.map(\.magnitude)
      switch state.stage {
      case .magnitudes:
        state.bounds = values
        state.stage = .scores
        state.searches = scoreSearches(cutPlace, (population > 0 ? population : 1) - 1)
      case .scores:
        state.cuts = pairs(values)
        if state.cuts.allSatisfy({ $0.cut > 0 }) { return emitting(state) }
        // Among magnitudes of negative scores the order is the other way round.
        state.stage = .negatives
        state.searches = scoreSearches((population > 0 ? population : 1) - 1 - cutPlace, 0)
      case .negatives:
        for (model, found) in pairs(values).enumerated() {
          if !(state.cuts[model].cut > 0) { state.cuts[model].cut = -found.cut }
          if !(state.cuts[model].top > 0) { state.cuts[model].top = -found.top }
        }
        return emitting(state)
      }
    }
  }

  private func emitting(_ state: State) -> Phase<State> {
    var state = state
    for own in weights {
      var limits: [Float] = []
      limits.reserveCapacity(5 * modelCount)
      for model in 0..<modelCount {
        limits += [state.bounds[2 * model], state.bounds[2 * model + 1], state.cuts[model].cut, state.cuts[model].top, own[model]]
      }
      state.limits.append(limits)
    }
    return .emit(state)
  }

  private func pairs(_ values: [Float]) -> [(cut: Float, top: Float)] {
    (0..<modelCount).map { (values[2 * $0], values[2 * $0 + 1]) }
  }

  private func scoreSearches(_ cut: UInt64, _ top: UInt64) -> MagnitudeSearches {
    MagnitudeSearches((0..<modelCount).flatMap { _ in [cut, top].map { Self.search($0, population, blocks) } })
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let deltas = tile.subtractingBase()
    for model in 0..<modelCount {
      var values = deltas[model]
      if state.stage != .magnitudes {
        values = tile.scratch[0]
        let least = state.stage == .scores ? state.searches.leastMagnitude(2 * model..<2 * model + 2) : 0
        tile.kernels.competition(
          deltas, row: model, bounds: state.bounds, pairwise: isPairwise, part: state.stage == .scores ? .positive : .negative,
          least: least, into: values)
      }
      state.searches.gather(2 * model, values, tile, statistic)
      state.searches.gather(2 * model + 1, values, tile, statistic)
    }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.stage == .magnitudes ? state.searches.gatherStored(tile, statistic, perModel: 2) : nil
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    state.searches.settle(statistics)
    return next(state)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    for (model, cut) in state.cuts.enumerated() {
      // At the cut and below a score counts nothing; below 0 it would count more than the 0 in its place.
      tile.kernels.competition(
        deltas, row: model, bounds: state.bounds, pairwise: isPairwise, least: max(cut.cut, 0), into: tile.scratch[model])
    }
    tile.kernels.balance(deltas, scores: tile.scratch, limits: state.limits[tile.segment], into: output)
    tile.kernels.addDelta(output, scaledBy: lambdas[tile.segment], to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    var findings: [Finding] = []
    for model in 0..<modelCount {
      findings.append(Finding("low", Double(state.bounds[2 * model]), model: model))
      findings.append(Finding("high", Double(state.bounds[2 * model + 1]), model: model))
      findings.append(Finding("cut", Double(state.cuts[model].cut), model: model))
      findings.append(Finding("top", Double(state.cuts[model].top), model: model))
    }
    return findings
  }
}
