import Foundation
import IngotEngine
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors

/// One merge of three models and a base, with all that decides its result: the recipe for the engine and the definition for the reference.
struct MethodCase: Sendable, CustomStringConvertible {
  var method: String
  var weights = [0.7, 0.5, -0.25]
  var densities = [1.0, 1.0, 1.0]
  var normalize: Bool?
  var lambda = 1.0
  var scope: String?
  var ties: String?
  var rescale: Bool?
  var rule: String?
  var epsilon = 0.15
  var t = 0.3
  var scale = 1.0
  var outDType: String?
  /// Further parameters of the recipe.
  var extra: [String: String] = [:]
  var hasBase = true
  /// The papers' rules where a parameter is not given.
  var isPaper = false
  var numerics: String?
  /// The factor of the most active channel, where activation-informed merging is the last step.
  var omega: Double?
  /// The side inputs of each model, of `ReferenceModels.withSides`.
  var sides: [String] {
    switch method {
    case "fisher": Self.models.map { "fisher: \($0).fisher" }
    case "ota": Self.models.map { "second_moment: \($0).second_moment" }
    case "wise": ["mask: a.mask", "mask: b.mask", "mask: c.mask"]
    case "rcp": ["prior: a.fisher", "gradients: [b.gradient0, b.gradient1, b.gradient2]"]
    default: []
    }
  }

  /// That of the whole merge.
  var wholeSide: String? { method == "concrete" ? "mask: [a.logits, b.logits]" : nil }
  var hasSides: Bool { !sides.isEmpty || wholeSide != nil }

  /// Further parameters of each model.
  var perModel: [String: [String]] = [:]

  static let models = ["a", "b", "c"]

  var descriptor: MethodDescriptor? { MethodRegistry.catalog.method(method) }
  /// True where a base model of the recipe has a role of its own.
  var usesBase: Bool { hasBase && descriptor?.base != MethodDescriptor.BaseRole.none }

  /// How many of the three models enter.
  var modelCount: Int { min(3, descriptor?.models.upperBound ?? 3) }

  func number(_ name: String, or fallback: Double) -> Double { extra[name].flatMap(Double.init) ?? fallback }

  var votes: Bool { ["ties", "dare_ties", "della", "hi_merging", "breadcrumbs_ties"].contains(method) }
  var normalizes: Bool {
    normalize ?? (["linear", "ties", "della", "ties_sv", "hi_merging"].contains(method) || (isPaper && method == "dare_ties"))
  }
  var usedScope: String? { scope ?? (isPaper && method == "ties" ? "model" : nil) }
  var usedTies: String? { ties ?? (isPaper && method == "ties" ? "ge" : nil) }
  var dividesByProbability: Bool { rule.map { $0 == "inverse_keep" } ?? isPaper }
  var zeroSign: String { extra["zero_sign"] ?? (isPaper && (method == "ties" || method == "dare_ties") ? "majority" : "plus") }
  var rescales: Bool { rescale ?? (method != "ties" && !method.hasPrefix("breadcrumbs")) }

  var description: String {
    var parts = [method]
    if let scope { parts.append(scope) }
    if let ties { parts.append(ties) }
    if let rule { parts.append(rule) }
    if let rescale { parts.append("rescale \(rescale)") }
    if let normalize { parts.append("normalize \(normalize)") }
    if densities != [1, 1, 1] { parts.append("density \(densities)") }
    if lambda != 1 { parts.append("lambda \(lambda)") }
    if method == "slerp" { parts.append("t \(t)") }
    if let outDType { parts.append(outDType) }
    parts += extra.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
    parts += perModel.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
    if !hasBase { parts.append("no base") }
    if isPaper { parts.append("paper") }
    if let numerics { parts.append(numerics) }
    if let omega { parts.append("aim \(omega)") }
    return parts.joined(separator: ", ")
  }

