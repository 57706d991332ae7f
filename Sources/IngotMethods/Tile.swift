package import IngotTensors

/// The part of a job that one call of `gather` or `emit` sees: the same elements of every input, as f32.
///
/// A tile is borrowed: it is valid during the call only. Methods may overwrite the inputs in place; the engine does not read them again.
@safe
package struct Tile {
  /// The inputs in job order (base first when there is one), `count` elements each.
  package var inputs: FloatTable
  /// The side tensors, in the order of `MethodRequest.Segment.sides`.
  package var sides: SideTensors
  /// Worker-local scratch, `Demands.scratchRows` runs of `count` elements; contents are undefined on entry.
  package var scratch: FloatTable
  /// Which tensor of the job.
  package var segment: Int
  /// Row-major index of the first element inside its tensor.
  package var firstIndex: UInt64
  /// Index of the first element in the job: tensors follow each other, each starting at a multiple of 65,536.
  package var jobIndex: UInt64
  /// Elements in the tile.
  package var count: Int
  /// Length of a row of this tensor; `count` is a multiple of it when the granularity is `.row`.
  package var rowLength: Int
  package var kernels: Kernels
  /// `Demands.maskPlanes` planes of keep bits. They outlive the round only when `masks.arePersistent`.
  package var masks: MaskPlanes
  /// The worker's own accumulator, for sums inside a tile.
  private let accumulator: Lanes

  /// All scratch runs as one run, at least as long as they are together.
  package var joinedScratch: Floats

  package init(
    inputs: FloatTable, sides: SideTensors? = nil, scratch: FloatTable, joinedScratch: Floats, segment: Int, firstIndex: UInt64,
    jobIndex: UInt64, count: Int, rowLength: Int, kernels: Kernels, masks: MaskPlanes, accumulator: Lanes
  ) {
    self.inputs = inputs
    self.sides = unsafe sides ?? SideTensors(unsafe: nil, count: 0, streamed: inputs.first(0))
    self.scratch = scratch
    self.joinedScratch = joinedScratch
    self.segment = segment
    self.firstIndex = firstIndex
    self.jobIndex = jobIndex
    self.count = count
    self.rowLength = rowLength
    self.kernels = kernels
    self.masks = masks
    self.accumulator = accumulator
  }

  /// Σ xᵢ yᵢ in f64, 16 lanes folded in the fixed order.
  package func dot(_ x: Floats, _ y: Floats) -> Double {
    accumulator.clear()
    kernels.accumulateDot(x, y, into: accumulator)
    return accumulator.folded()
  }

  /// The population variance of each element's task vectors over the models; see `Kernels.variance`.
  package func variance(into output: Floats) { _ = kernels.variance(inputs[0], inputs.dropFirst(), into: output, energy: accumulator) }
}

/// The part of a job that one call of `gatherStored` sees: the same elements of every input, as they are stored. Borrowed like a tile.
@safe
package struct StoredTile {
  private let elements: UnsafePointer<ElementSlice>
  private let inputCount: Int
  /// Which tensor of the job.
  package let segment: Int
  /// Row-major index of the first element inside its tensor.
  package let firstIndex: UInt64
  /// Index of the first element in the job.
  package let jobIndex: UInt64
  package let count: Int
  package let kernels: Kernels
  package let masks: MaskPlanes

  /// - Parameters: `elements` holds one slice of `count` elements for each input.
  package init(
    unsafe elements: UnsafePointer<ElementSlice>, inputs: Int, segment: Int, firstIndex: UInt64, jobIndex: UInt64, count: Int,
    kernels: Kernels,
    masks: MaskPlanes
  ) {
    unsafe self.elements = unsafe elements
    inputCount = inputs
    self.segment = segment
    self.firstIndex = firstIndex
    self.jobIndex = jobIndex
    self.count = count
    self.kernels = kernels
    self.masks = masks
  }

  /// An input; the last one for a number out of range. There is at least one.
  package subscript(input: Int) -> ElementSlice {
    // SAFETY: clamped to the slices there are.
    unsafe elements[min(max(input, 0), inputCount - 1)]
  }
}

