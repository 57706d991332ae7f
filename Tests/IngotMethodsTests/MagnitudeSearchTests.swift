import Foundation
import IngotMethods
import IngotTensors
import Testing

/// The search against a full sort: whatever path it takes, the same elements stay.
@Suite struct MagnitudeSearchTests {
  enum Values: CaseIterable, Sendable {
    case spread, ascending, equal, fewMagnitudes, mostlyZero, subnormal, special

    func make(_ count: Int, seed: UInt64 = 1) -> [Float] {
      var random = SplitMix(seed)
      return (0..<count).map { index in
        let bits = random.next()
        let sign: Float = bits & 1 == 0 ? 1 : -1
        return switch self {
        case .spread: Float(bitPattern: UInt32(bits >> 33) % 0x7f80_0000) * sign
        case .ascending: sign * Float(index + 1)
        case .equal: sign * 0.25
        case .fewMagnitudes: sign * Float(bits >> 8 & 7)
        case .mostlyZero: bits >> 8 & 15 == 0 ? sign * Float(bits >> 40) : sign * 0
        case .subnormal: Float(bitPattern: UInt32(bits >> 8 & 0xfff)) * sign
        case .special: [.infinity, -.infinity, .nan, 0, -0, .greatestFiniteMagnitude, .leastNonzeroMagnitude, 1][Int(bits >> 8 & 7)]
        }
      }
    }
  }

