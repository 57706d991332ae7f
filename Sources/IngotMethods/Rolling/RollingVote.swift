package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling TIES: what a model's trimmed task vector adds to one of the four sums of a vote.
///
/// Of τ = model − base the ⌊density·n⌋ largest magnitudes stay, n those of a tensor or, with `scope` model, of all; `part` says what is added to the
/// state: weight times the size of the positive or of the negative elements, or the weight of those. Not a method of recipes: `RollingPlan.make`
/// writes the recipe, with one part for each running object. Inputs: the base, the state, the model; the first step has no state. Shapes: any, equal.
/// The running objects of a tensor share a job, in which the threshold is searched once. Thresholds are exact. Arithmetic: f32.
/// Bytes: base, state and model up to twice for the threshold, and once for each running object; the output once.
/// Source: Yadav et al., TIES-Merging, arXiv 2306.01708.
package struct RollingVote: MergeMethod {
  package typealias State = MagnitudeSearches

  package static let descriptor = MethodDescriptor(
    name: "rolling_vote", title: "Rolling Vote", summary: "Adds a trimmed task vector to a sum of a vote.", base: .required, models: 1...2,
    parameters: [
      ParameterDescriptor(
        "part", .choice(["positive", "negative", "positive_weight", "negative_weight"]), "what is added up", isRequired: true),
      ParameterDescriptor("weight", .number(NumberRange(from: .open(0))), "factor of the task vector", default: .number(1)),
      ParameterDescriptor("density", .number(.fraction), "share of the task vector that is kept", default: .number(1)),
      .trimScope,
    ], scopes: [.tensor, .model])

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    parameters["scope"]?.text == "model" ? .model : .group
  }

  package static func group(of name: String) -> String { RollingName.tensor(name) }

  /// One for each tensor of the job.
  private struct Setting: Sendable {
    var part: Kernels.VotePart
    var weight: Float
  }

  private let settings: [Setting]
  private let search: RollingSearch
  private let initial: MagnitudeSearches
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let lead = try request.onlySegment()
    try request.requireBase(of: "rolling_vote")
    hasState = request.modelCount == 2
    settings = request.segments.map { Setting(part: Self.part($0), weight: Float($0.number("weight") ?? 1)) }
    search = try RollingSearch(request)
    initial = search.search(density: lead.number("density") ?? 1)
  }

  private static func part(_ segment: MethodRequest.Segment) -> Kernels.VotePart {
    switch segment.text("part") {
    case "negative": .negative
    case "positive_weight": .positiveWeight
    case "negative_weight": .negativeWeight
    default: .positive
    }
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> { next(initial) }

  private func next(_ state: State) -> Phase<State> { search.round(state).map { .gather(state, $0) } ?? .emit(state) }

  private func difference(_ tile: Tile) -> Floats {
    let model = tile.inputs[tile.inputs.rows - 1]
    tile.kernels.subtract(model, tile.inputs[0], into: model)
    return model
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    state.gather(0, difference(tile), search.placed(tile), statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    state.settle(search.placed(statistics))
    return next(state)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let (delta, setting) = (difference(tile), settings[tile.segment])
    state.trim(0, delta, search.placed(tile))
    guard hasState else { return tile.kernels.votePart(delta, setting.part, weight: setting.weight, into: output) }
    tile.kernels.votePart(delta, setting.part, weight: setting.weight, into: delta)
    tile.kernels.combination(tile.inputs[1], delta, weights: (1, 1), into: output)
  }

  package func findings(_ state: State) -> [Finding] { state.findings }
}
