package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// 1bit-Merging, what is static of it: one expert as it is, beside the others as one-bit task vectors put together by a vote.
///
/// Δ̂ᵢ is τᵢ, or where model i is `quantized` (a tensor of two axes or more) ±mean|τᵢ| of the tensor with the sign of each element, zero
/// counting as plus. With `task` t: θ₀ + Δ̂ₜ + λ M, M the vote of the others: the sign of Σ wᵢ Δ̂ᵢ, zero counting as plus, and the mean of the terms
/// that have it, by their weights. Without: θ₀ + λ M of all. Nothing is trimmed: magnitudes are all the same. What of a model is quantised is
/// said by filters, since the paper found the knowledge of chat models in attention and that of mathematics and code in MLPs.
/// Shapes: any, equal. Arithmetic: f32, means f64. Degenerate: a task vector of zeros stays zero. Bytes: inputs twice, the output once.
/// Source: Liu et al., 1bit-Merging, arXiv 2502.10743, whose formulas were not available: this definition is ours.
package struct OneBit: MergeMethod {
  /// The magnitude of each model's quantised task vector.
  package struct State: Sendable { var sizes: [Float] }

  package static let descriptor = MethodDescriptor(
    name: "onebit", title: "1bit-Merging, static part",
    summary: "Adds to one expert the others as one-bit task vectors, put together by a vote.",
    formula: "θ₀ + Δ̂ₜ + λ Σ wᵢ Δ̂ᵢ / Σ wᵢ over the i ≠ t whose sign is that of Σ wᵢ Δ̂ᵢ; Δ̂ᵢ = ±mean|τᵢ| by the sign of τᵢ, or τᵢ",
    reference: .init(
      "1bit-Merging: Dynamic Quantized Merging for Large Language Models, arXiv 2502.10743", url: "https://arxiv.org/abs/2502.10743"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector in the vote", default: .number(1), isPerModel: true),
      ParameterDescriptor(
        "quantized", .boolean, "whether the model's task vector is one bit for each element; takes filters", default: .boolean(true),
        isPerModel: true),
      .task, ParameterDescriptor("lambda", .number(.any), "factor of what the vote gives", default: .number(1)),
    ],
    scopes: [.tensor],
    notes: [
      "the paper's formulas were not available; this definition is ours", "tensors of fewer than two axes are not quantised",
      "the router that finds the expert for an input is not part of it; task names it",
      "'ingot delta pack -m bitdelta -p layers=mlp' (or attention, blocks, all) stores such experts",
    ],
    example: """
      merge_method: onebit
      base_model: models/base
      models:
        - model: models/chat
          parameters:
            quantized: [{filter: mlp, value: true}, {value: false}]
        - model: models/code
          parameters:
            quantized: [{filter: self_attn, value: true}, {value: false}]
      parameters: {task: 1, lambda: 0.5}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let quantized: [Bool]
  private let weights: [Float]
  private let task: Int?
  private let lambda: Float
  private let count: Int

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "onebit")
    count = try segment.shape.elementCount()
    let task = try request.chosenModel()
    self.task = task
    lambda = Float(segment.number("lambda") ?? 1)
    let isMatrix = segment.shape.rank >= 2
    quantized = (1..<request.inputs.count).map { model in
      isMatrix && model < segment.modelParameters.count && segment.modelParameters[model]["quantized"]?.boolean ?? true
    }
    // Of weight 0 a model has no part in the vote.
    weights = (1..<request.inputs.count).map { $0 - 1 == task ? 0 : Float(segment.number("weight", model: $0) ?? 1) }
  }

  package var demands: Demands { Demands(scratchRows: task == nil ? 0 : 1) }

  package func begin() -> Phase<State> {
    quantized.contains(true) ? .gather(State(sizes: []), Round(sums: quantized.count)) : .emit(State(sizes: []))
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let deltas = tile.subtractingBase()
    for (model, isQuantized) in quantized.enumerated() where isQuantized {
      tile.kernels.accumulateAbsolute(deltas[model], into: statistic.sum(model))
    }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    .emit(State(sizes: statistics.sums.map { Float($0 / Double(max(count, 1))) }))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    for (model, isQuantized) in quantized.enumerated() where isQuantized {
      tile.kernels.signs(deltas[model], size: state.sizes[model], into: deltas[model])
    }
    tile.kernels.electAndMerge(deltas, weights: weights, normalize: true, into: output)
    guard let task else { return tile.kernels.addDelta(output, scaledBy: lambda, to: tile.inputs[0], into: output) }
    tile.kernels.combination(deltas[task], output, weights: (1, lambda), into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    zip(quantized.indices, state.sizes).filter { quantized[$0.0] }.map { Finding("size", Double($0.1), model: $0.0) }
  }
}
