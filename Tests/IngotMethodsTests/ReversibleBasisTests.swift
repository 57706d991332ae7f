import IngotErrors
import IngotLinearAlgebra
import IngotMethods
import Testing

/// The mean, directions and coefficients of one group of vectors.
@Suite struct ReversibleBasisTests {
  private func restored(_ part: ReversibleBasis.Part, _ model: Int, components: Int) -> [Double] {
    var found = part.mean
    for i in found.indices {
      for place in 0..<components {
        found[i] += part.coefficients[model * components + place] * part.directions[place * found.count + i]
      }
    }
    return found
  }

  private func agree(_ found: [Double], _ expected: [Double], _ tolerance: Double = 1e-9) -> Bool {
    found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= tolerance }
  }

  /// Worked numbers: four models' vectors of three values, one component.
  @Test func numbers() {
    let vectors = [1, 2, 0, 2, 4.1, 1, 3, 6, 0, 2, 4, 1]
    let part = ReversibleBasis(models: 4, components: 1).fit(vectors, length: 3)
    #expect(agree(part.mean, [2, 4.025, 0.5]))
    #expect(agree(part.directions, [0.4469299326, 0.8945551805, 0.0049663171], 1e-9), "\(part.directions)")
    #expect(agree(part.coefficients, [-2.2608873317, 0.0695747971, 2.2111932557, -0.019880721], 1e-9), "\(part.coefficients)")
    #expect(abs(part.lost.squareRoot() - 1.0006382783) < 1e-9)
  }

  @Test(arguments: [(2, 5), (3, 4), (5, 3), (4, 1), (6, 8)]) func nothingIsLostWithEnough(_ models: Int, _ length: Int) {
    let vectors = (0..<models * length).map { Double(($0 * 37 + 11) % 29) - 14 }
    let most = ReversibleBasis.components(.max, models: models, length: length)
    #expect(most == min(models - 1, length))
    var previous = Double.infinity
    for components in 0...most {
      let part = ReversibleBasis(models: models, components: components).fit(vectors, length: length)
      var distance = 0.0
      for model in 0..<models {
        for (i, value) in restored(part, model, components: components).enumerated() {
          let apart = value - vectors[model * length + i]
          distance += apart * apart
        }
      }
      // What it says is lost is lost, and never more than with fewer.
      #expect(abs(distance - part.lost) <= 1e-9 * part.total)
      #expect(part.lost <= previous + 1e-9)
      previous = part.lost
      // Directions are orthonormal, with the largest entry positive.
      for p in 0..<components {
        let row = Array(part.directions[p * length..<(p + 1) * length])
        let largest = row.max { abs($0) < abs($1) } ?? 0
        #expect(largest > 0)
        for q in 0...p {
          var product = 0.0
          for i in 0..<length { product += row[i] * part.directions[q * length + i] }
          #expect(abs(product - (p == q ? 1 : 0)) < 1e-9)
        }
      }
    }
    #expect(previous <= 1e-20 * 1e6)
  }

  @Test func degenerate() {
    // Equal vectors, zeros, one model, no values.
    let equal = ReversibleBasis(models: 3, components: 2).fit([1, 2, 1, 2, 1, 2], length: 2)
    #expect(equal.mean == [1, 2] && equal.lost == 0 && equal.coefficients.allSatisfy { $0 == 0 })
    let zero = ReversibleBasis(models: 2, components: 1).fit([0, 0, 0, 0], length: 2)
    #expect(zero.mean == [0, 0] && zero.directions == [0, 0] && zero.lost == 0)
    #expect(ReversibleBasis(models: 1, components: 0).fit([3, 4], length: 2).mean == [3, 4])
    #expect(ReversibleBasis(models: 2, components: 1).fit([], length: 0).mean.isEmpty)
    // Values of very different sizes.
    let wide = ReversibleBasis(models: 3, components: 2).fit([1e20, 0, -1e20, 1, 0, -1], length: 2)
    #expect(wide.lost <= 1e-20 * wide.total && wide.directions.allSatisfy(\.isFinite))
    #expect(ReversibleBasis.components(-3, models: 4, length: 4) == 0)
  }

  /// Factors of one product, stored in different ways, become equal.
  @Test func balancedFactorsDoNotDependOnTheStoredOnes() throws {
    let algebra = try LinearAlgebra.load()
    let workspace = try MatrixWorkspace(capacity: 1 << 22)
    let low = LowRankAlgebra(algebra, workspace)
    let one = try low.empty(outputs: 5, inputs: 4, rank: 2)
    let other = try low.empty(outputs: 5, inputs: 4, rank: 2)
    for unit in 0..<2 {
      for row in 0..<5 { one.b[row, unit] = Double((row * 3 + unit * 5) % 7) - 2 }
      for row in 0..<4 { one.a[row, unit] = Double((row * 5 + unit * 2) % 9) - 3 }
    }
    // B R and A R⁻ᵀ with R = [[2, 1], [0, −1]]: R⁻ᵀ = [[0.5, 0], [0.5, −1]].
    for row in 0..<5 {
      (other.b[row, 0], other.b[row, 1]) = (2 * one.b[row, 0], one.b[row, 0] - one.b[row, 1])
    }
    for row in 0..<4 {
      (other.a[row, 0], other.a[row, 1]) = (0.5 * one.a[row, 0] + 0.5 * one.a[row, 1], -one.a[row, 1])
    }
    let (x, y) = try algebra.withThreads(1) { () throws(IngotError) in (try low.balanced(one, rank: 3), try low.balanced(other, rank: 3)) }
    for (a, b) in [(x.a, y.a), (x.b, y.b)] {
      for row in 0..<a.rows {
        for unit in 0..<3 { #expect(abs(a[row, unit] - b[row, unit]) < 1e-9) }
        #expect(a[row, 2] == 0)
      }
    }
    let difference = try algebra.withThreads(1) { () throws(IngotError) in
      try low.inner(x, x) - 2 * low.inner(x, one) + low.inner(one, one)
    }
    #expect(abs(difference) < 1e-9)
  }
}
