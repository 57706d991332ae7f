import IngotTensors
import Testing

/// Selection by magnitude against a full sort, on data where thresholds are hard: all equal, tied by the percent, denormal.
@Suite struct SelectionTests {
  static let kinds: [Kind] = [.normal, .bfloatDifferences, .allEqual, .allZero, .denormals, .anyBits, .outlier]

  static func keys(_ values: [Float], first: UInt64, _ ties: TieRule) -> [UInt64] {
    values.enumerated().map { Kernels.key($1, index: first &+ UInt64($0), ties: ties) }
  }

  struct Collected: Equatable {
    var above: UInt64 = 0
    var keys: [UInt64] = []
    var complete = false
  }

  static func collect(
    _ set: InstructionSet, _ values: [Float], first: UInt64, _ ties: TieRule, low: UInt64, high: UInt64, capacity: Int? = nil,
    shift: Int = 0
  ) -> Collected {
    let x = Memory(values, shift: shift), room = Memory(words: capacity ?? values.count)
    var buffer = room.keys, result = Collected()
    result.complete = Kernels(set).collect(
      x.floats, firstIndex: first, ties: ties, low: low, high: high, above: &result.above, into: &buffer)
    result.keys = (0..<buffer.count).map { buffer[$0] }
    #expect(room.bordersAreIntact)
    return result
  }

