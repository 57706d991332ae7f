package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Fisher-weighted averaging: out_j = Σ λᵢ F_ij θ_ij / Σ λᵢ F_ij, with the diagonal Fisher matrix Fᵢ of each model as its side input.
///
/// λᵢ is the model's `weight`. With `fisher_norm: l2` it is divided by ‖Fᵢ‖₂ over all tensors that the method merges, so that no model outweighs
/// the others by the scale of its gradients alone. Floors guard against 0/0: at least `fisher_floor` (or that added, `fisher_floor_rule`), times
/// the mean of the model's Fisher values unless `fisher_floor_mode` is absolute; with `favor_target` the first model alone has one, so that it
/// decides where no model has any information. Without a floor such elements get the plain mean.
/// Shapes: any, equal. Arithmetic: f64 for each element, rounded once to f32. Identical models return themselves.
/// Bytes: models and side files once; with a norm or a relative floor the side files once more before.
/// Source: Matena and Raffel, arXiv 2111.09832; the floor of all models as in fusion_bench.
package struct Fisher: MergeMethod {
  package struct State: Sendable {
    /// One for each tensor of the job.
    var weightings: [Weighting]
    var norms: [Double] = []
  }

  package static let descriptor = MethodDescriptor(
    name: "fisher", title: "Fisher", summary: "Averages the models weighted by their diagonal Fisher information.",
    formula: "Σ λᵢ Fᵢ θᵢ / Σ λᵢ Fᵢ, with λᵢ = wᵢ / ‖Fᵢ‖₂ over all tensors",
    reference: .init("Merging Models with Fisher-Weighted Averaging, arXiv 2111.09832", url: "https://arxiv.org/abs/2111.09832"),
    base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "weight", .number(.any), "factor of the model's Fisher information, 0 or more", default: .number(1), isPerModel: true),
      ParameterDescriptor(
        "fisher_norm", .choice(["l2", "none"]), "divide each model's Fisher information by its norm over all tensors, or leave it as it is",
        default: .text("l2")),
      ParameterDescriptor(
        "fisher_floor", .number(NumberRange(from: .closed(0))), "the least Fisher information of an element", default: .number(1e-6)),
      ParameterDescriptor(
        "fisher_floor_mode", .choice(["relative", "absolute"]), "relative: the floor is times the mean of the model's Fisher information",
        default: .text("relative"), paperDefault: .text("absolute")),
      ParameterDescriptor(
        "fisher_floor_rule", .choice(["least", "add"]), "raise smaller values to the floor, or add it to all", default: .text("least")),
      ParameterDescriptor(
        "favor_target", .boolean, "only the first model has a floor, so its values stand where no model has information",
        default: .boolean(true)),
    ],
    scopes: [.element, .model],
    sideInputs: [SideInputDescriptor("fisher", .tensor, "the model's diagonal Fisher information")],
    notes: [
      "where the sum of the weights is zero (fisher_floor: 0), the plain mean of the models",
      "a model whose Fisher information is zero everywhere takes part by its floor only",
    ],
    example: """
      merge_method: fisher
      models:
        - model: models/french
          side: {fisher: sides/french_fisher}
        - model: models/code
          side: {fisher: sides/code_fisher}
          parameters: {weight: 0.5}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    needsStatistics(parameters) ? .model : .tensor
  }

  private static func needsStatistics(_ parameters: [String: ParameterValue]) -> Bool {
    if parameters["fisher_norm"]?.text ?? "l2" == "l2" { return true }
    return parameters["fisher_floor_mode"]?.text ?? "relative" == "relative" && parameters["fisher_floor"]?.number ?? 0 > 0
  }

  private struct Setting: Sendable {
    var weights: [Double]
    var normalizes: Bool
    var floor: Double
    var isRelative: Bool
    var adds: Bool
    var favorsFirst: Bool
  }

  private let count: Int
  private let settings: [Setting]
  private let elements: Double
  private let measures: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.onlySegment()
    count = request.inputs.count
    var settings: [Setting] = []
    var elements = 0
    for segment in request.segments {
      var weights: [Double] = []
      for (model, input) in request.inputs.enumerated() {
        let weight = segment.number("weight", model: model) ?? 1
        guard weight >= 0 else {
          throw IngotError(
            .recipe, "the weight of model \(input.model) is \(weight) at tensor \(segment.name), expected 0 or more",
            hint: "Fisher information is never negative", subject: segment.name)
        }
        guard segment.side("fisher", model: model) == model else {
          throw IngotError(.recipe, "model \(input.model) has no side input fisher for tensor \(segment.name)", subject: segment.name)
        }
        weights.append(weight)
      }
      guard weights.contains(where: { $0 > 0 }) else {
        throw IngotError(
          .recipe, "the weights of tensor \(segment.name) are all zero", hint: "give one model a weight above 0", subject: segment.name)
      }
      elements += try segment.shape.elementCount()
      settings.append(
        Setting(
          weights: weights, normalizes: segment.text("fisher_norm") ?? "l2" == "l2", floor: segment.number("fisher_floor") ?? 0,
          isRelative: segment.text("fisher_floor_mode") ?? "relative" == "relative", adds: segment.text("fisher_floor_rule") == "add",
          favorsFirst: segment.flag("favor_target", default: true)))
    }
    self.settings = settings
    self.elements = Double(max(elements, 1))
    measures = request.segments.contains { Self.needsStatistics($0.parameters) }
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> {
    measures
      ? .gather(State(weightings: []), Round(sums: 2 * count, readsOnlySides: true))
      : .emit(state(squares: [Double](repeating: 1, count: count), sums: [Double](repeating: elements, count: count)))
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    for model in 0..<count {
      tile.kernels.accumulateDot(tile.sides[model], tile.sides[model], into: statistic.sum(2 * model))
      tile.kernels.accumulateAbsolute(tile.sides[model], into: statistic.sum(2 * model + 1))
    }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    .emit(
      self.state(squares: (0..<count).map { statistics.sums[2 * $0] }, sums: (0..<count).map { statistics.sums[2 * $0 + 1] }))
  }

  private func state(squares: [Double], sums: [Double]) -> State {
    let norms = squares.map { $0.squareRoot() }
    let weightings = settings.map { setting in
      Weighting(
        scales: (0..<count).map { setting.normalizes && norms[$0] > 0 ? setting.weights[$0] / norms[$0] : setting.weights[$0] },
        floors: (0..<count).map { model in
          let isGuarded = model == 0 || !setting.favorsFirst
          return isGuarded ? setting.floor * (setting.isRelative && sums[model] > 0 ? sums[model] / elements : 1) : 0
        },
        floor: setting.adds ? .added : .least)
    }
    return State(weightings: weightings, norms: measures ? norms : [])
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.weightedMean(
      tile.inputs, weights: tile.sides.streamed, state.weightings[tile.segment], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    state.norms.enumerated().map { Finding("fisher_norm", $0.element, model: $0.offset) }
  }
}
