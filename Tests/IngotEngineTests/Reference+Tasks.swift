import Foundation
import IngotTensors

/// The task-vector methods beside TIES, DARE and DELLA, by their definitions in f64. What selections are about is the f32 differences.
extension Reference {
  private func differences(_ tensor: ReferenceTensor) -> [[Double]] {
    tensor.models.map { model in tensor.base.indices.map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
  }

  /// `base` plus the merged task vector that `merged` gives of an element, with the sizes of what it was made of, and another one where
  /// rounding may decide.
  private func added(
    to tensor: ReferenceTensor, _ merged: (Int) -> (value: Double, size: Double, other: Double?)
  ) -> Expectation {
    var result = Expectation(values: [], scales: [])
    for index in tensor.base.indices {
      let (value, size, other) = merged(index)
      result.values.append(tensor.base[index] + item.lambda * value)
      result.scales.append(abs(tensor.base[index]) + abs(item.lambda) * size)
      if let other { result.alternatives[index] = tensor.base[index] + item.lambda * other }
    }
    return result
  }

  func magmax(_ tensor: ReferenceTensor) -> Expectation {
    let deltas = differences(tensor)
    return added(to: tensor) { index in
      var best = 0.0
      for delta in deltas where abs(delta[index]) >= abs(best) { best = delta[index] }
      return (best, abs(best), nil)
    }
  }

  func consensus(_ tensor: ReferenceTensor) -> Expectation {
    let deltas = differences(tensor)
    let threshold = Double(Float(item.number("tall_lambda", or: 0.4)))
    let task = Int(item.number("task", or: 0))
    let least = Int(item.number("consensus_k", or: 2))
    // The sums of TIES, of task vectors that are trimmed tensor by tensor.
    var trimmed = deltas
    let elects = item.extra["merge"] == "ties"
    if elects {
      for model in 0..<3 {
        let density = item.perModel["density"].flatMap { Double($0[model]) } ?? 0.2
        trimRows(&trimmed[model], length: tensor.base.count, start: 0, drop: 0, keep: density)
      }
    }
    return added(to: tensor) { index in
      let terms = trimmed.map { $0[index] }
      let sign: Double = terms.reduce(0, +) >= 0 ? 1 : -1
      let sum = elects ? terms.filter { $0 * sign > 0 }.reduce(0, +) : deltas.reduce(0) { $0 + $1[index] }
      let size = deltas.reduce(0) { $0 + abs($1[index]) }
      var isClose = false
      let marks = deltas.map { delta in
        let (own, rest) = (abs(delta[index]), threshold * abs(sum - delta[index]))
        if own != rest && abs(own - rest) <= 1e-6 * size { isClose = true }
        return own > rest
      }
      let isKept = task > 0 ? marks[task - 1] : marks.count { $0 } >= least
      return (isKept ? sum : 0, size, isClose ? (isKept ? 0 : sum) : nil)
    }
  }

  func emr(_ tensors: [ReferenceTensor]) -> [Expectation] {
    let task = Int(item.number("task", or: 0))
    let deltas = tensors.map(differences)
    func elected(_ tensor: Int, _ index: Int, _ isPositive: Bool) -> Double {
      var best = 0.0
      for delta in deltas[tensor] where isPositive ? delta[index] > best : delta[index] < best { best = delta[index] }
      return best
    }
    func sum(_ tensor: Int, _ index: Int) -> Double { deltas[tensor].reduce(0) { $0 + $1[index] } }
    var (all, kept) = (0.0, 0.0)
    if task > 0 {
      for tensor in tensors.indices where !tensors[tensor].base.isEmpty {
        let share = item.extra["rescaler"] == "tensor_means" ? 1 / Double(tensors[tensor].base.count) : 1
        for index in tensors[tensor].base.indices {
          let unified = elected(tensor, index, sum(tensor, index) > 0)
          all += share * abs(deltas[tensor][task - 1][index])
          if unified * deltas[tensor][task - 1][index] > 0 { kept += share * abs(unified) }
        }
      }
    }
    return tensors.indices.map { tensor in
      added(to: tensors[tensor]) { index in
        func value(_ isPositive: Bool) -> Double {
          let unified = elected(tensor, index, isPositive)
          if task == 0 { return unified }
          return unified * deltas[tensor][task - 1][index] > 0 ? unified * all / kept : 0
        }
        let total = sum(tensor, index)
        let size = deltas[tensor].reduce(0) { $0 + abs($1[index]) }
        return (value(total > 0), size * max(1, task == 0 ? 1 : all / kept), abs(total) <= 1e-6 * size ? value(!(total > 0)) : nil)
      }
    }
  }

  func pcb(_ tensors: [ReferenceTensor]) -> [Expectation] {
    let deltas = tensors.map(differences)
    let isVision = item.extra["pcb_variant"] == "vision"
    let clip = item.number("pcb_clip", or: isVision ? 0.01 : 1e-4)
    let count = tensors.reduce(0) { $0 + $1.base.count }
    let places = (Int(Double(count) * clip), Int(max(Double(count) * (1 - clip) - 1, 0)))
    let bounds = (0..<3).map { model -> (low: Double, high: Double) in
      let sorted = deltas.flatMap { $0[model].map(abs) }.sorted()
      return (sorted[places.0], sorted[max(places.1, places.0)])
    }
    func unit(_ x: Double, _ model: Int) -> Double {
      let (low, high) = bounds[model]
      return high > low ? (min(max(abs(x), low), high) - low) / (high - low) : 0
    }
    var scores = deltas
    for tensor in tensors.indices {
      for index in tensors[tensor].base.indices {
        let sum = deltas[tensor].reduce(Float(0)) { $0 + Float($1[index]) }
        var z: [Double] = []
        for model in 0..<3 {
          let delta = deltas[tensor][model][index]
          z.append(delta < 0 ? -unit(delta, model) : unit(delta, model))
        }
        for model in 0..<3 {
          var agreement = 0.0
          if isVision {
            for other in z { agreement += tanh(z[model] * other) }
          } else {
            agreement = tanh(deltas[tensor][model][index] * Double(sum))
          }
          let score: Double = exp(3 * (z[model] * z[model])) * agreement
          scores[tensor][model][index] = Double(Float(score))
        }
      }
    }
    let cuts = (0..<3).map { model -> (cut: Double, top: Double) in
      let sorted = scores.flatMap { $0[model] }.sorted()
      return (sorted[min(Int(Double(count) * (1 - item.number("pcb_ratio", or: 0.05))), count - 1)], sorted[count - 1])
    }
    return tensors.indices.map { tensor in
      added(to: tensors[tensor]) { index in
        var (sum, weight, size) = (0.0, 0.0, 0.0)
        for model in 0..<3 {
          let (cut, top) = cuts[model]
          let share = top > cut ? max(scores[tensor][model][index] - cut, 0) / (top - cut) : 0
          let delta = deltas[tensor][model][index]
          let clampedSize: Double = min(max(abs(delta), bounds[model].low), bounds[model].high)
          let clamped: Double = delta < 0 ? -clampedSize : delta > 0 ? clampedSize : 0
          sum += share * clamped * item.weights[model]
          size += abs(share * clamped * item.weights[model])
          weight += share
        }
        return (sum / max(weight, 1e-12), size / max(weight, 1e-12), nil)
      }
    }
  }

  func widen(_ tensor: ReferenceTensor) -> Expectation {
    let deltas = differences(tensor)
    let count = tensor.base.count
    let (ratio, value) = (item.number("widen_ratio", or: 1), item.number("widen_value", or: 1))
    // Ranks k / n have the mean (n − 1) / 2n, which a sum of them only comes near.
    func scores(_ significances: [[Double]], areRanks: Bool = false) -> [[Double]] {
      var scores = significances
      for model in 0..<3 {
        let own = significances[model]
        let size = Double(max(own.count, 1))
        let mean: Double = own.reduce(0, +) / size
        for place in own.indices {
          var total = 0.0
          for other in significances { total += exp(other[place]) }
          let isAbove: Bool = areRanks ? 2 * (own[place] * size).rounded() > ratio * (size - 1) : own[place] > ratio * mean
          scores[model][place] = isAbove ? value : exp(own[place]) / total
        }
      }
      return scores
    }
    let group: (Int) -> Int
    let weights: [[Double]]
    if tensor.axes == 2 {
      let columns = tensor.rowLength
      let isEmbedding = tensor.name == "model.embed_tokens.weight"
      group = isEmbedding ? { $0 / columns } : { $0 % columns }
      let groups = isEmbedding ? count / columns : columns
      func norms(_ x: [Double], _ y: [Double]) -> [Double] {
        var sums = [Double](repeating: 0, count: groups)
        for index in 0..<count { sums[group(index)] += x[index] * y[index] }
        return sums
      }
      func ranks(_ values: [Double]) -> [Double] {
        var ranks = [Double](repeating: 0, count: groups)
        let order = (0..<groups).sorted { (values[$0], $0) < (values[$1], $1) }
        for (rank, place) in order.enumerated() { ranks[place] = Double(rank) / Double(groups) }
        return ranks
      }
      let base: [Double] = norms(tensor.base, tensor.base).map { $0.squareRoot() }
      var (byMagnitude, byDirection): ([[Double]], [[Double]]) = ([], [])
      for model in tensor.models {
        let own: [Double] = norms(model, model).map { $0.squareRoot() }
        let cross: [Double] = norms(tensor.base, model)
        var (magnitude, direction): ([Double], [Double]) = ([], [])
        for place in 0..<groups {
          let product: Double = own[place] * base[place]
          magnitude.append(abs(own[place] - base[place]))
          direction.append(product > 0 ? 1 - cross[place] / product : 0)
        }
        byMagnitude.append(ranks(magnitude))
        byDirection.append(ranks(direction))
      }
      let (magnitudes, directions) = (scores(byMagnitude, areRanks: true), scores(byDirection, areRanks: true))
      weights = zip(magnitudes, directions).map { m, d in zip(m, d).map { 0.5 * ($0 + $1) } }
    } else {
      group = { $0 }
      weights = scores(deltas.map { $0.map(abs) })
    }
    return added(to: tensor) { index in
      var (sum, size) = (0.0, 0.0)
      for model in 0..<3 {
        let term = deltas[model][index] * weights[model][group(index)]
        sum += term
        size += abs(term)
      }
      return (sum, size, nil)
    }
  }

  /// What a vote with slack makes of trimmed task vectors.
  func electedWithSlack(_ base: [Double], _ deltas: [[Double]]) -> Expectation {
    let slack = Double(Float(item.number("slack", or: 0.4)))
    let protected = Int(item.number("protect", or: 0))
    var result = Expectation(values: [], scales: [])
    for index in base.indices {
      let terms: [Double] = (0..<3).map { item.weights[$0] * deltas[$0][index] }
      let total: Double = terms.reduce(0, +)
      let size: Double = terms.reduce(0) { $0 + abs($1) }
      func divided(_ value: Double, _ weight: Double) -> Double { item.normalizes && weight != 0 ? value / weight : value }
      func merged(_ isPositive: Bool, isUndecided: Bool?) -> (value: Double, isClose: Bool, divisor: Double, unprotected: Double) {
        let own: [Int] = terms.indices.filter { isPositive ? terms[$0] > 0 : terms[$0] < 0 }
        let others: [Int] = terms.indices.filter { isPositive ? terms[$0] < 0 : terms[$0] > 0 }
        let mine: Double = own.reduce(0) { $0 + abs(terms[$1]) }
        let theirs: Double = others.reduce(0) { $0 + abs(terms[$1]) }
        let limit: Double = (1 - slack) * mine
        let isSo: Bool = protected == 0 && slack > 0 && theirs > 0 && theirs >= limit
        let undecided: Bool = isUndecided ?? isSo
        let entering = undecided ? own + others : own
        let weight: Double = entering.reduce(0) { $0 + item.weights[$1] }
        let sum: Double = entering.reduce(0) { $0 + terms[$1] }
        var value: Double = divided(sum, weight)
        var isClose: Bool = protected == 0 && theirs > 0 && abs(theirs - limit) <= 1e-6 * size
        let unprotected = value
        if protected > 0 {
          let kept = deltas[protected - 1][index]
          let floor = (1 - slack) * abs(value)
          isClose = kept != 0 && abs(abs(kept) - floor) <= 1e-6 * abs(kept)
          if kept != 0, abs(kept) >= floor { value = kept }
        }
        return (value, isClose, item.normalizes && weight != 0 ? abs(weight) : 1, unprotected)
      }
      let (value, isClose, divisor, unprotected) = merged(total >= 0, isUndecided: nil)
      result.values.append(base[index] + item.lambda * value)
      // Where everything enters, the weights may nearly cancel out.
      result.scales.append(abs(base[index]) + abs(item.lambda) * max(size / divisor, abs(value)))
      if isClose && protected > 0 {
        let kept = deltas[protected - 1][index]
        result.alternatives[index] = base[index] + item.lambda * (value == kept ? unprotected : kept)
      } else if isClose {
        let other = merged(total >= 0, isUndecided: true).value
        result.alternatives[index] = base[index] + item.lambda * (other == value ? merged(total >= 0, isUndecided: false).value : other)
      } else if size > 0 && abs(total) <= 1e-6 * size {
        result.alternatives[index] = base[index] + item.lambda * merged(total < 0, isUndecided: nil).value
      }
    }
    return result
  }

  /// Of each row of length c: without the ⌊drop·c⌋ largest, the ⌊keep·c⌋ largest of the rest.
  func trimRows(_ values: inout [Double], length: Int, start: UInt64, drop: Double, keep: Double) {
    for row in stride(from: 0, to: values.count, by: max(length, 1)) {
      let keys = (0..<length).map { Kernels.key(Float(values[row + $0]), index: start + UInt64(row + $0), ties: .hash) }
      let kept = Int(keep * Double(length))
      let dropped = min(Int(drop * Double(length)), length - kept)
      let order = keys.indices.sorted { keys[$0] > keys[$1] }
      for place in order[..<dropped] + order[(dropped + kept)...] { values[row + place] = 0 }
    }
  }

  func mediator(_ tensors: [ReferenceTensor]) -> [Expectation] {
    var starts: [UInt64] = []
    var start: UInt64 = 0
    for tensor in tensors {
      starts.append(start)
      start += UInt64((tensor.base.count + 65_535) / 65_536 * 65_536)
    }
    func layer(_ name: String) -> Int? {
      let parts = name.split(separator: ".")
      return parts.firstIndex(of: "layers").flatMap { Int(parts[$0 + 1]) }
    }
    var degrees: [Int: (sum: Double, size: Double)] = [:]
    for (number, tensor) in tensors.enumerated() {
      guard let layer = layer(tensor.name) else { continue }
      var deltas = differences(tensor)
      for model in 0..<3 {
        trimRows(&deltas[model], length: tensor.rowLength, start: starts[number], drop: 0, keep: item.number("conflict_density", or: 0.3))
      }
      var degree = 0.0
      for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        var (opposite, both, opposed, all) = (0.0, 0.0, 0.0, 0.0)
        for (x, y) in zip(deltas[a], deltas[b]) {
          all += abs(x) + abs(y)
          if x != 0 && y != 0 { both += 1 }
          if x * y < 0 { (opposite, opposed) = (opposite + 1, opposed + min(abs(x), abs(y))) }
        }
        degree += (item.extra["conflict_form"] == "mass" ? 2 * opposed / all : opposite / max(both, 1)) / 3
      }
      let size = Double(tensor.base.count)
      degrees[layer, default: (0, 0)].sum += size * degree
      degrees[layer, default: (0, 0)].size += size
    }
    let values = degrees.mapValues { $0.sum / $0.size }
    let mean = values.values.reduce(0, +) / Double(max(values.count, 1))
    let squares: Double = values.values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    let deviation = (squares / Double(max(values.count, 1))).squareRoot()
    let limit = mean + item.number("kappa", or: 0.5) * deviation
    return tensors.enumerated().map { number, tensor in
      let isRouted = layer(tensor.name).flatMap { values[$0] }.map { $0 > limit } ?? false
      let deltas = differences(tensor)
      let means: [Float] = tensor.base.indices.map { index in
        var sum: Float = 0
        for delta in deltas { sum += Float(delta[index]) }
        return sum / 3
      }
      var own: [[Double]] = deltas.map { delta in means.indices.map { Double(Float(delta[$0]) - means[$0]) } }
      for model in 0..<3 {
        trimRows(&own[model], length: tensor.rowLength, start: starts[number], drop: 0, keep: item.number("sparse_density", or: 0.1))
      }
      var result = Expectation(values: [], scales: [])
      for index in means.indices {
        var (value, scale) = (tensor.base[index], abs(tensor.base[index]))
        for model in 0..<3 {
          let term: Double = isRouted ? item.weights[model] * own[model][index] : 0
          value += deltas[model][index] / 3 + term
          scale += abs(deltas[model][index]) / 3 + abs(term)
        }
        result.values.append(value)
        result.scales.append(scale)
      }
      return result
    }
  }

