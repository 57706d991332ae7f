internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// Zeroed memory from the budget, or from the heap when the budget is used up and the need is small.
@safe
final class Lease: @unchecked Sendable {
  // SENDABLE: an address; its users divide the bytes among themselves.
  let address: UnsafeMutableRawPointer
  private let piece: Arena.Piece?

  init(_ bytes: Int, from memory: JobMemory, zeroed: Bool) {
    piece = memory.allocate(bytes)
    if let piece {
      unsafe address = piece.address
    } else {
      unsafe address = .allocate(byteCount: max(bytes, 1), alignment: 64)
    }
    if zeroed { unsafe address.initializeMemory(as: UInt8.self, repeating: 0, count: bytes) }
  }

  func release(_ memory: JobMemory) {
    if let piece { memory.release(piece) } else { unsafe address.deallocate() }
  }
}

/// The statistics of one round while workers fill them.
@safe
final class RoundRun: @unchecked Sendable {
  // SENDABLE: each worker writes its own stretch of the per-worker tables, each block its own sums; statistics() runs when all are done.
  private let round: Round
  private let segments: [JobSegment]
  private let workers: Int
  private let prefixes: Prefixes
  private let blocksPerItem: Int
  private let lanes: UnsafeMutablePointer<Double>
  private let tallies: UnsafeMutablePointer<UInt64>
  private let blockSums: UnsafeMutablePointer<Double>
  private let blockSumCount: Int
  private let tables: Lease
  private let histogramStride: Int
  /// One for each worker where the budget has room, else fewer that workers take turns on.
  private let tableCount: Int
  private let tableLocks: [Monitor]
  private var poolPieces: [Arena.Piece?] = []
  private var pools: [SharedKeyPool] = []
  private let columns: Lease
  private let stages: Lease
  private let stageKeys: Int
  private let stageBuffers: UnsafeMutablePointer<KeyBuffer>

  init(_ round: Round, segments: [JobSegment], context: JobContext) throws(IngotError) {
    self.round = round
    self.segments = segments
    workers = context.workerCount
    // Column sums are added to in order, so one worker does a tensor; others go on with the next one.
    let span = round.columnSums > 0 ? max(segments.map(\.blocking.blockCount).max() ?? 1, 1) : 8
    blocksPerItem = span
    prefixes = Prefixes(segments.map { round.reads($0.index) ? ($0.blocking.blockCount + span - 1) / span : 0 })
    let blockCount = segments.last.map { $0.firstBlock + $0.blocking.blockCount } ?? 0
    blockSumCount = blockCount * round.sums
    unsafe lanes = Self.zeroes(workers * round.sums * 16)
    unsafe tallies = Self.zeroes(workers * round.tallies)
    unsafe blockSums = Self.zeroes(blockSumCount)
    histogramStride = round.histograms * round.bins
    tableCount = histogramStride == 0 ? 0 : max(1, min(workers, context.memory.room(share: 0.5) / (histogramStride * 8)))
    tableLocks = tableCount < workers ? (0..<tableCount).map { _ in Monitor() } : []
    tables = Lease(tableCount * histogramStride * 8, from: context.memory, zeroed: true)
    columns = Lease(round.columnSums * 8, from: context.memory, zeroed: true)
    let tile = segments.map { min($0.blocking.tileLength, max($0.blocking.count, 1)) }.max() ?? 1
    let poolCount = round.keyCapacities.count
    stageKeys = poolCount == 0 ? 0 : tile
    stages = Lease(workers * poolCount * stageKeys * 8, from: context.memory, zeroed: false)
    unsafe stageBuffers = .allocate(capacity: max(workers * poolCount, 1))
    for buffer in 0..<workers * poolCount {
      let base = unsafe stages.address.assumingMemoryBound(to: UInt64.self) + buffer * stageKeys
      unsafe (stageBuffers + buffer).initialize(to: KeyBuffer(unsafe: base, capacity: stageKeys))
    }
    for (index, capacity) in round.keyCapacities.enumerated() {
      // What is left of the budget is shared among the pools still to come; a smaller pool only costs further rounds.
      let share = 0.6 / Double(poolCount - index)
      let piece = context.memory.allocate(upTo: capacity * 8, unit: 8, share: share)
      poolPieces.append(piece)
      if let piece {
        pools.append(unsafe SharedKeyPool(base: piece.address.assumingMemoryBound(to: UInt64.self), capacity: piece.bytes / 8))
      } else {
        pools.append(unsafe SharedKeyPool(base: tables.address.assumingMemoryBound(to: UInt64.self), capacity: 0))
      }
    }
  }

  /// Bytes without which no job with such a round works: a buffer of keys for each worker and pool, and one table of histograms, which every
  /// search comes down to when its pool is too small.
  static func leastMemory(of round: Round, workers: Int) -> Int {
    let pools = round.keyCapacities.count
    return 8
      * (workers * pools * Blocking.tileElements + max(round.histograms, pools) * max(round.bins, pools == 0 ? 0 : 65_536)
        + round.columnSums)
  }

