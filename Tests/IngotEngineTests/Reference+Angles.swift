import Foundation
import IngotTensors

/// Multi-SLERP, the Karcher mean and Model Stock by their definitions, on whole vectors rather than on their inner products.
extension Reference {
  private func dot(_ a: [Double], _ b: [Double]) -> Double {
    var sum = 0.0
    for index in a.indices { sum += a[index] * b[index] }
    return sum
  }

  private func norm(_ a: [Double]) -> Double { dot(a, a).squareRoot() }

  private func sum(_ weights: [Double], _ vectors: [[Double]]) -> [Double] {
    var result = [Double](repeating: 0, count: vectors.first?.count ?? 0)
    for (weight, vector) in zip(weights, vectors) {
      for index in result.indices { result[index] += weight * vector[index] }
    }
    return result
  }

  /// Task vectors as f32 has them, or the models themselves.
  private func vectors(_ tensor: ReferenceTensor) -> [[Double]] {
    guard item.usesBase else { return tensor.models }
    return tensor.models.map { model in tensor.base.indices.map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
  }

  /// Added to the base where there is one. The terms of a mean direction are as large as the direction times the sum of |weights|, and no larger
  /// than what is combined.
  private func expectation(_ merged: [Double], of terms: [[Double]], _ tensor: ReferenceTensor) -> Expectation {
    var result = Expectation(values: [], scales: [])
    for index in merged.indices {
      let base = item.usesBase ? tensor.base[index] : 0
      let value = base + merged[index]
      result.values.append(value)
      result.scales.append(max(abs(value), terms.reduce(abs(base)) { $0 + abs($1[index]) }))
    }
    return result
  }

  func multiSlerp(_ tensor: ReferenceTensor) -> Expectation {
    let vectors = vectors(tensor)
    let normalizes = item.extra["normalize_weights"] != "false"
    let weights = item.weights.map { normalizes ? $0 / item.weights.reduce(0, +) : $0 }
    let epsilon = item.number("eps", or: 1e-8)
    let norms = vectors.map(norm)
    let units = zip(vectors, norms).map { vector, norm in vector.map { $0 / (norm + epsilon) } }
    var mean = sum(weights, units)
    let length = norm(mean)
    mean = mean.map { $0 / length }
    // The published form goes along the weighted tangent, which vanishes at the mean direction.
    let tangents = units.map { unit in sum([1, -dot(unit, mean)], [unit, mean]) }
    let tangent = sum(weights, tangents)
    let angle = norm(tangent) + epsilon
    let size = zip(weights, norms).reduce(0) { $0 + $1.0 * $1.1 }
    let merged = sum([cos(angle) * size, sin(angle) / angle * size], [mean, tangent])
    return expectation(merged, of: zip(weights, units).map { weight, unit in unit.map { $0 * weight * size / length } }, tensor)
  }

  func karcher(_ tensor: ReferenceTensor) -> Expectation {
    let norms = tensor.models.map(norm)
    let units = zip(tensor.models, norms).map { model, norm in model.map { $0 / norm } }
    let shares = item.perModel["share"] == nil ? [1, 1, 1] : item.numbers("share")
    let alphas = shares.map { $0 / shares.reduce(0, +) }
    let tolerance = item.number("tol", or: 1e-5)
    var mean = sum(alphas, units)
    var length = norm(mean)
    mean = mean.map { $0 / length }
    for _ in 0..<Int(item.number("max_iter", or: 10)) {
      var step = [Double](repeating: 0, count: mean.count)
      for (alpha, unit) in zip(alphas, units) {
        let cosine = min(max(dot(mean, unit), -1), 1)
        // By the chord, which keeps the digits that acos loses near one.
        let angle = 2 * asin(min(norm(sum([1, -1], [mean, unit])) / 2, 1))
        if angle < tolerance { continue }
        let factor = alpha * angle / sin(angle)
        step = sum([1, factor, -factor * cosine], [step, unit, mean])
      }
      length = norm(step)
      if length < tolerance { break }
      mean = sum([cos(length), sin(length) / length], [mean, step])
      length = norm(mean)
      mean = mean.map { $0 / length }
    }
    let size = zip(alphas, norms).reduce(0) { $0 + $1.0 * $1.1 }
    return expectation(mean.map { $0 * size }, of: zip(alphas, units).map { alpha, unit in unit.map { $0 * alpha * size } }, tensor)
  }

  func modelStock(_ tensor: ReferenceTensor) -> Expectation {
    let length = item.extra["filter_wise"] == "true" ? max(tensor.rowLength, 1) : max(tensor.base.count, 1)
    let vectors = vectors(tensor)
    var result = Expectation(values: [], scales: [])
    for start in stride(from: 0, to: tensor.base.count, by: length) {
      let rows = vectors.map { Array($0[start..<start + length]) }
      let pairs = [(0, 1), (0, 2), (1, 2)].map { dot(rows[$0], rows[$1]) / max(norm(rows[$0]) * norm(rows[$1]), 1e-6) }
      let cosine = pairs.reduce(0) { $0 + min(max($1, -1), 1) } / 3
      let t = 3 * cosine / (1 + 2 * cosine)
      for index in 0..<length {
        let terms = rows.map { t * $0[index] / 3 }
        let value = tensor.base[start + index] + terms.reduce(0, +)
        result.values.append(value)
        result.scales.append(max(abs(value), terms.reduce(abs(tensor.base[start + index])) { $0 + abs($1) }))
      }
    }
    return result
  }
}
