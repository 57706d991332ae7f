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
/// A sample brackets the rank; one full round counts what lies above the bracket and collects what lies in it. Where that would be too much to
/// keep, or turned out to be, a round counts the bracket's keys in 65,536 equal ranges instead and the next one looks into the right range, with
/// fixed memory; a rank that escapes its bracket is looked for beyond it in the same way. Every path gives the same cut.
package struct MagnitudeSearch: Sendable {
  fileprivate enum Stage: Sendable {
    case sample(stride: Int, capacity: Int)
    case collect(low: UInt64, high: UInt64, capacity: Int)
    case narrow(low: UInt64, high: UInt64)
    case spread(threshold: UInt64, wanted: UInt64)
    case done(MagnitudeCut)
  }

  /// Populations up to this size are collected whole; larger ones are sampled first.
  package static let wholeLimit: UInt64 = 262_144
  /// About how many values a sample takes: at least the first, at most the second, one in 128 in between.
  private static let sampleSizes: (UInt64, UInt64) = (65_536, 1_048_576)
  /// Keys that are collected at most; more are narrowed down first.
  package static let poolLimit: UInt64 = 4_194_304
  private static let tileElements: UInt64 = 4096
  /// Half width of the bracket in standard errors of a sample of independent values. Rows and their neighbours resemble each other, so
  /// the true error is larger; a rank that escapes costs time, never exactness.
  private static let bracketWidth = 10.0
  /// What a wide bracket adds on each side, in standard errors of the sample's runs taken as one value each: narrowing makes width cheap, and
  /// in a population this large a rank that escapes is dear.
  private static let wideBracketWidth = 8.0
  private static let blockElements: UInt64 = 65_536

  private let population: UInt64
  private var keep: UInt64
  /// What share of the values that are not zero is kept, where that decides `keep`; the first round that reads everything counts them.
  private let share: Float?
  package let ties: TieRule
  fileprivate var stage: Stage
  /// Keys that a pool is trusted to hold: the limit, or what one held when it overflowed.
  private var room: UInt64

  /// - Parameters: `blocks` is how many blocks the engine cuts the population into (it decides the sample's stride), `room` the most keys that
  ///   are collected at once.
  package init(population: UInt64, keep: UInt64, ties: TieRule, blocks: UInt64, room: UInt64 = Self.poolLimit) {
    self.room = room
    self.population = population
    self.keep = keep
    self.ties = ties
    share = nil
    if keep >= population {
      stage = .done(.everything)
    } else if keep == 0 {
      stage = .done(.nothing)
    } else {
      stage = Self.firstStage(population: population, blocks: blocks, least: 0)
    }
  }

  /// Finds the value of the given rank, counted from the largest (rank 0), as the threshold of a cut that keeps it and all larger ones.
  ///
  /// - Parameters: `samples` is false where the values of a sample's short runs cannot be had; the range is then narrowed down at once.
  package init(population: UInt64, rank: UInt64, ties: TieRule, blocks: UInt64, samples: Bool = true) {
    room = Self.poolLimit
    self.population = population
    self.ties = ties
    share = nil
    keep = min(rank, max(population, 1) - 1) + 1
    stage = population == 0 ? .done(.nothing) : Self.firstStage(population: population, blocks: blocks, least: 0)
    if sampleStride != nil && !samples { stage = .narrow(low: 0, high: .max) }
  }

  /// Keeps ⌊nz · share⌋ of the nz values that are not zero, the product in f32. `settle` must be told nz after every round.
  package init(population: UInt64, shareOfNonzero share: Float, ties: TieRule, blocks: UInt64) {
    room = Self.poolLimit
    self.population = population
    self.ties = ties
    self.share = share
    keep = 0
    stage =
      population == 0 || !(share > 0)
      ? .done(.nothing) : Self.firstStage(population: population, blocks: blocks, least: Self.leastNonzeroKey)
  }

  private static let leastNonzeroKey: UInt64 = 1 << 32

  private static func firstStage(population: UInt64, blocks: UInt64, least: UInt64) -> Stage {
    if population <= wholeLimit { return .collect(low: least, high: .max, capacity: Int(population)) }
    let run = UInt64(Round.sampleRun)
    let tiles = population / tileElements + blocks
    let size = min(max(population / 128, sampleSizes.0), sampleSizes.1)
    let stride = max(1, tiles * run / size)
    return .sample(stride: Int(stride), capacity: Int((tiles / stride + blocks + 1) * run))
  }

  /// The smallest key that counts.
  private var leastKey: UInt64 { share == nil ? 0 : Self.leastNonzeroKey }

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
    if case .narrow = stage { return true }
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
        values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties, low: leastKey, high: .max, pool: slot, tally: slot)
    case .collect(let low, let high, _):
      statistic.collect(
        values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties, low: low, high: high, pool: slot, tally: slot)
    case .narrow(let low, let high):
      statistic.collect(
        values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties, low: low, high: high, pool: slot, tally: slot)
      statistic.bin(slot, low: low, shift: Self.shift(low, high), into: slot)
    case .spread(let threshold, _):
      statistic.sum(slot).add(
        Double(statistic.count(of: threshold, in: values, kernels: tile.kernels, firstIndex: tile.jobIndex, ties: ties)))
    case .done: break
    }
  }

  /// The range of keys that the present round collects; nil where it does something else.
  fileprivate var collected: (low: UInt64, high: UInt64)? {
    switch stage {
    case .sample: (leastKey, .max)
    case .collect(let low, let high, _), .narrow(let low, let high): (low, high)
    default: nil
    }
  }

  fileprivate mutating func settle(_ statistics: Statistics, slot: Int, nonzero: UInt64) {
    if let share, sampleStride == nil, cut == nil {
      keep = min(UInt64(Float(nonzero) * share), nonzero)
      if keep == 0 {
        stage = .done(.nothing)
        return
      }
    }
    switch stage {
    case .sample: stage = bracket(statistics.keys(slot))
    case .collect(let low, let high, _):
      stage = select(statistics.keys(slot), above: statistics.tallies[slot], low: low, high: high)
    case .narrow(let low, let high):
      stage = narrowed(statistics.histogram(slot), above: statistics.tallies[slot], low: low, high: high)
    case .spread(let threshold, let wanted): stage = spread(statistics, slot: slot, threshold: threshold, wanted: wanted)
    case .done: break
    }
  }

  /// Brackets the wanted rank.
  private func bracket(_ pool: KeyPool?) -> Stage {
    guard let pool, pool.count > 0, !pool.overflowed else { return .narrow(low: leastKey, high: .max) }
    let sampled = Double(pool.count)
    // Where only values other than zero count, the sample has only those.
    let share = share.map(Double.init) ?? Double(keep) / Double(population)
    let error = (sampled * share * (1 - share)).squareRoot()
    var width = Self.bracketWidth * error + 16
    let isLarge = 2 * width / sampled * Double(population) > Double(room)
    if isLarge { width += Self.wideBracketWidth * error * Double(Round.sampleRun).squareRoot() }
    let lowRank = share * sampled + width
    let highRank = share * sampled - width
    let low = lowRank >= sampled - 1 ? leastKey : (pool.key(ranked: Int(lowRank))?.key ?? leastKey)
    let high = highRank < 1 ? UInt64.max : (pool.key(ranked: Int(highRank))?.key ?? .max)
    if isLarge { return .narrow(low: low, high: high) }
    let expected = (min(lowRank, sampled) - max(highRank, 0)) / sampled * Double(population)
    return .collect(low: low, high: high, capacity: Int(min(expected * 1.5 + 65_536, Double(population))))
  }

  private mutating func select(_ pool: KeyPool?, above: UInt64, low: UInt64, high: UInt64) -> Stage {
    guard let pool, !pool.overflowed else {
      room = min(room, UInt64(pool?.count ?? 0))
      return .narrow(low: low, high: high)
    }
    guard above < keep, let threshold = pool.key(ranked: Int(clamping: keep - above - 1)) else {
      return beyond(above: above, low: low, high: high)
    }
    return cut(threshold.key, wanted: keep - above - UInt64(threshold.larger), equal: UInt64(threshold.equal))
  }

  /// Looks into the range of keys that holds the wanted rank.
  private func narrowed(_ counts: [UInt64], above: UInt64, low: UInt64, high: UInt64) -> Stage {
    let shift = Self.shift(low, high)
    var above = above
    guard above < keep else { return beyond(above: above, low: low, high: high) }
    for bin in stride(from: counts.count - 1, through: 0, by: -1) where counts[bin] > 0 {
      let here = counts[bin]
      if above + here < keep {
        above += here
        continue
      }
      let first = low + UInt64(bin) << shift
      if shift == 0 { return cut(first, wanted: keep - above, equal: here) }
      let last = min(high, first + (1 << shift - 1))
      return here > room ? .narrow(low: first, high: last) : .collect(low: first, high: last, capacity: Int(here))
    }
    return beyond(above: above, low: low, high: high)
  }

  /// The rank is not in low ... high, above which `above` keys were found.
  private func beyond(above: UInt64, low: UInt64, high: UInt64) -> Stage {
    if above >= keep && high < .max { return .narrow(low: high + 1, high: .max) }
    return low > 0 && above < keep ? .narrow(low: 0, high: low - 1) : .done(.everything)
  }

  private func cut(_ key: UInt64, wanted: UInt64, equal: UInt64) -> Stage {
    // Keys of `ge` are magnitudes: all that equal the threshold stay.
    wanted == equal || ties == .ge
      ? .done(MagnitudeCut(threshold: key, lastInclusive: .max, tied: equal)) : .spread(threshold: key, wanted: wanted)
  }

  /// Ranges of 2^shift keys, of which 65,536 reach from `low` to `high`.
  fileprivate static func shift(_ low: UInt64, _ high: UInt64) -> Int { max(0, 48 - (high - min(low, high)).leadingZeroBitCount) }

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

  /// One of `cuts`, for use in every tile.
  package func cut(_ model: Int) -> MagnitudeCut { searches[model].cut ?? .everything }

  /// True when no cut takes anything away.
  package var keepsEverything: Bool { searches.allSatisfy { ($0.cut ?? .everything) == .everything } }

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

  /// The magnitude below which the present round of these searches looks at nothing; 0 where it looks at all values.
  package func leastMagnitude(_ slots: Range<Int>) -> Float {
    if isSampling { return 0 }
    var least = UInt64(0x7f7f_ffff) << 32
    for slot in slots where searches[slot].cut == nil {
      guard let range = searches[slot].collected else { return 0 }
      least = min(least, range.low)
    }
    return Float(bitPattern: UInt32(least >> 32))
  }

  private var isSampling: Bool { searches.contains { $0.sampleStride != nil } }

  package func gather(_ model: Int, _ values: Floats, _ tile: Tile, _ statistic: BlockStatistic) {
    if isSampling && searches[model].sampleStride == nil { return }
    searches[model].gather(values, tile, statistic, slot: model)
  }

  /// `gather` of every task vector of a tile (input 0 is the base), straight from storage; nil where one of the searches cannot. The
  /// searches of one model follow each other, `perModel` of them.
  package func gatherStored(_ tile: StoredTile, _ statistic: BlockStatistic, perModel: Int = 1) -> Int? {
    guard searches.allSatisfy({ $0.cut != nil || $0.collected != nil }) else { return nil }
    let sampling = isSampling
    var bad = 0
    for (slot, search) in searches.enumerated() {
      guard let range = search.collected, !sampling || search.sampleStride != nil else { continue }
      bad += statistic.collect(
        tile[slot / perModel + 1], minus: tile[0], kernels: tile.kernels, firstIndex: tile.jobIndex, ties: search.ties, low: range.low,
        high: range.high, pool: slot, tally: slot)
      if case .narrow = search.stage {
        statistic.bin(slot, low: range.low, shift: MagnitudeSearch.shift(range.low, range.high), into: slot)
      }
    }
    return bad
  }

  /// - Parameters: `nonzero` is how many values were not zero, for searches that keep a share of those.
  package mutating func settle(_ statistics: Statistics, nonzero: UInt64 = 0) {
    let sampling = isSampling
    for model in searches.indices where !sampling || searches[model].sampleStride != nil {
      searches[model].settle(statistics, slot: model, nonzero: nonzero)
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
