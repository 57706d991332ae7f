import Foundation
import IngotEngine
import IngotTensors

extension MethodCase {
  private static let losses = ["2", "2.5", "1.5"]

  /// Averages and coefficients.
  static let averages: [MethodCase] = [
    MethodCase(method: "uniform_soup"),
    MethodCase(method: "swa", outDType: "float32"),
    MethodCase(method: "lawa", extra: ["window": "2"]),
    MethodCase(method: "wma"),
    MethodCase(method: "ema", extra: ["beta": "0.7"]),
    MethodCase(method: "ema", extra: ["beta": "0.7", "bias_correction": "true"]),
    MethodCase(method: "metrics_weighted", extra: ["penalty": "2"], perModel: ["loss": losses]),
    MethodCase(method: "metrics_weighted", extra: ["metric": "softmax", "penalty": "0.5"], perModel: ["loss": ["-2", "2.5", "1.5"]]),
    MethodCase(method: "metrics_weighted", extra: ["metric": "steps", "penalty": "2"], perModel: ["steps": ["100", "200", "300"]]),
    MethodCase(method: "lm_cocktail", perModel: ["loss": losses]),
    MethodCase(method: "lm_cocktail", extra: ["temperature": "0.3"], perModel: ["loss": losses, "fixed_weight": ["0.25", "0", "0.125"]]),
    MethodCase(method: "merge_chain", perModel: ["coefficient": ["1", "0.6", "0.75"]]),
    MethodCase(
      method: "layer_swap",
      extra: [
        "rest_source": "average", "transition_weight": "0.3", "bottom": "0", "bottom_transition": "1", "top": "0", "top_transition": "1",
      ]),
    MethodCase(method: "sparse_soup", extra: ["check": "warn"]),
    MethodCase(method: "varm"),
    MethodCase(method: "varm", extra: ["granularity": "model"]),
    MethodCase(method: "varm", extra: ["granularity": "model", "temperature": "0.001"]),
    MethodCase(method: "varm", extra: ["granularity": "layer", "measure": "abs"]),
    MethodCase(method: "varm", extra: ["measure": "signed", "temperature": "0.1"]),
    MethodCase(method: "varm", extra: ["granularity": "element"]),
    MethodCase(method: "varm", extra: ["granularity": "element", "measure": "abs"]),
    MethodCase(method: "evo_merging", perModel: ["density": ["0.5", "1", "0.03"]]),
    MethodCase(method: "evo_merging", ties: "ge", perModel: ["density": ["0.5", "0.25", "0"]]),
    MethodCase(method: "evo_merging"),
  ]

  func numbers(_ name: String) -> [Double] { (perModel[name] ?? []).compactMap(Double.init) }
}

extension Reference {
  /// The coefficient of each model, in f64.
  private var coefficients: [Double] {
    func normalized(_ values: [Double]) -> [Double] { values.map { $0 / values.reduce(0, +) } }
    switch item.method {
    case "lawa": return [0, 0.5, 0.5]
    case "wma": return [1.0 / 6, 2.0 / 6, 3.0 / 6]
    case "ema":
      let beta = item.number("beta", or: 0.9)
      if item.extra["bias_correction"] == "true" {
        return (0..<3).map { (1 - beta) * pow(beta, Double(2 - $0)) / (1 - pow(beta, 3)) }
      }
      return [beta * beta, (1 - beta) * beta, 1 - beta]
    case "metrics_weighted":
      let penalty = item.number("penalty", or: 1)
      switch item.extra["metric"] {
      case "steps": return normalized(item.numbers("steps").map { pow($0 / 300, penalty) })
      case "softmax": return normalized(item.numbers("loss").map { exp(-penalty * $0) })
      default: return normalized(item.numbers("loss").map { pow(1 / $0, penalty) })
      }
    case "lm_cocktail":
      let fixed = item.perModel["fixed_weight"] == nil ? [0, 0, 0] : item.numbers("fixed_weight")
      let shares = normalized(item.numbers("loss").map { exp(-$0 / item.number("temperature", or: 5)) })
      return zip(fixed, shares).map { $0 + (1 - fixed.reduce(0, +)) * $1 }
    case "merge_chain": return [0.45, 0.3, 0.25]
    case "layer_swap": return [item.number("transition_weight", or: 0.5), 1 - item.number("transition_weight", or: 0.5), 0]
    default: return [1.0 / 3, 1.0 / 3, 1.0 / 3]
    }
  }

  func average(_ tensor: ReferenceTensor) -> Expectation { combined(tensor.models, coefficients) }

  private func combined(_ values: [[Double]], _ weights: [Double], plus base: [Double]? = nil) -> Expectation {
    var result = Expectation(values: [], scales: [])
    for index in values[0].indices {
      let terms = (0..<3).map { weights[$0] * values[$0][index] }
      let value = (base?[index] ?? 0) + terms.reduce(0, +)
      result.values.append(value)
      result.scales.append(max(abs(value), terms.reduce(abs(base?[index] ?? 0)) { $0 + abs($1) }))
    }
    return result
  }

  func varm(_ tensors: [ReferenceTensor]) -> [Expectation] {
    let deltas = tensors.map { tensor in
      tensor.models.map { model in tensor.base.indices.map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
    }
    func size(_ delta: Double) -> Double {
      item.extra["measure"] == "abs" ? abs(delta) : item.extra["measure"] == "signed" ? delta : delta * delta
    }
    if item.extra["granularity"] == "element" {
      return tensors.indices.map { number in
        var result = Expectation(values: [], scales: [])
        for index in tensors[number].base.indices {
          let own = deltas[number].map { $0[index] }
          let mass = own.map(size).reduce(0, +)
          let step = mass < 1e-13 ? own.reduce(0, +) / 3 : own.map { size($0) * $0 }.reduce(0, +) / mass
          let base = tensors[number].base[index]
          result.values.append(base + step)
          result.scales.append(max(abs(base + step), abs(base) + (own.map(abs).max() ?? 0)))
        }
        return result
      }
    }
    let sums = deltas.map { $0.map { model in model.map(size).reduce(0, +) } }
    let counts = tensors.map { Double($0.base.count) }
    let isWhole = item.extra["granularity"] == "model"
    return tensors.indices.map { number in
      let change = (0..<3).map { model in
        isWhole ? sums.map { $0[model] }.reduce(0, +) / counts.reduce(0, +) : sums[number][model] / counts[number]
      }
      let shares = item.extra["temperature"].flatMap(Double.init).map { t in change.map { exp($0 / t) } } ?? change
      return combined(deltas[number], shares.map { $0 / shares.reduce(0, +) }, plus: tensors[number].base)
    }
  }

  func evoMerging(_ tensor: ReferenceTensor) -> Expectation {
    let rule: TieRule = item.ties == "ge" ? .ge : .hash
    let kept = tensor.models.enumerated().map { model, values in
      let density = item.perModel["density"].flatMap { Double($0[model]) } ?? 1
      let count = (density * Double(values.count)).rounded(.toNearestOrEven)
      if density >= 1 { return values }
      let keys = values.enumerated().map { Kernels.key(Float($1), index: UInt64($0), ties: rule) }
      let cut = density == 0 ? UInt64.max : keys.sorted(by: >)[max(Int(count), 1) - 1]
      return zip(values, keys).map { $1 >= cut ? $0 : 0 }
    }
    return combined(kept, item.weights)
  }
}
