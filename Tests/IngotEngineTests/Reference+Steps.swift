import Foundation
import IngotTensors

/// NearSwap, RAM, SCE, Arcee Fusion and NuSLERP by their definitions.
extension Reference {
  func nearswap(_ tensor: ReferenceTensor) -> Expectation {
    var result = Expectation(values: [], scales: [])
    for (base, other) in zip(tensor.base, tensor.models[0]) {
      let step = other - base
      let w = min(max(item.t / max(abs(step), 1e-6), 0), 1)
      result.values.append(w * other + (1 - w) * base)
      result.scales.append(abs(base) + abs(w * step))
    }
    return result
  }

  func ram(_ tensor: ReferenceTensor) -> Expectation {
    let epsilon = Double(Float(item.number("epsilon", or: 1e-5)))
    let deltas = tensor.models.map { model in tensor.base.indices.map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
    let active = deltas.map { $0.map { abs($0) > epsilon } }
    let counts = tensor.base.indices.map { index in active.count { $0[index] } }
    var factors = [1.0, 1, 1]
    if item.method == "ramplus_tl" {
      for model in 0..<3 {
        let alone = Double(tensor.base.indices.count { active[model][$0] && counts[$0] == 1 })
        let shared = Double(tensor.base.indices.count { active[model][$0] && counts[$0] > 1 })
        let share = shared / max(alone, item.number("epsilon", or: 1e-5))
        factors[model] = 1 + item.number("r", or: 0.1) * min(max(share, 0), item.number("alpha", or: 0.2))
      }
    }
    var result = Expectation(values: tensor.base, scales: tensor.base.map(abs))
    for index in tensor.base.indices {
      for model in 0..<3 where active[model][index] {
        let term = counts[index] == 1 ? deltas[model][index] * factors[model] : deltas[model][index] / Double(counts[index])
        result.values[index] += term
        result.scales[index] += abs(term)
      }
    }
    return result
  }

  func sce(_ tensor: ReferenceTensor) -> Expectation {
    let count = tensor.base.count
    let isMasked = item.extra["sce_apply_mask"].map { $0 == "true" } ?? !item.isPaper
    var deltas = tensor.models.map { model in (0..<count).map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
    let all = deltas
    let share = item.number("select_topk", or: 1)
    if share < 1 {
      let rule: TieRule = item.ties == "index" ? .index : .hash
      let keys = (0..<count).map { index in
        let mean = (deltas[0][index] + deltas[1][index] + deltas[2][index]) / 3
        let squares = deltas.reduce(0.0) { $0 + ($1[index] - mean) * ($1[index] - mean) }
        let isSame = deltas[0][index] == deltas[1][index] && deltas[0][index] == deltas[2][index]
        return Kernels.key(isSame ? 0 : Float(squares / 3), index: UInt64(index), ties: rule)
      }
      let kept = Int(Float(keys.count { $0 >> 32 != 0 }) * Float(share))
      let cut = kept == 0 ? UInt64.max : keys.sorted(by: >)[kept - 1]
      for index in 0..<count where keys[index] < cut { for model in 0..<3 { deltas[model][index] = 0 } }
    }
    let energies = deltas.map { $0.reduce(0) { $0 + $1 * $1 } / Double(max(count, 1)) }
    let total = energies.reduce(0, +)
    let weights = energies.map { total < (isMasked ? 1e-6 : 0) || total == 0 ? 1.0 / 3 : $0 / total }
    // The authors' code merges what was not selected too.
    if !isMasked { deltas = all }
    var result = Expectation(values: tensor.base, scales: tensor.base.map(abs))
    for index in 0..<count {
      let sum = deltas.reduce(0) { $0 + $1[index] }
      let size = deltas.reduce(0) { $0 + abs($1[index]) }
      func elected(_ isPositive: Bool) -> (Double, Double) {
        var (merged, weight) = (0.0, 0.0)
        for model in 0..<3 where isPositive ? deltas[model][index] > 0 : deltas[model][index] < 0 {
          merged += weights[model] * deltas[model][index]
          weight += weights[model]
        }
        let divisor = isMasked ? max(weight, 1e-6) : weight == 0 ? 1 : weight
        return (tensor.base[index] + merged / divisor, abs(merged) / divisor)
      }
      let (value, scale) = elected(sum >= 0)
      result.values[index] = value
      result.scales[index] += scale
      if size > 0 && abs(sum) <= 1e-6 * size { result.alternatives[index] = elected(sum < 0).0 }
    }
    return result
  }

  func arceeFusion(_ tensor: ReferenceTensor) -> Expectation {
    let length = tensor.rowLength
    var importance: [Float] = []
    func softmax(_ x: ArraySlice<Double>) -> [Double] {
      let top = x.max() ?? 0
      let e = x.map { exp($0 - top) }
      let sum = e.reduce(0, +)
      return e.map { $0 / sum + 1e-8 }
    }
    for row in stride(from: 0, to: tensor.base.count, by: max(length, 1)) {
      let (base, other) = (tensor.base[row..<row + length], tensor.models[0][row..<row + length])
      // The two sums of probabilities are equal, so the last terms change nothing but the rounding.
      let divergence = zip(softmax(other), softmax(base)).reduce(0.0) { $0 + $1.0 * log($1.0 / $1.1) - ($1.0 - $1.1) }
      for (a, b) in zip(base, other) { importance.append(abs(Float(b) - Float(a)) * Float(max(divergence, 0))) }
    }
    let sorted = importance.sorted()
    func quantile(_ q: Double) -> Float { sorted.isEmpty ? 0 : sorted[Int(q * Double(sorted.count - 1))] }
    let threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25))
    var result = Expectation(values: [], scales: tensor.base.map(abs))
    for (index, size) in importance.enumerated() {
      let (base, other) = (tensor.base[index], tensor.models[0][index])
      result.values.append(size >= threshold ? other : base)
      if abs(size - threshold) <= 1e-5 * threshold { result.alternatives[index] = size >= threshold ? base : other }
    }
    return result
  }