  func oneBit(_ tensor: ReferenceTensor) -> Expectation {
    var deltas = differences(tensor)
    let count = tensor.base.count
    let task = Int(item.number("task", or: 0)) - 1
    if tensor.axes >= 2 {
      for model in 0..<3 where item.perModel["quantized"]?[model] != "false" {
        let size = Double(Float(deltas[model].reduce(0) { $0 + abs($1) } / Double(max(count, 1))))
        deltas[model] = deltas[model].map { $0 < 0 ? -size : size }
      }
    }
    return added(to: tensor) { index in
      let terms = (0..<3).map { $0 == task ? 0 : item.weights[$0] * deltas[$0][index] }
      let total = terms.reduce(0, +)
      let size = terms.reduce(0) { $0 + abs($1) }
      func elected(_ isPositive: Bool) -> Double {
        let own = terms.indices.filter { isPositive ? terms[$0] > 0 : terms[$0] < 0 }
        let weight = own.reduce(0) { $0 + item.weights[$1] }
        let sum = own.reduce(0) { $0 + terms[$1] }
        return (task >= 0 ? deltas[task][index] / item.lambda : 0) + (weight == 0 ? sum : sum / weight)
      }
      let bound = deltas.reduce(0) { $0 + abs($1[index]) } / 0.25
      return (elected(total >= 0), bound, size > 0 && abs(total) <= 1e-6 * size ? elected(total < 0) : nil)
    }
  }

