import Foundation
import IngotTensors
import Testing

/// Steps of single methods: every instruction set against the scalar one bit by bit, and against their definitions.
@Suite struct StepTests {
  typealias Operation = CombinationTests.Operation

  static let operations: [Operation] =
    [
      Operation(name: "nearswap") { $0.nearswap($1[0], $1[1], t: 0.1, into: $2) },
      Operation(name: "nearswap backwards") { $0.nearswap($1[0], $1[1], t: -0.1, into: $2) },
      Operation(name: "ram") { $0.meanOfActive($1, epsilon: 0.02, unique: [1, 1.5, 2], into: $2) },
      Operation(name: "ram, everything active") { $0.meanOfActive($1, epsilon: 0, unique: [1, 1, 1], into: $2) },
      Operation(name: "select") { $0.selectImportant($1[0], threshold: 0.3, base: $1[1], other: $1[2], into: $2) },
      Operation(name: "agreeing") { $0.mergeAgreeing($1[0], $1, selected: nil, weights: [0.2, 0.5, 0.3], into: $2) },
      Operation(name: "agreeing, selected") { $0.mergeAgreeing($1[0], $1.dropFirst(), selected: $1[1], weights: [0.2, 0], into: $2) },
      Operation(name: "columns") {
        $0.columnCombination($1[0], $1[1], firstIndex: 5, columns: 21, weights: (0..<42).map { Float($0) * 0.1 }, into: $2)
      },
      Operation(name: "magmax") { $0.largest(of: $1, into: $2) },
      Operation(name: "consensus") { $0.consensus($1, thresholds: [0.4, 0.2, 0.6], atLeast: 2, into: $2) },
      Operation(name: "localize") { $0.localize($1, row: 1, threshold: 0.4, into: $2) },
      Operation(name: "consensus of a merge") { $0.consensus($1, merged: $1[2], thresholds: [0.4, 0.2, 0.6], atLeast: 1, into: $2) },
      Operation(name: "localize in a merge") { $0.localize($1, merged: $1[0], row: 1, threshold: 0.4, into: $2) },
      Operation(name: "signs") { $0.signs($1[0], size: 0.25, into: $2) },
      Operation(name: "positive part") { $0.votePart($1[0], .positive, weight: 0.7, into: $2) },
      Operation(name: "negative part") { $0.votePart($1[1], .negative, weight: 0.7, into: $2) },
      Operation(name: "positive weight") { $0.votePart($1[0], .positiveWeight, weight: 0.7, into: $2) },
      Operation(name: "negative weight") { $0.votePart($1[2], .negativeWeight, weight: 0.7, into: $2) },
      Operation(name: "informed") { $0.informed($1[0], by: $1[1], floor: 0.1, scale: 0.3, into: $2) },
      Operation(name: "information") { $0.informed(nil, by: $1[1], floor: 0.1, scale: 0.3, into: $2) },
      Operation(name: "ratio") { $0.ratio($1[0], $1[1], otherwise: 2, into: $2) },
      Operation(name: "unify") { $0.unify($1, into: $2) },
      Operation(name: "agreeing signs") { $0.keepAgreeing($1[0], with: $1[1], into: $2) },
      Operation(name: "slack") { $0.electWithSlack($1, weights: [1, 0.5, -0.25], normalize: true, slack: 0.4, into: $2) },
      Operation(name: "largest") { $0.electLargest($1, weights: [1, 0.5, -0.25], into: $2) },
      Operation(name: "largest, minus") { $0.electLargest($1, weights: [1, 0.5, 0.7], zeroSign: .negative, into: $2) },
      Operation(name: "largest, none") { $0.electLargest($1, weights: [1, 0.5, 0.7], zeroSign: .none, into: $2) },
      Operation(name: "slack, summed") { $0.electWithSlack($1, weights: [1, 0.5, 0.7], normalize: false, slack: 0.1, into: $2) },
      Operation(name: "protect") { $0.protect($1[0], share: 0.6, over: $1[1], into: $2) },
      Operation(name: "competition") { $0.competition($1, row: 1, bounds: [0.1, 1, 0, 2, 0.5, 0.7], pairwise: false, into: $2) },
      Operation(name: "competition, pairwise") {
        $0.competition($1, row: 2, bounds: [0.1, 1, 0, 2, 0.5, 0.7], pairwise: true, part: .positive, into: $2)
      },
      Operation(name: "competition, from 0.3 on") {
        $0.competition($1, row: 1, bounds: [0.1, 1, 0, 2, 0.5, 0.7], pairwise: false, least: 0.3, into: $2)
      },
      Operation(name: "competition, pairwise from 2 on") {
        $0.competition($1, row: 0, bounds: [0.1, 1, 0, 2, 0.5, 0.7], pairwise: true, least: 2, into: $2)
      },
      Operation(name: "competition, negative") {
        $0.competition($1, row: 0, bounds: [0, 1, 0, 2, 0.5, 0.5], pairwise: false, part: .negative, into: $2)
      },
      Operation(name: "balance") {
        $0.balance($1, scores: $1, limits: [0.1, 1, 0.3, 2, 1, 0, 2, -0.5, 3, 0.7, 0.5, 0.7, 1, 1, 1], into: $2)
      },
      Operation(name: "column sum") { $0.columnSum($1, firstIndex: 5, columns: 21, weights: (0..<63).map { Float($0) * 0.1 }, into: $2) },
      Operation(name: "significance") { $0.significanceSum($1, cuts: [0.1, 1, 3], value: 1.5, into: $2) },
      Operation(name: "bf16 steps") {
        $0.electAndMergeStepwise($1, weights: [1, 0.5, 0.25], normalize: true, dtype: .bf16, into: $2)
      },
      Operation(name: "f16 steps") {
        $0.electAndMergeStepwise($1, weights: [1, 0.5, 0.25], normalize: false, zeroSign: .negative, dtype: .f16, into: $2)
      },
    ]

