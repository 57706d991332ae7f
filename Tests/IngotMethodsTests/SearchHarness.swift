import IngotMethods
import IngotTensors

/// Plays the engine for one magnitude search: blocks, tiles, pools, statistics, on one thread.
struct SearchHarness {
  /// Values and the job index of the first; starts are multiples of 65,536.
  var segments: [(start: UInt64, values: [Float])]
  var keep: Int
  var ties: TieRule
  /// Keys that a job's pool holds at most, as when the budget is short.
  var poolLimit: Int
  /// Keys that the search collects at most.
  var room: UInt64

  init(
    segments: [(start: UInt64, values: [Float])], keep: Int, ties: TieRule = .hash, poolLimit: Int = .max,
    room: UInt64 = MagnitudeSearch.poolLimit
  ) {
    self.room = room
    self.segments = segments
    self.keep = keep
    self.ties = ties
    self.poolLimit = poolLimit
  }

  struct Outcome {
    var cut: MagnitudeCut
    /// One letter for each round: sample, collect, histogram, block sums.
    var rounds: String
    /// Job indices of what is not trimmed, in order.
    var kept: [UInt64]
  }

  /// The parts of a tile that a search does not touch.
  @safe private final class Spare {
    let table = UnsafeMutablePointer<UnsafeMutablePointer<Float>>.allocate(capacity: 1)
    let bits = UnsafeMutablePointer<UInt8>.allocate(capacity: 1)
    let lanes = UnsafeMutablePointer<Double>.allocate(capacity: 16)

    deinit {
      unsafe table.deallocate()
      unsafe bits.deallocate()
      unsafe lanes.deallocate()
    }
  }

  private let spare = Spare()
  private static let tile = 4096
  private static let block = 65_536

  func run() -> Outcome {
    let population = segments.reduce(0) { $0 + $1.values.count }
    let blocks = segments.reduce(0) { $0 + ($1.values.count + Self.block - 1) / Self.block }
    var searches = MagnitudeSearches([
      MagnitudeSearch(population: UInt64(population), keep: UInt64(keep), ties: ties, blocks: UInt64(blocks), room: room)
    ])
    var rounds = ""
    while let round = searches.nextRound {
      rounds += !round.isComplete ? "s" : round.histograms > 0 ? "h" : round.sums > 0 ? "b" : "c"
      gather(round, &searches)
      // Four rounds of 16 bits and a few more; a search that goes on and on must not hang the tests.
      if rounds.count > 12 { break }
    }
    return Outcome(cut: searches.cuts[0], rounds: rounds, kept: kept(searches))
  }

  /// What a full sort says: the largest keys stay, and of equal ones those of lower job indices. With `ge` all that reach the last one's.
  func expected() -> [UInt64] {
    var keys: [(key: UInt64, index: UInt64)] = []
    for segment in segments {
      for (offset, value) in segment.values.enumerated() {
        let index = segment.start + UInt64(offset)
        keys.append((Kernels.key(value, index: index, ties: ties), index))
      }
    }
    if keep == 0 { return [] }
    let order = keys.sorted { ($1.key, $0.index) < ($0.key, $1.index) }
    let last = order[min(keep, order.count) - 1].key
    let stay = ties == .ge ? order.prefix { $0.key >= last } : order.prefix(keep)
    return stay.map(\.index).sorted()
  }

