internal import Glibc
package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Variation ratio merging of FuseChat: models count by how much they changed, over a tensor or over more or less than one.
///
/// The change of model i is the mean of τᵢ² (`measure: square`), of |τᵢ| (`abs`) or of τᵢ (`signed`). Weights are the changes divided by their sum, or,
/// with a `temperature`, softmax(change / temperature); the result is Σ wᵢ θᵢ, computed as θ₀ + Σ wᵢ τᵢ. Over the whole `model` the mean is that of all
/// elements; over a `layer` or a `module` (attention, MLP, norms of a layer) the means of the tensors are added, as in the authors' code. Tensors
/// outside the layers stand for themselves. `element` weighs every element by its own changes, in f64.
/// Shapes: any, equal. Sums: f64. Degenerate: changes that sum to zero, or to less than 1e-13 in an element, make all models count alike.
/// Bytes: inputs twice, once for `element`; the output once. Source: Wan et al., FuseChat, arXiv 2402.16107, first version.
package struct VaRM: MergeMethod {
  private enum Measure: Sendable { case square, abs, signed }

  /// The weights of each tensor's models; empty until measured.
  package typealias State = [[Float]]

  package static let descriptor = MethodDescriptor(
    name: "varm", title: "VaRM", summary: "Weighs models by how much they changed from the base.",
    formula: "Σ wᵢ θᵢ, wᵢ ∝ mean(τᵢ²) over the granularity, or softmax(mean(τᵢ²) / temperature)",
    reference: .init("FuseChat, arXiv 2402.16107", url: "https://arxiv.org/abs/2402.16107"), base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor(
        "granularity", .choice(["model", "layer", "module", "tensor", "element"]), "what one set of weights is for",
        default: .text("tensor")),
      ParameterDescriptor(
        "measure", .choice(["square", "abs", "signed"]), "what a change is measured by: its square, its magnitude, or itself",
        default: .text("square")),
      ParameterDescriptor(
        "temperature", .number(.init(from: .open(0))),
        "divisor of what the softmax is taken of; absent divides the changes by their sum instead"),
    ],
    scopes: [.element, .tensor, .group, .model], needsLayers: true,
    notes: [
      "models that changed nothing count alike", "element takes neither signed nor a temperature",
      "within 1e-13 of no change the models of an element count alike, where the authors' code lets them fade",
    ],
    example: """
      merge_method: varm
      base_model: models/base
      models:
        - model: models/french
        - model: models/code
      parameters: {granularity: module}
      dtype: bfloat16
      """)

  private let measure: Measure
  private let isElementwise: Bool
  private let temperature: Double?
  private let modelCount: Int
  /// By tensor: the group it is weighed with, and how many elements a mean of it is of.
  private let groups: [Int]
  private let counts: [Double]
  private let isWholeModel: Bool

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope {
    ["model", "layer", "module"].contains(parameters["granularity"]?.text ?? "tensor") ? .model : .tensor
  }

  package static var cropsToBase: Bool { true }

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "varm")
    modelCount = request.modelCount
    let granularity = segment.text("granularity") ?? "tensor"
    measure = segment.text("measure") == "abs" ? .abs : segment.text("measure") == "signed" ? .signed : .square
    temperature = segment.number("temperature")
    isElementwise = granularity == "element"
    isWholeModel = granularity == "model"
    if isElementwise, temperature != nil || measure == .signed {
      throw IngotError(
        .recipe, "granularity: element takes \(temperature != nil ? "no temperature" : "no measure: signed")",
        hint: "remove it, or choose granularity: tensor", subject: segment.name)
    }
    var known: [String: Int] = [:]
    var groups: [Int] = []
    var counts: [Double] = []
    for segment in request.segments {
      let key = Self.group(of: segment, granularity)
      groups.append(known[key] ?? known.count)
      known[key] = known[key] ?? known.count
      counts.append(Double(max(try segment.shape.elementCount(), 1)))
    }
    self.groups = groups
    self.counts = counts
  }

  /// The name of what a tensor is weighed with.
  private static func group(of segment: MethodRequest.Segment, _ granularity: String) -> String {
    if granularity == "model" { return "" }
    guard granularity != "tensor", case .layer(let layer, _) = segment.place else { return segment.name }
    let components = segment.name.split(separator: ".", omittingEmptySubsequences: false)
    // The layer's number in the output's own name, and what stands before it: encoder and decoder have layers of one number.
    guard let place = components.firstIndex(where: { $0 == String(layer) }) else { return segment.name }
    let stem = components[...place].joined(separator: ".")
    if granularity == "layer" { return stem }
    guard components.indices.contains(place + 1) else { return stem }
    let module = components[place + 1]
    return stem + "." + (module.contains("norm") || module.hasPrefix("ln") ? "norm" : module)
  }

  package var demands: Demands { Demands(scratchRows: measure == .signed ? 1 : 0) }

  package func begin() -> Phase<State> { isElementwise ? .emit([]) : .gather([], Round(sums: modelCount)) }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    guard measure != .square else {
      for model in 0..<modelCount {
        tile.kernels.accumulateEnergy(tile.inputs[0], tile.inputs[model + 1], selected: nil, into: statistic.sum(model))
      }
      return
    }
    let deltas = tile.subtractingBase()
    if measure == .abs {
      for model in 0..<modelCount { tile.kernels.accumulateAbsolute(deltas[model], into: statistic.sum(model)) }
      return
    }
    let ones = tile.scratch[0]
    for index in 0..<ones.count { ones[index] = 1 }
    for model in 0..<modelCount { tile.kernels.accumulateDot(deltas[model], ones, into: statistic.sum(model)) }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    let none = [Double](repeating: 0, count: modelCount)
    var changes = [[Double]](repeating: none, count: (groups.max() ?? 0) + 1)
    var elements = [Double](repeating: 0, count: changes.count)
    for (segment, group) in groups.enumerated() where segment < statistics.segmentSums.count {
      let divisor = isWholeModel ? 1 : counts[segment]
      for model in 0..<modelCount { changes[group][model] += statistics.segmentSums[segment][model] / divisor }
      elements[group] += counts[segment]
    }
    let weights = zip(changes, elements).map { change, count in
      Self.weights(isWholeModel ? change.map { $0 / count } : change, temperature: temperature)
    }
    return .emit(groups.map { weights[$0] })
  }

  /// Weights of these changes, which sum to 1; alike where the changes sum to nothing.
  private static func weights(_ changes: [Double], temperature: Double?) -> [Float] {
    var shares = changes
    if let temperature {
      let most = changes.max() ?? 0
      shares = changes.map { exp(($0 - most) / temperature) }
    }
    let sum = shares.reduce(0, +)
    let weights = shares.map { Float($0 / sum) }
    return weights.allSatisfy(\.isFinite) ? weights : changes.map { _ in Float(1 / Double(changes.count)) }
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard state.indices.contains(segment) else { return nil }
    return FusedMerge(.deltas(.sum(divisor: 1), scale: 1), terms: state[segment].map { FusedMerge.Term(weight: $0) })
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    guard state.indices.contains(tile.segment) else {
      return tile.kernels.variedMean(tile.inputs[0], tile.inputs.dropFirst(), squares: measure == .square, into: output)
    }
    tile.kernels.weightedSum(tile.subtractingBase(), weights: state[tile.segment], into: output)
    tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
  }

  /// The weights of a job of one tensor.
  package func findings(_ state: State) -> [Finding] {
    state.count == 1 ? state[0].enumerated().map { Finding("weight", Double($1), model: $0) } : []
  }
}
