import IngotTensors
import Testing

/// Statistics of task vectors straight from storage, against widening, subtracting and the single kernels of the scalar set.
@Suite struct GatheringTests {
  /// A run as it is stored, and the same values as f32.
  struct Stored {
    let bytes: Memory<UInt8>
    let floats: Memory<Float>
    let dtype: DType
    let count: Int

    init(_ values: [Float], _ dtype: DType, shift: Int) {
      self.dtype = dtype
      count = values.count
      let scalar = Kernels(.scalar)
      bytes = Memory(bytes: [UInt8](repeating: 0, count: values.count * dtype.bits / 8), shift: shift)
      floats = Memory(count: values.count)
      let source = Memory(values)
      scalar.store(source.floats, into: bytes.mutableElements(dtype, count: count))
      _ = scalar.load(bytes.elements(dtype, count: count), into: floats.floats)
    }

    var elements: ElementSlice { bytes.elements(dtype, count: count) }
  }

  static let dtypes: [(DType, DType)] = [(.bf16, .bf16), (.bf16, .f32), (.f16, .f16), (.f32, .bf16), (.f32, .f32)]
  static let lengths = [0, 1, 15, 16, 17, 31, 32, 33, 64, 1023, 1024, 1025, 1056, 4096, 4096 + 37]

  static func pair(_ kind: Kind, _ count: Int, _ dtypes: (DType, DType), shift: Int) -> (x: Stored, base: Stored, delta: Memory<Float>) {
    let x = Stored(kind.values(count, seed: 5), dtypes.0, shift: shift)
    // A base of zeros keeps the ties of the kind, another one makes differences that none of the inputs has.
    let base = Stored(shift % 2 == 0 ? Kind.allZero.values(count, seed: 6) : kind.values(count, seed: 7), dtypes.1, shift: shift + 1)
    let delta = Memory(count: count)
    Kernels(.scalar).subtract(x.floats.floats, base.floats.floats, into: delta.floats)
    return (x, base, delta)
  }

  @Test(arguments: InstructionSet.available, [Kind.normal, .bfloatDifferences, .allEqual, .allZero, .denormals, .anyBits, .outlier])
  func collectsWhatTheDifferencesGive(_ set: InstructionSet, _ kind: Kind) {
    for (number, count) in Self.lengths.enumerated() {
      let dtypes = Self.dtypes[number % Self.dtypes.count]
      for types in [dtypes, (.bf16, .bf16)] {
        let (x, base, delta) = Self.pair(kind, count, types, shift: number)
        for (ties, first) in [(TieRule.hash, UInt64(77)), (.hash, 0xffff_ff00), (.hash, 5 << 32), (.index, 3), (.ge, 9)] {
          let sorted = SelectionTests.keys(delta.values, first: first, ties).sorted()
          var ranges: [(UInt64, UInt64)] = [(0, .max), (1 << 32, 5 << 32), (.max, .max), (7, 3)]
          if let middle = sorted.dropFirst(count / 2).first, let upper = sorted.dropFirst(count * 3 / 4).first {
            ranges += [(middle, upper), (middle, middle), (middle &+ 1, upper &- 1)]
          }
          for (low, high) in ranges {
            let room = Memory(words: count)
            var keys = room.keys, above: UInt64 = 0, bad = 0
            let complete = Kernels(set).collect(
              x.elements, minus: base.elements, firstIndex: first, ties: ties, low: low, high: high, above: &above, into: &keys, bad: &bad)
            keys.sort()
            #expect(complete && room.bordersAreIntact)
            #expect(above == UInt64(sorted.count { $0 > high }))
            #expect((0..<keys.count).map { keys[$0] } == sorted.filter { $0 >= low && $0 <= high }, "\(ties) \(count) \(types)")
            let hasBad = (x.floats.values + base.floats.values).contains { !$0.isFinite }
            if hasBad { #expect(bad > 0) }
            if !hasBad && delta.values.allSatisfy(\.isFinite) { #expect(bad == 0) }
          }
        }
      }
    }
  }

  @Test(arguments: InstructionSet.available) func aFullBufferKeepsWhatFitsAndCountsOn(_ set: InstructionSet) {
    let (x, base, delta) = Self.pair(.normal, 3000, (.bf16, .bf16), shift: 1)
    let sorted = SelectionTests.keys(delta.values, first: 0, .hash).sorted()
    let wanted = Set(sorted.filter { $0 <= sorted[2600] })
    for capacity in [0, 1, 7, 8, 9, 1024, 2600, 2601, 2608] {
      let room = Memory(words: capacity)
      var keys = room.keys, above: UInt64 = 0, bad = 0
      let complete = Kernels(set).collect(
        x.elements, minus: base.elements, firstIndex: 0, ties: .hash, low: 0, high: sorted[2600], above: &above, into: &keys, bad: &bad)
      #expect(complete == (capacity >= wanted.count))
      #expect(keys.count == min(capacity, wanted.count))
      #expect((0..<keys.count).allSatisfy { wanted.contains(keys[$0]) })
      #expect(above == UInt64(sorted.count { $0 > sorted[2600] }))
      #expect(room.bordersAreIntact)
    }
  }

  @Test(arguments: InstructionSet.available, [Kind.normal, .bfloatDifferences, .denormals, .anyBits])
  func massesAreTheSameBits(_ set: InstructionSet, _ kind: Kind) {
    for (number, count) in Self.lengths.enumerated() {
      for types in Self.dtypes {
        let (x, base, delta) = Self.pair(kind, count, types, shift: number)
        var source = Source(seed: 3)
        let bits = Memory(bytes: (0..<(count + 7) / 8).map { _ in UInt8(truncatingIfNeeded: source.next()) })
        let all = (Memory(lanes: .init(repeating: 0.125, count: 16)), Memory(lanes: .init(repeating: 0.125, count: 16)))
        let kept = (Memory<Double>(lanes: .init(repeating: 3, count: 16)), Memory<Double>(lanes: .init(repeating: 3, count: 16)))
        let bad = Kernels(set).accumulateMaskedAbsolute(
          x.elements, minus: base.elements, bits.keepBits(count: count), all: all.0.lanes, kept: kept.0.lanes)
        Kernels(.scalar).accumulateMaskedAbsolute(
          delta.floats, bits.keepBits(count: count), all: all.1.lanes, kept: kept.1.lanes)
        #expect(all.0.bits == all.1.bits && kept.0.bits == kept.1.bits, "\(count) elements of \(types)")
        let hasBad = (x.floats.values + base.floats.values).contains { !$0.isFinite }
        if hasBad { #expect(bad > 0) }
        if !hasBad && delta.values.allSatisfy(\.isFinite) { #expect(bad == 0) }
      }
    }
  }
}
