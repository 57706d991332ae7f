package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// TIES with a slack variable: what loses a sign vote by little is not dropped.
///
/// As `TIES` (trim, elect, merge), but where the weighted terms against the elected sign reach (1 − slack) times those for it, the element is
/// undecided and all its terms are averaged. With `protect`, one model is protected instead: its trimmed element stays as it is wherever its
/// magnitude reaches (1 − slack) times the merged one's, whatever the vote. slack 0 is TIES.
/// Shapes: any, equal. Bytes: as `TIES`. Source: the idea is that of Tao et al., arXiv 2407.03994, whose formula was not available: this one is ours.
package struct TIESSlack: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "ties_sv", title: "TIES with a slack variable", summary: "TIES in which what loses a sign vote by little is not dropped.",
    formula: "as ties, but Σ wᵢ τ̂ᵢ / Σ wᵢ over all terms where those against the elected sign reach (1 − slack) times those for it",
    reference: .init(
      "Unlocking the Potential of Model Merging for Low-Resource Languages, arXiv 2407.03994", url: "https://arxiv.org/abs/2407.03994"),
    base: .required, models: 1...Int.max,
    parameters: ParameterDescriptor.taskVectorFamily(normalize: true) + [
      .density, .trimScope, .ties(paper: "ge"),
      ParameterDescriptor(
        "slack", .number(.fraction), "how much smaller the losing side of a vote, or a protected element, may be without being dropped",
        default: .number(0.4)),
      ParameterDescriptor(
        "protect", .integer(0...Int.max),
        "the model whose elements survive lost votes, counted from 1 in the recipe's order without the base; 0 protects none and averages undecided elements",
        default: .number(0)),
    ],
    scopes: [.tensor, .model],
    notes: ["the paper's formula was not available; both rules are ours", "density × elements below 1 keeps nothing of that tensor"],
    example: """
      merge_method: ties_sv
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.5, density: 0.5}
        - model: models/code
          parameters: {weight: 0.5, density: 0.5}
      parameters: {slack: 0.4}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { TIES.scope(parameters) }

  package static var cropsToBase: Bool { true }

  private struct Coefficients: Sendable {
    var weights: [Float]
    var normalizes: Bool
    var lambda: Float
    var slack: Float
  }

  private let coefficients: [Coefficients]
  package let initial: MagnitudeSearches
  private let protected: Int?
  private let modelCount: Int

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.onlySegment()
    try request.requireBase(of: "ties_sv")
    modelCount = request.modelCount
    protected = try request.chosenModel("protect")
    var coefficients: [Coefficients] = []
    for segment in request.segments {
      var weights: [Float] = []
      for model in 1..<request.inputs.count {
        weights.append(Float(try segment.required("weight", model: model, of: request.inputs[model])))
      }
      coefficients.append(
        Coefficients(
          weights: weights, normalizes: segment.flag("normalize", default: true), lambda: Float(segment.number("lambda") ?? 1),
          slack: Float(segment.number("slack") ?? 0.4)))
    }
    self.coefficients = coefficients
    initial = try MagnitudeSearches(trimming: request)
  }

  package var demands: Demands { Demands() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let deltas = tile.subtractingBase()
    for model in 0..<modelCount { state.gather(model, deltas[model], tile, statistic) }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.gatherStored(tile, statistic)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let own = coefficients[tile.segment]
    let deltas = tile.subtractingBase()
    for model in 0..<modelCount { state.trim(model, deltas[model], tile) }
    tile.kernels.electWithSlack(
      deltas, weights: own.weights, normalize: own.normalizes, slack: protected == nil ? own.slack : 0, into: output)
    if let protected { tile.kernels.protect(deltas[protected], share: 1 - own.slack, over: output, into: output) }
    tile.kernels.addDelta(output, scaledBy: own.lambda, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] { state.findings }
}
