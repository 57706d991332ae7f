import Foundation
import IngotErrors
import IngotJSON
import IngotLinearAlgebra
import IngotMethods
import IngotTensors
import Testing

/// Dense matrices of the tests, by rows.
private typealias Rows = [[Double]]

private func golden() throws -> JSONValue {
  let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent(
    "Golden/lora.json")
  return try JSON.parse([UInt8](try Data(contentsOf: path)), origin: path.path)
}

private func rows(_ value: JSONValue?) throws -> Rows {
  try #require(value?.asArray).map { try #require($0.asArray).map { try #require($0.asDouble) } }
}

private func largest(_ x: Rows, _ y: Rows) -> Double {
  guard x.count == y.count else { return .infinity }
  return zip(x, y).flatMap { a, b in a.count == b.count ? zip(a, b).map { abs($0 - $1) } : [.infinity] }.max() ?? 0
}

private func sum(_ parts: [Rows], _ weights: [Double]) -> Rows {
  guard let first = parts.first else { return [] }
  return first.indices.map { i in first[i].indices.map { j in zip(parts, weights).reduce(0.0) { $0 + $1.0[i][j] * $1.1 } } }
}

/// Factors in a workspace, and what they come to.
private struct Bench {
  let workspace: MatrixWorkspace
  let low: LowRankAlgebra

  init(_ workspace: MatrixWorkspace? = nil) throws {
    self.workspace = try workspace ?? MatrixWorkspace(capacity: 256 << 20)
    low = LowRankAlgebra(try LinearAlgebra.load(), self.workspace)
  }

  /// `b` is outputs × rank, `a` rank × inputs, as in an adapter's file.
  func factors(_ b: Rows, _ a: Rows) throws -> LowRank {
    let made = try low.empty(outputs: b.count, inputs: a.first?.count ?? 0, rank: a.count)
    for (i, row) in b.enumerated() { for (j, value) in row.enumerated() { made.b[i, j] = value } }
    for (j, row) in a.enumerated() { for (i, value) in row.enumerated() { made.a[i, j] = value } }
    return made
  }

  func random(_ outputs: Int, _ inputs: Int, _ rank: Int, seed: UInt64) throws -> LowRank {
    let made = try low.empty(outputs: outputs, inputs: inputs, rank: rank)
    var index: UInt64 = 0
    func draw() -> Double {
      index += 1
      return Double(Philox.word(seed: seed, stream: 3, index: index)) * 0x1p-31 - 1
    }
    for i in 0..<outputs { for j in 0..<rank { made.b[i, j] = draw() } }
    for i in 0..<inputs { for j in 0..<rank { made.a[i, j] = draw() } }
    return made
  }

  func dense(_ product: LowRank) -> Rows {
    (0..<product.outputs).map { i in
      (0..<product.inputs).map { j in (0..<product.rank).reduce(0.0) { $0 + product.b[i, $1] * product.a[j, $1] } }
    }
  }

  func merged(_ name: String, _ terms: [LowRankTerm], _ options: LowRankOptions = .init(), seed: UInt64 = 0) throws -> Rows {
    let method = try LowRankMethods.make(name, options)
    return dense(try method.merge(terms, key: DrawKey(seed: seed, stream: 7), low))
  }
}

private func options(_ change: (inout LowRankOptions) -> Void) -> LowRankOptions {
  var options = LowRankOptions()
  change(&options)
  return options
}

@Suite("Merges of low-rank factors") struct LowRankTests {
  private func goldenTerms(_ bench: Bench) throws -> [LowRankTerm] {
    let root = try golden()
    let weights = try #require(root["weights"]?.asArray).map { try #require($0.asDouble) }
    return try zip(try #require(root["factors"]?.asArray), weights).map { entry, weight in
      LowRankTerm(try bench.factors(try rows(entry["b"]), try rows(entry["a"])), weight: weight, scale: 1)
    }
  }

