import Foundation
import IngotEngine
import IngotMethods
import IngotTensors

extension ReferenceModels {
  /// The models with side files of each: Fisher information and second moments (one model's as row and column sums), gradients of three
  /// samples, and norms of input channels.
  var withSides: [String: [TestTensor]] {
    var all = models
    for (number, model) in MethodCase.models.enumerated() {
      for tensor in models[model] ?? [] {
        let seed = UInt64(tensor.count * 8 + number)
        let dtype: DType = number == 1 ? .bf16 : .f32
        all["\(model).fisher", default: []].append(Self.side(tensor.name, dtype, tensor.shape, seed, 1e-5) { $0 % 16 == 3 ? 0 : 1 })
        if number == 2, tensor.shape.count == 2 {
          all["\(model).second_moment", default: []] += [
            Self.side(tensor.name + ".row_sums", .f32, [tensor.shape[0]], seed, 1e-9),
            Self.side(tensor.name + ".column_sums", .f32, [tensor.shape[1]], seed + 1, 1e-9),
          ]
        } else {
          all["\(model).second_moment", default: []].append(Self.side(tensor.name, dtype, tensor.shape, seed + 2, 1e-12))
        }
        if tensor.shape.count == 2 {
          all["\(model).mask", default: []].append(Self.side(tensor.name, dtype, tensor.shape, seed + 7, 1) { $0 & 768 == 0 ? 1 : 0 })
        }
        if model == "b" {
          for sample in 0..<3 {
            all["b.gradient\(sample)", default: []].append(
              Self.side(tensor.name, .f32, tensor.shape, seed + 3 + UInt64(sample), 1e-3) { $0 & 256 == 0 ? 1 : -1 })
          }
        }
      }
    }
    for tensor in models["base"] ?? [] where tensor.name.hasSuffix(".weight") {
      all["norms", default: []].append(
        Self.side(String(tensor.name.dropLast(7)), .f32, [tensor.shape.last ?? 1], UInt64(tensor.count), 3))
    }
    return all
  }

  /// Values of some three decades around a size.
  private static func side(
    _ name: String, _ dtype: DType, _ shape: [Int], _ seed: UInt64, _ size: Double, _ factor: (UInt64) -> Double = { _ in 1 }
  ) -> TestTensor {
    var random = SplitMix(seed)
    let tensor = TestTensor(name, dtype, shape)
    for index in 0..<tensor.count {
      let bits = random.next()
      let unit = Double(bits >> 40) * 0x1p-24
      tensor.set(index, size * (unit * unit * unit * 3 + 0.001) * factor(bits))
    }
    return tensor
  }
}

extension MethodCase {
  /// For the tests of bit identity: methods with side inputs, and the last step of activation-informed merging behind others.
  static let sideInputs: [MethodCase] = [
    MethodCase(method: "fisher", weights: [0.5, 0.25, 2]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 1], extra: ["power": "0.7", "ota_normalize": "mean"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6], extra: ["ota_post": "ties"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6], extra: ["ota_rescale": "operator"]),
    MethodCase(method: "wise", densities: [0.2, 0.1, 1]),
    MethodCase(method: "rcp"),
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9], omega: 0.3),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false"], omega: 0.1),
  ]
}

/// The definitions of the methods with side inputs, a second time, in f64; what is kept follows the f32 saliencies that the rule is about.
struct SideReference {
  let item: MethodCase
  /// Of base, a, b, c and their side files, by name.
  let models: [String: [TestTensor]]

  private func values(_ model: String, _ index: Int) -> [Double] { models[model]?[index].values ?? [] }
  private func side(_ file: String, _ name: String) -> [Double] { models[file]?.first { $0.name == name }?.values ?? [] }

  func run() -> [Expectation] {
    switch item.method {
    case "fisher": fisher()
    case "ota": ota()
    case "wise": wise()
    default: rcp()
    }
  }

  private var tensors: [TestTensor] { models["base"] ?? [] }

