package import IngotErrors
internal import IngotLinearAlgebra
internal import IngotRecipes
internal import IngotTensors

/// What a matrix method does with tensors that are no matrices for it: norms, biases, convolutions, embeddings and output heads.
///
/// `average`: θ₀ + λ Σ wᵢ τᵢ / Σ wᵢ; `task_arithmetic`: θ₀ + λ Σ wᵢ τᵢ; `base`: θ₀. The λ is that of the matrices. A Σ wᵢ below 1e-8 counts as 1.
package struct RestRule: Sendable {
  let weights: [Float]
  let divisor: Float
  let scale: Float
  private let hasBase: Bool

  /// - Parameters: `weights` are those of the inputs beside the base.
  init(_ rule: String, weights: [Float], scale: Double) {
    let sum = weights.reduce(0.0) { $0 + Double($1) }
    self.weights = weights
    divisor = rule == "average" && abs(sum) >= 1e-8 ? Float(sum) : 1
    self.scale = rule == "base" ? 0 : Float(scale)
    hasBase = true
  }

  /// θ₀ + Σ cᵢ τᵢ.
  init(sum coefficients: [Float]) {
    weights = coefficients
    divisor = 1
    scale = 1
    hasBase = true
  }

  /// Σ wᵢ θᵢ / Σ wᵢ, for methods without a base; the sum is not 0.
  init(mean weights: [Float]) {
    self.weights = weights
    divisor = Float(weights.reduce(0.0) { $0 + Double($1) })
    scale = 1
    hasBase = false
  }

  var fused: FusedMerge {
    let terms = weights.map { FusedMerge.Term(weight: $0) }
    if !hasBase { return FusedMerge(.linear(divisor: divisor), terms: terms) }
    return FusedMerge(.deltas(.sum(divisor: divisor), scale: scale), terms: terms, ties: .hash)
  }

  func emit(_ tile: Tile, into output: Floats) {
    if !hasBase { return tile.kernels.linearCombination(tile.inputs, weights: weights, divisor: divisor, into: output) }
    for row in 1..<max(tile.inputs.rows, 1) { tile.kernels.subtract(tile.inputs[row], tile.inputs[0], into: tile.inputs[row]) }
    tile.kernels.weightedSum(tile.inputs.dropFirst(), weights: weights, divisor: divisor, into: output)
    tile.kernels.addDelta(output, scaledBy: scale, to: tile.inputs[0], into: output)
  }
}

/// What every matrix method on task vectors reads from a request: weights, scale, the rest rule, and whether the tensor is a matrix.
package struct TaskMatrices: Sendable {
  package let weights: [Float]
  package let scale: Double
  package let isMatrix: Bool
  package let rest: RestRule
  package let segment: MethodRequest.Segment

  /// Throws `.recipe` without a base or models, and what opening OpenBLAS throws when the tensor is a matrix.
  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.modelCount >= 1 else {
      throw IngotError(.recipe, "the method needs a base model and at least one other", hint: "give base_model", subject: segment.name)
    }
    weights = (1..<request.inputs.count).map { Float(segment.number("weight", model: $0) ?? 1) }
    scale = segment.number("lambda") ?? 1
    rest = RestRule(segment.text("rest") ?? "average", weights: weights, scale: scale)
    isMatrix = try Self.isMatrix(segment)
    self.segment = segment
  }

  /// Rank 2 with elements, and embeddings and output heads only where asked for. Opens OpenBLAS for the first matrix.
  static func isMatrix(_ segment: MethodRequest.Segment) throws(IngotError) -> Bool {
    guard segment.shape.rank == 2, segment.shape.dimensions.allSatisfy({ $0 > 0 }) else { return false }
    if segment.isVocabulary && segment.text("embeddings") != "matrix" { return false }
    _ = try LinearAlgebra.load()
    return true
  }

  package var taskCount: Int { weights.count }

  /// Every task with its weight.
  var terms: [(task: Int, weight: Double)] { weights.enumerated().map { ($0.offset, Double($0.element)) } }
}

extension ParameterDescriptor {
  /// Parameters of every matrix method on task vectors, defined once.
  static func taskMatrices() -> [ParameterDescriptor] {
    [
      ParameterDescriptor("weight", .number(.any), "factor of the model's task vector", default: .number(1), isPerModel: true),
      ParameterDescriptor("lambda", .number(.any), "factor of the merged task vector", default: .number(1)),
    ] + matrixSelection
  }

  static var matrixSelection: [ParameterDescriptor] { [rest("average"), embeddings] }

  static func rest(_ fallback: String) -> ParameterDescriptor {
    ParameterDescriptor(
      "rest", .choice(["average", "task_arithmetic", "base"]),
      "what becomes of tensors that are no matrices for the method: the mean task vector, the weighted sum, or the base",
      default: .text(fallback))
  }

  static let embeddings = ParameterDescriptor(
    "embeddings", .choice(["rest", "matrix"]),
    "whether embeddings and output heads follow the rest rule, or are matrices like others (costly, and their spectra follow token frequency)",
    default: .text("rest"))
}