  deinit {
    unsafe lanes.deallocate()
    unsafe tallies.deallocate()
    unsafe blockSums.deallocate()
    unsafe stageBuffers.deallocate()
  }

  private static func zeroes<T: AdditiveArithmetic>(_ count: Int) -> UnsafeMutablePointer<T> {
    let memory = UnsafeMutablePointer<T>.allocate(capacity: max(count, 1))
    unsafe memory.initialize(repeating: .zero, count: max(count, 1))
    return unsafe memory
  }

  func release(_ memory: JobMemory) {
    tables.release(memory)
    columns.release(memory)
    stages.release(memory)
    for piece in poolPieces { memory.release(piece) }
    poolPieces = []
  }

  var itemCount: Int { prefixes.total }
  var itemStretches: [ItemStretch] { prefixes.stretches(segments) }

  func item(_ index: Int) -> (segment: Int, blocks: Range<Int>) {
    let (segment, rest) = prefixes.locate(index)
    let start = rest * blocksPerItem
    return (segment, start..<min(start + blocksPerItem, segments[segment].blocking.blockCount))
  }

  // MARK: What workers do

  func clearLanes(_ worker: Int) {
    // SAFETY: the stretch of this worker.
    unsafe (lanes + worker * round.sums * 16).update(repeating: 0, count: round.sums * 16)
  }

  func statistic(_ worker: Int) -> BlockStatistic {
    unsafe BlockStatistic(
      unsafe: lanes + worker * round.sums * 16, tallies: tallies + worker * round.tallies,
      histograms: tables.address.assumingMemoryBound(to: UInt64.self) + (tableCount == 0 ? 0 : worker % tableCount) * histogramStride,
      pools: stageBuffers + worker * round.keyCapacities.count, columns: columns.address.assumingMemoryBound(to: Double.self), round: round)
  }

  /// Runs the gathering of one tile; workers that share a table of histograms wait for one another.
  func takingTurns(_ worker: Int, _ body: () -> Void) {
    guard !tableLocks.isEmpty else { return body() }
    let lock = tableLocks[worker % tableCount]
    lock.lock()
    body()
    lock.unlock()
  }

  /// Hands the keys of one tile to the job's pools.
  func flushKeys(_ worker: Int) {
    for pool in 0..<pools.count {
      let buffer = unsafe stageBuffers + worker * pools.count + pool
      let count = unsafe buffer.pointee.count
      if count > 0 {
        let base = unsafe stages.address.assumingMemoryBound(to: UInt64.self) + (worker * pools.count + pool) * stageKeys
        unsafe pools[pool].append(base, count: count, overflowed: false)
        unsafe buffer.pointee.clear()
      }
    }
  }

  /// Folds the lanes of a finished block into its sums.
  func fold(block: Int, worker: Int) {
    for slot in 0..<round.sums {
      let own = unsafe Lanes(unsafe: lanes + (worker * round.sums + slot) * 16)
      unsafe blockSums[block * round.sums + slot] = own.folded()
    }
  }

  // MARK: What settling reads

  func statistics() -> Statistics {
    var sums = [Double](repeating: 0, count: round.sums)
    var segmentSums: [[Double]] = []
    var starts: [UInt64] = []
    if round.sums > 0 { starts.reserveCapacity(blockSumCount / round.sums) }
    for segment in segments where round.sums > 0 {
      var own = [Double](repeating: 0, count: round.sums)
      for block in 0..<segment.blocking.blockCount {
        for slot in 0..<round.sums { own[slot] += unsafe blockSums[(segment.firstBlock + block) * round.sums + slot] }
        starts.append(segment.jobBase + UInt64(block * segment.blocking.blockLength))
      }
      for slot in 0..<round.sums { sums[slot] += own[slot] }
      segmentSums.append(own)
    }
    var totals = [UInt64](repeating: 0, count: round.tallies)
    for worker in 0..<workers {
      for slot in 0..<round.tallies { totals[slot] += unsafe tallies[worker * round.tallies + slot] }
    }
    let counts = unsafe tables.address.assumingMemoryBound(to: UInt64.self)
    for table in 1..<max(tableCount, 1) {
      for bin in 0..<histogramStride { unsafe counts[bin] += counts[table * histogramStride + bin] }
    }
    let all = unsafe [Double](UnsafeBufferPointer(start: blockSums, count: blockSumCount))
    return unsafe Statistics(
      sums: sums, segmentSums: segmentSums, tallies: totals, unsafe: counts, pools: pools.map(\.pool),
      columns: ColumnSums(unsafe: columns.address.assumingMemoryBound(to: Double.self), count: round.columnSums), blockSums: all,
      blockStarts: starts,
      round: round)
  }
}