  @Test(arguments: fastSets, operations) func raggedRunsMatchTheReference(_ set: InstructionSet, _ operation: Operation) {
    for kind in [Kind.normal, .bfloatDifferences, .denormals, .anyBits] {
      for count in raggedLengths {
        let rows = CombinationTests.rows(kind, count)
        let found = CombinationTests.result(operation, set, rows, shift: 1)
        let reference = CombinationTests.result(operation, .scalar, rows, shift: 0)
        #expect(found.bits == reference.bits, "\(operation.name), \(kind), \(count)")
        #expect(found.bordersAreIntact)
      }
    }
  }

  @Test(arguments: fastSets, [Kind.normal, .bfloatDifferences, .denormals, .anyBits]) func sumsMatchTheReference(
    _ set: InstructionSet, _ kind: Kind
  ) {
    for count in raggedLengths {
      let rows = CombinationTests.rows(kind, count)
      var results: [[UInt64]] = []
      for set in [set, .scalar] {
        let inputs = Rows(rows, shift: 1), output = Memory(count: count)
        let lanes = [Memory(lanes: [Double](repeating: 0.5, count: 16)), Memory(lanes: [Double](repeating: 0.25, count: 16))]
        let kernels = Kernels(set), counts = Memory(words: 6)
        let some = kernels.variance(inputs.table[0], inputs.table, into: output.floats, energy: lanes[0].lanes)
        kernels.accumulateEnergy(inputs.table[0], inputs.table[1], selected: output.floats, into: lanes[1].lanes)
        kernels.countActive(inputs.table, epsilon: 0.02, into: counts.counters)
        let sums = Memory<Double>([Double](repeating: 0, count: 3 * 21), filler: 12345.5)
        // SAFETY: as many sums as there are.
        let columns = unsafe ColumnSums(unsafe: sums.start, count: 63)
        kernels.accumulateColumnMoments(inputs.table[0], inputs.table[1], firstIndex: 5, columns: 21, into: columns)
        let scratch = Memory(count: Kernels.divergenceScratch(rowLength: count))
        let divergence = kernels.divergence(inputs.table[0], inputs.table[1], scratch: scratch.floats)
        let conflicts = (0..<4).map { _ in Memory(lanes: [Double](repeating: 0.125, count: 16)) }
        kernels.accumulateConflicts(
          inputs.table[0], inputs.table[1], opposite: conflicts[0].lanes, both: conflicts[1].lanes, opposed: conflicts[2].lanes,
          all: conflicts[3].lanes)
        let row = Memory(rows[0], shift: 1), keys = Memory(count: Kernels.trimScratch(rowLength: count))
        kernels.trimRow(row.floats, firstIndex: 77, ties: .hash, drop: count / 5, keep: count / 3, scratch: keys.floats)
        #expect(row.bordersAreIntact && keys.bordersAreIntact)
        results.append(conflicts.flatMap(\.bits) + row.bits.map(UInt64.init))
        results.append(
          lanes[0].bits + lanes[1].bits + counts.values + sums.bits + output.bits.map(UInt64.init) + [UInt64(some), divergence.bitPattern])
        #expect(sums.bordersAreIntact && scratch.bordersAreIntact && output.bordersAreIntact && lanes[0].bordersAreIntact)
      }
      #expect(results.count == 4 && results[0] == results[2] && results[1] == results[3], "\(kind), \(count)")
    }
  }

