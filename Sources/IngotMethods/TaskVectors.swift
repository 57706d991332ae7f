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
    var steps: StepRounding?
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
      let steps = StepRounding(segment)
      if let steps { weights = weights.map { steps.rounded($0) } }
      let sum = steps.map { Double($0.sum(weights)) } ?? weights.reduce(0.0) { $0 + Double($1) }
      let divisor = normalize && !votes && abs(sum) >= 1e-8 ? Float(sum) : 1
      all.append(
        Coefficients(weights: weights, divisor: divisor, lambda: Float(segment.number("lambda") ?? 1), steps: steps))
      normalizes.append(normalize)
    }
    coefficients = all
    self.normalizes = normalizes
  }

  /// True when every step is rounded, which no fused kernel does.
  package var isStepwise: Bool { coefficients.contains { $0.steps != nil } }

  /// The fused form, given what of each delta stays.
  package func fused(
    segment: Int, ties: TieRule = .hash, zeroSign: ZeroSign = .positive, _ term: (_ model: Int, _ weight: Float) -> FusedMerge.Term
  ) -> FusedMerge {
    let own = coefficients[segment]
    let combination: DeltaCombination =
      votes ? .election(normalize: normalizes[segment], zeroSign: zeroSign) : .sum(divisor: own.divisor)
    return FusedMerge(
      .deltas(combination, scale: own.lambda), terms: own.weights.enumerated().map { term($0.offset, $0.element) }, ties: ties)
  }

  /// Turns the models of the tile into task vectors, in place.
  package func subtractBase(_ tile: Tile) {
    let base = tile.inputs[0]
    let steps = coefficients[tile.segment].steps
    steps?.round(tile)
    for row in 1..<max(tile.inputs.rows, 1) {
      tile.kernels.subtract(tile.inputs[row], base, into: tile.inputs[row])
      if let steps { tile.kernels.round(tile.inputs[row], to: steps.dtype) }
    }
  }

  /// Counts how many weighted sums of the (sparsified) task vectors are above zero and how many below, into the round's first two counters.
  /// Overwrites the first scratch run.
  package func countSigns(_ tile: Tile, _ statistic: BlockStatistic) {
    let sums = tile.scratch[0]
    tile.kernels.weightedSum(tile.inputs.dropFirst(), weights: coefficients[tile.segment].weights, into: sums)
    tile.kernels.countSigns(sums, into: statistic.tallies)
  }

  /// Merges the (sparsified) task vectors that stand in the tile's rows 1... and adds them to the base.
  /// With `takesLargest` a vote gives the term of the largest magnitude instead of a mean.
  package func combine(_ tile: Tile, zeroSign: ZeroSign = .positive, takesLargest: Bool = false, into output: Floats) {
    let own = coefficients[tile.segment]
    let deltas = tile.inputs.dropFirst()
    if let steps = own.steps { return combine(deltas, tile, own, steps, zeroSign: zeroSign, into: output) }
    if votes && takesLargest {
      tile.kernels.electLargest(deltas, weights: own.weights, zeroSign: zeroSign, into: output)
    } else if votes {
      tile.kernels.electAndMerge(deltas, weights: own.weights, normalize: normalizes[tile.segment], zeroSign: zeroSign, into: output)
    } else {
      tile.kernels.weightedSum(deltas, weights: own.weights, divisor: own.divisor, into: output)
    }
    tile.kernels.addDelta(output, scaledBy: own.lambda, to: tile.inputs[0], into: output)
  }

  /// The same with every step rounded.
  private func combine(
    _ deltas: FloatTable, _ tile: Tile, _ own: Coefficients, _ steps: StepRounding, zeroSign: ZeroSign, into output: Floats
  ) {
    let kernels = tile.kernels
    steps.scale(deltas, by: own.weights, kernels)
    if votes {
      kernels.electAndMergeStepwise(
        deltas, weights: own.weights, normalize: normalizes[tile.segment], zeroSign: zeroSign, dtype: steps.dtype, into: output)
    } else {
      let sum = deltas[0]
      kernels.weightedSum(deltas, weights: steps.ones(own.weights.count), into: sum)
      kernels.round(sum, to: steps.dtype)
      kernels.weightedSum(deltas, weights: [1], divisor: own.divisor, into: output)
      kernels.round(output, to: steps.dtype)
    }
    if own.lambda != 1 {
      kernels.scale(output, by: own.lambda, into: output)
      kernels.round(output, to: steps.dtype)
    }
    kernels.combination(tile.inputs[0], output, weights: (1, 1), into: output)
    kernels.round(output, to: steps.dtype)
  }
}

