package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling OTA merge with Fast Fisher Grafting: adds P ⊙ θ of a model, or P, to a state.
///
/// P = weight · (√v + ε) where v τ² is among the ⌊density·n⌋ largest of the model, 0 elsewhere; v are Adam's second moments, the side input, τ = model −
/// base and ε = `epsilon`. Not a method of recipes: `RollingPlan.make` writes the recipe, with one part for each of the two running objects,
/// for which the threshold is searched once. Inputs: the base, the state, the model; the first step has no state. Shapes: any, equal.
/// Arithmetic: saliencies f32 times 2⁶⁴, weights f64 rounded to f32, products f64 rounded to f32, sums f32. Bytes: with a density all inputs up to
/// twice for the threshold, and once for each running object; the output once.
/// Source: Harnessing Optimization Dynamics for Curvature-Informed Model Merging, arXiv 2509.11167.
package struct RollingOTA: MergeMethod {
  package typealias State = MagnitudeSearches

  package static let descriptor = MethodDescriptor(
    name: "rolling_ota", title: "Rolling OTA", summary: "Adds a model, weighted by its second moments, to a state.", base: .required,
    models: 1...2,
    parameters: [
      ParameterDescriptor("part", .choice(["weighted", "weights"]), "what is added up", isRequired: true),
      ParameterDescriptor("weight", .number(NumberRange(from: .open(0))), "factor of the weights", default: .number(1)),
      ParameterDescriptor("density", .number(.fraction), "share of the task vector that is kept", default: .number(1)),
    ], scopes: [.model],
    sideInputs: [SideInputDescriptor("second_moment", .tensor, "Adam's second moments of the model", isRequired: false)])

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }

  /// Added to every weight: where the sum of the weights is hardly more, nobody has anything to say.
  package static let epsilon = 1e-26

  private struct Setting: Sendable {
    var isWeighted: Bool
    var weight: Double
    var moments: Int
  }

  private let settings: [Setting]
  private let search: RollingSearch
  private let initial: MagnitudeSearches
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let lead = try request.onlySegment()
    try request.requireBase(of: "rolling_ota")
    hasState = request.modelCount == 2
    var settings: [Setting] = []
    for segment in request.segments {
      guard let moments = segment.side("second_moment", model: request.inputs.count - 1) else {
        throw IngotError(.recipe, "the model has no second_moment of tensor \(segment.name)", subject: segment.name)
      }
      settings.append(
        Setting(isWeighted: segment.text("part") == "weighted", weight: segment.number("weight") ?? 1, moments: moments))
    }
    self.settings = settings
    search = try RollingSearch(request)
    initial = search.search(density: lead.number("density") ?? 1)
  }

  package var demands: Demands { Demands(scratchRows: 2) }

  package func begin() -> Phase<State> { next(initial) }

  private func next(_ state: State) -> Phase<State> { search.round(state).map { .gather(state, $0) } ?? .emit(state) }

  private func saliency(_ tile: Tile, _ moments: Floats) -> Floats {
    let result = tile.scratch[1]
    tile.kernels.subtract(tile.inputs[tile.inputs.rows - 1], tile.inputs[0], into: result)
    tile.kernels.saliency(moments, result, into: result)
    return result
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    state.gather(0, saliency(tile, tile.sides[settings[tile.segment].moments]), search.placed(tile), statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    state.settle(search.placed(statistics))
    return next(state)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let setting = settings[tile.segment]
    let moments = tile.sides[setting.moments]
    var kept: Floats?
    if !state.keepsEverything {
      let values = saliency(tile, moments)
      state.trim(0, values, search.placed(tile))
      kept = values
    }
    let (weights, model) = (tile.scratch[0], tile.inputs[tile.inputs.rows - 1])
    tile.kernels.precondition(
      moments, kept: kept, power: 0.5, factor: 1, epsilon: Self.epsilon, scale: setting.weight, into: weights)
    tile.kernels.informed(setting.isWeighted ? model : nil, by: weights, floor: 0, scale: 1, into: hasState ? model : output)
    if hasState { tile.kernels.combination(model, tile.inputs[1], weights: (1, 1), into: output) }
  }

  package func findings(_ state: State) -> [Finding] {
    state.cuts.first.flatMap { cut in
      cut == .everything || cut == .nothing ? nil : [Finding("threshold", Double(cut.magnitude) / Double(Kernels.saliencyScale))]
    } ?? []
  }
}
