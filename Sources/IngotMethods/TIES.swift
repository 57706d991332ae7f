package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Trim, elect sign, merge: keeps the largest magnitudes of each task vector, elects a sign per element by weighted sum, and averages what agrees.
///
/// 1. Trim: of the n values of τᵢ exactly ⌊density·n⌋ with the largest magnitude stay; `scope` says over what n counts (tensor: mergekit;
///    model: the paper). 2. Elect: the sign of Σ wᵢ τ̂ᵢ, zero counting as plus. 3. Merge: Σ wᵢ τ̂ᵢ over the terms of that sign, divided by the sum of
///    their weights when `normalize` holds (default). 4. θ₀ + λ · that. `zero_sign` changes what a zero counts as; the paper's rule, the sign that
///    most elements of the scope have, takes one more round over the data. `reducer: max` takes of the terms that agree the one of the largest
///    magnitude; `kept_count: authors` keeps one element more than ⌊density·n⌋, as the authors' code does.
/// Shapes: any, equal. Thresholds are exact for any size. Degenerate: density·n < 1 keeps nothing of that tensor (mergekit fails).
/// Bytes: inputs up to three times (a sample, one round, the merge), fewer when kept in memory; the output once.
/// Source: Yadav et al., TIES-Merging, arXiv 2306.01708. Deviates from mergekit in the order among equal magnitudes (`ties`).
package struct TIES: MergeMethod {
  package struct State: Sendable {
    var searches: MagnitudeSearches
    /// Factor of each kept delta, when `rescale` asks for one; empty until measured.
    var factors: [Float]
    var isMeasuringMass: Bool
    var zeroSign: ZeroSignRule
    var isCountingSigns = false
  }

  package static let descriptor = MethodDescriptor(
    name: "ties", title: "TIES", summary: "Trims task vectors by magnitude, elects signs, merges what agrees.",
    formula: "θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the terms whose sign is that of Σ wᵢ τ̂ᵢ; τ̂ᵢ = the density·n largest magnitudes of τᵢ",
    reference: .init("TIES-Merging, arXiv 2306.01708", url: "https://arxiv.org/abs/2306.01708"), base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: true) + [
      .density, .rescale(false),
      .trimScope, .ties(paper: "ge"),
      ParameterDescriptor(
        "kept_count", .choice(["floor", "authors"]),
        "how many elements stay: floor, ⌊density·n⌋; or authors, one more, as in the authors' code", default: .text("floor")),
      .zeroSign(over: "the scope"),
      ParameterDescriptor(
        "reducer", .choice(["mean", "max"]),
        "what the terms of the elected sign become: mean (their sum without normalize) or max, the one of the largest magnitude",
        default: .text("mean")),
    ],
    scopes: [.tensor, .model], hasStepwiseNumerics: true,
    notes: ["density × elements below 1 keeps nothing of that tensor"],
    example: """
      merge_method: ties
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.5, density: 0.5}
        - model: models/code
          parameters: {weight: [0.2, 0.8], density: 0.5}
      parameters:
        normalize: true
        int8_mask: true
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    parameters["scope"]?.text == "model" ? .model : .tensor
  }

  package static var cropsToBase: Bool { true }

  private let combination: TaskVectorCombination
  private let initial: MagnitudeSearches
  private let rescales: Bool
  private let ties: TieRule
  private let modelCount: Int
  private let zeroSign: ZeroSignRule
  private let steps: StepRounding?
  private let takesLargest: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    combination = try TaskVectorCombination(request, votes: true, normalizesByDefault: true)
    let first = try request.onlySegment()
    takesLargest = try request.uniform(text: "reducer") == "max"
    rescales = first.flag("rescale", default: false)
    ties = first.tieRule()
    zeroSign = ZeroSignRule(first)
    steps = StepRounding(first)
    modelCount = request.modelCount
    guard !takesLargest || steps == nil else {
      throw IngotError(
        .recipe, "numerics: stepwise follows mergekit's steps, which have no reducer: max", hint: "remove one of them", subject: first.name)
    }
    initial = try MagnitudeSearches(trimming: request)
  }

  package var demands: Demands { Demands(scratchRows: zeroSign.needsCounting ? 1 : 0) }

  package func begin() -> Phase<State> {
    next(State(searches: initial, factors: [], isMeasuringMass: false, zeroSign: zeroSign))
  }

  private func next(_ state: State) -> Phase<State> {
    if let round = state.searches.nextRound { return .gather(state, round) }
    if rescales && state.factors.isEmpty {
      var measuring = state
      measuring.isMeasuringMass = true
      return .gather(measuring, Round(sums: 2 * modelCount))
    }
    if state.zeroSign.needsCounting {
      var counting = state
      counting.isCountingSigns = true
      return .gather(counting, Round(tallies: 2))
    }
    return .emit(state)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    if state.isCountingSigns {
      sparsify(state, tile)
      combination.countSigns(tile, statistic)
      return
    }
    for model in 0..<modelCount {
      let delta = tile.inputs[model + 1]
      if state.isMeasuringMass {
        tile.kernels.accumulateAbsolute(delta, into: statistic.sum(2 * model))
        state.searches.trim(model, delta, tile)
        tile.kernels.accumulateAbsolute(delta, into: statistic.sum(2 * model + 1))
      } else {
        state.searches.gather(model, delta, tile, statistic)
      }
    }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.isMeasuringMass || state.isCountingSigns || steps != nil ? nil : state.searches.gatherStored(tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    if state.isMeasuringMass {
      state.isMeasuringMass = false
      state.factors = (0..<modelCount).map { massFactor(all: statistics.sums[2 * $0], kept: statistics.sums[2 * $0 + 1], steps) }
      return next(state)
    }
    if state.isCountingSigns {
      state.isCountingSigns = false
      state.zeroSign.settle(statistics)
      return .emit(state)
    }
    state.searches.settle(statistics)
    return next(state)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    let cuts = state.searches.cuts
    guard state.factors.isEmpty, !cuts.contains(.nothing), !combination.isStepwise, !takesLargest else { return nil }
    return combination.fused(segment: segment, ties: ties, zeroSign: state.zeroSign.elected) { FusedMerge.Term(weight: $1, cut: cuts[$0]) }
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    sparsify(state, tile)
    combination.combine(tile, zeroSign: state.zeroSign.elected, takesLargest: takesLargest, into: output)
  }

  /// Trims and scales the task vectors of a tile, in place.
  private func sparsify(_ state: State, _ tile: Tile) {
    for model in 0..<modelCount {
      let delta = tile.inputs[model + 1]
      state.searches.trim(model, delta, tile)
      if state.factors.isEmpty { continue }
      tile.kernels.scale(delta, by: state.factors[model], into: delta)
      if let steps { tile.kernels.round(delta, to: steps.dtype) }
    }
  }

  package func findings(_ state: State) -> [Finding] { state.searches.findings }
}

extension ParameterDescriptor {
  static let trimScope = ParameterDescriptor(
    "scope", .choice(["tensor", "model"]), "what a threshold extends over: tensor (mergekit) or model (the paper)",
    default: .text("tensor"), paperDefault: .text("model"))
}

extension MagnitudeSearches {
  /// Keeps of each task vector ⌊density·n⌋ elements, n those of the whole job; one more where `kept_count` is that of the authors.
  /// Throws `.recipe` where a model's densities differ.
  init(trimming request: MethodRequest) throws(IngotError) {
    let ties = try request.onlySegment().tieRule()
    let more: UInt64 = try request.uniform(text: "kept_count") == "authors" ? 1 : 0
    let (population, blocks) = try request.population()
    var searches: [MagnitudeSearch] = []
    for model in 1..<request.inputs.count {
      let density = request.segments[0].number("density", model: model) ?? 1
      if let other = request.segments.first(where: { ($0.number("density", model: model) ?? 1) != density }) {
        throw IngotError(
          .recipe, "scope: model needs one density per model, found \(density) at \(request.segments[0].name) and another at \(other.name)",
          hint: "use a plain number for density, or scope: tensor", subject: request.inputs[model].model)
      }
      searches.append(
        MagnitudeSearch(population: population, keep: keptCount(density: density, of: population) + more, ties: ties, blocks: blocks))
    }
    self.init(searches)
  }

  /// The thresholds that were searched for, and how many elements were tied at each.
  var findings: [Finding] {
    cuts.enumerated().flatMap { model, cut in
      cut == .everything || cut == .nothing
        ? [] : [Finding("threshold", Double(cut.magnitude), model: model), Finding("tied", Double(cut.tied), model: model)]
    }
  }
}

/// ⌊density · n⌋ in f64, as Python truncates it.
func keptCount(density: Double, of count: UInt64) -> UInt64 {
  if density >= 1 { return count }
  if !(density > 0) { return 0 }
  return min(count, UInt64(density * Double(count)))
}

/// mergekit's L1 rescale: Σ|τ| / Σ|kept τ|; 1 when either sum is below 1e-7.
func massFactor(all: Double, kept: Double, _ steps: StepRounding? = nil) -> Float {
  guard let steps else { return all < 1e-7 || kept < 1e-7 ? 1 : Float(all / kept) }
  let (all, kept) = (steps.rounded(Float(all)), steps.rounded(Float(kept)))
  return all < 1e-7 || kept < 1e-7 ? 1 : steps.rounded(all / kept)
}