  var recipe: String {
    var models = ""
    for index in 0..<modelCount {
      var parameters: [String] = []
      if descriptor?.parameter("weight") != nil { parameters.append("weight: \(weights[index])") }
      for (name, values) in perModel.sorted(by: { $0.key < $1.key }) { parameters.append("\(name): \(values[index])") }
      if ["ties", "dare", "della", "breadcrumbs", "ota", "twin", "wise"].contains(where: method.hasPrefix) {
        parameters.append("density: \(densities[index])")
      }
      if method.hasPrefix("della") { parameters.append("epsilon: \(epsilon)") }
      if method == "passthrough" { parameters.append("scale: \(scale)") }
      let side = sides.indices.contains(index) ? ", side: {\(sides[index])}" : ""
      models += "  - {model: \(Self.models[index]), parameters: {\(parameters.joined(separator: ", "))}\(side)}\n"
    }
    var global: [String] = []
    if let normalize { global.append("normalize: \(normalize)") }
    if lambda != 1 { global.append("lambda: \(lambda)") }
    if let scope { global.append("scope: \(scope)") }
    if let ties { global.append("ties: \(ties)") }
    if let rescale { global.append("rescale: \(rescale)") }
    if let rule { global.append("rescale_rule: \(rule)") }
    if method == "slerp" || method == "nearswap" { global.append("t: \(t)") }
    global += extra.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }
    var text = "merge_method: \(method)\nmodels:\n\(models)parameters: {\(global.joined(separator: ", "))}\n"
    if usesBase { text += "base_model: base\n" }
    if let wholeSide { text += "side: {\(wholeSide)}\n" }
    if let outDType { text += "out_dtype: \(outDType)\n" }
    if isPaper { text += "preset: paper\n" }
    if let numerics { text += "numerics: \(numerics)\n" }
    if let omega { text += "aim: {side: norms, omega: \(omega), base_model: base}\n" }
    return text
  }
}

/// What the definition gives for one tensor, in f64.
struct Expectation {
  var values: [Double]
  /// What the tolerance is a share of: max(|r|, Σ|wᵢ xᵢ| + |base|).
  var scales: [Double]
  /// The other result where f32 rounding may decide a vote the other way.
  var alternatives: [Int: Double] = [:]
}

/// The inputs of one output tensor as exact values.
struct ReferenceTensor {
  var name: String
  var rowLength: Int
  var axes: Int
  /// Elements that share an index of the first axis.
  var stride: Int
  var base: [Double]
  var models: [[Double]]
}

/// The definitions of the methods, written down a second time: f64 throughout, except that task vectors are the f32 differences that the
/// selection rules are about.
struct Reference {
  let item: MethodCase
  var seed: UInt64 = 0

  func run(_ tensors: [ReferenceTensor]) -> [Expectation] {
    switch item.method {
    case "linear": return tensors.map(linear)
    case "slerp": return tensors.map(slerp)
    case "passthrough":
      return tensors.map { tensor in
        let values = tensor.models[0].map { $0 * Double(Float(item.scale)) }
        return Expectation(values: values, scales: values.map(abs))
      }
    case "nearswap": return tensors.map(nearswap)
    case "ram", "ramplus_tl": return tensors.map(ram)
    case "sce": return tensors.map(sce)
    case "arcee_fusion": return tensors.map(arceeFusion)
    case "nuslerp": return tensors.map(nuslerp)
    case "multislerp": return tensors.map(multiSlerp)
    case "karcher": return tensors.map(karcher)
    case "model_stock": return tensors.map(modelStock)
    case "uniform_soup", "metrics_weighted", "lm_cocktail", "ema", "swa", "lawa", "wma", "layer_swap", "sparse_soup", "merge_chain":
      return tensors.map(average)
    case "varm": return varm(tensors)
    case "evo_merging": return tensors.map(evoMerging)
    case "magmax": return tensors.map(magmax)
    case "consensus": return tensors.map(consensus)
    case "emr": return emr(tensors)
    case "pcb": return pcb(tensors)
    case "widen": return tensors.map(widen)
    case "mediator": return mediator(tensors)
    case "twin": return tensors.map(twin)
    case "onebit": return tensors.map(oneBit)
    default: return taskVectors(tensors)
    }
  }