  @Test func goldenSums() throws {
    let bench = try Bench()
    let terms = try goldenTerms(bench)
    let root = try golden()
    #expect(largest(try bench.merged("linear", terms), try rows(root["linear"])) < 1e-12)
    for (name, more) in [("cat", LowRankOptions()), ("svd", options { $0.rank = .all }), ("knots", LowRankOptions())] {
      #expect(largest(try bench.merged(name, terms, more), try rows(root["sum"])) < 1e-12, "\(name)")
    }
  }

  /// Memory grows with the sum of a module's sides, not with their product: no method forms a matrix of the weight's shape.
  @Test(arguments: LowRankMethods.all.map(\.name)) func nothingOfTheWeightsSize(_ name: String) throws {
    func bytes(_ outputs: Int, _ inputs: Int) throws -> Int {
      let workspace = MatrixWorkspace.measuring()
      let bench = try Bench(workspace)
      let terms = try (0..<4).map { _ in
        LowRankTerm(try bench.low.empty(outputs: outputs, inputs: inputs, rank: 16), weight: 0.25, scale: 1)
      }
      _ = try LowRankMethods.make(name, LowRankOptions()).merge(terms, key: DrawKey(seed: 0, stream: 7), bench.low)
      return workspace.peak
    }
    let (m, n) = (4096, 11_008)
    let once = try bytes(m, n)
    #expect(once < 4 * m * n)
    #expect(try bytes(4 * m, 4 * n) <= 4 * once)
  }

  @Test func goldenKnOTS() throws {
    let bench = try Bench()
    let root = try #require(try golden()["knots"])
    let deltas = try #require(root["deltas"]?.asArray).map { try rows($0) }
    let identity: Rows = [[1, 0], [0, 1]]
    let terms = try deltas.map { LowRankTerm(try bench.factors(identity, $0), weight: 1, scale: 1) }
    #expect(largest(try bench.merged("knots_ties", terms), try rows(root["ties"])) < 1e-9)
    // Whatever the factors, as long as their products are these.
    let other = try deltas.map { delta in
      LowRankTerm(
        try bench.factors([[2, 1], [0, 0.5]], [zip(delta[0], delta[1]).map { ($0 - 2 * $1) / 2 }, delta[1].map { 2 * $0 }]), weight: 1,
        scale: 1)
    }
    #expect(largest(bench.dense(other[0].factors), deltas[0]) < 1e-12)
    #expect(largest(try bench.merged("knots_ties", other), try rows(root["ties"])) < 1e-9)
  }

  @Test func goldenLego() throws {
    let bench = try Bench()
    let terms = try goldenTerms(bench).map { LowRankTerm($0.factors, weight: 1, scale: 1) }
    let root = try #require(try golden()["lego"])
    for (reweight, key) in [(false, "raw"), (true, "reweighted")] {
      let more = options {
        $0.start = .first
        $0.reweight = reweight
      }
      #expect(largest(try bench.merged("lego", terms, more), try rows(root[key])) < 1e-9, "\(key)")
    }
  }

