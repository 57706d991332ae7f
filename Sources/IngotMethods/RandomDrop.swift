package import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// The random half of DARE: which elements of each task vector stay, and by what factor they grow.
///
/// An element stays with probability `density`, independently; draws are Philox4x32-10 by seed, output tensor and model. `rescale` (default true)
/// multiplies what stays: rule `l1` by Σ|τ| / Σ|kept τ| of the tensor (mergekit), rule `inverse_keep` by 1/density (the paper).
package struct RandomDrop: Sparsifier {
  package struct State: Sendable {
    /// Factor of each model's kept elements, by tensor.
    var factors: [[Float]]
    var areMasksDrawn: Bool
  }

  private struct Draw: Sendable {
    var threshold: UInt64
    var stream: UInt64
    var keepsAll: Bool
  }

  /// By tensor and model.
  private let draws: [[Draw]]
  private let seed: UInt64
  private let needsMass: Bool
  private let inverse: [[Float]]
  private let modelCount: Int

  package init(_ request: MethodRequest) throws(IngotError) {
    let first = try request.onlySegment()
    seed = request.seed
    modelCount = request.modelCount
    let rescale = first.flag("rescale", default: true)
    let isL1 = first.text("rescale_rule") != "inverse_keep"
    var draws: [[Draw]] = []
    var inverse: [[Float]] = []
    for segment in request.segments {
      var own: [Draw] = []
      var factors: [Float] = []
      for model in 1..<max(request.inputs.count, 1) {
        let density = segment.number("density", model: model) ?? 1
        let stream = model < segment.streams.count ? segment.streams[model] : 0
        own.append(Draw(threshold: Kernels.threshold(keeping: density), stream: stream, keepsAll: density >= 1))
        factors.append(rescale && !isL1 && density > 0 && density < 1 ? Float(1 / density) : 1)
      }
      draws.append(own)
      inverse.append(factors)
    }
    self.draws = draws
    self.inverse = inverse
    needsMass = rescale && isL1 && draws.contains { $0.contains { !$0.keepsAll } }
  }

  package var demands: Demands { Demands(maskPlanes: modelCount) }

  package func begin() -> Phase<State> {
    let initial = State(factors: inverse, areMasksDrawn: false)
    return needsMass ? .gather(initial, Round(sums: 2 * modelCount)) : .emit(initial)
  }

  /// Draws the masks of one tile of task vectors and measures what they keep.
  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    for (model, draw) in draws[tile.segment].enumerated() where !draw.keepsAll {
      let bits = tile.masks.bits(plane: model, firstIndex: tile.firstIndex, count: tile.count)
      tile.kernels.bernoulli(seed: seed, stream: draw.stream, firstIndex: tile.firstIndex, threshold: draw.threshold, into: bits)
      tile.kernels.accumulateMaskedAbsolute(
        tile.inputs[model + 1], bits, all: statistic.sum(2 * model), kept: statistic.sum(2 * model + 1))
    }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    var bad = 0
    for (model, draw) in draws[tile.segment].enumerated() where !draw.keepsAll {
      let bits = tile.masks.bits(plane: model, firstIndex: tile.firstIndex, count: tile.count)
      tile.kernels.bernoulli(seed: seed, stream: draw.stream, firstIndex: tile.firstIndex, threshold: draw.threshold, into: bits)
      bad += tile.kernels.accumulateMaskedAbsolute(
        tile[model + 1], minus: tile[0], bits, all: statistic.sum(2 * model), kept: statistic.sum(2 * model + 1))
    }
    return bad
  }

  package func settle(_ state: State, _ statistics: Statistics) -> Phase<State> {
    var factors = state.factors
    for (segment, own) in draws.enumerated() {
      for (model, draw) in own.enumerated() where !draw.keepsAll {
        let sums = statistics.segmentSums[segment]
        factors[segment][model] = massFactor(all: sums[2 * model], kept: sums[2 * model + 1])
      }
    }
    return .emit(State(factors: factors, areMasksDrawn: true))
  }

  package func sparsify(_ state: State, _ tile: Tile) {
    for (model, draw) in draws[tile.segment].enumerated() where !draw.keepsAll {
      let bits = tile.masks.bits(plane: model, firstIndex: tile.firstIndex, count: tile.count)
      if !(state.areMasksDrawn && tile.masks.arePersistent) {
        tile.kernels.bernoulli(seed: seed, stream: draw.stream, firstIndex: tile.firstIndex, threshold: draw.threshold, into: bits)
      }
      tile.kernels.applyMask(tile.inputs[model + 1], bits, scale: state.factors[tile.segment][model])
    }
  }

  package func isFused(_ state: State) -> Bool { state.areMasksDrawn }

  package func term(_ model: Int, segment: Int, weight: Float, _ state: State) -> FusedMerge.Term {
    draws[segment][model].keepsAll
      ? FusedMerge.Term(weight: weight) : FusedMerge.Term(weight: weight, mask: model, maskScale: state.factors[segment][model])
  }

  /// The factors of a job of one tensor.
  package func findings(_ state: State) -> [Finding] {
    state.factors.count == 1 ? state.factors[0].enumerated().map { Finding("rescale", Double($1), model: $0) } : []
  }
}
