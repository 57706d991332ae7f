package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// TALL masks and Consensus merging: drops from a merged task vector what only few tasks use.
///
/// With τ = Σ τᵢ, or under `merge: ties` the sums of TIES (each τᵢ trimmed to its density·n largest magnitudes, then the sum of the terms that
/// have the sign of all, zero counting as plus), task i uses element j where |τᵢⱼ| > tall_lambdaᵢ · |τⱼ − τᵢⱼ|, τᵢ not trimmed. The merged model is
/// θ₀ + λ τ at the elements that at least `consensus_k` tasks use, θ₀ elsewhere; with `task` it is that task's own reconstruction, θ₀ + λ τ where
/// the task uses the element. consensus_k 0 is the merge itself, more than there are models gives the base.
/// Shapes: any, equal. Arithmetic: f32, sums in model order. Bytes: each input once, under `ties` as `TIES`; the output once.
/// Source: Wang et al., Localizing Task Information, arXiv 2405.07813.
package struct Consensus: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "consensus", title: "Consensus merging with TALL masks",
    summary: "Merges the task vectors where enough tasks use the result, or rebuilds one task's model from it.",
    formula:
      "θ₀ + λ τ where at least consensus_k models have |τᵢ| > tall_lambdaᵢ |τ − τᵢ|, else θ₀, τ = Σ τᵢ or the sums of TIES; with task t, where model t has",
    reference: .init(
      "Localizing Task Information for Improved Model Merging and Compression, arXiv 2405.07813", url: "https://arxiv.org/abs/2405.07813"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "tall_lambda", .number(.init(from: .closed(0))),
        "how much larger than this share of the others' sum a task's element must be to be used by it",
        default: .number(0.4), isPerModel: true),
      ParameterDescriptor("consensus_k", .integer(0...Int.max), "how many tasks must use an element", default: .number(2))
        .only(.is("task", .number(0))),
      ParameterDescriptor(
        "merge", .choice(["sum", "ties"]), "what is merged: the sum of the task vectors, or that of TIES", default: .text("sum")),
      ParameterDescriptor(
        "density", .number(.fraction), "share of the task vector's elements that is kept", default: .number(0.2), isPerModel: true
      ).only(.is("merge", .text("ties"))),
      .trimScope.only(.is("merge", .text("ties"))), .ties.only(.is("merge", .text("ties"))), .task, .lambda,
    ],
    scopes: [.element, .tensor, .model], notes: ["a task that changed nothing uses nothing"],
    example: """
      merge_method: consensus
      base_model: models/base
      models:
        - model: models/french
          parameters: {tall_lambda: 0.4}
        - model: models/code
          parameters: {tall_lambda: 0.6}
      parameters: {consensus_k: 2, lambda: 0.3}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    parameters["merge"]?.text == "ties" ? TIES.scope(parameters) : .tensor
  }

  package static var cropsToBase: Bool { true }

  private struct Setting: Sendable {
    var thresholds: [Float]
    var least: Int
    var lambda: Float
  }

  private let settings: [Setting]
  private let task: Int?
  private let elects: Bool
  private let ones: [Float]
  package let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    _ = try request.onlySegment()
    try request.requireBase(of: "consensus")
    task = try request.chosenModel()
    elects = try request.uniform(text: "merge") == "ties"
    ones = [Float](repeating: 1, count: request.modelCount)
    settings = request.segments.map { segment in
      Setting(
        thresholds: (1..<request.inputs.count).map { Float(segment.number("tall_lambda", model: $0) ?? 0.4) },
        least: Int(exactly: segment.number("consensus_k") ?? 2) ?? Int.max, lambda: Float(segment.number("lambda") ?? 1))
    }
    initial = try elects ? MagnitudeSearches(trimming: request) : MagnitudeSearches([])
  }

  /// Under TIES one run for each trimmed task vector and one for their merge.
  package var demands: Demands { Demands(scratchRows: elects ? ones.count + 1 : 0) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let deltas = tile.subtractingBase()
    for model in ones.indices { state.gather(model, deltas[model], tile, statistic) }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    state.gatherStored(tile, statistic)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let setting = settings[tile.segment]
    let deltas = tile.subtractingBase()
    var merged: Floats?
    if elects {
      let trimmed = tile.scratch.first(ones.count)
      for model in ones.indices {
        tile.kernels.scale(deltas[model], by: 1, into: trimmed[model])
        state.trim(model, trimmed[model], tile)
      }
      let sum = tile.scratch[ones.count]
      tile.kernels.electAndMerge(trimmed, weights: ones, normalize: false, into: sum)
      merged = sum
    }
    if let task {
      tile.kernels.localize(deltas, merged: merged, row: task, threshold: setting.thresholds[task], into: output)
    } else {
      tile.kernels.consensus(deltas, merged: merged, thresholds: setting.thresholds, atLeast: setting.least, into: output)
    }
    tile.kernels.addDelta(output, scaledBy: setting.lambda, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] { state.findings }
}