  private func linear(_ tensor: ReferenceTensor) -> Expectation {
    let sum = item.weights.reduce(0, +)
    var result = Expectation(values: [], scales: [])
    for index in tensor.base.indices {
      var value = 0.0
      var scale = 0.0
      for model in 0..<3 {
        value += item.weights[model] * tensor.models[model][index]
        scale += abs(item.weights[model] * tensor.models[model][index])
      }
      result.values.append(item.normalizes ? value / sum : value)
      result.scales.append(item.normalizes ? scale / abs(sum) : scale)
    }
    return result
  }

  /// The angle by atan2 of the components, which stays exact where acos of the cosine does not.
  private func slerp(_ tensor: ReferenceTensor) -> Expectation {
    var (xx, xy, yy) = (0.0, 0.0, 0.0)
    for index in tensor.base.indices {
      xx += tensor.base[index] * tensor.base[index]
      xy += tensor.base[index] * tensor.models[0][index]
      yy += tensor.models[0][index] * tensor.models[0][index]
    }
    let cosine = xy / ((xx.squareRoot() > 1e-8 ? xx.squareRoot() : 1) * (yy.squareRoot() > 1e-8 ? yy.squareRoot() : 1))
    var (from, to) = (1 - item.t, item.t)
    if abs(cosine) <= 0.9995 {
      let angle = atan2(((1 - cosine) * (1 + cosine)).squareRoot(), cosine)
      (from, to) = (sin((1 - item.t) * angle) / sin(angle), sin(item.t * angle) / sin(angle))
    }
    var result = Expectation(values: [], scales: [])
    for index in tensor.base.indices {
      let terms = (from * tensor.base[index], to * tensor.models[0][index])
      result.values.append(terms.0 + terms.1)
      result.scales.append(abs(terms.0) + abs(terms.1))
    }
    return result
  }

  // MARK: Task vectors

  private func taskVectors(_ tensors: [ReferenceTensor]) -> [Expectation] {
    var deltas = tensors.map { tensor in
      (0..<3).map { model in
        tensor.base.indices.map { Double(Float(tensor.models[model][$0]) - Float(tensor.base[$0])) }
      }
    }
    for model in 0..<3 {
      let density = item.densities[model]
      switch item.method {
      case "ties", "ties_sv": trim(&deltas, model: model, density: density)
      case "hi_merging":
        for tensor in tensors.indices {
          let count = deltas[tensor][model].count
          let pruned = Int(item.number("prune", or: 0.1) * Double(count))
          keep(&deltas[tensor][model], largest: count - pruned)
          deltas[tensor][model] = deltas[tensor][model].map { $0 * Double(Float(item.number("scale", or: 0.9))) }
        }
      case "breadcrumbs", "breadcrumbs_ties":
        for tensor in tensors.indices {
          let length = item.scope == "row" ? tensors[tensor].rowLength : deltas[tensor][model].count
          let all = deltas[tensor][model].reduce(0) { $0 + abs($1) }
          trimRows(&deltas[tensor][model], length: length, start: 0, drop: item.number("gamma", or: 0.01), keep: density)
          let left = deltas[tensor][model].reduce(0) { $0 + abs($1) }
          if item.rescales && all >= 1e-7 && left >= 1e-7 { deltas[tensor][model] = deltas[tensor][model].map { $0 * (all / left) } }
        }
      case "dare_linear", "dare_ties":
        for tensor in tensors.indices { drop(&deltas[tensor][model], of: tensors[tensor], model: model, density: density) }
      case "della", "della_linear":
        for tensor in tensors.indices { sample(&deltas[tensor][model], of: tensors[tensor], model: model, density: density) }
      default: break
      }
    }
    // What a vote counts a zero as: with `majority` the sign of most sums, over the model where that is the scope.
    let majorities = tensors.indices.map { tensor in
      let own = item.method == "dare_ties" || item.usedScope == "model" ? Array(tensors.indices) : [tensor]
      return own.reduce(0) { $0 + balance(deltas[$1]) }
    }
    if item.method == "ties_sv" { return tensors.indices.map { electedWithSlack(tensors[$0].base, deltas[$0]) } }
    return tensors.indices.map { combine(tensors[$0].base, deltas[$0], majority: majorities[$0]) }
  }

