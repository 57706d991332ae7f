package import IngotErrors
internal import IngotLinearAlgebra

/// Reversible model merging: not one adapter but a mean, a few directions and coefficients, from which each of the models can be made again.
///
/// A *position* is one row of a factor: for input j or output i a vector of as many values as the rank ρ has. Of n models it has n such vectors
/// x_k = μ + Σ_p c_kp u_p + what is lost, with μ their mean and u_p the p leading left singular vectors of the centred ρ × n matrix; with p ≥ n − 1 or p ≥ ρ
/// nothing is lost. `module` takes all positions of a module for one vector: far fewer coefficients for the same p. The sign of u_p is that of
/// its entry of largest magnitude, made positive. Source: Reversible Model Merging for Low-rank Weights, arXiv 2510.14163 (by position; by module is ours).
package struct ReversibleBasis: Sendable {
  package enum Granularity: String, Sendable, CaseIterable {
    case position
    case module
  }

  /// The basis of one group of vectors.
  package struct Part: Sendable {
    /// `length` values.
    package var mean: [Double]
    /// components × length, by rows.
    package var directions: [Double]
    /// models × components, by rows.
    package var coefficients: [Double]
    /// Σ over the models of what is lost, squared, and of all there was.
    package var lost: Double
    package var total: Double
  }

  package let models: Int
  package let components: Int

  /// As many components as can matter for `models` vectors of `length` values each, at most `wanted`.
  package static func components(_ wanted: Int, models: Int, length: Int) -> Int { max(0, min(wanted, models - 1, length)) }

  package init(models: Int, components: Int) {
    self.models = models
    self.components = components
  }

  /// The basis of the vectors that stand one behind the other in `vectors` (models × length). Changes nothing else; NaN in gives NaN out.
  ///
  /// The singular vectors come from one-sided Jacobi rotations of the n columns: exact to rounding also for small singular values.
  package func fit(_ vectors: [Double], length: Int) -> Part {
    var part = Part(
      mean: [Double](repeating: 0, count: length), directions: [Double](repeating: 0, count: components * length),
      coefficients: [Double](repeating: 0, count: models * components), lost: 0, total: 0)
    guard length > 0, models > 0, vectors.count == models * length else { return part }
    for model in 0..<models { for i in 0..<length { part.mean[i] += vectors[model * length + i] / Double(models) } }
    var columns = vectors
    for model in 0..<models {
      for i in 0..<length {
        part.total += vectors[model * length + i] * vectors[model * length + i]
        columns[model * length + i] -= part.mean[i]
      }
    }
    // Row k of `turns` holds what model k has of each rotated column.
    var turns = [Double](repeating: 0, count: models * models)
    for model in 0..<models { turns[model * models + model] = 1 }
    rotate(&columns, length, &turns)
    let squares = (0..<models).map { Self.dot(columns, $0 * length, columns, $0 * length, length) }
    let order = squares.indices.sorted { (-squares[$0], $0) < (-squares[$1], $1) }
    let floor = (squares.max() ?? 0) * 0x1p-100
    for (place, column) in order.enumerated() {
      guard place < components, squares[column] > floor else {
        part.lost += squares[column]
        continue
      }
      let norm = squares[column].squareRoot()
      let values = columns[column * length..<(column + 1) * length]
      let largest = values.max { (abs($0)) < (abs($1)) } ?? 0
      let sign: Double = largest < 0 ? -1 : 1
      for (i, value) in values.enumerated() { part.directions[place * length + i] = sign * value / norm }
      for model in 0..<models { part.coefficients[model * components + place] = sign * norm * turns[model * models + column] }
    }
    return part
  }

  private static func dot(_ x: [Double], _ a: Int, _ y: [Double], _ b: Int, _ count: Int) -> Double {
    var sum = 0.0
    for i in 0..<count { sum += x[a + i] * y[b + i] }
    return sum
  }

  /// Makes the columns orthogonal to each other; `turns` takes the same rotations.
  private func rotate(_ columns: inout [Double], _ length: Int, _ turns: inout [Double]) {
    for _ in 0..<60 {
      var isDone = true
      for p in 0..<models {
        for q in p + 1..<max(models, p + 1) {
          let (a, b) = (
            Self.dot(columns, p * length, columns, p * length, length), Self.dot(columns, q * length, columns, q * length, length)
          )
          let c = Self.dot(columns, p * length, columns, q * length, length)
          guard abs(c) > 0x1p-50 * (a * b).squareRoot(), a > 0, b > 0 else { continue }
          isDone = false
          let zeta = (b - a) / (2 * c)
          let tangent = (zeta >= 0 ? 1 : -1) / (abs(zeta) + (1 + zeta * zeta).squareRoot())
          let cosine = 1 / (1 + tangent * tangent).squareRoot()
          let sine = cosine * tangent
          for i in 0..<length {
            let (x, y) = (columns[p * length + i], columns[q * length + i])
            columns[p * length + i] = cosine * x - sine * y
            columns[q * length + i] = sine * x + cosine * y
          }
          for model in 0..<models {
            let (x, y) = (turns[model * models + p], turns[model * models + q])
            turns[model * models + p] = cosine * x - sine * y
            turns[model * models + q] = sine * x + cosine * y
          }
        }
      }
      if isDone { return }
    }
  }
}

extension LowRankAlgebra {
  /// The same product with √σ in both factors, its units in descending order, in which the entry of B of largest magnitude is positive: factors of one
  /// product that were stored in different ways become equal, but for equal singular values. Columns beyond the product's rank are zeros.
  package func balanced(_ product: LowRank, rank: Int) throws(IngotError) -> LowRank {
    let result = try empty(outputs: product.outputs, inputs: product.inputs, rank: rank)
    result.a.fill(0)
    result.b.fill(0)
    try workspace.scope { () throws(IngotError) in
      let found = try truncated(try svd(product), .all)
      result.a.copy(found.a)
      result.b.copy(found.b)
      for unit in 0..<(workspace.isMeasuring ? 0 : min(rank, found.rank)) {
        var largest = 0.0
        for row in 0..<found.b.rows where abs(found.b[row, unit]) > abs(largest) { largest = found.b[row, unit] }
        guard largest < 0 else { continue }
        result.a.columns(unit..<unit + 1).scale(by: -1)
        result.b.columns(unit..<unit + 1).scale(by: -1)
      }
    }
    return result
  }
}
