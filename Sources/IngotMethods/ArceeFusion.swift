package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Takes over from the other model what is important by size and by how much its row as a whole differs; the rest stays the base's.
///
/// Importance I = |θ₁ − θ₀| · K with one K per row (last axis; a 1-D tensor is one row): the Kullback-Leibler divergence Σ P ln(P/Q) of the rows'
/// softmaxes, P of θ₁ and Q of θ₀, each plus 1e-8. With quantiles of I over the tensor, an element is taken over where
/// I ≥ median + 1.5 (third quartile − first quartile). Quantile q of n values is the value of ascending index ⌊q (n−1)⌋, exact for any n
/// (mergekit takes a random million beyond that many).
/// Shapes: any, equal. Arithmetic: K in f64, never negative; I in f32. The result has the models' type (mergekit's is always f32).
/// Bytes: inputs three times and a sample, the output once. Memory: whole rows, and 4 bytes per row. Source: Arcee AI; rules as in mergekit.
package struct ArceeFusion: MergeMethod {
  package struct State: Sendable {
    /// K of every row; empty until measured, and always empty where rows are so short that they are measured again each time.
    var divergences: [Float]
    var isMeasuring: Bool
    /// First quartile, median and third quartile.
    var quantiles: MagnitudeSearches
    var threshold: Float
  }

  package static let descriptor = MethodDescriptor(
    name: "arcee_fusion", title: "Arcee Fusion", summary: "Takes over the elements of the other model that are important, as outliers are.",
    formula: "θ₁ where |θ₁ − θ₀| · KL(row) ≥ median + 1.5 · interquartile range of that importance, else θ₀",
    reference: .init("Arcee AI", url: "https://www.arcee.ai"), base: .required, models: 1...1, parameters: [], scopes: [.row, .tensor],
    copiesLoneModel: true,
    notes: ["quantiles are exact where mergekit samples", "the result keeps the models' type where mergekit's is float32"])

  /// Rows shorter than this are not worth a place in memory.
  private static let shortRow = 64
  private static let blockElements = 65_536

  private let rowLength: Int
  private let rowCount: Int
  private let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.inputs.count == 2 else {
      throw IngotError(
        .recipe, "arcee_fusion takes the base and exactly one other model, found \(request.inputs.count) inputs for \(segment.name)",
        hint: "list one model besides base_model", subject: segment.name)
    }
    let count = try segment.shape.elementCount()
    rowLength = max(segment.shape.rowLength, 1)
    rowCount = count / rowLength
    // ⌊q (n − 1)⌋ in whole numbers.
    let last = UInt64(max(count, 1) - 1)
    let ascending = [last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4]
    let population = UInt64(count)
    initial = MagnitudeSearches(
      ascending.map { [rowLength] in
        // Rows that are measured again each time are known as a whole only, which a sample's runs are not.
        MagnitudeSearch(
          population: population, rank: last - $0, ties: .hash, blocks: (population + 65_535) / 65_536, samples: rowLength >= Self.shortRow)
      })
  }

  private var keepsDivergences: Bool { rowLength >= Self.shortRow }
  private var rowsPerBlock: Int { max(1, Self.blockElements / rowLength) }

  package var demands: Demands { Demands(granularity: .row, scratchRows: keepsDivergences ? 4 : 5) }

  package func begin() -> Phase<State> {
    let state = State(divergences: [], isMeasuring: keepsDivergences, quantiles: initial, threshold: 0)
    return keepsDivergences ? .gather(state, Round(sums: rowsPerBlock)) : next(state)
  }

  private func next(_ state: State) -> Phase<State> {
    var state = state
    if let round = state.quantiles.nextRound { return .gather(state, round) }
    let values = state.quantiles.cuts.map(\.magnitude)
    state.threshold = values[1] + 1.5 * (values[2] - values[0])
    return .emit(state)
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    if state.isMeasuring {
      for row in 0..<tile.count / rowLength {
        // Block sums in row order: one for each row.
        statistic.sum((Int(tile.firstIndex) / rowLength + row) % rowsPerBlock).add(divergence(ofRow: row, tile))
      }
      return
    }
    let importance = importance(state, tile)
    for quantile in 0..<3 { state.quantiles.gather(quantile, importance, tile, statistic) }
  }

  private func divergence(ofRow row: Int, _ tile: Tile) -> Double {
    let start = row * rowLength
    let need = Kernels.divergenceScratch(rowLength: rowLength)
    // At the end, so that the first scratch run stays as it is where there is one more.
    let scratch = tile.joinedScratch.slice(from: tile.joinedScratch.count - need, count: need)
    return tile.kernels.divergence(
      tile.inputs[0].slice(from: start, count: rowLength), tile.inputs[1].slice(from: start, count: rowLength), scratch: scratch)
  }

  /// ±I of the tile, in the first scratch run.
  private func importance(_ state: State, _ tile: Tile) -> Floats {
    let importance = tile.scratch[0]
    tile.kernels.subtract(tile.inputs[1], tile.inputs[0], into: importance)
    // The runs of a sample begin and end anywhere in a row.
    var start = 0
    while start < tile.count {
      let place = Int(tile.firstIndex) + start
      let row = place / rowLength
      let part = importance.slice(from: start, count: min(rowLength - place % rowLength, tile.count - start))
      let divergence =
        state.divergences.indices.contains(row) ? state.divergences[row] : Float(divergence(ofRow: start / rowLength, tile))
      tile.kernels.scale(part, by: divergence, into: part)
      start += part.count
    }
    return importance
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    if state.isMeasuring {
      state.isMeasuring = false
      state.divergences = statistics.blockSums.prefix(rowCount).map { Float($0) }
    } else {
      state.quantiles.settle(statistics)
    }
    return next(state)
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.selectImportant(
      importance(state, tile), threshold: state.threshold, base: tile.inputs[0], other: tile.inputs[1], into: output)
  }

  package func findings(_ state: State) -> [Finding] { [Finding("threshold", Double(state.threshold))] }
}