  private func fisher() -> [Expectation] {
    let files = MethodCase.models.map { $0 + ".fisher" }
    let all = files.map { file in tensors.map { side(file, $0.name) } }
    let count = Double(tensors.reduce(0) { $0 + $1.count })
    let norms = all.map { $0.reduce(0.0) { $0 + $1.reduce(0) { $0 + $1 * $1 } }.squareRoot() }
    let means = all.map { $0.reduce(0.0) { $0 + $1.reduce(0, +) } / count }
    let absolute = item.extra["fisher_floor_mode"].map { $0 == "absolute" } ?? item.isPaper
    let floor = item.number("fisher_floor", or: 1e-6)
    return tensors.indices.map { index in
      let inputs = MethodCase.models.map { values($0, index) }
      var result: [Double] = []
      for element in 0..<tensors[index].count {
        var (sum, total, plain) = (0.0, 0.0, 0.0)
        for model in 0..<3 {
          let isGuarded = model == 0 || item.extra["favor_target"] == "false"
          let least = isGuarded ? floor * (absolute ? 1 : means[model]) : 0
          var f = all[model][index][element]
          f = item.extra["fisher_floor_rule"] == "add" ? f + least : max(f, least)
          f *= item.weights[model] / (item.extra["fisher_norm"] == "none" ? 1 : norms[model])
          sum += f * inputs[model][element]
          total += f
          plain += inputs[model][element] / 3
        }
        result.append(total > 0 ? sum / total : plain)
      }
      return Expectation(values: result, scales: result.indices.map { i in inputs.map { abs($0[i]) }.max() ?? 0 })
    }
  }

  /// The second moments as the engine has them in f32.
  private func moments(_ model: String, _ tensor: TestTensor) -> [Float] {
    let whole = side(model + ".second_moment", tensor.name)
    if !whole.isEmpty { return whole.map { Float($0) } }
    let rows = side(model + ".second_moment", tensor.name + ".row_sums")
    let columns = side(model + ".second_moment", tensor.name + ".column_sums")
    let sum = rows.reduce(0, +)
    return rows.flatMap { row in columns.map { Float(row / sum) * Float($0) } }
  }

  private func ota() -> [Expectation] {
    let moments = MethodCase.models.map { model in tensors.map { self.moments(model, $0) } }
    let power = item.number("power", or: 0.5)
    let epsilon = item.number("ota_epsilon", or: 1e-26)
    let count = tensors.reduce(0) { $0 + $1.count }
    var kept: [[[Bool]]] = []
    var means: [Double] = []
    for model in 0..<3 {
      let saliencies = tensors.indices.map { index -> [Float] in
        let (base, other) = (values("base", index), values(MethodCase.models[model], index))
        return base.indices.map { i in
          let d = Float(other[i]) - Float(base[i])
          return moments[model][index][i] * Float(sign: .plus, exponent: 64, significand: 1) * d * d
        }
      }
      let wanted = Int(item.densities[model] * Double(count))
      let threshold = wanted >= count ? -1 : saliencies.joined().sorted(by: >)[max(wanted - 1, 0)]
      kept.append(saliencies.map { $0.map { $0 >= threshold } })
      means.append(
        item.extra["ota_normalize"] == "mean"
          ? moments[model].joined().reduce(0.0) { $0 + pow(Double($1), power) } / Double(count) : 1)
    }
    return tensors.indices.map { index in
      let base = values("base", index)
      let isRescaled = item.extra["ota_rescale"] == "operator"
      let inputs = MethodCase.models.enumerated().map { number, model -> [Double] in
        let own = values(model, index)
        guard isRescaled else { return own }
        let deltas = base.indices.map { Double(Float(own[$0]) - Float(base[$0])) }
        let left = base.indices.map { kept[number][index][$0] ? deltas[$0] : 0 }
        let (whole, part) = (norm(deltas, tensors[index]), norm(left, tensors[index]))
        let factor = part > 0 && part > item.number("rescale_threshold", or: 0) * whole ? Double(Float(whole / part)) : 0
        return base.indices.map { base[$0] + factor * deltas[$0] }
      }
      let result = base.indices.map { i -> Double in
        let deltas = (0..<3).map { kept[$0][index][i] ? (inputs[$0][i] - base[i]) * item.weights[$0] : 0 }
        switch item.extra["ota_post"] {
        case "linear": return base[i] + deltas.reduce(0, +) / 3
        case "ties":
          let sign: Double = deltas.reduce(0, +) >= 0 ? 1 : -1
          return base[i] + deltas.filter { $0 * sign > 0 }.reduce(0, +) / 3
        default:
          var (sum, total) = (0.0, 0.0)
          for model in 0..<3 where kept[model][index][i] {
            let weight = (pow(Double(moments[model][index][i]), power) / means[model] + epsilon) * item.weights[model]
            sum += weight * inputs[model][i]
            total += weight
          }
          return total <= 1.1 * 3 * epsilon ? base[i] : sum / total
        }
      }
      return Expectation(values: result, scales: base.indices.map { i in abs(base[i]) + inputs.reduce(0) { $0 + abs($1[i]) } })
    }
  }