  func nuslerp(_ tensor: ReferenceTensor) -> Expectation {
    let count = tensor.base.count
    let origin = item.hasBase ? tensor.base : [Double](repeating: 0, count: count)
    let vectors = (0..<2).map { model in
      (0..<count).map { item.hasBase ? Double(Float(tensor.models[model][$0]) - Float(origin[$0])) : tensor.models[model][$0] }
    }
    let isFlat = item.extra["nuslerp_flatten"] != "false" || tensor.stride == 1
    let group: (Int) -> Int
    if isFlat {
      group = { _ in 0 }
    } else if item.extra["nuslerp_row_wise"] == "true" {
      group = { $0 % tensor.stride }
    } else {
      group = { $0 / tensor.rowLength }
    }
    var sums: [Int: (Double, Double, Double)] = [:]
    for index in 0..<count {
      let (x, y) = (vectors[0][index], vectors[1][index])
      let old = sums[group(index)] ?? (0, 0, 0)
      sums[group(index)] = (old.0 + x * x, old.1 + x * y, old.2 + y * y)
    }
    let t = item.weights[1] / (item.weights[0] + item.weights[1])
    let factors = sums.mapValues { sums in
      let cosine = min(max(sums.1 / (max(sums.0.squareRoot(), 1e-7) * max(sums.2.squareRoot(), 1e-7)), -1), 1)
      let angle = atan2(((1 - cosine) * (1 + cosine)).squareRoot(), cosine)
      return sin(angle) < (cosine < 0 ? 1e-4 : 1e-8) ? (1 - t, t) : (sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle))
    }
    var result = Expectation(values: [], scales: [])
    for index in 0..<count {
      let (first, second) = factors[group(index)] ?? (0, 0)
      let terms = (first * vectors[0][index], second * vectors[1][index])
      result.values.append(origin[index] + terms.0 + terms.1)
      result.scales.append(abs(origin[index]) + abs(terms.0) + abs(terms.1))
    }
    return result
  }
}
