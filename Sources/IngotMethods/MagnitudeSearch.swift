package import IngotTensors

/// Where a magnitude selection cuts: keys from `threshold` on are kept.
///
/// A key is (31-bit pattern of |x|, 32-bit tie order of the element index); see `Kernels.collect`. Two elements can share a key only when their
/// indices differ by a multiple of 2³²; `lastInclusive` then says up to which job index elements that equal the threshold are kept.
package struct MagnitudeCut: Sendable, Hashable {
  package var threshold: UInt64
  package var lastInclusive: UInt64
  /// Elements whose magnitude equals that of the threshold, kept or not, as far as the search saw them.
  package var tied: UInt64

  package static let everything = MagnitudeCut(threshold: 0, lastInclusive: .max, tied: 0)
  package static let nothing = MagnitudeCut(threshold: .max, lastInclusive: 0, tied: 0)

  /// The magnitude of the threshold.
  package var magnitude: Float { Float(bitPattern: UInt32(truncatingIfNeeded: threshold >> 32) & 0x7fff_ffff) }
}

/// Finds the exact cut that keeps `keep` of `population` values by magnitude, in as few rounds over the data as it can.
///
/// A sample brackets the rank, one full round counts what lies above the bracket and collects what lies in it; when the rank escapes the
/// bracket or the pool is too small, a radix search of 16 bits a round is exact with fixed memory. Every path gives the same cut.
package struct MagnitudeSearch: Sendable {
  private enum Stage: Sendable {
    case sample(stride: Int, capacity: Int)
    case collect(low: UInt64, high: UInt64, capacity: Int)
    case radix(prefix: UInt64, bits: Int, above: UInt64)
    case spread(threshold: UInt64, wanted: UInt64)
    case done(MagnitudeCut)
  }

  /// Populations up to this size are collected whole; larger ones are sampled first.
  package static let wholeLimit: UInt64 = 262_144
  /// About how many values a sample takes: at least the first, at most the second, one in 128 in between.
  private static let sampleSizes: (UInt64, UInt64) = (65_536, 1_048_576)
  private static let tileElements: UInt64 = 4096
  /// Half width of the bracket in standard errors of a sample of independent values. Rows and their neighbours resemble each other, so
  /// the true error is larger; a rank that escapes costs time, never exactness.
  private static let bracketWidth = 10.0
  private static let blockElements: UInt64 = 65_536

  private let population: UInt64
  private let keep: UInt64
  package let ties: TieRule
  private var stage: Stage

  /// - Parameters: `blocks` is how many blocks the engine cuts the population into (it decides the sample's stride).
  package init(population: UInt64, keep: UInt64, ties: TieRule, blocks: UInt64) {
    self.population = population
    self.keep = keep
    self.ties = ties
    if keep >= population {
      stage = .done(.everything)
    } else if keep == 0 {
      stage = .done(.nothing)
    } else if population <= Self.wholeLimit {
      stage = .collect(low: 0, high: .max, capacity: Int(population))
    } else {
      let run = UInt64(Round.sampleRun)
      let tiles = population / Self.tileElements + blocks
      let size = min(max(population / 128, Self.sampleSizes.0), Self.sampleSizes.1)
      let stride = max(1, tiles * run / size)
      stage = .sample(stride: Int(stride), capacity: Int((tiles / stride + blocks + 1) * run))
    }
  }

  package var cut: MagnitudeCut? {
    if case .done(let cut) = stage { return cut }
    return nil
  }

  fileprivate var sampleStride: Int? {
    if case .sample(let stride, _) = stage { return stride }
    return nil
  }

  fileprivate var poolCapacity: Int {
    switch stage {
    case .sample(_, let capacity), .collect(_, _, let capacity): capacity
    default: 0
    }
  }

  fileprivate var needsHistogram: Bool {
    if case .radix = stage { return true }
    return false
  }

  fileprivate var needsBlockSums: Bool {
    if case .spread = stage { return true }
    return false
  }

  fileprivate func gather(_ values: Floats, _ tile: Tile, _ statistic: BlockStatistic, slot: Int) {
    switch stage {
    case .sample:
      statistic.collect(
        values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties, low: 0, high: .max, pool: slot, tally: slot)
    case .collect(let low, let high, _):
      statistic.collect(
        values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties, low: low, high: high, pool: slot, tally: slot)
    case .radix(let prefix, let bits, _):
      tile.kernels.histogram(
        values, firstIndex: tile.jobIndex, ties: ties, prefix: prefix, prefixBits: bits, digitBits: 16, into: statistic.histogram(slot))
    case .spread(let threshold, _):
      statistic.sum(slot).add(
        Double(statistic.count(of: threshold, in: values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties)))
    case .done: break
    }
  }

  fileprivate mutating func settle(_ statistics: Statistics, slot: Int) {
    switch stage {
    case .sample: stage = bracket(statistics.keys(slot))
    case .collect(_, _, _): stage = select(statistics.keys(slot), above: statistics.tallies[slot])
    case .radix(let prefix, let bits, let above):
      stage = descend(statistics.histogram(slot), prefix: prefix, bits: bits, above: above)
    case .spread(let threshold, let wanted): stage = spread(statistics, slot: slot, threshold: threshold, wanted: wanted)
    case .done: break
    }
  }

  /// Brackets the wanted rank.
  private func bracket(_ pool: KeyPool?) -> Stage {
    guard let pool, pool.count > 0, !pool.overflowed else { return .radix(prefix: 0, bits: 0, above: 0) }
    let sampled = Double(pool.count)
    let share = Double(keep) / Double(population)
    let centre = share * sampled
    let width = Self.bracketWidth * (sampled * share * (1 - share)).squareRoot() + 16
    let lowRank = centre + width
    let highRank = centre - width
    let low = lowRank >= sampled - 1 ? 0 : (pool.key(ranked: Int(lowRank))?.key ?? 0)
    let high = highRank < 1 ? UInt64.max : (pool.key(ranked: Int(highRank))?.key ?? .max)
    let expected = (min(lowRank, sampled) - max(highRank, 0)) / sampled * Double(population)
    return .collect(low: low, high: high, capacity: Int(min(expected * 1.5 + 65_536, Double(population))))
  }

  private func select(_ pool: KeyPool?, above: UInt64) -> Stage {
    guard let pool, !pool.overflowed, above < keep, keep - above <= UInt64(pool.count),
      let threshold = pool.key(ranked: Int(keep - above - 1))
    else { return .radix(prefix: 0, bits: 0, above: 0) }
    let wanted = keep - above - UInt64(threshold.larger)
    // Keys of `ge` are magnitudes: all that equal the threshold stay.
    if wanted == UInt64(threshold.equal) || ties == .ge {
      return .done(MagnitudeCut(threshold: threshold.key, lastInclusive: .max, tied: UInt64(threshold.equal)))
    }
    return .spread(threshold: threshold.key, wanted: wanted)
  }

  private func descend(_ counts: [UInt64], prefix: UInt64, bits: Int, above: UInt64) -> Stage {
    var above = above
    for digit in stride(from: counts.count - 1, through: 0, by: -1) {
      let here = counts[digit]
      if above + here >= keep {
        let next = (prefix << 16) | UInt64(digit)
        if bits + 16 < 64 { return .radix(prefix: next, bits: bits + 16, above: above) }
        if above + here == keep || ties == .ge { return .done(MagnitudeCut(threshold: next, lastInclusive: .max, tied: here)) }
        return .spread(threshold: next, wanted: keep - above)
      }
      above += here
    }
    return .done(.everything)
  }

  /// Elements 2³² apart share a key: the first `wanted` of them in job order are kept.
  private func spread(_ statistics: Statistics, slot: Int, threshold: UInt64, wanted: UInt64) -> Stage {
    let width = max(statistics.sums.count, 1)
    var seen: UInt64 = 0
    var last: UInt64 = 0
    for (block, start) in statistics.blockStarts.enumerated() where block * width + slot < statistics.blockSums.count {
      seen += UInt64(statistics.blockSums[block * width + slot])
      if seen >= wanted {
        last = start + Self.blockElements - 1
        break
      }
    }
    return .done(MagnitudeCut(threshold: threshold, lastInclusive: last, tied: seen))
  }
}

