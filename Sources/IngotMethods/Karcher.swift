internal import Glibc
package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The Karcher (Riemannian) mean of the directions of all models, times their mean norm; every model counts alike, or by its `share`.
///
/// αᵢ = shareᵢ / Σ share over the tensors that have a direction. Starting from the normalised mean direction, repeats u ← exp_u(Σ αᵢ log_u uᵢ) until the step is below `tol` or `max_iter` steps are done. u stays a
/// combination of the inputs, so that the iteration needs only their Gram matrix, in f64. A base model is one more input, as in mergekit.
/// Degenerate: tensors of norm ≤ tol have no direction but keep their share of the scale; all zero gives zeros; an opposite direction's angle is
/// held below π − 1e-4. Bytes: inputs twice, the output once. Source: Karcher 1977; rules as in mergekit.
package struct Karcher: MergeMethod {
  package struct State: Sendable {
    var coefficients: [Float]
  }

  package static let descriptor = MethodDescriptor(
    name: "karcher", title: "Karcher Mean", summary: "Riemannian mean of the models' directions.",
    formula: "mean norm · u, with u the unit vector at which Σ log_u(θᵢ / ‖θᵢ‖) = 0",
    reference: .init("Karcher mean", url: "https://en.wikipedia.org/wiki/Karcher_mean"), base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("max_iter", .integer(0...10_000), "steps at most", default: .number(10)),
      ParameterDescriptor("tol", .number(.init(from: .closed(0))), "step length that ends the iteration", default: .number(1e-5)),
      ParameterDescriptor(
        "share", .number(.init(from: .closed(0))), "how much the model counts beside the others; mergekit has all alike",
        default: .number(1), isPerModel: true),
    ],
    scopes: [.tensor], notes: ["a tensor of norm zero lowers the scale and has no direction"])

  private let count: Int
  private let steps: Int
  private let tolerance: Double
  private let shares: [Double]

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    count = request.inputs.count
    shares = (0..<count).map { segment.number("share", model: $0) ?? 1 }
    guard shares.contains(where: { $0 > 0 }) else {
      throw IngotError(
        .recipe, "the share of every model is 0 at tensor \(segment.name), so none counts", hint: "give one model a share above 0",
        subject: segment.name)
    }
    steps = Int(segment.number("max_iter") ?? 10)
    tolerance = segment.number("tol") ?? 1e-5
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> {
    count == 1 ? .emit(State(coefficients: [1])) : .gather(State(coefficients: []), Round(sums: GramMatrix.sums(count)))
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    GramMatrix.accumulate(tile.inputs, tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let gram = GramMatrix(count: count, sums: statistics.sums)
    let norms = (0..<count).map { gram.norm($0) }
    let valid = (0..<count).filter { norms[$0] > tolerance && shares[$0] > 0 }
    guard let first = valid.first else { return .emit(State(coefficients: [Float](repeating: 0, count: count))) }
    let total = valid.reduce(0.0) { $0 + shares[$1] }
    let alphas = shares.map { $0 / total }
    // u = Σ cᵢ vᵢ; the direction of vᵢ is vᵢ / normᵢ.
    var c = [Double](repeating: 0, count: count)
    for i in valid { c[i] = alphas[i] / norms[i] }
    let length = gram.quadratic(c).squareRoot()
    if length < tolerance {
      c = [Double](repeating: 0, count: count)
      c[first] = 1 / norms[first]
    } else {
      c = c.map { $0 / length }
    }
    var tangent = c
    for _ in 0..<steps {
      guard step(&c, &tangent, gram, norms, valid, alphas) else { break }
    }
    let scale = zip(shares, norms).reduce(0.0) { $0 + $1.0 * $1.1 } / shares.reduce(0, +)
    return .emit(State(coefficients: c.map { Float($0 * scale) }))
  }

  /// One step of the iteration, or false when it would be shorter than the tolerance. `tangent` is overwritten: how many steps a tensor
  /// takes must not show in the number of allocations.
  private func step(
    _ c: inout [Double], _ tangent: inout [Double], _ gram: GramMatrix, _ norms: [Double], _ valid: [Int], _ alphas: [Double]
  ) -> Bool {
    for j in tangent.indices { tangent[j] = 0 }
    for i in valid {
      let cosine = min(max(gram.product(c, with: i) / norms[i], -1), 1)
      let angle = min(acos(cosine), Double.pi - 1e-4)
      if angle < tolerance { continue }
      let factor = alphas[i] * angle / sin(angle)
      tangent[i] += factor / norms[i]
      for j in tangent.indices { tangent[j] -= factor * cosine * c[j] }
    }
    let length = gram.quadratic(tangent).squareRoot()
    if length < tolerance { return false }
    for j in c.indices { c[j] = cos(length) * c[j] + sin(length) * tangent[j] / length }
    let norm = gram.quadratic(c).squareRoot()
    if norm > tolerance {
      for j in c.indices { c[j] /= norm }
    }
    return true
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.linearCombination(tile.inputs, weights: state.coefficients, divisor: 1, into: output)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    FusedMerge(.linear(divisor: 1), terms: state.coefficients.map { FusedMerge.Term(weight: $0) })
  }
}