/// One keep bit per element and plane for a whole job, addressed so that no two workers share a byte.
///
/// Block granularity: bit i of a tensor at byte i / 8. Row granularity: each row starts on a byte of its own.
@safe
package struct MaskPlanes {
  private let base: UnsafeMutablePointer<UInt8>
  private let planeBytes: Int
  private let rowBytes: Int
  private let rowLength: Int
  private let origin: UInt64
  /// True when bits written in one round are still there in the next; otherwise each round must draw them again.
  package let arePersistent: Bool

  /// - Parameters: `rowBytes` is 0 for block granularity; `base` points at the bits of element `origin` of the tile's tensor in plane 0.
  package init(
    unsafe base: UnsafeMutablePointer<UInt8>, planeBytes: Int, rowBytes: Int, rowLength: Int, origin: UInt64, arePersistent: Bool
  ) {
    unsafe self.base = unsafe base
    self.planeBytes = planeBytes
    self.rowBytes = rowBytes
    self.rowLength = rowLength
    self.origin = origin
    self.arePersistent = arePersistent
  }

  /// The bits of `count` elements from `firstIndex` (a multiple of 8, or the start of a row).
  package func bits(plane: Int, firstIndex: UInt64, count: Int) -> KeepBits {
    let distance = Int(firstIndex &- origin)
    let offset = rowBytes == 0 ? distance / 8 : distance / max(rowLength, 1) * rowBytes
    // SAFETY: the engine sized each plane for the whole job and hands out indices inside it.
    return unsafe KeepBits(unsafe: base + plane * planeBytes + offset, count: count)
  }
}

/// The statistic of the block that a tile belongs to; the engine owns the memory.
@safe
package struct BlockStatistic {
  private let lanes: UnsafeMutablePointer<Double>
  private let tallyBase: UnsafeMutablePointer<UInt64>
  private let histogramBase: UnsafeMutablePointer<UInt64>
  fileprivate let pools: UnsafeMutablePointer<KeyBuffer>
  // Counts only: a copy of the round would touch the reference count that all workers share.
  private let sums: Int
  private let tallyCount: Int
  private let histogramCount: Int
  private let bins: Int
  fileprivate let poolCount: Int
  /// The round's column sums.
  package let columns: ColumnSums

  package init(
    unsafe lanes: UnsafeMutablePointer<Double>, tallies: UnsafeMutablePointer<UInt64>, histograms: UnsafeMutablePointer<UInt64>,
    pools: UnsafeMutablePointer<KeyBuffer>, columns: UnsafeMutablePointer<Double>? = nil, round: Round
  ) {
    // SAFETY: the round's sums; without a table, none of the lanes.
    self.columns = unsafe ColumnSums(unsafe: columns ?? lanes, count: columns == nil ? 0 : round.columnSums)
    unsafe self.lanes = lanes
    unsafe self.tallyBase = tallies
    unsafe self.histogramBase = histograms
    unsafe self.pools = pools
    sums = round.sums
    tallyCount = round.tallies
    self.histogramCount = round.histograms
    bins = round.bins
    poolCount = round.keyCapacities.count
  }

  /// The 16 lanes of sum `slot`.
  package func sum(_ slot: Int) -> Lanes {
    let safe = min(max(slot, 0), max(sums - 1, 0))
    return unsafe Lanes(unsafe: lanes + safe * 16)
  }

  /// Adds to counter `slot`.
  package func add(_ amount: UInt64, toTally slot: Int) {
    guard slot >= 0, slot < tallyCount else { return }
    unsafe tallyBase[slot] &+= amount
  }

  /// All counters.
  package var tallies: Counters {
    // SAFETY: the round's counters.
    unsafe Counters(unsafe: tallyBase, count: tallyCount)
  }

  /// The bins of histogram `slot`.
  package func histogram(_ slot: Int) -> Counters {
    let safe = min(max(slot, 0), max(histogramCount - 1, 0))
    return unsafe Counters(unsafe: histogramBase + safe * bins, count: histogramCount == 0 ? 0 : bins)
  }

  /// Counts keys above `high` into tally `tally` and collects those in low...high into pool `pool`.
  package func collect(
    _ values: Floats, kernels: Kernels, firstIndex: UInt64, ties: TieRule, low: UInt64, high: UInt64, pool: Int, tally: Int
  ) {
    guard pool >= 0, pool < poolCount else { return }
    var above: UInt64 = 0
    // The stretch holds a whole tile, so it cannot overflow.
    _ = unsafe kernels.collect(values, firstIndex: firstIndex, ties: ties, low: low, high: high, above: &above, into: &pools[pool])
    add(above, toTally: tally)
  }
}