  @Test func goldenExtraction() throws {
    let bench = try Bench()
    let root = try #require(try golden()["extract"])
    let wanted = try rows(root["delta"])
    for isTurned in [false, true] {
      let delta: Matrix<Float> = isTurned ? try bench.workspace.matrix(3, 2) : try bench.workspace.matrix(2, 3)
      for i in 0..<2 { for j in 0..<3 { if isTurned { delta[j, i] = Float(wanted[i][j]) } else { delta[i, j] = Float(wanted[i][j]) } } }
      let found = try BestApproximation(rule: .fixed(1), cap: 1, isExact: true).factor(delta, key: DrawKey(seed: 0, stream: 0), bench.low)
      let dense = bench.dense(found.factors)
      for i in 0..<2 { for j in 0..<3 { #expect(abs((isTurned ? dense[j][i] : dense[i][j]) - (try rows(root["rank1"]))[i][j]) < 1e-6) } }
      #expect(abs((try #require(found.error)) - (1.0 / 6).squareRoot()) < 1e-6)
      #expect(abs(found.norm - 5.0.squareRoot()) < 1e-6)
    }
  }

  @Test(arguments: LowRankMethods.all.map(\.name))
  func oneAdapterReturnsItself(_ name: String) throws {
    let bench = try Bench()
    let term = LowRankTerm(try bench.random(23, 17, 5, seed: 2), weight: 1.5, scale: 0.5)
    var more = LowRankOptions()
    if name.hasPrefix("dare") || ["ties", "magnitude_prune"].contains(name) { more.density = 1 }
    if name == "knots_dare" { more.drop = 0 }
    if name == "lego" { more.clusters = 5 }
    let wanted = sum([bench.dense(term.factors)], [0.75])
    #expect(largest(try bench.merged(name, [term], more), wanted) < 1e-10)
  }

  /// Also where the ranks add up to more than a side has.
  @Test(arguments: [(40, 30, [3, 5, 2]), (7, 30, [4, 4, 4]), (30, 7, [4, 5, 6]), (1, 9, [1, 2]), (9, 1, [2, 1])])
  func exactSums(_ outputs: Int, _ inputs: Int, _ ranks: [Int]) throws {
    let bench = try Bench()
    let weights = [0.7, -1.2, 2.5]
    let terms = try ranks.enumerated().map { index, rank in
      LowRankTerm(try bench.random(outputs, inputs, rank, seed: UInt64(index)), weight: weights[index], scale: 2)
    }
    let wanted = sum(terms.map { bench.dense($0.factors) }, weights.map { 2 * $0 })
    for (name, more) in [("cat", LowRankOptions()), ("svd", options { $0.rank = .all }), ("knots", LowRankOptions())] {
      #expect(largest(try bench.merged(name, terms, more), wanted) < 1e-10, "\(name)")
    }
    // Norm, inner product and spectrum, against the dense matrix.
    let stacked = try bench.low.stacked(terms)
    let square = wanted.flatMap(\.self).reduce(0) { $0 + $1 * $1 }
    #expect(abs(try bench.low.norm(stacked) - square.squareRoot()) < 1e-9)
    #expect(abs(try bench.low.spectrum(stacked).reduce(0) { $0 + $1 * $1 } - square) < 1e-8)
  }

  /// KnOTS by its definition: SVD of the dense matrices side by side.
  @Test(arguments: [1.0, 0.4]) func knotsByItsDefinition(_ density: Double) throws {
    let bench = try Bench()
    let (outputs, inputs, ranks) = (19, 14, [3, 4, 2])
    let terms = try ranks.enumerated().map { index, rank in
      LowRankTerm(try bench.random(outputs, inputs, rank, seed: 20 + UInt64(index)), weight: [1, 0.5, -2][index], scale: 1)
    }
    let deltas = terms.map { term in bench.dense(term.factors).map { $0.map { $0 * term.weight } } }
    let side: Matrix<Double> = try bench.workspace.matrix(outputs, inputs * 3)
    for (t, delta) in deltas.enumerated() { for i in 0..<outputs { for j in 0..<inputs { side[i, t * inputs + j] = delta[i][j] } } }
    let (u, s, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
      try bench.workspace.matrix(outputs, outputs), try bench.workspace.matrix(1, outputs), try bench.workspace.matrix(outputs, inputs * 3)
    )
    try bench.low.algebra.svd(side, u: u, values: s, v: v, bench.workspace)
    let p = (0..<outputs).count { s[$0] > 1e-9 }
    #expect(p == ranks.reduce(0, +))
    // One aligned matrix for each model, p × inputs, trimmed to its largest entries.
    var parts = (0..<3).map { t in (0..<p).map { k in (0..<inputs).map { j in s[k] * v[k, t * inputs + j] } } }
    let keep = Int(density * Double(p * inputs))
    for t in 0..<3 where density < 1 {
      let threshold = parts[t].flatMap { $0.map { abs($0) } }.sorted(by: >)[keep - 1]
      parts[t] = parts[t].map { $0.map { abs($0) >= threshold ? $0 : 0 } }
    }
    let merged = (0..<p).map { k in
      (0..<inputs).map { j in
        let values = parts.map { $0[k][j] }
        let total = values.reduce(0, +)
        let agreeing = values.filter { $0 * total > 0 }
        return agreeing.isEmpty ? 0 : agreeing.reduce(0, +) / Double(agreeing.count)
      }
    }
    let wanted = (0..<outputs).map { i in (0..<inputs).map { j in (0..<p).reduce(0.0) { $0 + u[i, $1] * merged[$1][j] } } }
    #expect(largest(try bench.merged("knots_ties", terms, options { $0.density = density }), wanted) < 1e-9)
  }

  @Test func legoIsExactWithAClusterForEachUnit() throws {
    let bench = try Bench()
    let terms = try (0..<3).map { LowRankTerm(try bench.random(20, 15, 3, seed: 40 + UInt64($0)), weight: [1, -0.5, 2][$0], scale: 1) }
    let wanted = sum(terms.map { bench.dense($0.factors) }, [1, -0.5, 2])
    let more = options {
      $0.clusters = 9
      $0.start = .first
      $0.reweight = false
    }
    #expect(largest(try bench.merged("lego", terms, more), wanted) < 1e-10)
    // Two copies of one adapter have each unit twice: its clusters are those of one.
    let twice = [terms[0], terms[0]]
    let one = bench.dense(terms[0].factors)
    #expect(largest(try bench.merged("lego", twice, options { $0.start = .first }), one) < 1e-10)
    for seed in 0..<5 { #expect(largest(try bench.merged("lego", twice, seed: UInt64(seed)), one) < 1e-10) }
  }

  @Test func projectedSubspacesAreOrthogonal() throws {
    let bench = try Bench()
    let factors = try (0..<3).map { try bench.random(12, 40, 4, seed: 60 + UInt64($0)) }
    let terms = factors.map { LowRankTerm($0, weight: 1, scale: 1) }
    let method = try LowRankMethods.make("orthogonal", LowRankOptions())
    let result = try method.merge(terms, key: DrawKey(seed: 0, stream: 0), bench.low)
    for first in 0..<3 {
      for second in 0..<first {
        let product: Matrix<Double> = try bench.workspace.matrix(4, 4)
        try bench.low.algebra.multiply(
          result.a.columns(4 * first..<4 * first + 4), .transposed, result.a.columns(4 * second..<4 * second + 4), .plain, into: product)
        #expect(product.norm < 1e-12)
      }
    }
    // What is orthogonal already stays as it is; what is another's subspace goes.
    let parts = (0..<3).map { LowRankTerm(LowRank(b: factors[$0].b, a: result.a.columns(4 * $0..<4 * $0 + 4)), weight: 1, scale: 1) }
    #expect(largest(try bench.merged("orthogonal", parts), try bench.merged("cat", parts)) < 1e-10)
    #expect(largest(try bench.merged("orthogonal", [terms[0], terms[0]]), bench.dense(factors[0])) < 1e-10)
  }

  @Test func continualMerging() throws {
    let bench = try Bench()
    let factors = try (0..<3).map { try bench.random(6, 8, 2, seed: 80 + UInt64($0)) }
    var b = bench.dense(LowRank(b: factors[0].b, a: try bench.factors([[1, 0]], [[1, 0], [0, 1]]).a))
    for step in 1..<3 {
      let rate = 1 / Double(step + 1).squareRoot()
      for i in 0..<6 { for j in 0..<2 { b[i][j] += rate * (factors[step].b[i, j] - b[i][j]) } }
    }
    let wanted = (0..<6).map { i in (0..<8).map { j in (0..<2).reduce(0.0) { $0 + b[i][$1] * factors[2].a[j, $1] } } }
    #expect(largest(try bench.merged("sequential", factors.map { LowRankTerm($0, weight: 1, scale: 1) }), wanted) < 1e-12)
  }

  @Test func droppingIsRandomAndRescales() throws {
    let bench = try Bench()
    let terms = [LowRankTerm(try bench.random(200, 100, 4, seed: 90), weight: 1, scale: 1)]
    let method = try LowRankMethods.make("dare_linear", options { $0.density = 0.25 })
    let found = try method.merge(terms, key: DrawKey(seed: 5, stream: 6), bench.low)
    var kept = 0
    for i in 0..<200 {
      for j in 0..<4 where found.b[i, j] != 0 {
        kept += 1
        #expect(abs(found.b[i, j] - 4 * terms[0].factors.b[i, j]) < 1e-12)
      }
    }
    #expect(kept > 140 && kept < 260)
  }

  /// Matrices of a weight's size would be 256 MiB and more; all methods together stay far below.
  @Test(arguments: LowRankMethods.all.map(\.name))
  func noMatrixOfTheWeightsSize(_ name: String) throws {
    let bench = try Bench(MatrixWorkspace.measuring())
    let (outputs, inputs) = (8192, 8192)
    let terms = try (0..<4).map { _ in
      LowRankTerm(try bench.low.empty(outputs: outputs, inputs: inputs, rank: 16), weight: 1, scale: 1)
    }
    let method = try LowRankMethods.make(name, LowRankOptions())
    let result = try method.merge(terms, key: DrawKey(seed: 0, stream: 0), bench.low)
    #expect(bench.workspace.peak < outputs * inputs)
    #expect(result.rank == (try method.rankBound([16, 16, 16, 16], outputs: outputs, inputs: inputs)))
  }

  /// What a measuring run asks for is enough for the run.
  @Test(arguments: LowRankMethods.all.map(\.name))
  func measuredMemoryIsEnough(_ name: String) throws {
    for (outputs, inputs) in [(30, 20), (5, 40), (40, 5)] {
      let measuring = try Bench(MatrixWorkspace.measuring())
      func terms(_ bench: Bench) throws -> [LowRankTerm] {
        try (0..<3).map { LowRankTerm(try bench.random(outputs, inputs, 4, seed: UInt64($0)), weight: 1, scale: 1) }
      }
      let method = try LowRankMethods.make(name, LowRankOptions())
      let bound = try method.merge(try terms(measuring), key: DrawKey(seed: 0, stream: 0), measuring.low).rank
      let bench = try Bench(try MatrixWorkspace(capacity: measuring.workspace.peak + 64))
      let found = try method.merge(try terms(bench), key: DrawKey(seed: 0, stream: 0), bench.low)
      #expect(found.rank <= bound)
      #expect(bench.dense(found).allSatisfy { $0.allSatisfy(\.isFinite) })
    }
  }

  @Test func rankRules() {
    let values = [4.0, 2, 1, 0.5, 0]
    #expect(RankRule.all.rank(values) == 4)
    #expect(RankRule.fixed(9).rank(values) == 4)
    #expect(RankRule.fixed(2).rank(values) == 2)
    #expect(RankRule.energy(1).rank(values) == 4)
    #expect(RankRule.energy(0.75).rank(values) == 1)
    #expect(RankRule.energy(0.76).rank(values) == 2)
    #expect(RankRule.energy(0.75).rank(values, total: 40) == 4)
    #expect(RankRule.spectral(0.25).rank(values) == 2)
    #expect(RankRule.spectral(0).rank(values) == 4)
    #expect(RankRule.energy(0.5).rank([0, 0]) == 0)
    #expect(RankRule.fixed(3).rank([]) == 0)
  }

  /// Large matrices: the random projection against the best there is, for a flat and a falling spectrum.
  @Test(arguments: [0.0, 0.7]) func randomProjection(_ decay: Double) throws {
    let bench = try Bench()
    let (rows, columns, rank) = (420, 300, 20)
    let left = try bench.random(rows, columns, columns, seed: 100)
    for j in 0..<columns {
      let factor = pow(Double(j + 1), -decay)
      for i in 0..<rows { left.b[i, j] *= factor }
    }
    let delta: Matrix<Float> = try bench.workspace.matrix(rows, columns)
    let dense: Matrix<Double> = try bench.workspace.matrix(rows, columns)
    try bench.low.algebra.multiply(left.b, .plain, left.a, .transposed, into: dense)
    delta.copy(dense)
    let key = DrawKey(seed: 3, stream: 4)
    let exact = try BestApproximation(rule: .fixed(rank), cap: rank, isExact: true).factor(delta, key: key, bench.low)
    let quick = try BestApproximation(rule: .fixed(rank), cap: rank, isExact: false).factor(delta, key: key, bench.low)
    let least = try bench.low.workspace.scope { () throws(IngotError) -> Double in
      let (u, s, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
        try bench.workspace.matrix(rows, columns), try bench.workspace.matrix(1, columns), try bench.workspace.matrix(columns, columns)
      )
      let norm = dense.norm
      try bench.low.algebra.svd(dense, u: u, values: s, v: v, bench.workspace)
      return (rank..<columns).reduce(0.0) { $0 + s[$1] * s[$1] }.squareRoot() / norm
    }
    let (exactError, quickError) = (try #require(exact.error), try #require(quick.error))
    #expect(abs(exactError - least) < 1e-5)
    #expect(quickError < least * 1.02 && quickError > least * (1 - 1e-5))
    // The error that is reported is the one there is.
    let again: Matrix<Double> = try bench.workspace.matrix(rows, columns)
    again.copy(delta)
    try bench.low.algebra.multiply(quick.factors.b, .plain, quick.factors.a, .transposed, into: again, alpha: -1, beta: 1)
    let found = again.norm
    again.copy(delta)
    #expect(abs(found / again.norm - quickError) < 1e-5)
  }

  @Test func nothingToFactor() throws {
    let bench = try Bench()
    let delta: Matrix<Float> = try bench.workspace.matrix(30, 20)
    delta.fill(0)
    for isExact in [true, false] {
      let found = try BestApproximation(rule: .energy(0.9), cap: 8, isExact: isExact).factor(
        delta, key: DrawKey(seed: 0, stream: 0), bench.low)
      #expect(found.error == nil && found.norm == 0 && found.factors.rank == 1)
      #expect(found.factors.b.norm == 0)
    }
    let zeros = LowRankTerm(LowRank(b: try bench.workspace.matrix(6, 2), a: try bench.workspace.matrix(5, 2)), weight: 1, scale: 1)
    zeros.factors.b.fill(0)
    zeros.factors.a.fill(0)
    for method in LowRankMethods.all { #expect(try bench.merged(method.name, [zeros, zeros]).allSatisfy { $0.allSatisfy { $0 == 0 } }) }
  }

  @Test func whatCannotBeMerged() throws {
    let bench = try Bench()
    let four = LowRankTerm(try bench.random(6, 5, 4, seed: 1), weight: 1, scale: 1)
    let other = LowRankTerm(try bench.random(6, 4, 4, seed: 1), weight: 1, scale: 1)
    let infinite = LowRankTerm(try bench.random(6, 5, 4, seed: 1), weight: 1, scale: 1)
    infinite.factors.a[0, 0] = .infinity
    for method in LowRankMethods.all {
      let made = try method.make(LowRankOptions())
      #expect(throws: IngotError.self) { try made.merge([], key: DrawKey(seed: 0, stream: 0), bench.low) }
      #expect(throws: IngotError.self) { try made.merge([four, other], key: DrawKey(seed: 0, stream: 0), bench.low) }
      if ["linear", "sequential"].contains(method.name) || method.name == "ties" {
        #expect(throws: IngotError.self) { try made.rankBound([4, 2], outputs: 6, inputs: 5) }
      }
    }
    // Where values decide, they must be numbers.
    for name in ["svd", "ties", "knots_ties", "lego", "orthogonal"] {
      #expect(throws: IngotError.self, "\(name)") { try bench.merged(name, [infinite, four]) }
    }
    #expect(throws: IngotError.self) { try LowRankMethods.make("cat", options { $0.density = 0.5 }) }
    #expect(throws: IngotError.self) { try LowRankMethods.make("ties", options { $0.density = 0 }) }
    #expect(throws: IngotError.self) { try LowRankMethods.make("knots_dare", options { $0.drop = 1 }) }
    #expect(throws: IngotError.self) { try LowRankMethods.make("lego", options { $0.clusters = 0 }) }
    #expect(throws: IngotError.self) { try LowRankMethods.make("", LowRankOptions()) }
  }
}
