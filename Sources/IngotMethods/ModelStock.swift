package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Model Stock: moves from the base towards the mean of the models as far as the angle between their task vectors suggests.
///
/// With c the mean cosine over all pairs of the N task vectors (norm products floored at 1e-6) and t = N c / (1 + (N−1) c):
/// out = t · mean(θᵢ) + (1−t) · θ₀. `filter_wise` takes one t for each row (last axis) instead of one for the tensor.
/// Degenerate: equal models give t = 1; c = −1/(N−1) makes t undefined, which is an error (mergekit returns infinities or NaN).
/// Bytes: inputs twice (once when filter-wise), the output once. Source: Jang et al., Model Stock, arXiv 2403.19522; rules as in mergekit.
package struct ModelStock: MergeMethod {
  package struct State: Sendable {
    /// The share of the mean; nil until measured, and always nil when each row has its own.
    var t: Float?
  }

  package static let descriptor = MethodDescriptor(
    name: "model_stock", title: "Model Stock", summary: "Moves from the base to the models' mean by the angle between task vectors.",
    formula: "t · mean(θᵢ) + (1 − t) · θ₀, t = N c / (1 + (N − 1) c), c = mean cosine of the task vectors",
    reference: .init("Model Stock, arXiv 2403.19522", url: "https://arxiv.org/abs/2403.19522"), base: .required, models: 2...Int.max,
    parameters: [
      ParameterDescriptor("filter_wise", .boolean, "one interpolation for each row instead of each tensor", default: .boolean(false))
    ],
    scopes: [.tensor, .row], notes: ["task vectors that cancel out exactly are an error"])

  private let count: Int
  private let ones: [Float]
  private let isFilterWise: Bool
  private let name: String

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.modelCount >= 2 else {
      throw IngotError(
        .recipe, "model_stock takes the base and at least two other models, found \(request.inputs.count) inputs for \(segment.name)",
        hint: "list two models or more besides base_model", subject: segment.name)
    }
    count = request.modelCount
    ones = [Float](repeating: 1, count: count)
    isFilterWise = segment.flag("filter_wise", default: false)
    name = segment.name
  }

  package var demands: Demands { Demands(granularity: isFilterWise ? .row : .block) }

  package func begin() -> Phase<State> {
    isFilterWise ? .emit(State(t: nil)) : .gather(State(t: nil), Round(sums: GramMatrix.sums(count)))
  }

  private func subtractBase(_ tile: Tile) -> FloatTable {
    for row in 1..<tile.inputs.rows { tile.kernels.subtract(tile.inputs[row], tile.inputs[0], into: tile.inputs[row]) }
    return tile.inputs.dropFirst()
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    GramMatrix.accumulate(subtractBase(tile), tile, statistic)
  }

  /// t for task vectors of these inner products; not finite when they cancel out.
  private func share(_ product: (_ low: Int, _ high: Int) -> Double) -> Double {
    func norm(_ i: Int) -> Double { max(product(i, i), 0).squareRoot() }
    var sum = 0.0
    for j in 1..<count {
      for i in 0..<j { sum += min(max(product(i, j) / max(norm(i) * norm(j), 1e-6), -1), 1) }
    }
    let cosine = sum / Double(count * (count - 1) / 2)
    return Double(count) * cosine / (1 + Double(count - 1) * cosine)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let gram = GramMatrix(count: count, sums: statistics.sums)
    let t = share { gram[$0, $1] }
    guard t.isFinite else {
      throw IngotError(
        .unsupported, "the task vectors cancel out at tensor \(name), so their mean angle gives no interpolation",
        hint: "merge this tensor with another method", subject: name)
    }
    return .emit(State(t: Float(t)))
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let deltas = subtractBase(tile)
    tile.kernels.weightedSum(deltas, weights: ones, divisor: Float(count), into: output)
    if let t = state.t {
      tile.kernels.addDelta(output, scaledBy: t, to: tile.inputs[0], into: output)
      return
    }
    var start = 0
    while start + tile.rowLength <= tile.count {
      let t = share(of: deltas, from: start, tile)
      let part = output.slice(from: start, count: tile.rowLength)
      // A row whose task vectors cancel out keeps the base.
      tile.kernels.addDelta(
        part, scaledBy: t.isFinite ? Float(t) : 0, to: tile.inputs[0].slice(from: start, count: tile.rowLength), into: part)
      start += tile.rowLength
    }
  }

  /// t of one row of the tile. Rows are many: nothing is allocated on the heap for a dozen models.
  private func share(of deltas: FloatTable, from start: Int, _ tile: Tile) -> Double {
    // SAFETY: every product is stored before one is read, at an index below the capacity, and the memory does not leave the closure.
    unsafe withUnsafeTemporaryAllocation(of: Double.self, capacity: GramMatrix.sums(count)) { products in
      for high in 0..<count {
        for low in 0...high {
          let dot = tile.dot(
            deltas[low].slice(from: start, count: tile.rowLength), deltas[high].slice(from: start, count: tile.rowLength))
          unsafe products.initializeElement(at: high * (high + 1) / 2 + low, to: dot)
        }
      }
      return share { unsafe products[$1 * ($1 + 1) / 2 + $0] }
    }
  }

  package func findings(_ state: State) -> [Finding] { state.t.map { [Finding("t", Double($0))] } ?? [] }
}
