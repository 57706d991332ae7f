internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotTensors

/// "Merging LoRAs like Playing LEGO" (Zhao et al. 2024, arXiv 2409.16167): the units of all adapters (a column of A with its column of B) are
/// clustered, and each cluster's centroid is a unit of the result.
///
/// Reweighting repairs the norm that averaging takes away: a centroid is scaled to the mean norm of its units; where the number of clusters k
/// is not the mean rank r, the change is scaled by √(r/k). The purpose of both is the paper's, the formulas are our reconstruction. Lloyd's
/// iterations run on the Gram matrix of the units, so their cost does not depend on the weight's size.
struct LoRALego: LowRankMerge {
  let clusters: Int?
  let start: LowRankOptions.Start
  let reweights: Bool

  static let method = LowRankMethod(
    name: "lego", summary: "Cluster the units of all adapters; each cluster's centroid, at its units' mean norm, is a unit of the result",
    paper: "arXiv 2409.16167", options: [.clusters, .start, .reweight],
    make: { (options) throws(IngotError) in
      LoRALego(clusters: options.clusters, start: options.start ?? .random, reweights: options.reweight ?? true)
    })

  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int { count(ranks) }

  /// The clusters asked for, or as many as the largest rank; never more than there are units.
  private func count(_ ranks: [Int]) -> Int { max(1, min(clusters ?? ranks.max() ?? 1, ranks.reduce(0, +))) }

  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let workspace = algebra.workspace
    let ranks = terms.map(\.factors.rank)
    let total = ranks.reduce(0, +)
    let k = count(ranks)
    let result = try algebra.empty(outputs: outputs, inputs: inputs, rank: k)
    try workspace.scope { () throws(IngotError) in
      let units = try pooled(terms, algebra)
      let gram: Matrix<Double> = try workspace.matrix(total, total)
      let membership: Matrix<Double> = try workspace.matrix(total, k)
      try algebra.algebra.multiply(units.a, .transposed, units.a, .plain, into: gram)
      try algebra.algebra.multiply(units.b, .transposed, units.b, .plain, into: gram, beta: 1)
      try algebra.requireFinite(gram)
      guard !workspace.isMeasuring else { return }
      let clustering = UnitClustering(gram, count: k)
      let labels = clustering.labels(start: start, key: key)
      let scales = scales(clustering, labels, count: k, meanRank: Double(total) / Double(terms.count))
      membership.fill(0)
      for (unit, label) in labels.enumerated() { membership[unit, label] = scales[label] }
      try algebra.algebra.multiply(units.a, .plain, membership, .plain, into: result.a)
      try algebra.algebra.multiply(units.b, .plain, membership, .plain, into: result.b)
    }
    return result
  }

  /// All units side by side, √|weight · scale| in both halves.
  private func pooled(_ terms: [LowRankTerm], _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank {
    let (outputs, inputs) = try LowRankAlgebra.shape(of: terms)
    let units = try algebra.empty(outputs: outputs, inputs: inputs, rank: terms.reduce(0) { $0 + $1.factors.rank })
    var first = 0
    for term in terms {
      let range = first..<first + term.factors.rank
      first = range.upperBound
      let root = abs(term.coefficient).squareRoot()
      let (a, b) = (units.a.columns(range), units.b.columns(range))
      a.copy(term.factors.a)
      a.scale(by: term.coefficient < 0 ? -root : root)
      b.copy(term.factors.b)
      b.scale(by: root)
    }
    return units
  }

  /// What a cluster's units are multiplied by before they are summed.
  private func scales(_ clustering: UnitClustering, _ labels: [Int], count: Int, meanRank: Double) -> [Double] {
    // √(r/k) for the product is its root for each factor.
    let output = reweights ? (meanRank / Double(count)).squareRoot().squareRoot() : 1
    return (0..<count).map { cluster in
      let members = labels.indices.filter { labels[$0] == cluster }
      guard !members.isEmpty else { return 0 }
      let mean = 1 / Double(members.count)
      guard reweights else { return mean }
      let norm = clustering.squaredNorm(ofMeanOf: members).squareRoot()
      let wanted = members.reduce(0) { $0 + clustering[$1, $1].squareRoot() } * mean
      return mean * (norm > 0 ? wanted / norm : 1) * output
    }
  }
}

