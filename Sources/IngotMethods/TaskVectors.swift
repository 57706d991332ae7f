package import IngotErrors
internal import IngotRecipes
package import IngotTensors

/// What the task-vector family shares: weights, normalisation, lambda, the sign vote and the return to the base.
///
/// For base θ₀ and models θᵢ the task vector is τᵢ = θᵢ − θ₀ in f32; a method sparsifies the τᵢ and this type forms
/// θ₀ + λ · Σ wᵢ τᵢ / D. Without a vote D is 1, or Σ wᵢ when normalised (|Σ wᵢ| < 1e-8 counts as 1); with a vote only terms whose sign is the
/// majority's enter, and D is the sum of their weights (exactly 0 counts as 1). Source: Ilharco et al., arXiv 2212.04089; Yadav et al.,
/// arXiv 2306.01708; normalisation as in mergekit.
package struct TaskVectorCombination: Sendable {
  private struct Coefficients: Sendable {
    var weights: [Float]
    var divisor: Float
    var lambda: Float
  }

  private let coefficients: [Coefficients]
  private let votes: Bool
  private let normalizes: [Bool]

  /// - Parameters: `votes` turns the sign election on; `normalizesByDefault` is the method's default of `normalize`.
  package init(_ request: MethodRequest, votes: Bool, normalizesByDefault: Bool) throws(IngotError) {
    guard request.hasBase else {
      throw IngotError(.recipe, "the method needs a base model among the inputs", hint: "give base_model")
    }
    self.votes = votes
    var all: [Coefficients] = []
    var normalizes: [Bool] = []
    for segment in request.segments {
      var weights: [Float] = []
      for model in 1..<max(request.inputs.count, 1) {
        weights.append(Float(try segment.required("weight", model: model, of: request.inputs[model])))
      }
      let normalize = segment.flag("normalize", default: normalizesByDefault)
      let sum = weights.reduce(0.0) { $0 + Double($1) }
      let divisor = normalize && !votes && abs(sum) >= 1e-8 ? Float(sum) : 1
      all.append(Coefficients(weights: weights, divisor: divisor, lambda: Float(segment.number("lambda") ?? 1)))
      normalizes.append(normalize)
    }
    coefficients = all
    self.normalizes = normalizes
  }

  /// The fused form, given what of each delta stays.
  package func fused(segment: Int, ties: TieRule = .hash, _ term: (_ model: Int, _ weight: Float) -> FusedMerge.Term) -> FusedMerge {
    let own = coefficients[segment]
    let combination: DeltaCombination =
      votes ? .election(normalize: normalizes[segment], zeroSign: .positive) : .sum(divisor: own.divisor)
    return FusedMerge(
      .deltas(combination, scale: own.lambda), terms: own.weights.enumerated().map { term($0.offset, $0.element) }, ties: ties)
  }

  /// Turns the models of the tile into task vectors, in place.
  package func subtractBase(_ tile: Tile) {
    let base = tile.inputs[0]
    for row in 1..<max(tile.inputs.rows, 1) { tile.kernels.subtract(tile.inputs[row], base, into: tile.inputs[row]) }
  }

  /// Merges the (sparsified) task vectors that stand in the tile's rows 1... and adds them to the base.
  package func combine(_ tile: Tile, into output: Floats) {
    let own = coefficients[tile.segment]
    let deltas = tile.inputs.dropFirst()
    if votes {
      tile.kernels.electAndMerge(deltas, weights: own.weights, normalize: normalizes[tile.segment], zeroSign: .positive, into: output)
    } else {
      tile.kernels.weightedSum(deltas, weights: own.weights, divisor: own.divisor, into: output)
    }
    tile.kernels.addDelta(output, scaledBy: own.lambda, to: tile.inputs[0], into: output)
  }
}

extension ParameterDescriptor {
  /// Parameters of the whole task-vector family, defined once.
  static func taskVectorFamily(normalize: Bool) -> [ParameterDescriptor] {
    [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", isRequired: true, isPerModel: true),
      ParameterDescriptor("normalize", .boolean, "divide by the sum of the weights that entered", default: .boolean(normalize)),
      ParameterDescriptor("lambda", .number(.any), "factor of the merged task vector", default: .number(1)),
    ]
  }

  static let density = ParameterDescriptor(
    "density", .number(.fraction), "share of the task vector's elements that is kept", default: .number(1), isPerModel: true)

  static func rescale(_ value: Bool) -> ParameterDescriptor {
    ParameterDescriptor("rescale", .boolean, "scale what is kept so that the task vector keeps its size", default: .boolean(value))
  }

  static let rescaleRule = ParameterDescriptor(
    "rescale_rule", .choice(["l1", "inverse_keep"]),
    "how rescale works: l1 keeps the sum of magnitudes of the tensor (mergekit), inverse_keep divides by the keep probability (the paper)",
    default: .text("l1"))

  static let ties = ParameterDescriptor(
    "ties", .choice(["hash", "index", "ge"]),
    "which of several equal magnitudes at the threshold are kept: hash decides by a fixed hash of the element index, index keeps the first, ge keeps all",
    default: .text("hash"))
}

extension MethodRequest.Segment {
  func tieRule() -> TieRule {
    switch text("ties") {
    case "index": .index
    case "ge": .ge
    default: .hash
    }
  }
}