  // MARK: Definitions

  @Test(arguments: InstructionSet.available) func exponentialAndLogarithm(_ set: InstructionSet) {
    var source = Source(seed: 3)
    var x =
      (0..<5003).map { _ in Double.random(in: -699...0, using: &source) }
      + (0..<5000).map { _ in Double.random(in: -2...2, using: &source) }
    x += [0, -0.0, 1e-300, -1e-20, 0.5, -745, -1e308, -.infinity, .nan]
    let inputs = x
    Kernels(set).exponential(&x)
    for (input, found) in zip(inputs, x) {
      let expected = input > -700 ? exp(input) : 0
      #expect(abs(found - expected) <= 4e-16 * expected, "exp \(input)")
    }
    var y =
      (0..<5003).map { _ in exp(Double.random(in: -600...600, using: &source)) }
      + (0..<5000).map { _ in Double.random(in: 0.5...2, using: &source) }
    y += [1, 1 + 0x1p-52, 1 - 0x1p-53, 0.5.squareRoot(), 2.0.squareRoot(), 1e-307, 1e308]
    let arguments = y
    Kernels(set).logarithm(&y)
    for (input, found) in zip(arguments, y) { #expect(abs(found - log(input)) <= 6e-16 * abs(log(input)), "ln \(input)") }
  }

  @Test(arguments: InstructionSet.available) func divergenceOfSoftmaxes(_ set: InstructionSet) {
    for (count, size) in [(1, 1.0), (2, 1), (17, 30), (4096, 0.02), (5003, 1e-4), (301, 500)] {
      var source = Source(seed: UInt64(count))
      let base = (0..<count).map { _ in source.normal() * Float(size) }
      let other = base.map { $0 + source.normal() * 0.01 * Float(size) }
      func softmax(_ x: [Float]) -> [Double] {
        let top = Double(x.max() ?? 0)
        let e = x.map { exp(Double($0) - top) }
        let sum = e.reduce(0, +)
        return e.map { $0 / sum + 1e-8 }
      }
      let expected = zip(softmax(other), softmax(base)).reduce(0.0) { $0 + $1.0 * log($1.0 / $1.1) - ($1.0 - $1.1) }
      let rows = Rows([base, other], shift: 1), scratch = Memory(count: Kernels.divergenceScratch(rowLength: count), shift: 1)
      let found = Kernels(set).divergence(rows.table[0], rows.table[1], scratch: scratch.floats)
      #expect(abs(found - max(expected, 0)) <= 1e-6 * expected, "\(count): \(found), \(expected)")
      let plain = Kernels(.scalar).divergence(rows.table[0], rows.table[1], scratch: scratch.floats)
      #expect(plain.bitPattern == found.bitPattern)
      #expect(Kernels(set).divergence(rows.table[0], rows.table[0], scratch: scratch.floats) == 0)
      #expect(Kernels(set).divergence(rows.table[0], rows.table[1], scratch: scratch.floats.prefix(4 * count - 1)) == 0)
    }
  }

  /// Rows within 2^-5 of each other take shorter series: at that border both agree far beyond what f32 can tell.
  @Test(arguments: InstructionSet.available) func divergenceOfNearRows(_ set: InstructionSet) {
    var source = Source(seed: 77)
    let base = (0..<1003).map { _ in source.normal() }
    let scratch = Memory(count: Kernels.divergenceScratch(rowLength: base.count))
    var found: [Double] = []
    for last: Float in [0.03125, 0.031250004] {
      var other = base.enumerated().map { $1 + ($0 % 2 == 0 ? 1 : -1) * Float($0 % 30) / 1024 }
      other[1002] = base[1002] + last
      let rows = Rows([base, other], shift: 3)
      found.append(Kernels(set).divergence(rows.table[0], rows.table[1], scratch: scratch.floats))
      #expect(found.last?.bitPattern == Kernels(.scalar).divergence(rows.table[0], rows.table[1], scratch: scratch.floats).bitPattern)
    }
    #expect(abs(found[0] - found[1]) <= 1e-6 * found[1])
    let rows = Rows([base, base.map { $0 + 0.001 }.dropLast() + [.infinity]], shift: 3)
    #expect(Kernels(set).divergence(rows.table[0], rows.table[1], scratch: scratch.floats) == 0)
  }

  /// From the paper's definition in f64; three models of which two are equal, and models that all are.
  @Test(arguments: InstructionSet.available) func varianceIsThatOfThePopulation(_ set: InstructionSet) {
    var source = Source(seed: 9)
    let count = 1000
    let base = (0..<count).map { _ in source.normal() }
    var models = (0..<4).map { _ in base.map { $0 + source.normal() * 0.01 } }
    for index in stride(from: 0, to: count, by: 10) { for model in 1..<4 { models[model][index] = models[0][index] } }
    let rows = Rows([base] + models, shift: 0), output = Memory(count: count), energy = Memory(lanes: [Double](repeating: 0, count: 16))
    let some = Kernels(set).variance(rows.table[0], rows.table.dropFirst(), into: output.floats, energy: energy.lanes)
    #expect(some == count - count / 10)
    var squares = 0.0
    for index in 0..<count {
      let deltas = models.map { Double($0[index] - base[index]) }
      let mean = deltas.reduce(0, +) / 4
      let expected = deltas.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 4
      #expect(abs(Double(output.values[index]) - expected) <= 1e-7 * expected)
      squares += deltas.reduce(0) { $0 + $1 * $1 }
    }
    #expect(abs(energy.lanes.folded() - squares) <= 1e-12 * squares)
  }

  @Test(arguments: InstructionSet.available) func columnsAreThoseOfTheMatrix(_ set: InstructionSet) {
    for columns in [1, 3, 16, 50] {
      let first = CombinationTests.rows(.normal, 4096)[0], second = CombinationTests.rows(.normal, 4096)[1]
      let rows = Rows([first, second], shift: 2)
      let sums = Memory<Double>([Double](repeating: 0, count: 3 * columns), filler: 12345.5)
      // SAFETY: as many sums as there are.
      let table = unsafe ColumnSums(unsafe: sums.start, count: 3 * columns)
      // In two calls, as two tiles.
      Kernels(set).accumulateColumnMoments(
        rows.table[0].prefix(1001), rows.table[1].prefix(1001), firstIndex: 0, columns: columns, into: table)
      Kernels(set).accumulateColumnMoments(
        rows.table[0].slice(from: 1001, count: 3095), rows.table[1].slice(from: 1001, count: 3095), firstIndex: 1001, columns: columns,
        into: table)
      for column in 0..<columns {
        var expected = [0.0, 0, 0]
        for index in stride(from: column, to: 4096, by: columns) {
          let (x, y) = (Double(first[index]), Double(second[index]))
          for (slot, product) in [x * x, x * y, y * y].enumerated() { expected[slot] += product }
        }
        #expect((0..<3).map { sums.values[$0 * columns + column] } == expected)
      }
    }
    let none = Memory(count: 3)
    Kernels(set).columnCombination(none.floats, none.floats, firstIndex: 0, columns: 2, weights: [1, 2, 3], into: none.floats)
    #expect(none.values == [0, 0, 0])
  }

  /// β of PCB against the functions of the C library, where arguments are tiny, usual and large.
  @Test(arguments: InstructionSet.available) func scoresOfCompetition(_ set: InstructionSet) {
    var source = Source(seed: 21)
    let scales: [Float] = [1e-19, 1e-10, 1e-5, 1e-3, 0.05, 0.3, 1, 5, 1e10]
    var x: [Float] = [0, -0.0]
    for scale in scales { for _ in 0..<101 { x.append(source.normal() * scale) } }
    let y: [Float] = x.map { $0 * (source.normal() > 0 ? 0.5 : -1.5) }
    let rows = Rows([x, y], shift: 1), output = Memory(count: x.count)
    for pairwise in [false, true] {
      Kernels(set).competition(rows.table, row: 0, bounds: [0.01, 2, 0, 1], pairwise: pairwise, into: output.floats)
      for (index, found) in output.values.enumerated() {
        func unit(_ x: Float, _ low: Double, _ high: Double) -> Double { (min(max(abs(Double(x)), low), high) - low) / (high - low) }
        let (a, b) = (x[index], y[index])
        let z: Double = (a < 0 ? -1 : 1) * unit(a, Double(Float(0.01)), 2)
        let w: Double = (b < 0 ? -1 : 1) * unit(b, 0, 1)
        let agreement: Double = pairwise ? tanh(z * z) + tanh(z * w) : tanh(Double(a) * Double(a + b))
        let expected = exp(2 * z * z) * agreement
        #expect(abs(Double(found) - expected) <= 6e-8 * abs(expected) + 1e-44, "\(a), \(b): \(found), \(expected)")
      }
    }
  }

  /// Against the scalar set, which sorts keys: few and many elements, ties at the bounds, zeros, any bits.
  @Test(arguments: fastSets, [TieRule.hash, .index, .ge]) func trimmedRowsOfEverySet(_ set: InstructionSet, _ ties: TieRule) {
    for kind in [Kind.normal, .bfloatDifferences, .denormals, .anyBits, .allEqual] {
      for count in [1, 2, 15, 16, 33, 100, 1000, 4099] {
        let values = kind.values(count, seed: UInt64(count))
        for (drop, keep) in [(0, 1), (0, count / 3), (count / 10, count / 2), (count / 2, count), (1, 1), (0, count - 1), (count - 1, 1)] {
          let found = [set, .scalar].map { set in
            let row = Memory(values, shift: 1), scratch = Memory(count: Kernels.trimScratch(rowLength: count), shift: 1)
            Kernels(set).trimRow(
              row.floats, firstIndex: 4_294_967_290, ties: ties, drop: drop, keep: keep, scratch: scratch.floats)
            #expect(row.bordersAreIntact && scratch.bordersAreIntact)
            return row.bits
          }
          let isSame = found[0] == found[1]
          #expect(isSame, "\(kind), \(count) elements, \(drop) and \(keep)")
        }
      }
    }
  }

  /// Scores from a bound on are those of all scores that reach it, at whatever scale and for any number of rows.
  @Test(arguments: InstructionSet.available, [1, 2, 7]) func scoresFromABoundOn(_ set: InstructionSet, _ count: Int) {
    var source = Source(seed: UInt64(count))
    for scale in [1e-20, 1e-4, 0.05, 1, 40] as [Float] {
      let values = (0..<count).map { _ in (0..<5003).map { _ in source.normal() * scale * (source.normal() > 1.5 ? 9 : 1) } }
      let rows = Rows(values, shift: 1), all = Memory(count: 5003), some = Memory(count: 5003)
      for (low, high) in [(0, 3 * scale), (0.1 * scale, scale), (scale, scale), (2.9999 * scale, 3 * scale)] as [(Float, Float)] {
        let bounds = [[Float]](repeating: [low, high], count: count).flatMap { $0 }
        for pairwise in [false, true] {
          Kernels(set).competition(rows.table, row: count - 1, bounds: bounds, pairwise: pairwise, into: all.floats)
          let scores = all.values, sorted = scores.sorted()
          for place in [10, 2600, 4700, 4990, 5002] where sorted[place] > 0 {
            let least = sorted[place]
            Kernels(set).competition(rows.table, row: count - 1, bounds: bounds, pairwise: pairwise, least: least, into: some.floats)
            let isRight = some.values == scores.map { $0 >= least ? $0 : 0 }
            #expect(isRight, "\(scale), \(low) to \(high), pairwise \(pairwise), from \(least)")
          }
        }
      }
    }
  }

  /// Exactly the elements between two ranks stay, of equal ones by the fixed order.
  @Test(arguments: [TieRule.hash, .index]) func trimmedRows(_ ties: TieRule) {
    for kind in [Kind.normal, .bfloatDifferences, .allEqual] {
      for (count, drop, keep) in [(100, 10, 30), (100, 0, 1), (100, 99, 5), (100, 0, 100), (7, 3, 4), (1, 0, 1), (50, 0, 0), (50, 60, 3)] {
        let values = kind.values(count, seed: 5).map { $0 == 0 ? 1e-30 : $0 }
        let row = Memory(values, shift: 3), scratch = Memory(count: Kernels.trimScratch(rowLength: count), shift: 1)
        Kernels(.best).trimRow(row.floats, firstIndex: 1000, ties: ties, drop: drop, keep: keep, scratch: scratch.floats)
        let order = values.indices.sorted {
          Kernels.key(values[$0], index: UInt64(1000 + $0), ties: ties) > Kernels.key(values[$1], index: UInt64(1000 + $1), ties: ties)
        }
        let kept = Set(order.dropFirst(drop).prefix(keep))
        #expect(row.values == values.indices.map { kept.contains($0) ? values[$0] : 0 }, "\(kind), \(count), \(drop), \(keep)")
        // Without room nothing is kept rather than memory overrun.
        if drop < count && keep > 0 {
          let short = Memory(values)
          Kernels(.best).trimRow(
            short.floats, firstIndex: 0, ties: ties, drop: drop, keep: keep, scratch: scratch.floats.prefix(2 * count - 1))
          #expect(short.values.allSatisfy { $0 == 0 })
        }
      }
    }
  }

  @Test(arguments: InstructionSet.available) func roundsToTheType(_ set: InstructionSet) {
    for count in [0, 1, 255, 256, 1003] {
      let values = Kind.anyBits.values(count, seed: 4).map { $0.isNaN ? 1 : $0 }
      let half = Memory(values, shift: 1), brain = Memory(values), single = Memory(values)
      Kernels(set).round(half.floats, to: .f16)
      Kernels(set).round(brain.floats, to: .bf16)
      Kernels(set).round(single.floats, to: .f32)
      #expect(half.values == values.map { Float(Float16($0)) })
      #expect(single.bits == values.map(\.bitPattern))
      for (value, rounded) in zip(values, brain.bits) {
        let bits = value.bitPattern
        #expect(rounded == (bits &+ 0x7fff &+ (bits >> 16 & 1)) & 0xffff_0000)
      }
      #expect(half.bordersAreIntact && brain.bordersAreIntact)
    }
  }
}