/// k-means of units given by their Gram matrix. Ties go to the lowest index; an empty cluster takes the unit that is farthest from its centroid.
struct UnitClustering {
  private static let iterations = 100
  private let gram: [Double]
  private let size: Int
  private let count: Int

  init(_ gram: Matrix<Double>, count: Int) {
    size = gram.rows
    self.count = count
    var values: [Double] = []
    values.reserveCapacity(size * size)
    for row in 0..<gram.rows { for column in 0..<gram.columns { values.append(gram[row, column]) } }
    self.gram = values
  }

  subscript(row: Int, column: Int) -> Double { gram[row * size + column] }

  /// ‖mean of the units‖².
  func squaredNorm(ofMeanOf members: [Int]) -> Double {
    var sum = 0.0
    for row in members { for column in members { sum += self[row, column] } }
    return max(0, sum) / Double(members.count * members.count)
  }

  /// The cluster of each unit, after at most 100 of Lloyd's iterations.
  func labels(start: LowRankOptions.Start, key: DrawKey) -> [Int] {
    let seeds = start == .first ? Array(0..<count) : seeds(key)
    var labels = (0..<size).map { unit in
      nearest { self[unit, unit] + self[seeds[$0], seeds[$0]] - 2 * self[unit, seeds[$0]] }.cluster
    }
    for _ in 0..<Self.iterations {
      let next = step(labels)
      if next == labels { break }
      labels = next
    }
    return labels
  }

  /// One of Lloyd's iterations.
  private func step(_ labels: [Int]) -> [Int] {
    let members = (0..<count).map { cluster in labels.indices.filter { labels[$0] == cluster } }
    let norms = members.map { $0.isEmpty ? 0 : squaredNorm(ofMeanOf: $0) }
    var next = labels
    var distances = [Double](repeating: 0, count: size)
    for unit in 0..<size {
      let found = nearest { cluster in
        guard !members[cluster].isEmpty else { return .infinity }
        let inner = members[cluster].reduce(0) { $0 + self[unit, $1] } / Double(members[cluster].count)
        return self[unit, unit] - 2 * inner + norms[cluster]
      }
      next[unit] = found.cluster
      distances[unit] = found.distance
    }
    for cluster in 0..<count where !next.contains(cluster) {
      // Only units that leave company behind may move.
      let movable = (0..<size).filter { unit in next.indices.contains { $0 != unit && next[$0] == next[unit] } }
      guard let farthest = movable.max(by: { (distances[$0], $1) < (distances[$1], $0) }) else { continue }
      next[farthest] = cluster
      distances[farthest] = 0
    }
    return next
  }

  private func nearest(_ distance: (Int) -> Double) -> (cluster: Int, distance: Double) {
    var best = (cluster: 0, distance: Double.infinity)
    for cluster in 0..<count {
      let found = distance(cluster)
      if found < best.distance { best = (cluster, found) }
    }
    return best
  }

  /// k-means++: each next seed with a probability that goes with the squared distance to the nearest one there is.
  private func seeds(_ key: DrawKey) -> [Int] {
    func draw(_ index: Int) -> Double {
      (Double(Philox.word(seed: key.seed, stream: key.stream, index: UInt64(index))) + 0.5) * 0x1p-32
    }
    var seeds = [min(size - 1, Int(draw(0) * Double(size)))]
    while seeds.count < count {
      let distances = (0..<size).map { unit in
        seeds.contains(unit) ? 0 : seeds.reduce(Double.infinity) { min($0, max(0, self[unit, unit] + self[$1, $1] - 2 * self[unit, $1])) }
      }
      let total = distances.reduce(0, +)
      var rest = draw(seeds.count) * total
      var chosen: Int?
      for (unit, distance) in distances.enumerated() where distance > 0 {
        chosen = unit
        rest -= distance
        if rest < 0 { break }
      }
      // Where all the rest are copies of seeds, the first that is none.
      seeds.append(chosen ?? (0..<size).first { !seeds.contains($0) } ?? 0)
    }
    return seeds
  }
}
