package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Concrete subspace: one learned mask for all task vectors, from a file; also the last step of defence-aware merging on a merged model.
///
/// W = W₀ + λ m ∘ Σ wᵢ τᵢ, m the mask of a tensor's logits: its shares p = σ(logit) (`probability`), [p > ½] (`binary`), a Bernoulli sample
/// (`discrete`) or the relaxed sample σ((logit + ln u − ln(1 − u)) / temperature) (`continuous`); of several files the product. `mask_rescale: mean` divides m by
/// its mean over the tensor. Tensors without a mask are merged without one. Degenerate: a mask of zeros gives W₀.
/// Shapes: any, equal. Arithmetic: f32, masks in f64 and rounded once. Draws: Philox4x32-10 by seed, output tensor and file. Bytes: inputs once, masks
/// twice where they are rescaled. Sources: Concrete Subspace Learning, arXiv 2312.06173; Mitigating the Backdoor Effect, arXiv 2410.13910 (a single
/// merged model and λ = 1); the deterministic masks and the product are ours.
package struct Concrete: MergeMethod {
  /// What the merged delta is multiplied with, besides the mask.
  package typealias State = Double

  package static let descriptor = MethodDescriptor(
    name: "concrete", title: "Concrete", summary: "Multiplies the merged task vector by a learned mask, given as a file.",
    formula: "θ₀ + λ (m / mean m) Σ wᵢ τᵢ",
    reference: .init(
      "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion, arXiv 2312.06173",
      url: "https://arxiv.org/abs/2312.06173"), base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", default: .number(1), isPerModel: true),
      ParameterDescriptor("lambda", .number(.any), "factor of the masked sum", default: .number(0.3)),
      ParameterDescriptor(
        "mask_type", .choice(["probability", "binary", "discrete", "continuous"]),
        "what a logit becomes: its sigmoid p; 1 where p > ½; 1 with probability p; a relaxed sample", default: .text("probability"),
        paperDefault: .text("continuous")),
      ParameterDescriptor(
        "mask_values", .choice(["logits", "shares"]), "what the file has: logits, or numbers from 0 to 1 such as finished masks",
        default: .text("logits")),
      ParameterDescriptor(
        "temperature", .number(NumberRange(from: .open(0))), "of the relaxed sample", default: .number(0.5)
      ).only(.is("mask_type", .text("continuous"))),
      ParameterDescriptor(
        "mask_rescale", .choice(["mean", "none"]), "divide each tensor's mask by its mean, or leave it", default: .text("mean")),
    ],
    scopes: [.tensor],
    sideInputs: [
      SideInputDescriptor(
        "mask", .optionalTensor, "logits or shares of the mask; of several files the product", isPerModel: false, isList: true)
    ],
    notes: [
      "tensors that no file has a mask of are merged without one",
      "one merged model with lambda: 1 is the last step of defence-aware merging",
      "as a document of its own for each model, with lambda: 1, it masks task vectors before any other method, TSV-M for instance",
    ],
    example: """
      merge_method: concrete
      base_model: models/base
      side: {mask: masks/shared_logits.safetensors}
      models:
        - model: models/french
        - model: models/code
      parameters: {lambda: 0.3}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let weights: [Float]
  private let lambda: Double
  private let rules: [MaskRule]
  private let rescales: Bool
  private let count: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "concrete")
    weights = (1..<max(request.inputs.count, 1)).map { Float(segment.number("weight", model: $0) ?? 1) }
    lambda = segment.number("lambda") ?? 0.3
    let kind: MaskRule.Kind =
      switch segment.text("mask_type") {
      case "binary": .rounded
      case "discrete": .drawn
      case "continuous": .relaxed
      default: .share
      }
    let stream = segment.streams.first ?? 0
    rules = segment.sides.indices.map { file in
      MaskRule(
        kind, isLogit: segment.text("mask_values") != "shares", temperature: segment.number("temperature") ?? 0.5, seed: request.seed,
        stream: stream &+ UInt64(segment.sides[file].item))
    }
    rescales = segment.text("mask_rescale") != "none" && !rules.isEmpty
    count = Double(max(try segment.shape.elementCount(), 1))
  }

  package var demands: Demands { Demands(scratchRows: rules.isEmpty ? 0 : 1) }

  package func begin() -> Phase<State> { rescales ? .gather(0, Round(sums: 1, readsOnlySides: true)) : .emit(lambda) }

  /// The product of all masks.
  private func mask(_ tile: Tile) -> Floats {
    let made = tile.scratch[0]
    for (file, rule) in rules.enumerated() {
      tile.kernels.mask(tile.sides[file], rule, firstIndex: tile.firstIndex, multiplies: file > 0, into: made)
    }
    return made
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    // Nothing is below 0, so the magnitudes add up to the sum.
    tile.kernels.accumulateAbsolute(mask(tile), into: statistic.sum(0))
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let sum = statistics.sums[0]
    return .emit(sum > 0 ? lambda * (count / sum) : 0)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.weightedSum(tile.subtractingBase(), weights: weights, into: output)
    if !rules.isEmpty { tile.kernels.mask(mask(tile), .values, firstIndex: 0, multiplies: true, into: output) }
    tile.kernels.addDelta(output, scaledBy: Float(state), to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    rescales ? [Finding("mask_mean", state == 0 ? 0 : lambda / state)] : []
  }
}
