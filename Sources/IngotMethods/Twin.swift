package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Twin-Merging: what the models share as task arithmetic, and what each has of its own beyond that, compressed.
///
/// Shared: θₛ = θ₀ + λ Σ τᵢ. Exclusive: vᵢ = compress(θᵢ − θₛ) by tensor: `magnitude` keeps the ⌊density·n⌋ largest elements, `bernoulli` each with
/// probability density, divided by it; tensors of fewer than two axes stay whole. Result: θₛ + Σ wᵢ vᵢ, the wᵢ being what the paper's router
/// gives for an input; weights of 0 (the default) give the shared model, `task` the model of one task.
/// Shapes: any, equal. Arithmetic: f32, in differences from the base. Draws: Philox4x32-10 by seed, output tensor and model.
/// Bytes: inputs up to three times, once where no magnitude is searched; the output once. Source: Lu et al., Twin-Merging, arXiv 2406.15479.
package struct Twin: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "twin", title: "Twin-Merging", summary: "Adds to what the models share what each has of its own, compressed, by given weights.",
    formula: "s + Σ wᵢ compress(θᵢ − s), s = θ₀ + λ Σ τᵢ",
    reference: .init("Twin-Merging, arXiv 2406.15479", url: "https://arxiv.org/abs/2406.15479"), base: .required, models: 1...Int.max,
    parameters: [
      .task, .share, ParameterDescriptor("lambda", .number(.any), "factor of the sum of the task vectors", default: .number(0.3)),
      ParameterDescriptor(
        "density", .number(.fraction), "share of the model's own part that is kept", default: .number(0.1), isPerModel: true),
      ParameterDescriptor(
        "compress", .choice(["magnitude", "bernoulli"]), "which elements of the own part are kept: the largest, or random ones, scaled up",
        default: .text("magnitude")),
      .ties.only(.is("compress", .text("magnitude"))),
    ],
    scopes: [.tensor],
    notes: ["tensors of fewer than two axes are not compressed", "the router that finds weights for an input is not part of it"],
    example: """
      merge_method: twin
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.7, density: 0.2}
        - model: models/code
          parameters: {weight: 0.3, density: 0.2}
      parameters: {lambda: 0.3}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private enum Compression: Sendable, Equatable {
    case none
    case magnitude
    case bernoulli(threshold: UInt64, factor: Float, stream: UInt64)
  }

  private let shares: [Float]
  private let compressions: [Compression]
  private let ones: [Float]
  private let lambda: Float
  private let seed: UInt64
  package let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "twin")
    shares = try request.shares(segment)
    ones = [Float](repeating: 1, count: request.modelCount)
    lambda = Float(segment.number("lambda") ?? 0.3)
    seed = request.seed
    let count = UInt64(try segment.shape.elementCount())
    var searches: [MagnitudeSearch] = []
    var compressions: [Compression] = []
    for model in 1..<request.inputs.count {
      let density = segment.number("density", model: model) ?? 0.1
      var keep = count
      if segment.shape.dimensions.count < 2 || shares[model - 1] == 0 || density >= 1 {
        compressions.append(.none)
      } else if segment.text("compress") == "bernoulli", density > 0 {
        compressions.append(
          .bernoulli(
            threshold: Kernels.threshold(keeping: density), factor: Float(1 / density),
            stream: model < segment.streams.count ? segment.streams[model] : 0))
      } else {
        compressions.append(.magnitude)
        keep = keptCount(density: density, of: count)
      }
      searches.append(MagnitudeSearch(population: count, keep: keep, ties: segment.tieRule(), blocks: (count + 65_535) / 65_536))
    }
    self.compressions = compressions
    initial = MagnitudeSearches(searches)
  }

  private var draws: Bool {
    compressions.contains {
      if case .bernoulli = $0 { return true }
      return false
    }
  }

  package var demands: Demands { Demands(scratchRows: 1, maskPlanes: draws ? 1 : 0) }

  /// Turns the models into their own parts, in place, and leaves what is shared, both as differences from the base.
  private func split(_ tile: Tile) -> (own: FloatTable, shared: Floats) {
    let own = tile.subtractingBase()
    let shared = tile.scratch[0]
    tile.kernels.weightedSum(own, weights: ones, into: shared)
    tile.kernels.scale(shared, by: lambda, into: shared)
    for row in 0..<own.rows { tile.kernels.subtract(own[row], shared, into: own[row]) }
    return (own, shared)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let own = split(tile).own
    for model in shares.indices { state.gather(model, own[model], tile, statistic) }
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let (own, shared) = split(tile)
    for (model, compression) in compressions.enumerated() {
      switch compression {
      case .none: continue
      case .magnitude: state.trim(model, own[model], tile)
      case .bernoulli(let threshold, let factor, let stream):
        let bits = tile.masks.bits(plane: 0, firstIndex: tile.firstIndex, count: tile.count)
        tile.kernels.bernoulli(seed: seed, stream: stream, firstIndex: tile.firstIndex, threshold: threshold, into: bits)
        tile.kernels.applyMask(own[model], bits, scale: factor)
      }
    }
    tile.kernels.weightedSum(own, weights: shares, into: output)
    tile.kernels.combination(shared, output, weights: (1, 1), into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] { state.findings }
}
