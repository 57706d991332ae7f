import Foundation
import IngotEngine

/// Angles between models: the definitions in f64 over whole vectors, where the engine works with their Gram matrix.
extension Reference {
  private func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }

  private func differences(_ tensor: ReferenceTensor) -> [[Double]] {
    tensor.models.map { model in tensor.base.indices.map { Double(Float(model[$0]) - Float(tensor.base[$0])) } }
  }

  /// `base` plus each vector times its coefficient.
  private func combined(_ base: [Double], _ vectors: [[Double]], _ coefficients: [Double]) -> Expectation {
    var result = Expectation(values: [], scales: [])
    for index in base.indices {
      let terms = zip(vectors, coefficients).map { $0[index] * $1 }
      result.values.append(base[index] + terms.reduce(0, +))
      result.scales.append(abs(base[index]) + terms.reduce(0) { $0 + abs($1) })
    }
    return result
  }

  func modelStock(_ tensor: ReferenceTensor) -> Expectation {
    let deltas = differences(tensor)
    func share(_ range: Range<Int>) -> Double {
      let parts = deltas.map { Array($0[range]) }
      let norms = parts.map { dot($0, $0).squareRoot() }
      var sum = 0.0
      for (i, j) in [(0, 1), (0, 2), (1, 2)] { sum += min(max(dot(parts[i], parts[j]) / max(norms[i] * norms[j], 1e-6), -1), 1) }
      let t = 3 * (sum / 3) / (1 + 2 * (sum / 3))
      return t.isFinite ? t : 0
    }
    let length = item.extra["filter_wise"] == "true" ? tensor.rowLength : tensor.base.count
    var result = Expectation(values: [], scales: [])
    for start in stride(from: 0, to: tensor.base.count, by: max(length, 1)) {
      let range = start..<start + length
      let t = share(range)
      let part = combined(Array(tensor.base[range]), deltas.map { Array($0[range]) }, [t / 3, t / 3, t / 3])
      result.values += part.values
      result.scales += part.scales
    }
    return result
  }

  func multiSlerp(_ tensor: ReferenceTensor) -> Expectation {
    let vectors = item.hasBase ? differences(tensor) : tensor.models
    let sum = item.extra["normalize_weights"] == "false" ? 1 : item.weights.reduce(0, +)
    let weights = item.weights.map { $0 / sum }
    let norms = vectors.map { dot($0, $0).squareRoot() }
    let mean = tensor.base.indices.map { index in
      (0..<3).reduce(0) { $0 + weights[$1] * vectors[$1][index] / (norms[$1] + 1e-8) }
    }
    let length = dot(mean, mean).squareRoot()
    let scale = zip(weights, norms).reduce(0) { $0 + $1.0 * $1.1 } / length
    let origin = item.hasBase ? tensor.base : tensor.base.map { _ in 0 }
    return combined(origin, vectors, (0..<3).map { weights[$0] / (norms[$0] + 1e-8) * scale })
  }

  /// The iteration on vectors as long as the tensor.
  func karcher(_ tensor: ReferenceTensor) -> Expectation {
    let shares = item.perModel["share"] == nil ? [1, 1, 1] : item.numbers("share")
    let alphas = shares.map { $0 / shares.reduce(0, +) }
    let norms = tensor.models.map { dot($0, $0).squareRoot() }
    let units = zip(tensor.models, norms).map { model, norm in model.map { $0 / norm } }
    func normalized(_ x: [Double]) -> [Double] {
      let length = dot(x, x).squareRoot()
      return x.map { $0 / length }
    }
    var u = normalized(tensor.base.indices.map { index in (0..<3).reduce(0) { $0 + alphas[$1] * units[$1][index] } })
    for _ in 0..<10 {
      var step = [Double](repeating: 0, count: u.count)
      for (alpha, unit) in zip(alphas, units) {
        let cosine = min(max(dot(u, unit), -1), 1)
        let angle = acos(cosine)
        if angle < 1e-5 { continue }
        for index in u.indices { step[index] += alpha * angle / sin(angle) * (unit[index] - cosine * u[index]) }
      }
      let length = dot(step, step).squareRoot()
      if length < 1e-5 { break }
      u = normalized(u.indices.map { cos(length) * u[$0] + sin(length) * step[$0] / length })
    }
    let scale = zip(alphas, norms).reduce(0) { $0 + $1.0 * $1.1 }
    return Expectation(
      values: u.map { $0 * scale },
      scales: u.indices.map { index in tensor.models.reduce(0) { $0 + abs($1[index]) } })
  }
}
