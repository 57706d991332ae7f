package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// One step of a rolling Fisher-weighted average: adds λ F ⊙ θ of a model, or λ F, to a state.
///
/// F is the model's diagonal Fisher matrix, its side input, and λ its weight over ‖F‖₂ of all tensors; values of F below `fisher_floor` times their mean
/// are raised to that. Not a method of recipes: `RollingPlan.make` writes the recipe, with one part for each of the two running objects. Inputs:
/// the model, then the state. Shapes: any, equal. Arithmetic: products f64, rounded once to f32; sums f32.
/// Bytes: inputs once for each running object, the side file once more, the output once. Source: Matena and Raffel, arXiv 2111.09832.
package struct RollingFisher: MergeMethod {
  package struct State: Sendable {
    var norm = 1.0
    var mean = 0.0
  }

  package static let descriptor = MethodDescriptor(
    name: "rolling_fisher", title: "Rolling Fisher", summary: "Adds a model, weighted by its Fisher information, to a state.", base: .none,
    models: 1...2,
    parameters: [
      ParameterDescriptor("part", .choice(["weighted", "information"]), "what is added up", isRequired: true),
      ParameterDescriptor("weight", .number(NumberRange(from: .open(0))), "factor of the information", default: .number(1)),
      ParameterDescriptor(
        "fisher_floor", .number(NumberRange(from: .closed(0))), "the least information, in means of it", default: .number(0)),
    ], scopes: [.model],
    sideInputs: [SideInputDescriptor("fisher", .tensor, "the model's diagonal Fisher information", isRequired: false)])

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }

  private struct Setting: Sendable {
    var isWeighted: Bool
    var weight: Double
    var floor: Double
    var fisher: Int
  }

  private let settings: [Setting]
  private let elements: Double
  /// The tensors that are measured: the first running objects, since the others have the same Fisher information.
  private let measured: Set<Int>
  private let hasState: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    hasState = request.inputs.count == 2
    var elements = 0
    var settings: [Setting] = []
    var measured: Set<Int> = []
    for (index, segment) in request.segments.enumerated() {
      guard let fisher = segment.side("fisher", model: 0) else {
        throw IngotError(.recipe, "the model has no fisher of tensor \(segment.name)", subject: segment.name)
      }
      settings.append(
        Setting(
          isWeighted: segment.text("part") == "weighted", weight: segment.number("weight") ?? 1,
          floor: segment.number("fisher_floor") ?? 0, fisher: fisher))
      guard RollingName.isFirst(segment.name) else { continue }
      measured.insert(index)
      elements += try segment.shape.elementCount()
    }
    self.settings = settings
    self.measured = measured
    self.elements = Double(max(elements, 1))
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> { .gather(State(), Round(sums: 2, readsOnlySides: true, segments: measured)) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let fisher = tile.sides[settings[tile.segment].fisher]
    tile.kernels.accumulateDot(fisher, fisher, into: statistic.sum(0))
    tile.kernels.accumulateAbsolute(fisher, into: statistic.sum(1))
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let norm = statistics.sums[0].squareRoot()
    // Without any information the floor is an absolute one.
    return .emit(State(norm: norm > 0 ? norm : 1, mean: statistics.sums[1] > 0 ? statistics.sums[1] / elements : 1))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let setting = settings[tile.segment]
    let model = tile.inputs[0]
    tile.kernels.informed(
      setting.isWeighted ? model : nil, by: tile.sides[setting.fisher], floor: setting.floor * state.mean,
      scale: setting.weight / state.norm, into: hasState ? model : output)
    if hasState { tile.kernels.combination(model, tile.inputs[1], weights: (1, 1), into: output) }
  }

  package func findings(_ state: State) -> [Finding] { [Finding("fisher_norm", state.norm, model: 0)] }
}
