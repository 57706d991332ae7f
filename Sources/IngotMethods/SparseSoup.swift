package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Sparse model soup: the mean of models that were pruned by one mask, checked to have the same zeros.
///
/// One round counts, for every model, the elements in which it is zero and the first model is not, or the other way round; `check: error` stops at
/// any, `warn` says so in the report and averages all the same. Where all are zero, the mean is zero. Mask tensors (`…_mask`) are copied from the
/// first model. Shapes: any, equal. Arithmetic: f32, terms in model order, one division by their number.
/// Degenerate: one model is copied. Bytes: each input twice, the output once.
/// Source: Zimmer et al., Sparse Model Soups, arXiv 2306.16788.
package struct SparseSoup: MergeMethod {
  /// Zeros of the first model, and of each further one the elements in which it differs; empty until counted.
  package struct State: Sendable {
    var zeros: UInt64 = 0
    var mismatches: [UInt64] = []
  }

  package static let descriptor = MethodDescriptor(
    name: "sparse_soup", title: "Sparse Model Soup", summary: "The mean of models pruned by one mask, checked to have the same zeros.",
    formula: "Σ θᵢ / N where the zeros of all θᵢ are the same, else an error",
    reference: .init("Sparse Model Soups, arXiv 2306.16788", url: "https://arxiv.org/abs/2306.16788"), base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "check", .choice(["error", "warn"]), "what other zeros than the first model's are: an error, or a line of the report",
        default: .text("error"))
    ],
    scopes: [.tensor],
    notes: [
      "masks must be part of the weights: make them permanent before saving", "tensors whose name ends in _mask come from the first model",
      "the report has sparsity and mismatched by tensor", "check takes filters, for tensors such as biases that no mask covers",
    ],
    example: """
      merge_method: sparse_soup
      models:
        - model: pruned/seed-1
        - model: pruned/seed-2
        - model: pruned/seed-3
      parameters:
        check: [{filter: bias, value: warn}, {value: error}]
      """)

  private let combination: KnownCombination
  private let models: [String]
  private let name: String
  private let count: Int
  private let isStrict: Bool
  private let isMask: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "sparse_soup")
    models = request.inputs.map(\.model)
    name = segment.name
    count = try segment.shape.elementCount()
    isStrict = segment.text("check") != "warn"
    isMask = segment.name.hasSuffix("_mask")
    combination = KnownCombination(meanOf: 0..<(isMask ? 1 : models.count), of: models.count)
  }

  package var demands: Demands { combination.demands }

  package func begin() -> Phase<State> {
    isMask || models.count < 2 ? .emit(State()) : .gather(State(), Round(tallies: 2 * models.count))
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    for model in 1..<models.count {
      tile.kernels.countZeros(tile.inputs[0], tile.inputs[model], into: statistic.tallies, at: 2 * model)
    }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let mismatches = (1..<models.count).map { statistics.tallies[2 * $0 + 1] }
    let zeros = statistics.tallies[2]
    if isStrict, let worst = mismatches.indices.max(by: { mismatches[$0] < mismatches[$1] }), mismatches[worst] > 0 {
      throw IngotError(
        .unsupported,
        "\(mismatches[worst]) of \(count) elements of tensor \(name) are zero in only one of the models \(models[0]) and \(models[worst + 1]); "
          + "\(zeros) are zero in \(models[0])",
        hint: "merge models that were pruned by one mask, or set check: warn for this tensor", subject: name)
    }
    return .emit(State(zeros: zeros, mismatches: mismatches))
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? { combination.fused }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) { combination.emit(tile, into: output) }

  package func findings(_ state: State) -> [Finding] {
    if state.mismatches.isEmpty || count == 0 { return [] }
    let found = state.mismatches.enumerated().filter { $0.element > 0 }
    return [Finding("sparsity", Double(state.zeros) / Double(count))]
      + found.map { Finding("mismatched", Double($0.element), model: $0.offset + 1) }
  }
}