  @Test(arguments: InstructionSet.available, kinds) func collectFindsExactlyTheKeysInTheRange(_ set: InstructionSet, _ kind: Kind) {
    for ties in TieRule.allCases {
      for (count, shift) in zip(raggedLengths, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]) {
        let values = kind.values(count, seed: 4), first: UInt64 = 0xffff_fff3
        let all = Self.keys(values, first: first, ties), sorted = all.sorted()
        var ranges: [(UInt64, UInt64)] = [(0, .max), (1 << 32, 5 << 32), (.max, .max), (7, 3)]
        if let middle = sorted.dropFirst(count / 2).first, let upper = sorted.dropFirst(count * 3 / 4).first {
          ranges += [(middle, upper), (middle, middle), (middle &+ 1, upper &- 1)]
        }
        for (low, high) in ranges {
          let found = Self.collect(set, values, first: first, ties, low: low, high: high, shift: shift)
          let expected = Collected(
            above: UInt64(all.count { $0 > high }), keys: all.filter { $0 >= low && $0 <= high }, complete: true)
          #expect(found == expected, "\(ties), \(count) elements, \(low)...\(high)")
        }
      }
    }
  }

  @Test(arguments: InstructionSet.available) func aFullBufferKeepsWhatFitsAndCountsOn(_ set: InstructionSet) {
    let values = Kind.normal.values(1000, seed: 6), all = Self.keys(values, first: 0, .hash)
    let high = all.sorted()[900]
    let inRange = all.filter { $0 <= high }
    for capacity in [0, 1, 15, 16, 17, 900, 901] {
      let found = Self.collect(set, values, first: 0, .hash, low: 0, high: high, capacity: capacity)
      #expect(found.keys == Array(inRange.prefix(capacity)))
      #expect(found.above == 99)
      #expect(found.complete == (capacity >= 901))
    }
  }

  @Test(arguments: InstructionSet.available) func keysOfSeveralRunsAppend(_ set: InstructionSet) {
    let values = Kind.bfloatDifferences.values(300, seed: 6), x = Memory(values), room = Memory(words: 300)
    var buffer = room.keys, above: UInt64 = 0
    for start in stride(from: 0, to: 300, by: 100) {
      let complete = Kernels(set).collect(
        x.floats.slice(from: start, count: 100), firstIndex: UInt64(start), ties: .index, low: 0, high: .max, above: &above, into: &buffer)
      #expect(complete)
    }
    buffer.sort()
    #expect((0..<buffer.count).map { buffer[$0] } == Self.keys(values, first: 0, .index).sorted())
  }

  @Test func keysAreCountedByRange() {
    let values = Kind.bfloatDifferences.values(500, seed: 2)
    let keys = Self.keys(values, first: 5, .hash)
    let room = Memory(words: keys.count), table = Memory(words: 1 << 8)
    var buffer = room.keys, above: UInt64 = 0
    let x = Memory(values)
    #expect(Kernels(.best).collect(x.floats, firstIndex: 5, ties: .hash, low: 0, high: .max, above: &above, into: &buffer))
    for (low, shift) in [(UInt64(0), 55), (keys.min() ?? 0, 56), (keys[3], 40), (0, 63), (0, 64), (0, -1)] {
      table.counters.clear()
      Kernels.bin(buffer, low: low, shift: shift, into: table.counters)
      var expected = [UInt64](repeating: 0, count: 256)
      // Keys below `low` lie far beyond the ranges.
      for key in keys where (0..<64).contains(shift) && (key &- low) >> UInt64(shift) < 256 {
        expected[Int((key &- low) >> UInt64(shift))] += 1
      }
      #expect(table.values == expected && table.bordersAreIntact, "\(low) \(shift)")
    }
  }

  @Test(arguments: InstructionSet.available, kinds) func trimKeepsExactlyK(_ set: InstructionSet, _ kind: Kind) {
    let count = 4096 + 3
    for (ties, first) in [(TieRule.hash, UInt64(0)), (.index, 99), (.hash, 0xffff_ff00)] {
      let values = kind.values(count, seed: 13), keys = Self.keys(values, first: first, ties)
      for k in [1, 2, 1000, count] {
        let threshold = keys.sorted(by: >)[k - 1]
        let inclusive = Memory(values, shift: 3), exclusive = Memory(values, shift: 1)
        Kernels(set).trim(inclusive.floats, firstIndex: first, ties: ties, threshold: threshold, inclusive: true)
        Kernels(set).trim(exclusive.floats, firstIndex: first, ties: ties, threshold: threshold, inclusive: false)
        let kept = zip(values, keys).map { $1 >= threshold ? $0.bitPattern : 0 }
        #expect(inclusive.bits == kept, "\(ties), \(k) of \(count)")
        #expect(exclusive.bits == zip(values, keys).map { $1 > threshold ? $0.bitPattern : 0 })
        #expect(keys.count { $0 >= threshold } == k)
        #expect(inclusive.bordersAreIntact && exclusive.bordersAreIntact)
      }
    }
  }

  @Test(arguments: fastSets) func raggedTrimsMatchTheReference(_ set: InstructionSet) {
    for count in raggedLengths {
      for ties in TieRule.allCases {
        for threshold in [0, 1, 0x3e80_0000_0000_0000, 0x3e80_0000_8000_0000, 0x7fff_ffff_ffff_ffff, 1 << 63, UInt64.max] {
          for inclusive in [true, false] {
            let values = Kind.allEqual.values(count, seed: 1)
            let found = Memory(values, shift: 1), reference = Memory(values)
            Kernels(set).trim(found.floats, firstIndex: 3, ties: ties, threshold: threshold, inclusive: inclusive)
            Kernels(.scalar).trim(reference.floats, firstIndex: 3, ties: ties, threshold: threshold, inclusive: inclusive)
            #expect(found.bits == reference.bits, "\(count), \(ties), \(threshold), \(inclusive)")
          }
        }
      }
    }
  }

  @Test func geKeepsEveryElementWithTheThresholdsMagnitude() {
    let x = Memory([Float](repeating: 0.5, count: 40) + [0.25, -0.5])
    Kernels(.best).trim(x.floats, firstIndex: 0, ties: .ge, threshold: UInt64(Float(0.5).bitPattern) << 32, inclusive: true)
    #expect(x.values == [Float](repeating: 0.5, count: 40) + [0, -0.5])
  }

  @Test func tiesAreDistinctAndFavourNoPart() {
    let ties = (0..<UInt64(50_000)).map { TieRule.hash.tie(at: $0) }
    #expect(Set(ties).count == ties.count)
    // Of the half with the larger ties, about half lies in each half of the indices.
    let median = ties.sorted()[25_000]
    let early = ties.prefix(25_000).count { $0 >= median }
    #expect((12_000...13_000).contains(early))
    #expect(TieRule.index.tie(at: 3) > TieRule.index.tie(at: 4))
    #expect(TieRule.hash.tie(at: 1 << 32) != TieRule.hash.tie(at: 0))
  }
}