  private func gather(_ round: Round, _ searches: inout MagnitudeSearches) {
    let capacity = min(round.keyCapacities[0], poolLimit)
    let pool = UnsafeMutablePointer<UInt64>.allocate(capacity: max(capacity, 1))
    let stage = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.tile)
    let buffer = UnsafeMutablePointer<KeyBuffer>.allocate(capacity: 1)
    let lanes = UnsafeMutablePointer<Double>.allocate(capacity: 16)
    let tally = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    let bins = UnsafeMutablePointer<UInt64>.allocate(capacity: round.bins)
    unsafe buffer.initialize(to: KeyBuffer(unsafe: stage, capacity: Self.tile))
    unsafe tally.initialize(to: 0)
    unsafe bins.initialize(repeating: 0, count: round.bins)
    defer {
      unsafe pool.deallocate()
      unsafe stage.deallocate()
      unsafe buffer.deallocate()
      unsafe lanes.deallocate()
      unsafe tally.deallocate()
      unsafe bins.deallocate()
    }
    // SAFETY: as large as the round says.
    let statistic = unsafe BlockStatistic(unsafe: lanes, tallies: tally, histograms: bins, pools: buffer, round: round)
    var stored = 0
    var overflowed = false
    var blockSums: [Double] = []
    var blockStarts: [UInt64] = []
    forEachTile { values, jobIndex, isBlockStart, number in
      var values = values
      if isBlockStart {
        unsafe lanes.initialize(repeating: 0, count: 16)
        blockSums.append(0)
        blockStarts.append(jobIndex)
      }
      if !round.isComplete {
        if number % round.sampleStride != 0 { return }
        values = values.prefix(Round.sampleRun)
      }
      searches.gather(0, values, tile(values, jobIndex), statistic)
      if round.sums > 0 { blockSums[blockSums.count - 1] = unsafe Lanes(unsafe: lanes).folded() }
      let found = unsafe buffer.pointee.count
      if stored + found <= capacity {
        for index in 0..<found { unsafe pool[stored + index] = unsafe buffer.pointee[index] }
        stored += found
      } else {
        overflowed = true
      }
      unsafe buffer.pointee.clear()
    }
    let sums = round.sums > 0 ? [blockSums.reduce(0, +)] : []
    let keys = unsafe KeyPool(unsafe: pool, count: stored, overflowed: overflowed)
    searches.settle(
      unsafe Statistics(
        sums: sums, segmentSums: [sums], tallies: [tally.pointee], unsafe: bins, pools: [keys],
        columns: ColumnSums(unsafe: spare.lanes, count: 0),
        blockSums: round.sums > 0 ? blockSums : [],
        blockStarts: blockStarts, round: round))
  }

  private func kept(_ searches: MagnitudeSearches) -> [UInt64] {
    var kept: [UInt64] = []
    forEachTile { values, jobIndex, _, _ in
      let before = (0..<values.count).map { values[$0] }
      searches.trim(0, values, tile(values, jobIndex))
      for index in 0..<values.count where values[index] != 0 || (before[index] == 0 && keepsZero(searches, jobIndex + UInt64(index))) {
        kept.append(jobIndex + UInt64(index))
      }
    }
    return kept
  }

  /// Whether a zero at this index lies above the cut; trimmed or not it stays zero.
  private func keepsZero(_ searches: MagnitudeSearches, _ index: UInt64) -> Bool {
    let cut = searches.cuts[0]
    let key = Kernels.key(0, index: index, ties: ties)
    return key > cut.threshold || (key == cut.threshold && index <= cut.lastInclusive)
  }

  private func forEachTile(_ body: (_ values: Floats, _ jobIndex: UInt64, _ isBlockStart: Bool, _ number: Int) -> Void) {
    let memory = UnsafeMutablePointer<Float>.allocate(capacity: Self.tile)
    defer { unsafe memory.deallocate() }
    for segment in segments {
      for (number, start) in stride(from: 0, to: segment.values.count, by: Self.tile).enumerated() {
        let count = min(Self.tile, segment.values.count - start)
        unsafe segment.values.withUnsafeBufferPointer { values in
          guard let from = values.baseAddress else { return }
          unsafe memory.update(from: from + start, count: count)
        }
        // SAFETY: count values lie there.
        body(unsafe Floats(unsafe: memory, count: count), segment.start + UInt64(start), start % Self.block == 0, number)
      }
    }
  }

  private func tile(_ values: Floats, _ jobIndex: UInt64) -> Tile {
    // SAFETY: tables of no rows and masks that a search does not touch.
    unsafe Tile(
      inputs: FloatTable(unsafe: spare.table, rows: 0, count: 0), scratch: FloatTable(unsafe: spare.table, rows: 0, count: 0),
      joinedScratch: values.prefix(0), segment: 0, firstIndex: jobIndex, jobIndex: jobIndex, count: values.count, rowLength: values.count,
      kernels: Kernels(.best),
      masks: MaskPlanes(unsafe: spare.bits, planeBytes: 0, rowBytes: 0, rowLength: 1, origin: 0, arePersistent: false),
      accumulator: Lanes(unsafe: spare.lanes))
  }
}

/// A generator whose seed a failing test can print.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