  private func check(
    _ harness: SearchHarness, rounds: String? = nil, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let outcome = harness.run()
    let isRight = outcome.kept == harness.expected()
    #expect(
      isRight, "\(outcome.kept.count) kept of \(harness.keep), rounds \(outcome.rounds), \(outcome.cut)", sourceLocation: sourceLocation)
    if harness.ties != .ge { #expect(outcome.kept.count == harness.keep, sourceLocation: sourceLocation) }
    if let rounds {
      #expect(
        outcome.rounds.range(of: "^" + rounds + "$", options: .regularExpression) != nil, "\(outcome.rounds)",
        sourceLocation: sourceLocation)
    }
  }

  @Test(arguments: Values.allCases, TieRule.allCases) func collectsSmallPopulations(_ values: Values, _ ties: TieRule) {
    for count in [1, 2, 17, 4096, 5000] {
      for keep in Set([1, count / 3, count - 1]) where keep > 0 && keep < count {
        check(SearchHarness(segments: [(0, values.make(count))], keep: keep, ties: ties), rounds: "c")
      }
    }
  }

  @Test func nothingAndEverythingNeedNoRound() {
    let values = Values.spread.make(1000)
    check(SearchHarness(segments: [(0, values)], keep: 0), rounds: "")
    check(SearchHarness(segments: [(0, values)], keep: 1000), rounds: "")
    check(SearchHarness(segments: [], keep: 0), rounds: "")
  }

  /// Too little memory for the keys: at most four rounds of histograms, the same cut.
  @Test(arguments: Values.allCases, TieRule.allCases) func narrowingFindsTheSame(_ values: Values, _ ties: TieRule) {
    let all = values.make(5000, seed: 2)
    for keep in ties == .hash ? [1, 1700, 4999] : [1700] {
      check(SearchHarness(segments: [(0, all)], keep: keep, ties: ties, poolLimit: 100), rounds: "chh?h?h?c?")
    }
  }

  /// Several tensors of one model, each from a multiple of 65,536 on.
  @Test(arguments: [Values.spread, .equal, .fewMagnitudes]) func searchesOverSegments(_ values: Values) {
    let segments: [(start: UInt64, values: [Float])] = [
      (0, values.make(3000, seed: 3)), (65_536, values.make(70_000, seed: 4)), (65_536 * 3, values.make(1, seed: 5)),
    ]
    for keep in [1, 40_000] { check(SearchHarness(segments: segments, keep: keep), rounds: "c") }
  }

  /// Beyond what is collected whole a sample brackets the rank first.
  @Test(arguments: [Values.spread, .equal, .fewMagnitudes, .mostlyZero]) func samplesLargePopulations(_ values: Values) {
    let count = Int(MagnitudeSearch.wholeLimit) + 5001
    let all = values.make(count, seed: 6)
    for keep in values == .spread ? [1, count / 10, count - 1] : [count / 10] {
      // A key of a bracket holds the tie order too, so that a heap of equal magnitudes is no obstacle.
      check(SearchHarness(segments: [(0, all)], keep: keep), rounds: "sc")
    }
  }

  /// A bracket with more keys than may be collected is counted first, then the right part of it collected.
  @Test(arguments: [Values.spread, .equal, .fewMagnitudes, .mostlyZero, .special]) func narrowsWhatIsTooLarge(_ values: Values) {
    let count = Int(MagnitudeSearch.wholeLimit) + 5001
    let all = values.make(count, seed: 8)
    for keep in [1, count / 3, count - 1] {
      check(SearchHarness(segments: [(0, all)], keep: keep, room: 500), rounds: "shh?h?h?c?")
    }
  }

  /// Where the sample lies the rank is not: exact all the same, after a detour.
  @Test(arguments: [0.1, 0.9]) func misledSamplesCostTimeOnly(_ share: Double) {
    let count = Int(MagnitudeSearch.wholeLimit) + 4096
    var all = Values.spread.make(count, seed: 7)
    for tile in stride(from: 0, to: count, by: 4096) {
      for place in tile..<min(tile + Round.sampleRun, count) { all[place] = share < 0.5 ? 0 : .greatestFiniteMagnitude }
    }
    check(SearchHarness(segments: [(0, all)], keep: Int(share * Double(count))), rounds: "schh?h?h?c?")
  }

  /// With `ge` a whole sample may be one key; the pool overflows and the histograms decide.
  @Test func geOfOneMagnitude() {
    let all = Values.equal.make(Int(MagnitudeSearch.wholeLimit) + 1)
    let harness = SearchHarness(segments: [(0, all)], keep: 1000, ties: .ge)
    let outcome = harness.run()
    #expect(outcome.kept.count == all.count)
    #expect(outcome.cut.tied == UInt64(all.count))
  }

  // MARK: Beyond 2³² elements

  /// Blocks 2³² apart repeat each other's keys: of equal ones the first in the job stay.
  @Test(arguments: [Int.max, 50]) func indexTiesRepeat(_ poolLimit: Int) {
    let values = [Float](repeating: -2, count: 1000)
    let segments: [(start: UInt64, values: [Float])] = [
      (0, values), (1 << 32, values), (2 << 32, values), (1 << 40, [Float](repeating: 3, count: 10)),
    ]
    let first = poolLimit == .max ? "c" : "chh?h?h?c?"
    // 10 of magnitude 3, then three of every key.
    for (keep, rounds) in [
      (5, first), (10, first), (11, first + "b"), (12, first + "b"), (13, first), (1511, first + "b"), (3009, first + "b"),
    ] {
      check(SearchHarness(segments: segments, keep: keep, ties: .index, poolLimit: poolLimit), rounds: rounds)
    }
  }

  @Test(arguments: [Int.max, 50]) func hashTiesRepeat(_ poolLimit: Int) {
    // The tie of index i in the second 2³² is the mix of i and mix(1), so this block has the keys of block 0 in another order.
    let place = UInt64(TieRule.hash.tie(at: 1)) & ~0xffff
    let values = Values.equal.make(65_536)
    let segments: [(start: UInt64, values: [Float])] = [(0, values), (1 << 32 + place, values)]
    let repeated = Set((0..<1000).map { TieRule.hash.tie(at: UInt64($0)) })
    #expect((0..<65_536).count { repeated.contains(TieRule.hash.tie(at: 1 << 32 + place + UInt64($0))) } == 1000)
    for keep in [1, 777, 131_071] { check(SearchHarness(segments: segments, keep: keep, poolLimit: poolLimit)) }
  }

  /// Bins that hold more than 2³² elements, which no test can have in memory: the statistics of such a job.
  @Test func countsBeyond32Bits() {
    var searches = MagnitudeSearches([MagnitudeSearch(population: 6 << 32, keep: 6 << 32 - 1, ties: .hash, blocks: 6 << 16)])
    let bins = UnsafeMutablePointer<UInt64>.allocate(capacity: 65_536)
    defer { unsafe bins.deallocate() }
    let lanes = UnsafeMutablePointer<Double>.allocate(capacity: 16)
    defer { unsafe lanes.deallocate() }
    // No sample: straight to the histograms, 16 bits of the key at a time.
    let rounds: [(above: UInt64, counts: [Int: UInt64])] = [
      (0, [:]), (0, [0x3f80: 5 << 32, 0x3f00: 1 << 32]), (5 << 32, [0x8000: 6, 0x4000: 1 << 32 - 6]),
      (5 << 32 + 6, [9: 1, 5: 1 << 32 - 7]),
      (5 << 32 + 7, [3: 1 << 32 - 8, 2: 1]),
    ]
    for (above, counts) in rounds {
      guard let round = searches.nextRound else {
        Issue.record("no round")
        return
      }
      unsafe bins.initialize(repeating: 0, count: 65_536)
      for (digit, count) in counts { unsafe bins[digit] = count }
      // SAFETY: the memory lives until the test ends.
      unsafe searches.settle(
        Statistics(
          sums: [Double](repeating: 0, count: round.sums), segmentSums: [], tallies: [above], unsafe: bins,
          pools: [KeyPool(unsafe: bins, count: 0, overflowed: false)], columns: ColumnSums(unsafe: lanes, count: 0), blockSums: [],
          blockStarts: [], round: round))
    }
    #expect(searches.nextRound == nil)
    let cut = searches.cuts[0]
    #expect(cut.threshold == 0x3f00_4000_0005_0003 && cut.lastInclusive == .max && cut.tied == 1 << 32 - 8)
  }

  /// Several models share rounds although each takes its own path.
  @Test func searchesOfSeveralModelsShareRounds() {
    let searches = MagnitudeSearches([
      MagnitudeSearch(population: 1_000_000, keep: 1_000_000, ties: .hash, blocks: 16),
      MagnitudeSearch(population: 1_000_000, keep: 0, ties: .hash, blocks: 16),
      MagnitudeSearch(population: 1_000_000, keep: 10, ties: .hash, blocks: 16),
    ])
    #expect(searches.cuts == [.everything, .nothing, .everything])
    let round = searches.nextRound
    #expect(round?.isComplete == false)
    #expect(round?.keyCapacities.count == 3)
    #expect(round?.keyCapacities[0] == 0 && round?.keyCapacities[1] == 0)
    #expect(MagnitudeSearches([]).nextRound == nil)
  }
}

