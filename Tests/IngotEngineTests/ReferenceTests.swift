import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Every method against its definition in f64, on whole models.
@Suite struct ReferenceTests {
  static let small = ReferenceModels(ReferenceModels.small)
  static let smallValues = small.tensors()
  static let large = ReferenceModels(ReferenceModels.large)
  static let largeValues = large.tensors()
  static let layered = ReferenceModels(ReferenceModels.layered)
  static let layeredValues = layered.tensors()

  static let cases = listed + MethodCase.averages

  private static let listed: [MethodCase] = [
    MethodCase(method: "linear"),
    MethodCase(method: "linear", normalize: false),
    MethodCase(method: "slerp"),
    MethodCase(method: "slerp", t: 1.25),
    MethodCase(method: "task_arithmetic", lambda: 0.8),
    MethodCase(method: "task_arithmetic", normalize: true),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9]),
    MethodCase(method: "ties", densities: [0.2, 0.7, 1], normalize: false, lambda: 1.3, rescale: true),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], scope: "model"),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 1]),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 0.9], rule: "inverse_keep"),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9]),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], normalize: true, rescale: false),
    MethodCase(method: "della", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "della", densities: [0.5, 0.3, 1], rule: "inverse_keep"),
    MethodCase(method: "passthrough", scale: 0.3),
    MethodCase(method: "nearswap", t: 0.02),
    MethodCase(method: "nearswap", t: -1),
    MethodCase(method: "ram", extra: ["epsilon": "0.01"]),
    MethodCase(method: "ram"),
    MethodCase(method: "ramplus_tl", extra: ["epsilon": "0.02", "r": "0.5", "alpha": "3"]),
    MethodCase(method: "ramplus_tl"),
    MethodCase(method: "sce"),
    MethodCase(method: "ties", densities: [0.5, 0.5, 0.5], isPaper: true),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], extra: ["zero_sign": "majority"]),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], rescale: true, extra: ["zero_sign": "minus"]),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 0.9], isPaper: true),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], isPaper: true),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], rule: "l1", isPaper: true),
    MethodCase(method: "della", densities: [0.5, 0.3, 0.8], isPaper: true),
    MethodCase(method: "arcee_fusion"),
    MethodCase(method: "nuslerp"),
    MethodCase(method: "nuslerp", hasBase: false),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false"]),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false"], hasBase: false),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false", "nuslerp_row_wise": "true"]),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false", "nuslerp_row_wise": "true"], hasBase: false),
    MethodCase(method: "sce", extra: ["select_topk": "0.3"]),
    MethodCase(method: "sce", extra: ["select_topk": "0.3", "sce_apply_mask": "false"]),
    MethodCase(method: "sce", extra: ["select_topk": "0.3"], isPaper: true),
    MethodCase(method: "magmax"),
    MethodCase(method: "magmax", lambda: 0.55),
    MethodCase(method: "consensus", lambda: 0.3),
    MethodCase(method: "consensus", extra: ["tall_lambda": "0.2", "consensus_k": "1"]),
    MethodCase(method: "consensus", extra: ["tall_lambda": "0.6", "task": "3"]),
    MethodCase(method: "consensus", lambda: 0.5, extra: ["merge": "ties", "consensus_k": "1"]),
    MethodCase(method: "consensus", extra: ["merge": "ties", "task": "2"], perModel: ["density": ["0.5", "0.3", "1"]]),
    MethodCase(method: "emr"),
    MethodCase(method: "emr", lambda: 0.5, extra: ["task": "1"]),
    MethodCase(method: "emr", extra: ["task": "3", "rescaler": "tensor_means"]),
    MethodCase(method: "pcb", extra: ["pcb_ratio": "0.2"]),
    MethodCase(method: "pcb", lambda: 0.8, extra: ["pcb_ratio": "0.9", "pcb_clip": "0.01"]),
    MethodCase(method: "pcb", extra: ["pcb_variant": "vision", "pcb_ratio": "0.1"]),
    MethodCase(method: "widen"),
    MethodCase(method: "widen", extra: ["widen_ratio": "0.4", "widen_value": "0.7"]),
    MethodCase(method: "ties_sv", densities: [0.5, 0.3, 0.9]),
    MethodCase(method: "ties_sv", densities: [0.5, 0.3, 0.9], normalize: false, scope: "model", extra: ["slack": "0.8"]),
    MethodCase(method: "ties_sv", densities: [0.5, 0.7, 0.9], lambda: 0.7, extra: ["slack": "0.5", "protect": "2"]),
    MethodCase(method: "ties_sv", densities: [0.5, 0.3, 0.9], extra: ["slack": "0"]),
    MethodCase(method: "hi_merging"),
    MethodCase(method: "hi_merging", normalize: false, extra: ["prune": "0.4", "scale": "0.7"]),
    MethodCase(method: "twin", densities: [0.2, 0.5, 1]),
    MethodCase(method: "twin", densities: [0.2, 0.5, 0.9], lambda: 0.4, extra: ["compress": "bernoulli"]),
    MethodCase(method: "onebit", lambda: 0.5),
    MethodCase(method: "onebit", lambda: 0.7, extra: ["task": "2"], perModel: ["quantized": ["true", "false", "false"]]),
    MethodCase(method: "breadcrumbs", densities: [0.2, 0.5, 0.95], scope: "row", extra: ["gamma": "0.1"]),
    MethodCase(method: "breadcrumbs", densities: [0.2, 0.5, 0.95]),
    MethodCase(method: "breadcrumbs", densities: [0.2, 0.5, 0.995], normalize: true, rescale: true, extra: ["gamma": "0.1"]),
    MethodCase(method: "breadcrumbs_ties", densities: [0.2, 0.5, 0.95], lambda: 0.9),
    MethodCase(
      method: "breadcrumbs_ties", densities: [0.2, 0.5, 0.95], normalize: true, scope: "row", rescale: true, extra: ["gamma": "0.05"]),
    MethodCase(method: "della_linear", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "della_linear", densities: [0.5, 0.3, 1], normalize: true, rule: "inverse_keep"),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], extra: ["reducer": "max"]),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], scope: "model", extra: ["kept_count": "authors", "reducer": "max"]),
    MethodCase(method: "ties", densities: [0.5, 0.3, 0.9], rescale: true, extra: ["kept_count": "authors", "zero_sign": "minus"]),
    MethodCase(method: "model_stock"),
    MethodCase(method: "model_stock", extra: ["filter_wise": "true"]),
    MethodCase(method: "multislerp"),
    MethodCase(method: "multislerp", extra: ["normalize_weights": "false"], hasBase: false),
    MethodCase(method: "karcher"),
    MethodCase(method: "karcher", perModel: ["share": ["0.5", "2", "1"]]),
    MethodCase(method: "breadcrumbs", densities: [0.2, 0.5, 0.95], extra: ["gamma": "0.1"]),
    MethodCase(method: "breadcrumbs_ties", densities: [0.2, 0.5, 0.95]),
    MethodCase(method: "breadcrumbs_ties", densities: [0.3, 0.5, 0.999], normalize: true, lambda: 0.7, extra: ["gamma": "0.05"]),
    MethodCase(method: "della_linear", densities: [0.5, 0.3, 0.8], rescale: false, rule: "inverse_keep"),
    MethodCase(method: "multislerp", hasBase: false),
    MethodCase(method: "multislerp", extra: ["normalize_weights": "false"]),
    MethodCase(method: "karcher", extra: ["max_iter": "1"]),
  ]

  /// Where layers or embeddings count for themselves.
  static let layers: [MethodCase] = [
    MethodCase(method: "mediator"),
    MethodCase(method: "mediator", extra: ["conflict_form": "mass", "kappa": "0"]),
    MethodCase(method: "mediator", extra: ["conflict_density": "1", "sparse_density": "0.5", "kappa": "-10"]),
    MethodCase(method: "mediator", extra: ["kappa": "10"]),
    MethodCase(method: "widen"),
    MethodCase(method: "pcb", extra: ["pcb_variant": "vision"]),
    MethodCase(method: "emr", extra: ["task": "2", "rescaler": "tensor_means"]),
  ]

  /// TIES and SCE where the selection samples first.
  static let selections: [MethodCase] = [
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], scope: "model", ties: "index"),
    MethodCase(method: "ties", densities: [0.5, 0.25, 0.05], ties: "ge", outDType: "float32"),
    MethodCase(method: "sce", extra: ["select_topk": "0.1"]),
    MethodCase(method: "arcee_fusion"),
    MethodCase(method: "sce", ties: "index", extra: ["select_topk": "0.95"]),
    MethodCase(method: "pcb", extra: ["pcb_ratio": "0.2"]),
    MethodCase(method: "hi_merging", extra: ["prune": "0.3"]),
    MethodCase(method: "consensus", extra: ["merge": "ties"]),
    MethodCase(method: "twin", densities: [0.1, 0.3, 0.02]),
  ]

  /// Every method of mergekit is compared with its definition.
  @Test func noMethodOfMergekitIsLeftOut() {
    let methods = [
      "linear", "slerp", "nuslerp", "multislerp", "karcher", "passthrough", "model_stock", "arcee_fusion", "nearswap", "sce", "ram",
      "ramplus_tl", "task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
    ]
    #expect(Set(methods).subtracting(Self.cases.map(\.method)).isEmpty)
  }

  @Test(arguments: cases) func equalsTheDefinition(_ item: MethodCase) throws {
    try check(item, Self.small, Self.smallValues)
  }

  @Test(arguments: selections) func equalsTheDefinitionOfLargeTensors(_ item: MethodCase) throws {
    try check(item, Self.large, Self.largeValues)
  }

  @Test(arguments: layers) func equalsTheDefinitionOfLayers(_ item: MethodCase) throws {
    try check(item, Self.layered, Self.layeredValues)
  }

  private static let withAngles: Set<String> = ["slerp", "nuslerp", "multislerp", "karcher", "model_stock"]

  /// Those of matrices have references of their own: `MatrixMethodTests`, `SubspaceMethodTests`.
  @Test func everyMethodHasAReference() {
    let covered = Set((Self.cases + Self.layers + Self.selections + SideMethodTests.cases).map(\.method))
    for method in MethodRegistry.all where !covered.contains(method.descriptor.name) {
      if method is any MatrixMethod.Type || method is any ModelMatrixMethod.Type { continue }
      Issue.record("no reference for \(method.descriptor.name)")
    }
  }

  private func check(_ item: MethodCase, _ models: ReferenceModels, _ values: [ReferenceTensor]) throws {
    let seed: UInt64 = 0x1234_5678_9abc
    var options = PlanOptions()
    options.seed = seed
    let result = try merge(recipe: item.recipe, models: models.models, plan: options)
    let expected = Reference(item: item, seed: seed).run(values)
    #expect(result.tensors.count == values.count)
    for (tensor, expectation) in zip(values, expected) {
      let found = try #require(result.tensors[tensor.name])
      let first = try #require(
        models.models[item.usesBase ? "base" : "a"]?.first {
          $0.name == tensor.name
        })
      #expect(found.dtype == (item.outDType == "float32" ? .f32 : first.dtype))
      #expect(found.shape == first.shape)
      let wrong = found.elements(unlike: expectation, tolerance: Self.withAngles.contains(item.method) ? 2e-6 : 1e-6)
      #expect(
        wrong.isEmpty,
        "\(tensor.name): \(wrong.count) of \(found.count), the first \(wrong.prefix(3).map { ($0, found.value($0), expectation.values[$0]) })"
      )
    }
  }

  /// In bf16 a threshold falls into a group of equal magnitudes; exactly as many stay as the density says, whatever the tie rule.
  @Test(arguments: ["hash", "index"]) func tiesKeepExactly(_ rule: String) throws {
    var random = SplitMix(3)
    let count = 300_007
    let zero = TestTensor("w", .bf16, [count])
    let model = TestTensor("w", .bf16, [count])
    // Eight magnitudes, 37,500 elements each.
    for index in 0..<count { model.set(index, Double(random.next() % 8 + 1) * (random.next() & 1 == 0 ? 0.25 : -0.25)) }
    for density in [0.1, 0.5, 0.93] {
      let recipe = """
        merge_method: ties
        base_model: base
        models: [{model: m, parameters: {weight: 1, density: \(density)}}]
        parameters: {ties: \(rule)}
        """
      let result = try merge(recipe: recipe, models: ["base": [zero], "m": [model]])
      let output = try #require(result.tensors["w"])
      var kept = 0
      var smallest = Double.infinity
      var largestDropped = 0.0
      for index in 0..<count {
        let (value, input) = (output.value(index), model.value(index))
        if value != 0 {
          kept += 1
          #expect(value == input)
          smallest = min(smallest, abs(value))
        } else {
          largestDropped = max(largestDropped, abs(input))
        }
      }
      #expect(kept == Int(density * Double(count)))
      #expect(largestDropped <= smallest)
      let tied = result.report.findings.first { $0.finding.name == "tied" }?.finding.value ?? 0
      #expect(tied >= 1)
    }
  }
}