  /// The norm that is to be kept: of a matrix that of ten steps of power iteration, of an embedding the largest of a column.
  private func norm(_ values: [Double], _ tensor: TestTensor) -> Double {
    guard tensor.shape.count == 2 else { return values.reduce(0) { $0 + $1 * $1 }.squareRoot() }
    let (rows, columns) = (tensor.shape[0], tensor.shape[1])
    if tensor.name.contains("embed") {
      return (0..<columns).map { column in (0..<rows).reduce(0) { $0 + values[$1 * columns + column] * values[$1 * columns + column] } }
        .max()?.squareRoot() ?? 0
    }
    var x = (0..<columns).map { 1 + Double(($0 * 2_654_435_761) % (1 << 32)) / 4_294_967_296 }
    var sigma = 0.0
    for _ in 0..<10 {
      let size = x.reduce(0) { $0 + $1 * $1 }.squareRoot()
      if size == 0 { return 0 }
      x = x.map { $0 / size }
      var next = [Double](repeating: 0, count: columns)
      for row in 0..<rows {
        var product = 0.0
        for column in 0..<columns { product += values[row * columns + column] * x[column] }
        for column in 0..<columns { next[column] += values[row * columns + column] * product }
      }
      sigma = zip(x, next).reduce(0) { $0 + $1.0 * $1.1 }.squareRoot()
      x = next
    }
    return sigma
  }

  private func wise() -> [Expectation] {
    tensors.indices.map { index in
      let (name, base) = (tensors[index].name, values("base", index))
      let deltas = (0..<3).map { model -> [Double] in
        let (own, mask) = (values(MethodCase.models[model], index), side(MethodCase.models[model] + ".mask", name))
        var delta = base.indices.map { i in
          mask.isEmpty || mask[i] != 0 ? Double(Float(own[i]) - Float(base[i])) : 0
        }
        let keys = delta.indices.map { Kernels.key(Float(delta[$0]), index: UInt64($0), ties: .hash) }
        let kept = Int(item.densities[model] * Double(delta.count))
        let cut = kept == 0 ? UInt64.max : keys.sorted(by: >)[kept - 1]
        for i in delta.indices where keys[i] < cut { delta[i] = 0 }
        return delta
      }
      var result = Expectation(values: base, scales: base.map(abs))
      for i in base.indices {
        let terms = (0..<3).map { item.weights[$0] * deltas[$0][i] }
        let (total, size) = (terms.reduce(0, +), terms.reduce(0) { $0 + abs($1) })
        if size == 0 { continue }
        func elected(_ isPositive: Bool) -> Double {
          let own = terms.indices.filter { isPositive ? terms[$0] > 0 : terms[$0] < 0 }
          let weight = own.reduce(0) { $0 + item.weights[$1] }
          return base[i] + own.reduce(0) { $0 + terms[$1] } / (weight == 0 ? 1 : weight)
        }
        result.values[i] = elected(total >= 0)
        result.scales[i] = abs(base[i]) + 4 * size
        if abs(total) <= 1e-6 * size { result.alternatives[i] = elected(total < 0) }
      }
      return result
    }
  }

  private func rcp() -> [Expectation] {
    tensors.indices.map { index in
      let name = tensors[index].name
      let (base, r, d) = (values("base", index), values("a", index), values("b", index))
      let prior = side("a.fisher", name)
      let gradients = (0..<3).map { side("b.gradient\($0)", name) }
      let lambda = item.number("rcp_lambda", or: 1000)
      var expectation = Expectation(values: [], scales: [])
      for i in base.indices {
        let penalty = lambda * prior[i] * (r[i] - d[i]) * (r[i] - d[i])
        let changes = gradients.map { $0[i] * d[i] + penalty }
        let isNear = changes.contains { abs($0) < 1e-6 * penalty }
        let votes = changes.reduce(0) { $0 + ($1 <= 0 ? 1 : -1) }
        let moved = r[i] + (d[i] - base[i])
        expectation.values.append(votes > 0 ? moved : r[i])
        expectation.scales.append(abs(r[i]) + abs(d[i]) + abs(base[i]))
        if isNear { expectation.alternatives[i] = votes > 0 ? r[i] : moved }
      }
      return expectation
    }
  }
}
