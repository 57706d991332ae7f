internal import Glibc
package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Spherical interpolation between the base (t = 0) and one other model (t = 1), per tensor.
///
/// With d the cosine of the angle between the flattened tensors: |d| > 0.9995 interpolates linearly, (1−t)·v₀ + t·v₁ (near-antiparallel tensors
/// too); otherwise θ = acos d and the result is (sin((1−t)θ)·v₀ + sin(tθ)·v₁) / sin θ, on the tensors as they are, not normalised.
/// Shapes: any, equal. Sums: f64 over blocks; coefficients f64, rounded to f32 once. Degenerate: a norm ≤ 1e-8 leaves that tensor unnormalised,
/// so a zero tensor gives d = 0. Bytes: both inputs twice (once when kept in memory), the output once.
/// Source: Shoemake 1985; rules as in mergekit.
package struct Slerp: MergeMethod {
  package struct State: Sendable {
    var weights: [Float]
    var cosine: Double
    var isLinear: Bool
  }

  package static let descriptor = MethodDescriptor(
    name: "slerp", title: "SLERP", summary: "Spherical interpolation between the base and one other model.",
    formula: "(sin((1 − t)φ) · θ₀ + sin(tφ) · θ₁) / sin φ, φ the angle between the two",
    reference: .init("Slerp", url: "https://en.wikipedia.org/wiki/Slerp"), base: .required, models: 1...1,
    parameters: [
      ParameterDescriptor("t", .number(.any), "position: 0 is the base, 1 the other model", isRequired: true)
    ],
    scopes: [.tensor], copiesLoneModel: true,
    notes: ["nearly parallel or antiparallel tensors are interpolated linearly", "a zero tensor counts as orthogonal"],
    example: """
      merge_method: slerp
      base_model: models/french
      models:
        - model: models/french
        - model: models/code
      parameters:
        t:
          - filter: self_attn
            value: [0, 0.5, 0.3, 0.7, 1]
          - filter: mlp
            value: [1, 0.5, 0.7, 0.3, 0]
          - value: 0.5
      dtype: bfloat16
      """)

  /// |cosine| above which the interpolation is linear.
  static let linearThreshold = 0.9995

  private let t: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.inputs.count == 2 else {
      throw IngotError(
        .recipe, "slerp takes the base and exactly one other model, found \(request.inputs.count) inputs for \(segment.name)",
        hint: "list one model besides base_model", subject: segment.name)
    }
    guard let t = segment.number("t") else {
      throw IngotError(
        .recipe, "parameter 't' is missing at tensor \(segment.name)", hint: "add t: 0.5 under parameters", subject: segment.name)
    }
    self.t = t
  }

  package var demands: Demands { Demands() }

  package func begin() -> Phase<State> { .gather(State(weights: [], cosine: 0, isLinear: true), Round(sums: 3)) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    tile.kernels.accumulateMoments(
      tile.inputs[0], tile.inputs[1], xx: statistic.sum(0), xy: statistic.sum(1), yy: statistic.sum(2))
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let norms = (statistics.sums[0].squareRoot(), statistics.sums[2].squareRoot())
    let cosine = statistics.sums[1] / ((norms.0 > 1e-8 ? norms.0 : 1) * (norms.1 > 1e-8 ? norms.1 : 1))
    guard cosine.isFinite, abs(cosine) <= Self.linearThreshold else {
      return .emit(State(weights: [Float(1 - t), Float(t)], cosine: cosine, isLinear: true))
    }
    let angle = acos(cosine)
    let scale = sin(angle)
    let weights = [Float(sin((1 - t) * angle) / scale), Float(sin(t * angle) / scale)]
    return .emit(State(weights: weights, cosine: cosine, isLinear: false))
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    FusedMerge(.linear(divisor: 1), terms: state.weights.map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    tile.kernels.linearCombination(tile.inputs, weights: state.weights, divisor: 1, into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    [Finding("cosine", state.cosine), Finding("spherical", state.isLinear ? 0 : 1)]
  }
}
