package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling TIES: what a model's trimmed task vector adds to one of the four sums of a vote.
///
/// Of τ = model − base the ⌊density·n⌋ largest magnitudes of a tensor stay; `part` says what is added to the state: weight times the size of the
/// positive or of the negative elements, or the weight of those. Not a method of recipes: `RollingPlan.make` writes the recipe, with one
/// part for each running object. Inputs: the base, the state, the model; the first step has no state. Shapes: any, equal. Thresholds are exact, and
/// the same for every part. Arithmetic: f32. Bytes: inputs up to three times, the output once. Source: Yadav et al., TIES-Merging, arXiv 2306.01708.
package struct RollingVote: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "rolling_vote", title: "Rolling Vote", summary: "Adds a trimmed task vector to a sum of a vote.", base: .required, models: 1...2,
    parameters: [
      ParameterDescriptor(
        "part", .choice(["positive", "negative", "positive_weight", "negative_weight"]), "what is added up", isRequired: true),
      ParameterDescriptor("weight", .number(NumberRange(from: .open(0))), "factor of the task vector", default: .number(1)),
      ParameterDescriptor("density", .number(.fraction), "share of the task vector that is kept", default: .number(1)),
    ], scopes: [.tensor])

  private let part: Kernels.VotePart
  private let weight: Float
  package let initial: MagnitudeSearches
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "rolling_vote")
    part =
      switch segment.text("part") {
      case "negative": .negative
      case "positive_weight": .positiveWeight
      case "negative_weight": .negativeWeight
      default: .positive
      }
    weight = Float(segment.number("weight") ?? 1)
    hasState = request.modelCount == 2
    let count = UInt64(try segment.shape.elementCount())
    initial = MagnitudeSearches([
      MagnitudeSearch(
        population: count, keep: keptCount(density: segment.number("density") ?? 1, of: count), ties: .hash,
        blocks: (count + 65_535) / 65_536)
    ])
  }

  package var demands: Demands { Demands() }

  private func difference(_ tile: Tile) -> Floats {
    let model = tile.inputs[tile.inputs.rows - 1]
    tile.kernels.subtract(model, tile.inputs[0], into: model)
    return model
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    state.gather(0, difference(tile), tile, statistic)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let delta = difference(tile)
    state.trim(0, delta, tile)
    guard hasState else { return tile.kernels.votePart(delta, part, weight: weight, into: output) }
    tile.kernels.votePart(delta, part, weight: weight, into: delta)
    tile.kernels.combination(tile.inputs[1], delta, weights: (1, 1), into: output)
  }
}
