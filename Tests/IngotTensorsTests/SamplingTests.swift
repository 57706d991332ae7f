import IngotTensors
import Testing

/// Random masks: the words are Philox's, the ranks are those of a sort, and every instruction set agrees.
@Suite struct SamplingTests {
  static func mask(_ count: Int, shift: Int = 0) -> Memory<UInt8> {
    Memory(bytes: [UInt8](repeating: 0xff, count: KeepBits.byteCount(count)), shift: shift)
  }

  static func bits(_ mask: Memory<UInt8>, _ count: Int) -> [Bool] {
    let bits = mask.keepBits(count: count)
    return (0..<count).map { bits[$0] }
  }

  // MARK: Bernoulli

  @Test(arguments: InstructionSet.available) func everyBitIsOneComparisonOfItsWord(_ set: InstructionSet) {
    let seed: UInt64 = 0x1234_5678_9abc_def0, stream: UInt64 = 0xfeed_beef_0bad_cafe
    for count in raggedLengths {
      for first in [UInt64(0), 1, 2, 3, 0x3_ffff_fff6, UInt64.max / 2 - 5] {
        for threshold in [UInt64(0), 1, 1 << 31, 0xffff_ffff, 1 << 32] {
          if count > 100 && (first != 3 || threshold != 1 << 31) { continue }
          let mask = Self.mask(count, shift: 1)
          Kernels(set).bernoulli(seed: seed, stream: stream, firstIndex: first, threshold: threshold, into: mask.keepBits(count: count))
          let expected = (0..<count).map {
            UInt64(Philox.word(seed: seed, stream: stream, index: first + UInt64($0))) < threshold
          }
          #expect(Self.bits(mask, count) == expected, "\(count) from \(first), threshold \(threshold)")
          #expect(mask.bordersAreIntact)
          if count % 8 != 0, let last = mask.values.last { #expect(last >> UInt8(count % 8) == 0, "unused bits are clear") }
        }
      }
    }
  }

  @Test(arguments: InstructionSet.available, [0.01, 0.3, 0.5, 0.9]) func theShareOfKeptElementsIsTheProbability(
    _ set: InstructionSet, _ p: Double
  ) {
    let count = 1 << 20, mask = Self.mask(count)
    Kernels(set).bernoulli(seed: 42, stream: 7, firstIndex: 0, threshold: Kernels.threshold(keeping: p), into: mask.keepBits(count: count))
    let kept = Double(mask.keepBits(count: count).keptCount)
    // Six standard deviations; the draw is fixed, so this does not come and go.
    #expect(abs(kept - p * Double(count)) < 6 * (p * (1 - p) * Double(count)).squareRoot())
  }

  @Test(arguments: InstructionSet.available) func oneCallAndManyDrawTheSame(_ set: InstructionSet) {
    let whole = Self.mask(4096), parts = Self.mask(4096), kernels = Kernels(set)
    kernels.bernoulli(seed: 3, stream: 4, firstIndex: 5, threshold: 1 << 30, into: whole.keepBits(count: 4096))
    for start in stride(from: 0, to: 4096, by: 24) {
      let part = parts.keepBits(count: 4096).slice(from: start, count: 24)
      kernels.bernoulli(seed: 3, stream: 4, firstIndex: 5 + UInt64(start), threshold: 1 << 30, into: part)
    }
    #expect(whole.values == parts.values)
  }

  @Test func probabilitiesBecomeThresholdsOnce() {
    #expect(Kernels.threshold(keeping: 0) == 0)
    #expect(Kernels.threshold(keeping: -1) == 0)
    #expect(Kernels.threshold(keeping: .nan) == 0)
    #expect(Kernels.threshold(keeping: 0.5) == 1 << 31)
    #expect(Kernels.threshold(keeping: 1) == 1 << 32)
    #expect(Kernels.threshold(keeping: .infinity) == 1 << 32)
    #expect(Kernels.threshold(keeping: 0x1p-33) == 0)
    #expect(Kernels.threshold(keeping: 3 * 0x1p-33) == 2)
  }

  // MARK: Masks

  @Test(arguments: InstructionSet.available) func masksScaleWhatTheyKeep(_ set: InstructionSet) {
    for kind in [Kind.normal, .anyBits] {
      for count in raggedLengths {
        let values = kind.values(count, seed: 17), mask = Self.mask(count), probabilities = Memory(values.map { abs($0) + 0.5 }, shift: 1)
        Kernels(set).bernoulli(seed: 1, stream: 2, firstIndex: 0, threshold: 1 << 31, into: mask.keepBits(count: count))
        let kept = Self.bits(mask, count)
        let scaled = Memory(values, shift: 3), plain = Memory(values), divided = Memory(values, shift: 1)
        Kernels(set).applyMask(scaled.floats, mask.keepBits(count: count), scale: 1.75)
        Kernels(set).applyMask(plain.floats, mask.keepBits(count: count))
        Kernels(set).divideKept(divided.floats, mask.keepBits(count: count), by: probabilities.floats)
        let expected = (0..<count).map { kept[$0] ? values[$0] : 0 }
        #expect(scaled.agrees(with: Memory(expected.map { $0 * 1.75 })))
        #expect(plain.agrees(with: Memory(expected)))
        #expect(divided.agrees(with: Memory((0..<count).map { kept[$0] ? values[$0] / probabilities.values[$0] : 0 })))
        #expect(scaled.bordersAreIntact && plain.bordersAreIntact && divided.bordersAreIntact)
      }
    }
  }

  // MARK: DELLA

  struct Drawn: Equatable {
    var kept: [Bool]
    var probabilities: [UInt32]
  }

  /// The definition: mean ranks from a sort, the probability in f64, one rounding to a word.
  static func reference(_ values: [Float], density: Double, epsilon: Double, seed: UInt64, stream: UInt64, first: UInt64) -> Drawn {
    let magnitudes = values.map { $0.bitPattern & 0x7fff_ffff }, sorted = magnitudes.sorted(), c = values.count
    var twice: [UInt32: Int] = [:]
    var begin = 0
    while begin < c {
      var end = begin
      while end < c && sorted[end] == sorted[begin] { end += 1 }
      twice[sorted[begin]] = begin + end - 1
      begin = end
    }
    let low = (density - (c > 1 ? epsilon : 0)) * 0x1p32, step = c > 1 ? epsilon * 0x1p32 / Double(c - 1) : 0
    var drawn = Drawn(kept: [], probabilities: [])
    for (i, magnitude) in magnitudes.enumerated() {
      let k = min(max(low + step * Double(twice[magnitude] ?? 0), 0), 0x1p32 - 1)
      drawn.kept.append(Double(Philox.word(seed: seed, stream: stream, index: first + UInt64(i))) < k.rounded(.toNearestOrEven))
      drawn.probabilities.append(Float(k * 0x1p-32).bitPattern)
    }
    return drawn
  }

  static func draw(
    _ set: InstructionSet, _ values: [Float], density: Double, epsilon: Double, seed: UInt64, stream: UInt64, first: UInt64, shift: Int = 0
  ) -> Drawn {
    let count = values.count, x = Memory(values, shift: shift), scratch = Memory(count: Kernels.dellaScratch(rowLength: count))
    let mask = mask(count, shift: shift), both = Self.mask(count), probabilities = Memory(count: count, shift: shift)
    Kernels(set).dellaRow(
      x.floats, density: density, epsilon: epsilon, seed: seed, stream: stream, firstIndex: first, bits: mask.keepBits(count: count),
      scratch: scratch.floats)
    Kernels(set).dellaRow(
      x.floats, density: density, epsilon: epsilon, seed: seed, stream: stream, firstIndex: first, bits: both.keepBits(count: count),
      probabilities: probabilities.floats, scratch: scratch.floats)
    #expect(mask.values == both.values, "asking for the probabilities changes no draw")
    #expect(mask.bordersAreIntact && probabilities.bordersAreIntact && scratch.bordersAreIntact)
    #expect(x.bits == values.map(\.bitPattern))
    return Drawn(kept: bits(mask, count), probabilities: probabilities.bits)
  }

  @Test(arguments: InstructionSet.available, SelectionTests.kinds) func rowsDrawAsASortSays(_ set: InstructionSet, _ kind: Kind) {
    for (count, first) in [(0, 0), (1, 5), (2, 6), (17, 1), (63, 2), (64, 3), (65, 7), (300, 0), (513, 9), (1024, 4), (3001, 2)] {
      for (density, epsilon) in [(0.5, 0.2), (0.7, 0.15), (0.1, 0.05)] {
        let values = kind.values(count, seed: 31)
        let expected = Self.reference(values, density: density, epsilon: epsilon, seed: 9, stream: 8, first: UInt64(first))
        let found = Self.draw(
          set, values, density: density, epsilon: epsilon, seed: 9, stream: 8, first: UInt64(first), shift: count % 4)
        #expect(found == expected, "\(count) elements, density \(density)")
      }
    }
  }

  @Test(arguments: InstructionSet.available, [Kind.normal, .bfloatDifferences, .outlier]) func longRowsDrawAsASortSays(
    _ set: InstructionSet, _ kind: Kind
  ) {
    // Past each change of the number of bins, and past the longest row that has any.
    for count in [16_385, 65_536, 65_537] {
      let values = kind.values(count, seed: 5)
      let expected = Self.reference(values, density: 0.6, epsilon: 0.1, seed: 1, stream: 2, first: 3)
      #expect(Self.draw(set, values, density: 0.6, epsilon: 0.1, seed: 1, stream: 2, first: 3) == expected, "\(count) elements")
    }
  }

  @Test(arguments: InstructionSet.available) func oddParametersAreClamped(_ set: InstructionSet) {
    let values = Kind.normal.values(200, seed: 1)
    for (density, epsilon) in [(1.5, 0.2), (-0.5, 0.1), (0.5, 3.0), (1.0, 0.0), (0.0, 0.0)] {
      let expected = Self.reference(values, density: density, epsilon: epsilon, seed: 1, stream: 2, first: 0)
      #expect(Self.draw(set, values, density: density, epsilon: epsilon, seed: 1, stream: 2, first: 0) == expected)
    }
    let none = Self.draw(set, values, density: .nan, epsilon: 0.1, seed: 1, stream: 2, first: 0)
    #expect(none.kept.allSatisfy { !$0 })
    // A negative width counts as none.
    let narrow = Self.draw(set, values, density: 0.5, epsilon: -0.2, seed: 1, stream: 2, first: 0)
    #expect(narrow == Self.reference(values, density: 0.5, epsilon: 0, seed: 1, stream: 2, first: 0))
  }

  /// The golden probabilities of the specification, section 6 (no equal magnitudes there but one pair, which shares its mean rank).
  @Test(arguments: InstructionSet.available) func probabilitiesMatchTheGoldenOnes(_ set: InstructionSet) {
    let found = Self.draw(
      set, [0.5, -0.25, -0.375, 0.4375, 0.0625, 0.75], density: 0.5, epsilon: 0.2, seed: 0, stream: 0, first: 0)
    let expected = [0.62, 0.38, 0.46, 0.54, 0.3, 0.7]
    for (bits, k) in zip(found.probabilities, expected) { #expect(abs(Double(Float(bitPattern: bits)) - k) < 1e-6) }
    let tied = Self.draw(set, [1, 1, 1, 1], density: 0.5, epsilon: 0.2, seed: 0, stream: 0, first: 0)
    #expect(tied.probabilities == [UInt32](repeating: Float(0.5).bitPattern, count: 4))
  }

  /// The published numbers of DARE and DELLA for given masks.
  @Test(arguments: InstructionSet.available) func publishedMasks(_ set: InstructionSet) {
    let kernels = Kernels(set)
    let deltas: [[Float]] = [
      [0.5, -0.25, -0.375, 0.4375, 0.0625, 0.75], [-0.1875, 1, 0.125, 0.3125, -0.625, -0.25],
      [0.25, -0.125, 0.4375, -0.5, 0.1875, -0.0625],
    ]
    func near(_ found: [Float], _ expected: [Float]) -> Bool { zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-6 } }
    let dare: [(UInt8, [Float])] = [
      (0b101001, [1, 0, 0, 0.875, 0, 1.5]), (0b011010, [0, 2, 0, 0.625, -1.25, 0]), (0b100011, [0.5, -0.25, 0, 0, 0, -0.125]),
    ]
    for (delta, (mask, expected)) in zip(deltas, dare) {
      let x = Memory(delta), bits = Memory(bytes: [mask])
      kernels.applyMask(x.floats, bits.keepBits(count: 6), scale: 2)
      #expect(near(x.values, expected))
    }
    let della: [(UInt8, [Float], [Float])] = [
      (0b100101, [0.62, 0.38, 0.46, 0.54, 0.3, 0.7], [0.80645161, 0, -0.81521739, 0, 0, 1.07142857]),
      (0b010110, [0.38, 0.7, 0.3, 0.54, 0.62, 0.46], [0, 1.42857143, 0.41666667, 0, -1.00806452, 0]),
      (0b001111, [0.54, 0.38, 0.62, 0.7, 0.46, 0.3], [0.46296296, -0.32894737, 0.70564516, -0.71428571, 0, 0]),
    ]
    var rows: [Memory<Float>] = []
    for (delta, (mask, probabilities, expected)) in zip(deltas, della) {
      let x = Memory(delta), bits = Memory(bytes: [mask]), keep = Memory(probabilities)
      kernels.divideKept(x.floats, bits.keepBits(count: 6), by: keep.floats)
      #expect(near(x.values, expected))
      rows.append(x)
    }
    let table = Rows(rows), output = Memory(count: 6)
    kernels.electAndMerge(table.table, weights: [1, 1, 1], normalize: true, into: output.floats)
    kernels.scale(output.floats, by: 1.1, into: output.floats)
    #expect(near(output.values, [0.69817802, 1.57142857, 0.61727151, -0.78571429, -1.10887097, 1.17857143]))
  }

  @Test func tooLittleScratchDoesNothing() {
    let x = Memory([Float](repeating: 1, count: 100)), mask = Self.mask(100), scratch = Memory(count: 199)
    Kernels(.best).dellaRow(
      x.floats, density: 0, epsilon: 0, seed: 0, stream: 0, firstIndex: 0, bits: mask.keepBits(count: 100), scratch: scratch.floats)
    #expect(mask.values == [UInt8](repeating: 0xff, count: 13))
  }
}
