internal import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Mediator's split into layers that are averaged and layers whose experts stay apart, by how much the task vectors conflict.
///
/// Each task vector is trimmed to its ⌊conflict_density·c⌋ largest elements in every row of length c. In a tensor, for a pair of models: the share
/// of the elements that both have where their signs differ (`count`), or twice the smaller magnitudes where signs differ over all magnitudes
/// of both (`mass`). A layer's conflict d is the mean over pairs and over its tensors by size; layers with
/// d > mean(d) + `kappa` · deviation(d) are routed. Everything is the models' mean, θ₀ + mean(τᵢ); to a routed layer Σ wᵢ sᵢ is added, sᵢ the
/// ⌊sparse_density·c⌋ largest elements of each row of τᵢ − mean(τ). Weights of 0 (the default) give the mean everywhere, `task` one model's own.
/// Shapes: any, equal. Sums: f64. Degenerate: tensors outside the layers are averaged; so is everything where no layer stands out.
/// Bytes: inputs twice, the output once. Source: the design is that of Lai et al., Mediator, arXiv 2502.04411; its formulas were not available,
/// those here are ours.
package struct Mediator: MergeMethod {
  package struct State: Sendable {
    /// The conflict of each layer, and which are routed.
    var conflicts: [Double] = []
    var routed: Set<Int> = []
  }

  package static let descriptor = MethodDescriptor(
    name: "mediator", title: "Mediator", summary: "Averages the layers in which models agree and keeps the experts of the others apart.",
    formula: "mean(θᵢ) + Σ wᵢ top(θᵢ − mean) in layers whose conflict exceeds mean + kappa · deviation over the layers, elsewhere mean(θᵢ)",
    reference: .init("Mediator, arXiv 2502.04411", url: "https://arxiv.org/abs/2502.04411"), base: .required, models: 2...Int.max,
    parameters: [
      .task, .share,
      ParameterDescriptor(
        "conflict_form", .choice(["count", "mass"]), "how conflicts are measured: by count of elements or by their magnitudes",
        default: .text("count")),
      ParameterDescriptor(
        "conflict_density", .number(.fraction),
        "share of each row of a task vector, its largest elements, that conflicts are looked for in",
        default: .number(0.3)),
      ParameterDescriptor(
        "sparse_density", .number(.fraction),
        "share of each row of a model's difference from the mean, its largest elements, that is its own",
        default: .number(0.1)),
      ParameterDescriptor(
        "kappa", .number(.any), "by how many standard deviations over the layers' mean a conflict must be for a layer to be routed",
        default: .number(0.5)),
      .ties,
    ],
    scopes: [.row, .model],
    notes: ["the paper's formulas were not available; these are ours", "tensors outside the layers are averaged"],
    example: """
      merge_method: mediator
      base_model: models/base
      models:
        - model: models/french
          parameters: {weight: 0.7}
        - model: models/code
          parameters: {weight: 0.3}
      parameters: {kappa: 0.5}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }

  package static var cropsToBase: Bool { true }

  private let modelCount: Int
  /// Which of the layers each tensor belongs to; nil outside them.
  private let layers: [Int?]
  private let layerNames: [String]
  private let counts: [Double]
  private let shares: [[Float]]
  private let usesMass: Bool
  private let conflictDensity: Double
  private let sparseDensity: Double
  private let kappa: Double
  private let ties: TieRule
  private let ones: [Float]

  package init(_ request: MethodRequest) throws(IngotError) {
    let first = try request.onlySegment()
    try request.requireBase(of: "mediator")
    guard request.modelCount >= 2 else {
      throw IngotError(
        .recipe, "mediator takes the base and at least two other models, found \(request.inputs.count) inputs for \(first.name)",
        hint: "list two models or more besides base_model", subject: first.name)
    }
    modelCount = request.modelCount
    (layers, layerNames) = Self.layers(of: request.segments.map(\.name))
    var counts: [Double] = []
    var shares: [[Float]] = []
    for segment in request.segments {
      counts.append(Double(try segment.shape.elementCount()))
      shares.append(try request.shares(segment))
    }
    self.counts = counts
    self.shares = shares
    usesMass = try request.uniform(text: "conflict_form") == "mass"
    conflictDensity = try request.uniform("conflict_density", default: 0.3)
    sparseDensity = try request.uniform("sparse_density", default: 0.1)
    kappa = try request.uniform("kappa", default: 0.5)
    ties = first.tieRule()
    ones = [Float](repeating: 1, count: modelCount)
  }

  /// Layers are those of the stacks that the names show: a stack of one layer does not show.
  private static func layers(of names: [String]) -> (layers: [Int?], names: [String]) {
    let stacks = LayerIndex(names: names, config: nil).stacks.map(\.layers)
    var first: [Int] = []
    var found: [String] = []
    for stack in stacks {
      first.append(found.count)
      found += (0..<stack.count).map { stack.prefix + String($0) }
    }
    let layers: [Int?] = names.map { name in
      for (number, stack) in stacks.enumerated() { if let layer = stack.layer(of: name) { return first[number] + layer } }
      return nil
    }
    return (layers, found)
  }

  private var pairCount: Int { modelCount * (modelCount - 1) / 2 }

  /// Room for the keys of a row behind the run that holds the mean.
  package var demands: Demands { Demands(granularity: .row, scratchRows: 3) }

  package func begin() -> Phase<State> { .gather(State(), Round(sums: 4 * pairCount)) }

  /// Trims every row of a run in place.
  private func trim(_ values: Floats, density: Double, _ tile: Tile) {
    let length = max(tile.rowLength, 1)
    let keep = Int(keptCount(density: density, of: UInt64(length)))
    let need = Kernels.trimScratch(rowLength: length)
    let scratch = tile.joinedScratch.slice(from: tile.joinedScratch.count - need, count: need)
    for start in stride(from: 0, to: tile.count, by: length) {
      tile.kernels.trimRow(
        values.slice(from: start, count: length), firstIndex: tile.jobIndex + UInt64(start), ties: ties, drop: 0, keep: keep,
        scratch: scratch)
    }
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let deltas = tile.subtractingBase()
    for model in 0..<modelCount { trim(deltas[model], density: conflictDensity, tile) }
    var pair = 0
    for high in 1..<modelCount {
      for low in 0..<high {
        if usesMass {
          tile.kernels.accumulateConflicts(
            deltas[low], deltas[high], opposite: statistic.sum(4 * pair), both: statistic.sum(4 * pair + 1),
            opposed: statistic.sum(4 * pair + 2), all: statistic.sum(4 * pair + 3))
        } else {
          var signs = SignCounts()
          tile.kernels.countSigns(deltas[low], deltas[high], into: &signs)
          statistic.sum(4 * pair).add(Double(signs.opposite))
          statistic.sum(4 * pair + 1).add(Double(signs.both))
        }
        pair += 1
      }
    }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var byLayer = [(degree: Double, size: Double)](repeating: (0, 0), count: layerNames.count)
    for (segment, sums) in statistics.segmentSums.enumerated() {
      guard let layer = layers[segment], counts[segment] > 0 else { continue }
      var degree = 0.0
      for pair in 0..<pairCount {
        let own = sums[4 * pair..<4 * pair + 4]
        let first = own.startIndex
        degree += usesMass ? (own[first + 3] > 0 ? 2 * own[first + 2] / own[first + 3] : 0) : own[first] / max(own[first + 1], 1)
      }
      byLayer[layer].degree += counts[segment] * degree / Double(pairCount)
      byLayer[layer].size += counts[segment]
    }
    let conflicts = byLayer.map { $0.size > 0 ? $0.degree / $0.size : 0 }
    let mean = conflicts.reduce(0, +) / Double(max(conflicts.count, 1))
    let variance = conflicts.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(max(conflicts.count, 1))
    let limit = mean + kappa * variance.squareRoot()
    return .emit(State(conflicts: conflicts, routed: Set(conflicts.indices.filter { conflicts[$0] > limit })))
  }

  /// True where experts stay apart and something of them is asked for.
  private func isRouted(_ segment: Int, _ state: State) -> Bool {
    guard let layer = layers[segment] else { return false }
    return state.routed.contains(layer) && shares[segment].contains { $0 != 0 }
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    if isRouted(segment, state) { return nil }
    return FusedMerge(.deltas(.sum(divisor: Float(modelCount)), scale: 1), terms: ones.map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    let shares = shares[tile.segment]
    guard isRouted(tile.segment, state) else {
      tile.kernels.weightedSum(deltas, weights: ones, divisor: Float(modelCount), into: output)
      tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
      return
    }
    let mean = tile.scratch[0]
    tile.kernels.weightedSum(deltas, weights: ones, divisor: Float(modelCount), into: mean)
    for (model, share) in shares.enumerated() {
      tile.kernels.subtract(deltas[model], mean, into: deltas[model])
      if share != 0 { trim(deltas[model], density: sparseDensity, tile) }
    }
    tile.kernels.weightedSum(deltas, weights: shares, into: output)
    tile.kernels.combination(mean, output, weights: (1, 1), into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    state.conflicts.enumerated().map { Finding("\(state.routed.contains($0) ? "routed" : "averaged") \(layerNames[$0])", $1) }
  }
}