extension TestTensor {
  /// The elements that are not what was expected: outside the tolerance in f32, neither the rounded reference nor its neighbour in 16 bits.
  func elements(unlike expectation: Expectation, tolerance: Double) -> [Int] {
    var wrong: [Int] = []
    for index in 0..<count {
      let found = value(index)
      if fits(found, expectation.values[index], tolerance * expectation.scales[index]) { continue }
      if let other = expectation.alternatives[index], fits(found, other, tolerance * expectation.scales[index]) { continue }
      wrong.append(index)
    }
    return wrong
  }

  private func fits(_ found: Double, _ expected: Double, _ bound: Double) -> Bool {
    // Where terms cancel, the result of f32 arithmetic may be many steps of 16 bits away and still as near as promised.
    if abs(found - expected) <= bound { return true }
    switch dtype {
    case .f16: return abs(Self.ordinal(Float16(found).bitPattern) - Self.ordinal(Float16(expected).bitPattern)) <= 1
    case .bf16:
      // The nearest of the patterns around; a tie cannot decide whether a neighbour fits.
      let near = Self.ordinal(UInt16(Float(expected).bitPattern >> 16))
      let distances = (-1...1).map { abs(Self.value(ordinal: near + $0) - expected) }
      let nearest = distances[0] < distances[1] ? near - 1 : distances[2] < distances[1] ? near + 1 : near
      return abs(Self.ordinal(UInt16(Float(found).bitPattern >> 16)) - nearest) <= 1
    default: return false
    }
  }

  /// Sign-and-magnitude patterns as consecutive integers.
  private static func ordinal(_ bits: UInt16) -> Int { bits & 0x8000 == 0 ? Int(bits) : -Int(bits & 0x7fff) }

  private static func value(ordinal: Int) -> Double {
    let magnitude = Double(Float(bitPattern: UInt32(ordinal.magnitude) << 16))
    return ordinal < 0 ? -magnitude : magnitude
  }
}