extension BlockStatistic {
  /// Counts the keys that the pool holds of this tile into a histogram, by (key − low) >> shift, and takes them out of the pool.
  package func bin(_ pool: Int, low: UInt64, shift: Int, into slot: Int) {
    guard pool >= 0, pool < poolCount else { return }
    unsafe Kernels.bin(pools[pool], low: low, shift: shift, into: histogram(slot))
    unsafe pools[pool].clear()
  }

  /// `collect` of x − base, straight from storage. Returns more than 0 where a value may be NaN or infinite.
  package func collect(
    _ x: ElementSlice, minus base: ElementSlice, kernels: Kernels, firstIndex: UInt64, ties: TieRule, low: UInt64, high: UInt64, pool: Int,
    tally: Int
  ) -> Int {
    guard pool >= 0, pool < poolCount else { return 0 }
    var above: UInt64 = 0
    var bad = 0
    // The stretch holds a whole tile, so it cannot overflow.
    _ = unsafe kernels.collect(
      x, minus: base, firstIndex: firstIndex, ties: ties, low: low, high: high, above: &above, into: &pools[pool], bad: &bad)
    add(above, toTally: tally)
    return bad
  }

  /// How many keys of `values` equal `key`.
  package func count(of key: UInt64, in values: Floats, kernels: Kernels, firstIndex: UInt64, ties: TieRule) -> UInt64 {
    guard key > 0, poolCount > 0 else { return 0 }
    var atLeast: UInt64 = 0
    var above: UInt64 = 0
    _ = unsafe kernels.collect(values, firstIndex: firstIndex, ties: ties, low: .max, high: key - 1, above: &atLeast, into: &pools[0])
    _ = unsafe kernels.collect(values, firstIndex: firstIndex, ties: ties, low: .max, high: key, above: &above, into: &pools[0])
    return atLeast - above
  }
}

/// What a round found, folded over the whole job; read by `settle` on one thread.
@safe
package struct Statistics {
  /// Totals of the round's sums over the job, in slot order.
  package var sums: [Double]
  /// The same totals per tensor of the job.
  package var segmentSums: [[Double]]
  package var tallies: [UInt64]
  private let histogramBase: UnsafeMutablePointer<UInt64>?
  private let round: Round
  private let pools: [KeyPool]
  /// Sums of every block in job order, `round.sums` values each.
  package var blockSums: [Double]
  /// Job index of the first element of each block of `blockSums`.
  package var blockStarts: [UInt64]
  /// The round's column sums; read them before `settle` returns.
  package let columns: ColumnSums

  package init(
    sums: [Double], segmentSums: [[Double]], tallies: [UInt64], unsafe histograms: UnsafeMutablePointer<UInt64>?, pools: [KeyPool],
    columns: ColumnSums, blockSums: [Double], blockStarts: [UInt64], round: Round
  ) {
    self.columns = columns
    self.sums = sums
    self.segmentSums = segmentSums
    self.tallies = tallies
    unsafe self.histogramBase = histograms
    self.pools = pools
    self.blockSums = blockSums
    self.blockStarts = blockStarts
    self.round = round
  }

  package func histogram(_ slot: Int) -> [UInt64] {
    guard let base = unsafe histogramBase, slot >= 0, slot < round.histograms else { return [] }
    return (0..<round.bins).map { unsafe base[slot * round.bins + $0] }
  }

  package func keys(_ pool: Int) -> KeyPool? { pools.indices.contains(pool) ? pools[pool] : nil }
}

/// The keys that a round collected into one pool.
@safe
package struct KeyPool {
  private let base: UnsafeMutablePointer<UInt64>
  /// How many keys are stored.
  package let count: Int
  /// True when more keys fell into the range than the pool could hold: the stored ones are then incomplete.
  package let overflowed: Bool

  package init(unsafe base: UnsafeMutablePointer<UInt64>, count: Int, overflowed: Bool) {
    unsafe self.base = base
    self.count = count
    self.overflowed = overflowed
  }

  /// A key of a pool: how many keys are equal to it (itself included), and how many are larger.
  package struct Ranked: Sendable {
    package var key: UInt64
    package var equal: Int
    package var larger: Int
  }

  /// The key of the given rank, counted from the largest (rank 0); the keys are reordered. Nil when the rank is out of range.
  package func key(ranked rank: Int) -> Ranked? {
    guard rank >= 0, rank < count else { return nil }
    // SAFETY: base holds count keys, and settle runs alone.
    let found = unsafe Kernels.select(unsafe: base, count: count, rank: rank)
    return Ranked(key: found.key, equal: found.equal, larger: found.larger)
  }
}
