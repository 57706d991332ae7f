import IngotTensors
import Testing

/// Combinations and sums on every instruction set: against the scalar set bit by bit, and against their definition.
@Suite struct CombinationTests {
  /// One operation with its arguments fixed: reads three rows, writes one.
  struct Operation: Sendable, CustomTestStringConvertible {
    let name: String
    let run: @Sendable (Kernels, FloatTable, Floats) -> Void
    var testDescription: String { name }
  }

  static let weights: [Float] = [0.75, -0.5, 1.25]
  static let operations: [Operation] =
    [
      Operation(name: "linear") { $0.linearCombination($1, weights: weights, divisor: 1.5, into: $2) },
      Operation(name: "linear, undivided") { $0.linearCombination($1, weights: weights, into: $2) },
      Operation(name: "linear, no weights") { $0.linearCombination($1, weights: [], into: $2) },
      Operation(name: "linear, one") { $0.linearCombination($1, weights: [0.3], divisor: 0.9, into: $2) },
      Operation(name: "linear, copy") { $0.linearCombination($1, weights: [1], into: $2) },
      Operation(name: "scale") { $0.scale($1[0], by: -1.7, into: $2) },
      Operation(name: "subtract") { $0.subtract($1[0], $1[1], into: $2) },
      Operation(name: "add") { $0.addDelta($1[0], to: $1[1], into: $2) },
      Operation(name: "add, scaled") { $0.addDelta($1[0], scaledBy: 0.3, to: $1[1], into: $2) },
      Operation(name: "add, scaled to nothing") { $0.addDelta($1[0], scaledBy: 1e-30, to: $1[1], into: $2) },
      Operation(name: "weighted sum") { $0.weightedSum($1, weights: weights, divisor: 1.5, into: $2) },
      Operation(name: "weighted sum, infinite weight") { $0.weightedSum($1, weights: [1, .infinity, 2], into: $2) },
    ]
    + ZeroSign.allCases.flatMap { zero in
      [true, false].map { normalize in
        Operation(name: "elect, \(zero), \(normalize ? "normalised" : "summed")") {
          $0.electAndMerge($1, weights: weights, normalize: normalize, zeroSign: zero, into: $2)
        }
      }
    }

  static func rows(_ kind: Kind, _ count: Int) -> [[Float]] { made[kind]?[count] ?? make(kind, count) }

  static let made = Dictionary(
    uniqueKeysWithValues: [Kind.normal, .bfloatDifferences, .denormals, .anyBits].map { kind in
      (kind, Dictionary(uniqueKeysWithValues: raggedLengths.map { ($0, make(kind, $0)) }))
    })

  private static func make(_ kind: Kind, _ count: Int) -> [[Float]] {
    var rows = (0..<3).map { kind.values(count, seed: UInt64($0 + 1)) }
    // Cancelling and trimmed places in each pattern of rows.
    for i in 0..<count where i % 5 == 0 {
      switch i / 5 % 4 {
      case 0: (rows[0][i], rows[1][i], rows[2][i]) = (0, 0, 0)
      case 1: (rows[0][i], rows[1][i], rows[2][i]) = (0.5, 0.75, 0)
      case 2: rows[1][i] = -0.0
      default: rows[2][i] = 0
      }
    }
    return rows
  }

  static func result(_ operation: Operation, _ set: InstructionSet, _ rows: [[Float]], shift: Int) -> Memory<Float> {
    let inputs = Rows(rows, shift: shift), output = Memory(count: rows[0].count, shift: shift)
    operation.run(Kernels(set), inputs.table, output.floats)
    #expect(output.bordersAreIntact)
    return output
  }

  @Test(arguments: fastSets, operations) func everySetMatchesTheScalarOne(_ set: InstructionSet, _ operation: Operation) {
    for kind in [Kind.normal, .bfloatDifferences, .denormals, .anyBits] {
      for count in raggedLengths {
        let rows = Self.rows(kind, count)
        let reference = Self.result(operation, .scalar, rows, shift: 0)
        for shift in [0, 1, 3] {
          let found = Self.result(operation, set, rows, shift: shift)
          #expect(found.agrees(with: reference), "\(kind), \(count) elements, shift \(shift)")
        }
      }
    }
  }

  @Test(arguments: InstructionSet.available, operations) func anInputMayBeTheOutput(_ set: InstructionSet, _ operation: Operation) {
    let rows = Self.rows(.normal, 100)
    let reference = Self.result(operation, set, rows, shift: 0).bits
    for row in 0..<2 {
      let inputs = Rows(rows, shift: 1)
      operation.run(Kernels(set), inputs.table, inputs.table[row])
      #expect(inputs.rows[row].bits == reference)
    }
  }

