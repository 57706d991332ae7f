package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Optimization trajectory aware merging with Fast Fisher Grafting: an average in which Adam's second moments say how much each parameter of each
/// model counts, and parameters of little saliency are grafted back to the base.
///
/// 1. Saliency s_ij = v_ij τ_ij², τᵢ = θᵢ − θ₀ (without a base v_ij). Of each model the `density` of largest saliency over all its tensors stay, exactly
///    ⌊density · n⌋; or, with `ffg_threshold`, those whose saliency is at least that number.
/// 2. `ota_post: precond`: out = Σ Pᵢ θᵢ / Σ Pᵢ over what stayed, Pᵢ = (vᵢ^`power`, divided by its mean under `ota_normalize: mean`, + `ota_epsilon`) · `weight`. Where Σ P is
///    at most 1.1 · N · `ota_epsilon` the base, or the plain mean of the models (`fallback_to_base: false`, or without a base).
///    `linear`: θ₀ + the mean over all models of what stayed of τᵢ, zeros counting. `ties`: the same of those terms that have the sign of
///    the sum, zero counting as plus. Both weigh by `weight`.
/// vᵢ may be given as row and column sums R, C of a matrix: it is then Rᵢ Cⱼ / Σ R.
/// 3. `ota_rescale: operator` gives what is kept of each τᵢ the norm of the whole again, tensor by tensor (`OperatorNorms`), before it is merged; what has
///    at most `rescale_threshold` of it becomes zero.
/// Shapes: any, equal. Arithmetic: saliencies in f32 times 2⁶⁴, weights in f64 rounded to f32, averages in f64 rounded once.
/// Bytes: with a density all inputs up to three times, else once; with a mean the side files once more; with the rescaling everything ten times
/// more, in whole rows; the output once. Memory: with the rescaling 16 bytes from the budget for each model and column of all tensors.
/// Source: Harnessing Optimization Dynamics for Curvature-Informed Model Merging, arXiv 2509.11167.
package struct OTA: MergeMethod {
  package struct State: Sendable {
    var searches: MagnitudeSearches
    /// 1 / mean of v^power of each model; 1 until measured, and where it is not wanted.
    var factors: [Double]
    var isMeasuring: Bool
    /// What gives each tensor's kept part of each model its norm again; nil where that is not wanted, or not measured yet.
    var norms: OperatorNorms?
  }

  /// Of parameters that say how second moments weigh.
  private static let weighted = ParameterCondition.is("ota_post", .text("precond"))

  package static let descriptor = MethodDescriptor(
    name: "ota", title: "OTA with Fast Fisher Grafting", summary: "Averages the models weighted by Adam's second moments.",
    formula: "Σ Pᵢ θᵢ / Σ Pᵢ where vᵢ τᵢ² is among the model's largest, with Pᵢ = (vᵢ^power + ε) wᵢ; θ₀ where none is",
    reference: .init(
      "Harnessing Optimization Dynamics for Curvature-Informed Model Merging, arXiv 2509.11167", url: "https://arxiv.org/abs/2509.11167"),
    base: .optional, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's weights", default: .number(1), isPerModel: true),
      .densityFromZero,
      ParameterDescriptor(
        "ffg_threshold", .number(NumberRange(from: .closed(0))),
        "least saliency, second moment times squared difference to the base, that is kept; in place of density", isPerModel: true),
      ParameterDescriptor(
        "power", .number(NumberRange(from: .open(0), to: .closed(4))), "power of the second moments that weighs the models",
        default: .number(0.5)
      ).only(weighted),
      ParameterDescriptor("ota_epsilon", .number(NumberRange(from: .open(0))), "added to every weight", default: .number(1e-26))
        .only(weighted),
      ParameterDescriptor(
        "ota_normalize", .choice(["none", "mean"]), "mean: each model's powers are divided by their mean over all tensors",
        default: .text("none")
      ).only(weighted),
      ParameterDescriptor(
        "ota_post", .choice(["precond", "linear", "ties"]),
        "how what is kept becomes one: weighted by the second moments, or as plain task vectors without or with a vote on the sign",
        default: .text("precond")),
      ParameterDescriptor(
        "fallback_to_base", .boolean, "where nothing is kept the base stands, else the mean of the models", default: .boolean(true)
      ).only(weighted),
      ParameterDescriptor(
        "ota_rescale", .choice(["none", "operator"]),
        "operator: what is kept of a task vector gets the operator norm of the whole again (columns of embeddings, lengths of vectors)",
        default: .text("none")),
      ParameterDescriptor(
        "rescale_threshold", .number(.fraction), "what is kept becomes zero where it has at most this share of the norm of the whole",
        default: .number(0)
      ).only(.is("ota_rescale", .text("operator"))),
      .ties,
    ],
    scopes: [.element, .model],
    sideInputs: [SideInputDescriptor("second_moment", .tensorOrSums, "Adam's second moment of the model's training (exp_avg_sq)")],
    notes: [
      "density and ffg_threshold cannot both be given for a model", "without a base the saliency is the second moment alone",
      "the largest singular value that ota_rescale wants is that of ten steps of power iteration, each a pass over the inputs",
      "of embeddings and heads the largest norm of a column counts, of tensors of three or more axes the Euclidean norm; that is our reading",
    ],
    example: """
      merge_method: ota
      base_model: models/base
      models:
        - model: models/french
          side: {second_moment: sides/french_exp_avg_sq}
        - model: models/code
          side: {second_moment: sides/code_exp_avg_sq}
      parameters: {density: 0.4}
      dtype: bfloat16
      """)

  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .model }
  package static var cropsToBase: Bool { true }

  private enum Post: Sendable { case precondition, linear, ties }

  /// Where a model's second moments are among the side tensors.
  private enum Moments: Sendable {
    case values(Int)
    case sums(rows: Int, columns: Int)
  }

  private struct Setting: Sendable {
    var moments: [Moments]
    var weights: [Double]
    var thresholds: [Float?]
  }

  private let count: Int
  private let first: Int
  private let settings: [Setting]
  private let initial: MagnitudeSearches
  private let ties: TieRule
  private let post: Post
  private let power: Double
  private let epsilon: Double
  private let normalizes: Bool
  private let fallsBack: Bool
  private let elements: Double
  private let norms: OperatorNorms?
  private let least: Double

  package init(_ request: MethodRequest) throws(IngotError) {
    let lead = try request.onlySegment()
    count = request.modelCount
    first = request.hasBase ? 1 : 0
    ties = lead.tieRule()
    power = lead.number("power") ?? 0.5
    epsilon = lead.number("ota_epsilon") ?? 1e-26
    normalizes = lead.text("ota_normalize") == "mean"
    fallsBack = lead.flag("fallback_to_base", default: true)
    post =
      switch lead.text("ota_post") {
      case "linear": .linear
      case "ties": .ties
      default: .precondition
      }
    guard post == .precondition || request.hasBase else {
      throw IngotError(
        .recipe, "ota_post: \(lead.text("ota_post") ?? "") merges differences to a base model, and the recipe names none",
        hint: "add base_model, or use ota_post: precond", subject: lead.name)
    }
    try Self.requireOneSetting(
      request,
      ["power", "ota_epsilon", "ota_normalize", "ota_post", "fallback_to_base", "ties", "ota_rescale", "rescale_threshold"])
    norms = try lead.text("ota_rescale") == "operator" ? OperatorNorms(request) : nil
    least = lead.number("rescale_threshold") ?? 0
    let models = Array(request.inputs.indices.dropFirst(request.hasBase ? 1 : 0))
    settings = try request.segments.map { (segment) throws(IngotError) in try Self.setting(segment, request, models) }
    var population: UInt64 = 0
    var blocks: UInt64 = 0
    for segment in request.segments {
      let count = UInt64(try segment.shape.elementCount())
      population += count
      blocks += (count + 65_535) / 65_536
    }
    elements = Double(max(population, 1))
    var searches: [MagnitudeSearch] = []
    for (place, model) in models.enumerated() {
      let density = lead.number("density", model: model) ?? 1
      if let other = request.segments.first(where: { ($0.number("density", model: model) ?? 1) != density }) {
        throw IngotError(
          .recipe, "ota needs one density per model, found \(density) at \(lead.name) and another at \(other.name)",
          hint: "use a plain number for density", subject: request.inputs[model].model)
      }
      let hasThreshold = settings.contains { $0.thresholds[place] != nil }
      guard density >= 1 || !hasThreshold else {
        throw IngotError(
          .recipe, "the model \(request.inputs[model].model) has both density and ffg_threshold", hint: "give one of them",
          subject: "ffg_threshold")
      }
      searches.append(
        MagnitudeSearch(
          population: population, keep: keptCount(density: density, of: population), ties: lead.tieRule(), blocks: blocks))
    }
    initial = MagnitudeSearches(searches)
  }

  private static func requireOneSetting(_ request: MethodRequest, _ names: [String]) throws(IngotError) {
    guard let lead = request.segments.first else { return }
    for name in names {
      guard let other = request.segments.first(where: { $0.parameters[name] != lead.parameters[name] }) else { continue }
      throw IngotError(
        .recipe,
        "ota needs one \(name) for the whole model, found \(lead.parameters[name]?.description ?? "none") at \(lead.name) and "
          + "\(other.parameters[name]?.description ?? "none") at \(other.name)", hint: "use a plain value", subject: other.name)
    }
  }

  private static func setting(
    _ segment: MethodRequest.Segment, _ request: MethodRequest, _ models: [Int]
  ) throws(IngotError) -> Setting {
    var setting = Setting(moments: [], weights: [], thresholds: [])
    for model in models {
      let name = request.inputs[model].model
      let input = "second_moment"
      if let place = segment.side(input, model: model) {
        setting.moments.append(.values(place))
      } else if let rows = segment.side(input, model: model, part: .rowSums),
        let columns = segment.side(input, model: model, part: .columnSums)
      {
        setting.moments.append(.sums(rows: rows, columns: columns))
      } else {
        throw IngotError(.recipe, "model \(name) has no side input second_moment for tensor \(segment.name)", subject: segment.name)
      }
      let weight = segment.number("weight", model: model) ?? 1
      guard weight >= 0 else {
        throw IngotError(
          .recipe, "the weight of model \(name) is \(weight) at tensor \(segment.name), expected 0 or more", subject: segment.name)
      }
      setting.weights.append(weight)
      setting.thresholds.append(segment.number("ffg_threshold", model: model).map { Float($0 * Double(Kernels.saliencyScale)) })
    }
    return setting
  }

  /// One run for each model's saliency, then its weights in the same place; one for made moments; one for zeros; one for a row.
  package var demands: Demands {
    guard let norms else { return Demands(scratchRows: count + 2) }
    return Demands(granularity: .row, scratchRows: count + 3, columnSums: norms.sumCount)
  }

  /// Row sums become shares of their sum, so that a product with a column sum is the moment.
  package func prepare(side: Int, segment: Int, _ values: Floats) {
    let isRows = settings[segment].moments.contains {
      if case .sums(let rows, _) = $0 { return rows == side }
      return false
    }
    guard isRows else { return }
    var sum = 0.0
    for index in 0..<values.count { sum += Double(values[index]) }
    for index in 0..<values.count { values[index] = sum > 0 ? Float(Double(values[index]) / sum) : 0 }
  }

  package func begin() -> Phase<State> {
    let state = State(searches: initial, factors: [Double](repeating: 1, count: count), isMeasuring: normalizes && post == .precondition)
    return state.isMeasuring ? .gather(state, Round(sums: count, readsOnlySides: true)) : next(state)
  }

  private func next(_ state: State) -> Phase<State> {
    if let round = state.searches.nextRound { return .gather(state, round) }
    guard let norms = state.norms ?? self.norms, !norms.isDone else { return .emit(state) }
    var measuring = state
    measuring.norms = norms
    return .gather(measuring, Round(columnSums: norms.sumCount))
  }

  private func moments(_ model: Int, _ tile: Tile) -> Floats {
    switch settings[tile.segment].moments[model] {
    case .values(let place): return tile.sides[place]
    case .sums(let rows, let columns):
      let made = tile.scratch[count]
      tile.kernels.outerProduct(rows: tile.sides[rows], columns: tile.sides[columns], firstIndex: tile.firstIndex, into: made)
      return made
    }
  }

  /// The saliency of a model's elements, in its scratch run.
  private func saliency(_ model: Int, _ tile: Tile, _ moments: Floats) -> Floats {
    let result = tile.scratch[model]
    guard first == 1 else {
      tile.kernels.saliency(moments, nil, into: result)
      return result
    }
    tile.kernels.subtract(tile.inputs[model + 1], tile.inputs[0], into: result)
    tile.kernels.saliency(moments, result, into: result)
    return result
  }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    if let norms = state.norms { return measure(norms, state, tile, statistic) }
    for model in 0..<count {
      let moments = moments(model, tile)
      if state.isMeasuring {
        let powers = tile.scratch[model]
        tile.kernels.precondition(moments, kept: nil, power: power, factor: 1, epsilon: 0, scale: 1, into: powers)
        tile.kernels.accumulateAbsolute(powers, into: statistic.sum(model))
      } else {
        state.searches.gather(model, saliency(model, tile, moments), tile, statistic)
      }
    }
  }

  /// Adds what a round of power iteration wants of each task vector, whole and as far as it is kept.
  private func measure(_ norms: OperatorNorms, _ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    let row = tile.scratch[count + 2]
    for model in 0..<count {
      let kept = kept(model, state, tile, moments(model, tile))
      let delta = difference(model, tile)
      norms.add(delta, model: model, isKept: false, tile, vector: row, to: statistic.columns)
      keep(kept, of: delta, tile)
      norms.add(delta, model: model, isKept: true, tile, vector: row, to: statistic.columns)
    }
  }

  /// A model's task vector, in the place of the model.
  private func difference(_ model: Int, _ tile: Tile) -> Floats {
    let delta = tile.inputs[model + 1]
    tile.kernels.subtract(delta, tile.inputs[0], into: delta)
    return delta
  }

  /// What was trimmed is 0 in `kept`, and nothing else is: there a task vector becomes 0 too.
  private func keep(_ kept: Floats?, of delta: Floats, _ tile: Tile) {
    guard let kept else { return }
    let zeros = tile.scratch[count + 1]
    tile.kernels.subtract(tile.inputs[0], tile.inputs[0], into: zeros)
    tile.kernels.selectImportant(kept, threshold: .leastNonzeroMagnitude, base: zeros, other: delta, into: delta)
  }

  /// What the kept part of a task vector is multiplied with, where that is wanted.
  private func rescaling(_ model: Int, _ state: State, _ tile: Tile) -> Float? {
    state.norms.map { $0.factor(tile.segment, model: model, least: least) }
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    if state.norms != nil {
      state.norms?.settle(statistics.columns)
      return next(state)
    }
    if state.isMeasuring {
      state.isMeasuring = false
      state.factors = statistics.sums.map { $0 > 0 ? elements / $0 : 1 }
      return next(state)
    }
    state.searches.settle(statistics)
    return next(state)
  }

  /// The saliencies of what is kept, zero elsewhere; nil where everything is.
  private func kept(_ model: Int, _ state: State, _ tile: Tile, _ moments: Floats) -> Floats? {
    let cut = state.searches.cut(model)
    let threshold = settings[tile.segment].thresholds[model]
    if cut == .everything && threshold == nil { return nil }
    let values = saliency(model, tile, moments)
    if let threshold {
      tile.kernels.trim(
        values, firstIndex: tile.jobIndex, ties: .ge, threshold: Kernels.key(threshold, index: 0, ties: .ge), inclusive: true)
    } else {
      state.searches.trim(model, values, tile)
    }
    return values
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    post == .precondition ? average(state, tile, into: output) : add(state, tile, into: output)
  }

  private func average(_ state: State, _ tile: Tile, into output: Floats) {
    for model in 0..<count {
      let moments = moments(model, tile)
      tile.kernels.precondition(
        moments, kept: kept(model, state, tile, moments), power: power, factor: state.factors[model], epsilon: epsilon,
        scale: settings[tile.segment].weights[model], into: tile.scratch[model])
      if let factor = rescaling(model, state, tile), factor != 1 {
        let delta = difference(model, tile)
        tile.kernels.addDelta(delta, scaledBy: factor, to: tile.inputs[0], into: delta)
      }
    }
    let weighting = Weighting(
      scales: [Double](repeating: 1, count: count), floors: [Double](repeating: 0, count: count), least: 1.1 * Double(count) * epsilon)
    tile.kernels.weightedMean(
      tile.inputs.dropFirst(first), weights: tile.scratch.first(count), weighting, fallback: first == 1 && fallsBack ? tile.inputs[0] : nil,
      into: output)
  }

  private func add(_ state: State, _ tile: Tile, into output: Floats) {
    for model in 0..<count {
      let kept = kept(model, state, tile, moments(model, tile))
      let delta = difference(model, tile)
      keep(kept, of: delta, tile)
      if let factor = rescaling(model, state, tile) { tile.kernels.scale(delta, by: factor, into: delta) }
    }
    let weights = settings[tile.segment].weights.map { Float($0) }
    let deltas = tile.inputs.dropFirst()
    if post == .linear {
      tile.kernels.weightedSum(deltas, weights: weights, divisor: Float(count), into: output)
      tile.kernels.addDelta(output, to: tile.inputs[0], into: output)
    } else {
      tile.kernels.electAndMerge(deltas, weights: weights, normalize: false, into: output)
      tile.kernels.addDelta(output, scaledBy: 1 / Float(count), to: tile.inputs[0], into: output)
    }
  }

  package func findings(_ state: State) -> [Finding] {
    state.searches.cuts.enumerated().flatMap { model, cut in
      cut == .everything || cut == .nothing
        ? [] : [Finding("threshold", Double(cut.magnitude) / Double(Kernels.saliencyScale), model: model)]
    }
  }
}
