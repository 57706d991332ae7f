package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// WIDEN: takes weights apart into magnitudes and directions of columns and adds each column of a task vector by how much both changed.
///
/// Of a matrix, for each model i and column c: Δm = | ‖Wᵢ,c‖ − ‖W₀,c‖ | and Δd = 1 − cos(Wᵢ,c, W₀,c). Within a model the columns are ranked by Δm
/// and by Δd (ascending, equal ones in their order), s = rank / columns. Over the models: softmax of s, but `widen_value` where
/// s > widen_ratio · (mean of the model's s). With w the mean of the two scores: W₀ + Σ wᵢ,c (Wᵢ − W₀). An input embedding is read by its rows (a
/// token is a column). Other tensors have no columns: |δ| of each element takes the place of s. Scores may add up to more than 1.
/// Shapes: any, equal. Sums and scores: f64; w is rounded to f32 once. Degenerate: a column of zeros has Δd = 0.
/// Bytes: inputs twice, the output once. Memory: 24 bytes from the budget for each model and column of the largest tensor.
/// Source: Yu et al., Extend Model Merging from Fine-Tuned to Pre-Trained LLMs, arXiv 2408.03092.
package struct WIDEN: MergeMethod {
  package struct State: Sendable {
    /// w of each model and column, or row, model by model; empty for tensors without columns.
    var weights: [Float] = []
    /// Where |δ| of a model's element counts as above average.
    var cuts: [Double] = []
  }

  private enum Vectors: Sendable, Equatable {
    case elements
    case columns(Int)
    case rows(Int)
  }

  package static let descriptor = MethodDescriptor(
    name: "widen", title: "WIDEN", summary: "Adds each column of a task vector by how much its magnitude and direction changed.",
    formula: "θ₀ + Σ wᵢ τᵢ, wᵢ of each column the mean of two scores: the softmax over the models of its ranks by |Δ norm| and by 1 − cos",
    reference: .init("Extend Model Merging from Fine-Tuned to Pre-Trained LLMs, arXiv 2408.03092", url: "https://arxiv.org/abs/2408.03092"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "widen_ratio", .number(.init(from: .closed(0))), "from how many times a model's mean significance on a score is replaced",
        default: .number(1)),
      ParameterDescriptor("widen_value", .number(.any), "the score that replaces it", default: .number(1)),
    ],
    scopes: [.tensor],
    notes: [
      "an input embedding is ranked by its rows, an output head by its columns", "tensors of one, three or more axes are scored by element",
      "a column of zeros counts as unchanged in direction",
    ],
    example: """
      merge_method: widen
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {widen_ratio: 1}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let vectors: Vectors
  private let modelCount: Int
  private let ones: [Float]
  private let ratio: Double
  private let value: Double
  private let count: Int

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "widen")
    modelCount = request.modelCount
    ones = [Float](repeating: 1, count: modelCount)
    ratio = segment.number("widen_ratio") ?? 1
    value = segment.number("widen_value") ?? 1
    count = try segment.shape.elementCount()
    let dimensions = segment.shape.dimensions
    if dimensions.count != 2 || count == 0 {
      vectors = .elements
    } else {
      vectors = segment.place == .embedding ? .rows(dimensions[0]) : .columns(dimensions[1])
    }
  }

  package var demands: Demands {
    switch vectors {
    case .elements: Demands()
    case .columns(let length): Demands(columnSums: 3 * length * modelCount)
    case .rows(let length): Demands(granularity: .row, columnSums: 3 * length * modelCount)
    }
  }

  package func begin() -> Phase<State> {
    switch vectors {
    case .elements: .gather(State(), Round(sums: modelCount))
    case .columns(let length), .rows(let length): .gather(State(), Round(columnSums: 3 * length * modelCount))
    }
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let base = tile.inputs[0]
    for model in 0..<modelCount {
      switch vectors {
      case .elements:
        tile.kernels.subtract(tile.inputs[model + 1], base, into: tile.inputs[model + 1])
        tile.kernels.accumulateAbsolute(tile.inputs[model + 1], into: statistic.sum(model))
      case .columns(let length):
        tile.kernels.accumulateColumnMoments(
          base, tile.inputs[model + 1], firstIndex: tile.firstIndex, columns: length,
          into: statistic.columns.slice(from: 3 * length * model, count: 3 * length))
      case .rows(let length):
        let sums = statistic.columns.slice(from: 3 * length * model, count: 3 * length)
        forEachRow(tile) { row, start in
          let (x, y) = (
            base.slice(from: start, count: tile.rowLength), tile.inputs[model + 1].slice(from: start, count: tile.rowLength)
          )
          sums[row] = tile.dot(x, x)
          sums[length + row] = tile.dot(x, y)
          sums[2 * length + row] = tile.dot(y, y)
        }
      }
    }
  }

  private func forEachRow(_ tile: Tile, _ body: (_ row: Int, _ start: Int) -> Void) {
    let length = max(tile.rowLength, 1)
    let first = Int(tile.firstIndex) / length
    for row in 0..<tile.count / length { body(first + row, row * length) }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    switch vectors {
    case .elements:
      return .emit(State(cuts: statistics.sums.map { ratio * $0 / Double(max(count, 1)) }))
    case .columns(let length), .rows(let length):
      var magnitudes: [[Int]] = []
      var directions: [[Int]] = []
      for model in 0..<modelCount {
        let sums = statistics.columns.slice(from: 3 * length * model, count: 3 * length)
        var changes = (magnitude: [Double](repeating: 0, count: length), direction: [Double](repeating: 0, count: length))
        for column in 0..<length {
          let norms = (sums[column].squareRoot(), sums[2 * length + column].squareRoot())
          changes.magnitude[column] = abs(norms.1 - norms.0)
          let product = norms.0 * norms.1
          changes.direction[column] = product > 0 ? 1 - sums[length + column] / product : 0
        }
        magnitudes.append(Self.ranks(of: changes.magnitude))
        directions.append(Self.ranks(of: changes.direction))
      }
      let (m, d) = (scores(magnitudes), scores(directions))
      return .emit(State(weights: zip(m, d).map { Float(0.5 * ($0 + $1)) }))
    }
  }

  /// The ascending place of each value; equal ones, and NaN as the largest, in their order.
  private static func ranks(of values: [Double]) -> [Int] {
    let keys = values.map { $0.isNaN ? Double.infinity : $0 }
    let order = keys.indices.sorted { (keys[$0], $0) < (keys[$1], $1) }
    var ranks = [Int](repeating: 0, count: values.count)
    for (rank, index) in order.enumerated() { ranks[index] = rank }
    return ranks
  }

  /// Of the significances rank / columns, whose mean is (columns − 1) / (2 columns): the softmax over the models, and `widen_value` where one
  /// is above widen_ratio times the mean; model by model.
  private func scores(_ ranks: [[Int]]) -> [Double] {
    let length = ranks.first?.count ?? 0
    var totals = [Double](repeating: 0, count: length)
    var scores: [Double] = []
    let kernels = Kernels(.scalar)
    for own in ranks {
      var exponentials = own.map { Double($0) / Double(max(length, 1)) }
      kernels.exponential(&exponentials)
      for column in 0..<length { totals[column] += exponentials[column] }
      scores += exponentials
    }
    for (model, own) in ranks.enumerated() {
      for column in 0..<length {
        let place = model * length + column
        scores[place] = Double(2 * own[column]) > ratio * Double(length - 1) ? value : scores[place] / totals[column]
      }
    }
    return scores
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let deltas = tile.subtractingBase()
    switch vectors {
    case .elements: tile.kernels.significanceSum(deltas, cuts: state.cuts, value: value, into: output)
    case .columns(let length):
      tile.kernels.columnSum(deltas, firstIndex: tile.firstIndex, columns: length, weights: state.weights, into: output)
    case .rows(let length):
      for model in 0..<modelCount {
        forEachRow(tile) { row, start in
          let part = deltas[model].slice(from: start, count: tile.rowLength)
          tile.kernels.scale(part, by: state.weights[model * length + row], into: part)
        }
      }
      tile.kernels.weightedSum(deltas, weights: ones, into: output)
    }
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }
}