  /// Sums above zero less sums below.
  private func balance(_ deltas: [[Double]]) -> Int {
    guard item.zeroSign == "majority" else { return 0 }
    return (deltas.first ?? []).indices.reduce(0) { count, index in
      let sum = (0..<3).reduce(Float(0)) { $0 + Float(item.weights[$1]) * Float(deltas[$1][index]) }
      return count + (sum > 0 ? 1 : sum < 0 ? -1 : 0)
    }
  }

  private func combine(_ base: [Double], _ deltas: [[Double]], majority: Int) -> Expectation {
    var result = Expectation(values: base, scales: base.map(abs))
    let weights = item.weights
    let sum = weights.reduce(0, +)
    for index in base.indices {
      let terms = (0..<3).map { weights[$0] * deltas[$0][index] }
      let total = terms[0] + terms[1] + terms[2]
      let size = abs(terms[0]) + abs(terms[1]) + abs(terms[2])
      if size == 0 { continue }
      guard item.votes else {
        let divisor = item.normalizes ? sum : 1
        result.values[index] = base[index] + item.lambda * total / divisor
        result.scales[index] = max(abs(result.values[index]), abs(item.lambda / divisor) * size + abs(base[index]))
        continue
      }
      func elected(_ isPositive: Bool) -> (value: Double, scale: Double) {
        var (merged, weight, size) = (0.0, 0.0, 0.0)
        for model in 0..<3 where isPositive ? terms[model] > 0 : terms[model] < 0 {
          if item.extra["reducer"] == "max" {
            if abs(terms[model]) > abs(merged) { merged = terms[model] }
            continue
          }
          merged += terms[model]
          size += abs(terms[model])
          weight += weights[model]
        }
        if item.extra["reducer"] == "max" { size = abs(merged) }
        let divisor = item.normalizes && weight != 0 ? weight : 1
        return (base[index] + item.lambda * merged / divisor, abs(item.lambda / divisor) * size + abs(base[index]))
      }
      let zero: Bool? =
        switch item.zeroSign {
        case "plus": true
        case "minus": false
        default: majority == 0 ? nil : majority > 0
        }
      guard let isPositive = total == 0 ? zero : total > 0 else { continue }
      let (value, scale) = elected(isPositive)
      result.values[index] = value
      result.scales[index] = max(abs(value), scale)
      if abs(total) <= 1e-6 * size { result.alternatives[index] = elected(!isPositive).value }
    }
    return result
  }

  private func keep(_ delta: inout [Double], largest kept: Int) {
    let keys = delta.indices.map { Kernels.key(Float(delta[$0]), index: UInt64($0), ties: .hash) }
    let cut = kept == 0 ? UInt64.max : keys.sorted(by: >)[kept - 1]
    for index in delta.indices where keys[index] < cut { delta[index] = 0 }
  }

  /// Exactly ⌊density·n⌋ stay, by a full sort of the keys that the tie rule defines. Tensors of a model follow each other at multiples of 65,536.
  private func trim(_ deltas: inout [[[Double]]], model: Int, density: Double) {
    guard density < 1 else { return }
    let rule: TieRule = item.usedTies == "index" ? .index : item.usedTies == "ge" ? .ge : .hash
    var start: UInt64 = 0
    var groups: [[(tensor: Int, start: UInt64)]] = []
    for tensor in deltas.indices {
      if item.usedScope == "model" {
        if tensor == 0 { groups = [[]] }
        groups[0].append((tensor, start))
        start += UInt64((deltas[tensor][model].count + 65_535) / 65_536 * 65_536)
      } else {
        groups.append([(tensor, 0)])
      }
    }
    for group in groups {
      var keys: [UInt64] = []
      for part in group {
        for (index, delta) in deltas[part.tensor][model].enumerated() {
          keys.append(Kernels.key(Float(delta), index: part.start + UInt64(index), ties: rule))
        }
      }
      let kept = Int(density * Double(keys.count)) + (item.extra["kept_count"] == "authors" ? 1 : 0)
      let cut = kept == 0 ? UInt64.max : keys.sorted(by: >)[kept - 1]
      var place = 0
      var (all, left) = (0.0, 0.0)
      for part in group {
        for index in deltas[part.tensor][model].indices {
          let delta = deltas[part.tensor][model][index]
          all += abs(delta)
          if keys[place] < cut { deltas[part.tensor][model][index] = 0 } else { left += abs(delta) }
          place += 1
        }
      }
      guard item.rescales, item.method == "ties", all >= 1e-7, left >= 1e-7 else { continue }
      for part in group { deltas[part.tensor][model] = deltas[part.tensor][model].map { $0 * (all / left) } }
    }
  }

