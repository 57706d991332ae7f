internal import IngotErrors
package import IngotTensors

/// The Gram matrix ⟨vᵢ, vⱼ⟩ of a job's tensors, from which every norm, angle and mean direction follows without another pass.
package struct GramMatrix: Sendable {
  package let count: Int
  private let values: [Double]

  /// Sums that a round needs for `count` vectors.
  package static func sums(_ count: Int) -> Int { count * (count + 1) / 2 }

  /// - Parameters: `sums` in the order of `accumulate`.
  package init(count: Int, sums: [Double]) {
    self.count = count
    values = sums
  }

  package subscript(i: Int, j: Int) -> Double {
    let low = min(i, j)
    let high = max(i, j)
    let index = high * (high + 1) / 2 + low
    return values.indices.contains(index) ? values[index] : 0
  }

  package func norm(_ i: Int) -> Double { max(self[i, i], 0).squareRoot() }

  /// Adds one tile of every vector to the block's sums.
  package static func accumulate(_ vectors: FloatTable, _ tile: Tile, _ statistic: BlockStatistic) {
    var slot = 0
    for high in 0..<vectors.rows {
      for low in 0...high {
        tile.kernels.accumulateDot(vectors[low], vectors[high], into: statistic.sum(slot))
        slot += 1
      }
    }
  }

  /// ‖Σ cᵢ vᵢ‖² for coefficients c.
  package func quadratic(_ coefficients: [Double]) -> Double {
    var sum = 0.0
    for i in 0..<count { for j in 0..<count { sum += coefficients[i] * coefficients[j] * self[i, j] } }
    return max(sum, 0)
  }

  /// ⟨Σ cᵢ vᵢ, vⱼ⟩.
  package func product(_ coefficients: [Double], with j: Int) -> Double {
    (0..<count).reduce(0) { $0 + coefficients[$1] * self[$1, j] }
  }
}