  func twin(_ tensor: ReferenceTensor) -> Expectation {
    let deltas = differences(tensor)
    let count = tensor.base.count
    let factor = Float(item.lambda == 1 ? 0.3 : item.lambda)
    let shared = (0..<count).map { index in
      let sum = deltas.reduce(Float(0)) { $0 + Float($1[index]) }
      return sum * factor
    }
    var own = deltas.map { delta in (0..<count).map { Double(Float(delta[$0]) - shared[$0]) } }
    if tensor.axes >= 2 {
      for model in 0..<3 where item.densities[model] < 1 {
        let density = item.densities[model]
        if item.extra["compress"] == "bernoulli" {
          let words = Self.words(seed: seed, tensor: tensor.name, model: model, count: count)
          let threshold = UInt64((density * 0x1p32).rounded(.toNearestOrEven))
          for index in 0..<count { own[model][index] = UInt64(words[index]) < threshold ? own[model][index] / density : 0 }
        } else {
          trimRows(&own[model], length: count, start: 0, drop: 0, keep: density)
        }
      }
    }
    var result = Expectation(values: [], scales: [])
    for index in 0..<count {
      var (value, scale) = (tensor.base[index], abs(tensor.base[index]))
      for model in 0..<3 {
        let (part, term): (Double, Double) = (Double(factor) * deltas[model][index], item.weights[model] * own[model][index])
        value += part + term
        scale += abs(part) + abs(term)
      }
      result.values.append(value)
      result.scales.append(scale)
    }
    return result
  }
}