  private func drop(_ delta: inout [Double], of tensor: ReferenceTensor, model: Int, density: Double) {
    guard density < 1 else { return }
    let words = Self.words(seed: seed, tensor: tensor.name, model: model, count: delta.count)
    let threshold = UInt64((density * 0x1p32).rounded(.toNearestOrEven))
    keep(&delta) { UInt64(words[$0]) < threshold ? density : nil }
  }

  /// Keep probabilities by rank inside each row; equal magnitudes share the mean of their ranks.
  private func sample(_ delta: inout [Double], of tensor: ReferenceTensor, model: Int, density: Double) {
    guard density < 1 else { return }
    let words = Self.words(seed: seed, tensor: tensor.name, model: model, count: delta.count)
    var probabilities = [Double](repeating: density, count: delta.count)
    let length = tensor.rowLength
    if length > 1 {
      for row in stride(from: 0, to: delta.count, by: length) {
        // The magnitude above, the place below: one sort of integers ranks the row.
        let order = (0..<length).map { UInt64(Float(abs(delta[row + $0])).bitPattern) << 32 | UInt64($0) }.sorted()
        var first = 0
        while first < length {
          var end = first + 1
          while end < length, order[end] >> 32 == order[first] >> 32 { end += 1 }
          let rank = Double(first + 1 + end) / 2
          for place in first..<end {
            probabilities[row + Int(order[place] & 0xffff_ffff)] =
              (density - item.epsilon) + 2 * item.epsilon * (rank - 1) / Double(length - 1)
          }
          first = end
        }
      }
    }
    keep(&delta) { Double(words[$0]) < (probabilities[$0] * 0x1p32).rounded(.toNearestOrEven) ? probabilities[$0] : nil }
  }

  /// Zeroes what `probability` answers nil for, then rescales by the case's rule.
  private func keep(_ delta: inout [Double], _ probability: (Int) -> Double?) {
    var (all, left) = (0.0, 0.0)
    for index in delta.indices {
      all += abs(delta[index])
      if let probability = probability(index) {
        left += abs(delta[index])
        if item.rescales && item.dividesByProbability { delta[index] /= probability }
      } else {
        delta[index] = 0
      }
    }
    if item.rescales && !item.dividesByProbability && all >= 1e-7 && left >= 1e-7 {
      for index in delta.indices { delta[index] *= all / left }
    }
  }

  /// The documented draws: Philox4x32-10, counter (index ÷ 4, XXH3-64 of name, NUL and ordinal), key = seed.
  static func words(seed: UInt64, tensor: String, model: Int, count: Int) -> [UInt32] {
    let stream = xxh3(Array(tensor.utf8) + [0] + (0..<8).map { UInt8(truncatingIfNeeded: model >> (8 * $0)) })
    func low(_ word: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: word) }
    var words: [UInt32] = []
    words.reserveCapacity(count + 3)
    for block in 0..<UInt64((count + 3) / 4) {
      let (a, b, c, d) = Philox.block(
        counter: (low(block), low(block >> 32), low(stream), low(stream >> 32)), key: (low(seed), low(seed >> 32)))
      words += [a, b, c, d]
    }
    return words
  }
}