@Suite struct KeyPoolTests {
  /// The rank of every key of a pool, by a sort.
  @Test(arguments: [0, 1, 2, 3, 255, 1000], [1, 8, 20, 40, 64]) func ranksAreThoseOfASort(_ count: Int, _ bits: Int) {
    var random = SplitMix(UInt64(count * 100 + bits))
    let keys = (0..<count).map { _ in random.next() >> UInt64(64 - bits) }
    let sorted = keys.sorted(by: >)
    let memory = UnsafeMutablePointer<UInt64>.allocate(capacity: max(count, 1))
    defer { unsafe memory.deallocate() }
    for rank in Set([0, 1, count / 2, count - 2, count - 1]) where rank >= 0 && rank < count {
      for (index, key) in keys.enumerated() { unsafe memory[index] = key }
      // SAFETY: count keys lie there.
      let pool = unsafe KeyPool(unsafe: memory, count: count, overflowed: false)
      let found = pool.key(ranked: rank)
      #expect(found?.key == sorted[rank])
      #expect(found?.equal == keys.count { $0 == sorted[rank] })
      #expect(found?.larger == keys.count { $0 > sorted[rank] })
    }
    let pool = unsafe KeyPool(unsafe: memory, count: count, overflowed: false)
    #expect(pool.key(ranked: -1) == nil)
    #expect(pool.key(ranked: count) == nil)
  }

  /// The highest and lowest digits alone tell keys apart.
  @Test func extremeKeys() {
    let keys: [UInt64] = [.max, 0, 1, 1 << 63, .max - 1, 1 << 63 + 1, .max]
    let memory = UnsafeMutablePointer<UInt64>.allocate(capacity: keys.count)
    defer { unsafe memory.deallocate() }
    for (rank, key) in keys.sorted(by: >).enumerated() {
      for (index, key) in keys.enumerated() { unsafe memory[index] = key }
      #expect(unsafe KeyPool(unsafe: memory, count: keys.count, overflowed: false).key(ranked: rank)?.key == key)
    }
  }
}
