package import IngotErrors
package import IngotRecipes
internal import IngotTensors

/// The sampling half of DELLA: keep probabilities by rank inside each row, the draw, and the rescale.
package struct MagnitudeDrop: Sparsifier {
  package struct State: Sendable {
    var factors: [Float]
    var areMasksDrawn: Bool
  }

  private enum Rule: Sendable {
    case keepAll
    case dropAll
    case draw(density: Double, epsilon: Double, stream: UInt64)
  }

  package static let parameters: [ParameterDescriptor] = [
    .densityFromZero,
    ParameterDescriptor(
      "epsilon", .number(.fraction), "half width of the keep probabilities around density", default: .number(0.15), isPerModel: true),
    .rescale(true), .rescaleRule,
  ]

  private let rules: [Rule]
  private let seed: UInt64
  private let needsMass: Bool
  private let dividesByProbability: Bool

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    seed = request.seed
    var rules: [Rule] = []
    for model in 1..<request.inputs.count {
      let density = segment.number("density", model: model) ?? 1
      let epsilon = segment.number("epsilon", model: model) ?? 0.15
      if density >= 1 {
        rules.append(.keepAll)
      } else if density <= 0 {
        rules.append(.dropAll)
      } else {
        guard density - epsilon > 0, density + epsilon < 1 else {
          throw IngotError(
            .recipe, "density \(density) ± epsilon \(epsilon) leaves (0, 1) for model \(request.inputs[model].model) at \(segment.name)",
            hint: "choose epsilon below \(min(density, 1 - density))", subject: segment.name)
        }
        rules.append(
          .draw(density: density, epsilon: epsilon, stream: model < segment.streams.count ? segment.streams[model] : 0))
      }
    }
    self.rules = rules
    let rescale = segment.flag("rescale", default: true)
    let isL1 = segment.text("rescale_rule") != "inverse_keep"
    dividesByProbability = rescale && !isL1
    needsMass =
      rescale && isL1
      && rules.contains {
        if case .draw = $0 { return true }
        return false
      }
  }

  package var demands: Demands { Demands(granularity: .row, scratchRows: 3, maskPlanes: rules.count) }

  package func begin() -> Phase<State> {
    let initial = State(factors: [Float](repeating: 1, count: rules.count), areMasksDrawn: false)
    return needsMass ? .gather(initial, Round(sums: 2 * rules.count)) : .emit(initial)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    for (model, rule) in rules.enumerated() {
      guard case .draw(let density, let epsilon, let stream) = rule else { continue }
      let delta = tile.inputs[model + 1]
      forEachRow(tile) { start, index in
        let row = delta.slice(from: start, count: tile.rowLength)
        let bits = tile.masks.bits(plane: model, firstIndex: index, count: tile.rowLength)
        tile.kernels.dellaRow(
          row, density: density, epsilon: epsilon, seed: seed, stream: stream, firstIndex: index, bits: bits, probabilities: nil,
          scratch: tile.joinedScratch)
        tile.kernels.accumulateMaskedAbsolute(row, bits, all: statistic.sum(2 * model), kept: statistic.sum(2 * model + 1))
      }
    }
  }

  package func settle(_ state: State, _ statistics: Statistics) -> Phase<State> {
    var factors = state.factors
    for (model, rule) in rules.enumerated() {
      if case .draw = rule { factors[model] = massFactor(all: statistics.sums[2 * model], kept: statistics.sums[2 * model + 1]) }
    }
    return .emit(State(factors: factors, areMasksDrawn: true))
  }

  package func sparsify(_ state: State, _ tile: Tile) {
    for (model, rule) in rules.enumerated() {
      let delta = tile.inputs[model + 1]
      switch rule {
      case .keepAll: continue
      case .dropAll: tile.kernels.trim(delta, firstIndex: 0, ties: .hash, threshold: .max, inclusive: false)
      case .draw(let density, let epsilon, let stream):
        forEachRow(tile) { start, index in
          let row = delta.slice(from: start, count: tile.rowLength)
          let bits = tile.masks.bits(plane: model, firstIndex: index, count: tile.rowLength)
          let isDrawn = state.areMasksDrawn && tile.masks.arePersistent
          if !isDrawn || dividesByProbability {
            tile.kernels.dellaRow(
              row, density: density, epsilon: epsilon, seed: seed, stream: stream, firstIndex: index, bits: bits,
              probabilities: dividesByProbability ? tile.scratch[2].prefix(tile.rowLength) : nil, scratch: tile.joinedScratch)
          }
          if dividesByProbability {
            tile.kernels.divideKept(row, bits, by: tile.scratch[2].prefix(tile.rowLength))
          } else {
            tile.kernels.applyMask(row, bits, scale: state.factors[model])
          }
        }
      }
    }
  }

  private func forEachRow(_ tile: Tile, _ body: (_ start: Int, _ index: UInt64) -> Void) {
    let length = max(tile.rowLength, 1)
    var start = 0
    while start + length <= tile.count {
      body(start, tile.firstIndex + UInt64(start))
      start += length
    }
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? { nil }

  package func isFused(_ state: State) -> Bool {
    state.areMasksDrawn
      && !rules.contains {
        if case .dropAll = $0 { return true }
        return false
      }
  }

  package func term(_ model: Int, segment: Int, weight: Float, _ state: State) -> FusedMerge.Term {
    switch rules[model] {
    case .keepAll: FusedMerge.Term(weight: weight)
    case .dropAll: FusedMerge.Term(weight: weight, cut: .nothing)
    case .draw: FusedMerge.Term(weight: weight, mask: model, maskScale: state.factors[model])
    }
  }

  package func findings(_ state: State) -> [Finding] {
    state.factors.enumerated().map { Finding("rescale", Double($1), model: $0) }
  }
}