extension ParameterDescriptor {
  /// Parameters of the whole task-vector family, defined once.
  static func taskVectorFamily(normalize: Bool, paper: Bool? = nil) -> [ParameterDescriptor] {
    [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", isRequired: true, isPerModel: true),
      ParameterDescriptor(
        "normalize", .boolean, "divide by the sum of the weights that entered", default: .boolean(normalize),
        paperDefault: paper.map { .boolean($0) }),
      ParameterDescriptor("lambda", .number(.any), "factor of the merged task vector", default: .number(1)),
    ]
  }

  /// Of methods that keep the largest elements: above 0, which mergekit refuses too; 0 over the layers and under filters, where the model then
  /// gives nothing to those tensors.
  static let density = ParameterDescriptor(
    "density", .number(.init(from: .open(0), to: .closed(1))), "share of the task vector's elements that is kept", default: .number(1),
    isPerModel: true, partRange: .fraction)

  /// Of methods that draw, and of others where 0 means that nothing of the model stays, as in mergekit.
  static let densityFromZero = ParameterDescriptor(
    "density", .number(.fraction), "share of the task vector's elements that is kept", default: .number(1), isPerModel: true)

  static func rescale(_ value: Bool) -> ParameterDescriptor {
    ParameterDescriptor("rescale", .boolean, "scale what is kept so that the task vector keeps its size", default: .boolean(value))
  }

  static let rescaleRule = ParameterDescriptor(
    "rescale_rule", .choice(["l1", "inverse_keep"]),
    "how rescale works: l1 keeps the sum of magnitudes of the tensor (mergekit), inverse_keep divides by the keep probability (the paper)",
    default: .text("l1"), paperDefault: .text("inverse_keep"))

  static let ties = ties(paper: nil)

  /// `ties`, with the rule of the method's paper.
  static func ties(paper: String?) -> ParameterDescriptor {
    ParameterDescriptor(
      "ties", .choice(["hash", "index", "ge"]),
      "which of several equal magnitudes at the threshold are kept: hash decides by a fixed hash of the element index, index keeps the first, ge keeps all",
      default: .text("hash"), paperDefault: paper.map { .text($0) })
  }

  /// `over` says over what the majority is taken.
  static func zeroSign(over scope: String) -> ParameterDescriptor {
    ParameterDescriptor(
      "zero_sign", .choice(["plus", "minus", "majority"]),
      "the sign elected where the weighted sum is exactly zero: plus (mergekit), minus, or that of most sums over \(scope) (the paper; none where both are as many)",
      default: .text("plus"), paperDefault: .text("majority"))
  }
}

/// The rule for sums that are exactly zero, while a majority may still have to be counted.
package struct ZeroSignRule: Sendable {
  /// Nil: the majority, not counted yet.
  private(set) var sign: ZeroSign?

  init(_ segment: MethodRequest.Segment) {
    sign =
      switch segment.text("zero_sign") {
      case "minus": .negative
      case "majority": nil
      default: .positive
      }
  }

  var needsCounting: Bool { sign == nil }

  /// The counters of `TaskVectorCombination.countSigns`.
  mutating func settle(_ statistics: Statistics) {
    let (above, below) = (statistics.tallies[0], statistics.tallies[1])
    sign = above > below ? .positive : above < below ? .negative : ZeroSign.none
  }

  /// The sign for the output step.
  var elected: ZeroSign { sign ?? .positive }
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