/// One search per model of a job, sharing their rounds.
package struct MagnitudeSearches: Sendable {
  private var searches: [MagnitudeSearch]

  package init(_ searches: [MagnitudeSearch]) { self.searches = searches }

  package var cuts: [MagnitudeCut] { searches.map { $0.cut ?? .everything } }

  /// The next round over the data, or nil when every cut is known. Samples come first and alone, since they read other elements.
  package var nextRound: Round? {
    let open = searches.filter { $0.cut == nil }
    if open.isEmpty { return nil }
    let strides = open.compactMap(\.sampleStride)
    let sampling = !strides.isEmpty
    return Round(
      sums: !sampling && open.contains(where: \.needsBlockSums) ? searches.count : 0, tallies: searches.count,
      histograms: !sampling && open.contains(where: \.needsHistogram) ? searches.count : 0, bins: 65_536,
      keyCapacities: searches.map { sampling && $0.sampleStride == nil ? 0 : $0.poolCapacity }, sampleStride: strides.min() ?? 0)
  }

  private var isSampling: Bool { searches.contains { $0.sampleStride != nil } }

  package func gather(_ model: Int, _ values: Floats, _ tile: Tile, _ statistic: BlockStatistic) {
    if isSampling && searches[model].sampleStride == nil { return }
    searches[model].gather(values, tile, statistic, slot: model)
  }

  package mutating func settle(_ statistics: Statistics) {
    let sampling = isSampling
    for model in searches.indices where !sampling || searches[model].sampleStride != nil {
      searches[model].settle(statistics, slot: model)
    }
  }

  /// Zeroes what lies below the cut of `model`, in place.
  package func trim(_ model: Int, _ values: Floats, _ tile: Tile) {
    let cut = searches[model].cut ?? .everything
    if cut == .everything { return }
    tile.kernels.trim(
      values, firstIndex: tile.jobIndex, ties: searches[model].ties, threshold: cut.threshold, inclusive: tile.jobIndex <= cut.lastInclusive
    )
  }
}
