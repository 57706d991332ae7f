internal import Glibc
package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Spherical interpolation of two models by their weights; with a base model, of their task vectors.
///
/// t = w₂ / (w₁ + w₂), ½ where |w₁ + w₂| < 1e-6. With c the cosine of the angle θ between two vectors (norms floored at 1e-7) the result is
/// (sin((1−t)θ)·v₀ + sin(tθ)·v₁) / sin θ on the vectors as they are, and (1−t)·v₀ + t·v₁ where sin θ < 1e-8. A vector is the whole tensor
/// (`nuslerp_flatten`, default), or runs along the last axis, or (`nuslerp_row_wise`) along the first one; a 1-D tensor is one vector.
/// Degenerate: opposite vectors (sin θ < 1e-4, c < 0) have no arc between them and are interpolated linearly (mergekit divides rounding errors
/// by each other). A zero vector counts as orthogonal. Shapes: any, equal. Sums: f64; coefficients f64, rounded to f32 once.
/// Bytes: inputs twice (once along the last axis), the output once. Memory along the first axis: 24 bytes from the budget and 8 more for every
/// element of a row. Source: mergekit.
package struct NuSlerp: MergeMethod {
  package struct State: Sendable {
    /// Two factors; along the first axis as many first factors as there are columns, then the second ones.
    var weights: [Float]
  }

  private enum Vectors: Sendable, Equatable {
    case tensor
    case rows
    case columns(Int)
  }

  package static let descriptor = MethodDescriptor(
    name: "nuslerp", title: "NuSLERP", summary: "Spherical interpolation of two models, or of their task vectors, by weights.",
    formula:
      "(sin((1 − t)φ) · θ₁ + sin(tφ) · θ₂) / sin φ, t = w₂ / (w₁ + w₂), φ the angle between the two; with a base the same of τ₁, τ₂, added to θ₀",
    reference: .init("mergekit", url: "https://github.com/arcee-ai/mergekit"), base: .optional, models: 2...2,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "weight of the model", isRequired: true, isPerModel: true),
      ParameterDescriptor("nuslerp_flatten", .boolean, "treat a tensor as one vector", default: .boolean(true)),
      ParameterDescriptor(
        "nuslerp_row_wise", .boolean, "without nuslerp_flatten: vectors along the first axis instead of the last",
        default: .boolean(false)),
    ],
    scopes: [.tensor, .row], copiesLoneModel: true,
    notes: ["opposite vectors are interpolated linearly", "a zero vector counts as orthogonal"])

  private let t: Double
  private let hasBase: Bool
  private let vectors: Vectors

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    hasBase = request.hasBase
    guard request.modelCount == 2 else {
      throw IngotError(
        .recipe, "nuslerp takes exactly two models beside the base, found \(request.modelCount) for \(segment.name)",
        hint: "list two models that are not base_model", subject: segment.name)
    }
    var weights: [Double] = []
    for model in (hasBase ? 1 : 0)..<request.inputs.count {
      weights.append(try segment.required("weight", model: model, of: request.inputs[model]))
    }
    let sum = weights[0] + weights[1]
    t = abs(sum) < 1e-6 ? 0.5 : weights[1] / sum
    let count = try segment.shape.elementCount()
    let dimensions = segment.shape.dimensions
    if segment.flag("nuslerp_flatten", default: true) || dimensions.count < 2 {
      vectors = .tensor
    } else if segment.flag("nuslerp_row_wise", default: false) {
      let columns = count / max(dimensions[0], 1)
      vectors = columns > 1 ? .columns(columns) : .tensor
    } else {
      vectors = segment.shape.rowLength < count ? .rows : .tensor
    }
  }

  package var demands: Demands {
    switch vectors {
    case .tensor: Demands()
    case .rows: Demands(granularity: .row)
    case .columns(let count): Demands(columnSums: 3 * count)
    }
  }

  package func begin() -> Phase<State> {
    switch vectors {
    case .tensor: .gather(State(weights: []), Round(sums: 3))
    case .rows: .emit(State(weights: []))
    case .columns(let count): .gather(State(weights: []), Round(columnSums: 3 * count))
    }
  }

  /// The two vectors of a tile; task vectors where there is a base.
  private func pair(_ tile: Tile) -> (Floats, Floats) {
    let models = hasBase ? tile.subtractingBase() : tile.inputs
    return (models[0], models[1])
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let (x, y) = pair(tile)
    if case .columns(let count) = vectors {
      tile.kernels.accumulateColumnMoments(x, y, firstIndex: tile.firstIndex, columns: count, into: statistic.columns)
    } else {
      tile.kernels.accumulateMoments(x, y, xx: statistic.sum(0), xy: statistic.sum(1), yy: statistic.sum(2))
    }
  }

  /// The factors of two vectors with these inner products.
  private func factors(_ xx: Double, _ xy: Double, _ yy: Double) -> (Float, Float) {
    let cosine = min(max(xy / (max(xx.squareRoot(), 1e-7) * max(yy.squareRoot(), 1e-7)), -1), 1)
    let angle = acos(cosine)
    let sine = sin(angle)
    guard sine >= (cosine < 0 ? 1e-4 : 1e-8) else { return (Float(1 - t), Float(t)) }
    return (Float(sin((1 - t) * angle) / sine), Float(sin(t * angle) / sine))
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    guard case .columns(let count) = vectors else {
      let (first, second) = factors(statistics.sums[0], statistics.sums[1], statistics.sums[2])
      return .emit(State(weights: [first, second]))
    }
    let sums = statistics.columns
    var weights = [Float](repeating: 0, count: 2 * count)
    for column in 0..<count {
      (weights[column], weights[count + column]) = factors(sums[column], sums[count + column], sums[2 * count + column])
    }
    return .emit(State(weights: weights))
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard vectors == .tensor else { return nil }
    return FusedMerge(
      hasBase ? .deltas(.sum(divisor: 1), scale: 1) : .linear(divisor: 1), terms: state.weights.map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    let (x, y) = pair(tile)
    switch vectors {
    case .tensor: tile.kernels.combination(x, y, weights: (state.weights[0], state.weights[1]), into: output)
    case .rows:
      for start in stride(from: 0, to: tile.count, by: max(tile.rowLength, 1)) {
        let (a, b) = (x.slice(from: start, count: tile.rowLength), y.slice(from: start, count: tile.rowLength))
        let (first, second) = factors(tile.dot(a, a), tile.dot(a, b), tile.dot(b, b))
        tile.kernels.combination(a, b, weights: (first, second), into: output.slice(from: start, count: tile.rowLength))
      }
    case .columns(let count):
      tile.kernels.columnCombination(x, y, firstIndex: tile.firstIndex, columns: count, weights: state.weights, into: output)
    }
    if hasBase { tile.kernels.addDelta(output, to: tile.inputs[0], into: output) }
  }
}