  // MARK: Definitions

  @Test(arguments: InstructionSet.available) func linearIsTheWeightedMeanRoundedStepByStep(_ set: InstructionSet) {
    let rows = Self.rows(.normal, 77)
    let found = Self.result(Self.operations[0], set, rows, shift: 0).values
    for i in 0..<77 {
      let sum = Self.weights[0] * rows[0][i] + Self.weights[1] * rows[1][i] + Self.weights[2] * rows[2][i]
      #expect(found[i] == sum / 1.5)
    }
  }

  @Test(arguments: InstructionSet.available) func oneModelWithWeightOneIsCopiedBitForBit(_ set: InstructionSet) {
    // Through load and store, as a signalling NaN need not survive a Swift Float.
    let patterns: [UInt64] = (0..<20).flatMap { _ in [0x7f80_0001, 0x8000_0000, 0xffc0_4321, 0x0000_0001] }
    let bytes = ConversionTests.bytes(patterns, .f32), n = patterns.count
    let source = Memory(bytes: bytes), input = Rows([Memory(count: n)]), output = Memory(count: n)
    let stored = Memory(bytes: [UInt8](repeating: 0, count: bytes.count)), kernels = Kernels(set)
    kernels.load(source.elements(.f32, count: n), into: input.table[0])
    kernels.linearCombination(input.table, weights: [1], into: output.floats)
    kernels.store(output.floats, into: stored.mutableElements(.f32, count: n))
    #expect(stored.values == bytes)
  }

  @Test(arguments: InstructionSet.available) func aZeroDeltaLeavesTheBaseAlone(_ set: InstructionSet) {
    let base = [Float](repeating: -0.0, count: 40), delta = (0..<40).map { $0 % 2 == 0 ? Float(0) : -0.0 }
    let from = Memory(base), zeros = Memory(delta), output = Memory(count: 40)
    Kernels(set).addDelta(zeros.floats, scaledBy: 0.5, to: from.floats, into: output.floats)
    #expect(output.bits == base.map(\.bitPattern))
  }

  @Test(arguments: InstructionSet.available) func identicalModelsReturnThemselves(_ set: InstructionSet) {
    // bf16 values; the mean in f32 is within half a bf16 step of them, so rounding gives them back.
    let model = Kind.normal.values(500, seed: 8).map { Float(bitPattern: $0.bitPattern & 0xffff_0000) } + [-0.0, 0]
    let inputs = Rows([model, model, model], shift: 0), output = Memory(count: model.count)
    Kernels(set).linearCombination(inputs.table, weights: [0.1, 0.7, 0.3], divisor: 0.1 + 0.7 + 0.3, into: output.floats)
    let bytes = Memory(bytes: [UInt8](repeating: 0, count: 2 * model.count))
    Kernels(set).store(output.floats, into: bytes.mutableElements(.bf16, count: model.count))
    #expect(ConversionTests.narrowed(bytes.values) == model.map { UInt16($0.bitPattern >> 16) })
  }

  @Test(arguments: InstructionSet.available) func weightedSumSkipsMaskedTerms(_ set: InstructionSet) {
    let inputs = Rows([[Float](repeating: 0, count: 20), [Float](repeating: 2, count: 20)], shift: 0), output = Memory(count: 20)
    Kernels(set).weightedSum(inputs.table, weights: [.infinity, 3], into: output.floats)
    #expect(output.values == [Float](repeating: 6, count: 20))
  }

  /// The golden rows of the specification, section 4.3: TIES after trimming, with mergekit's weights.
  @Test(arguments: InstructionSet.available) func electionMatchesTheGoldenNumbers(_ set: InstructionSet) {
    let trimmed: [[Float]] = [
      [0.5, 0, 0, 0.4375, 0, 0.75], [0, 1, 0, 0.3125, -0.625, 0], [0.25, 0, 0.4375, -0.5, 0, 0],
    ]
    let goldens: [(weights: [Float], normalize: Bool, expected: [Double])] = [
      ([1, 1, 1], true, [0.375, 1, 0.4375, 0.375, -0.625, 0.75]), ([1, 1, 1], false, [0.75, 1, 0.4375, 0.75, -0.625, 0.75]),
    ]
    for golden in goldens {
      // Repeated, so that whole vectors and the rest both see it.
      let inputs = Rows(trimmed.map { row in (0..<7).flatMap { _ in row } }, shift: 0), output = Memory(count: 42)
      Kernels(set).electAndMerge(inputs.table, weights: golden.weights, normalize: golden.normalize, into: output.floats)
      for i in 0..<42 { #expect(abs(Double(output.values[i]) - golden.expected[i % 6]) <= 1e-6) }
    }
  }

  @Test(arguments: InstructionSet.available) func theSignOfAZeroSumIsTheCallersChoice(_ set: InstructionSet) {
    let inputs = Rows([[Float](repeating: 0.5, count: 20), [Float](repeating: -0.5, count: 20)], shift: 0)
    for (zero, expected) in [(ZeroSign.positive, Float(0.5)), (.negative, -0.5), (.none, 0)] {
      let output = Memory(count: 20)
      Kernels(set).electAndMerge(inputs.table, weights: [1, 1], normalize: false, zeroSign: zero, into: output.floats)
      #expect(output.values == [Float](repeating: expected, count: 20))
    }
  }

  // MARK: Sums

  static func sums(_ set: InstructionSet, _ x: Memory<Float>, _ y: Memory<Float>, _ mask: Memory<UInt8>) -> [[UInt64]] {
    let start = (0..<16).map { Double($0) * 0.1 }
    let lanes = (0..<7).map { _ in Memory(lanes: start) }
    let kernels = Kernels(set)
    kernels.accumulateDot(x.floats, y.floats, into: lanes[0].lanes)
    kernels.accumulateAbsolute(x.floats, into: lanes[1].lanes)
    kernels.accumulateMoments(x.floats, y.floats, xx: lanes[2].lanes, xy: lanes[3].lanes, yy: lanes[4].lanes)
    kernels.accumulateMaskedAbsolute(x.floats, mask.keepBits(count: x.count), all: lanes[5].lanes, kept: lanes[6].lanes)
    #expect(lanes.allSatisfy { $0.bordersAreIntact })
    return lanes.map(\.bits)
  }

  @Test(arguments: InstructionSet.available) func sumsAreTheSameLanesOnEverySet(_ set: InstructionSet) {
    var source = Source(seed: 21)
    for kind in [Kind.normal, .denormals, .anyBits] {
      for count in raggedLengths {
        let x = kind.values(count, seed: 1), y = kind.values(count, seed: 2)
        let mask = Memory(bytes: (0..<KeepBits.byteCount(count)).map { _ in UInt8(truncatingIfNeeded: source.next()) })
        let reference = Self.sums(.scalar, Memory(x), Memory(y), mask)
        for shift in [0, 1, 3] {
          let found = Self.sums(set, Memory(x, shift: shift), Memory(y, shift: shift), mask)
          #expect(found == reference, "\(kind), \(count) elements, shift \(shift)")
        }
        // Fused and separate passes leave the same lanes; so do a masked sum's own total and the plain one.
        #expect(reference[0] == reference[3])
        #expect(reference[1] == reference[5])
      }
    }
  }

  @Test(arguments: InstructionSet.available) func elementIGoesToLaneIMod16(_ set: InstructionSet) {
    let x = Memory((0..<35).map { Float($0 + 1) }), lanes = Memory(lanes: [Double](repeating: 0, count: 16))
    Kernels(set).accumulateAbsolute(x.floats, into: lanes.lanes)
    var expected = [Double](repeating: 0, count: 16)
    for i in 0..<35 { expected[i % 16] += Double(i + 1) }
    #expect(lanes.values == expected)
    #expect(lanes.lanes.folded() == 35 * 36 / 2)
    lanes.lanes.clear()
    #expect(lanes.lanes.folded() == 0)
  }

  // MARK: Lengths

  @Test func theShortestRunCounts() {
    let short = Memory([Float](repeating: 2, count: 5)), long = Memory([Float](repeating: 3, count: 40))
    let output = Memory([Float](repeating: 9, count: 40))
    Kernels(.best).subtract(short.floats, long.floats, into: output.floats)
    #expect(output.values == [Float](repeating: -1, count: 5) + [Float](repeating: 9, count: 35))
    let table = Rows([[Float](repeating: 1, count: 40), [Float](repeating: 1, count: 40)], shift: 0)
    Kernels(.best).linearCombination(table.table, weights: [4, 5, 6], into: output.floats.prefix(3))
    #expect(output.values.prefix(6) == [9, 9, 9, -1, -1, 9])
  }
}
