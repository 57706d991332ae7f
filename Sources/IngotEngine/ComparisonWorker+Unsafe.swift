internal import IngotErrors
internal import IngotTensors

/// One worker's memory and arithmetic of a comparison. Used by one thread.
@safe
final class ComparisonWorker {
  private static let tile = Blocking.tileElements
  /// Of each input.
  private static let stagingBytes = 192 << 10
  /// Runs of one tile: a, b, base, the two task vectors, and a and b rounded to the unit's type.
  private static let runs = 7
  static let byteCount = 3 * stagingBytes + runs * tile * 4 + 2 * ComparisonLanes.count * 8

  private let kernels: Kernels
  private let memory: UnsafeMutableRawPointer
  private let values: ComparisonLanes
  private let deltas: ComparisonLanes

  init(_ kernels: Kernels) {
    self.kernels = kernels
    // SAFETY: freed in deinit; the lanes lie behind staging and runs, whose sizes are multiples of 64.
    unsafe memory = .allocate(byteCount: Self.byteCount, alignment: 64)
    let lanes = unsafe (memory + 3 * Self.stagingBytes + Self.runs * Self.tile * 4).bindMemory(
      to: Double.self, capacity: 2 * ComparisonLanes.count)
    unsafe lanes.initialize(repeating: 0, count: 2 * ComparisonLanes.count)
    values = unsafe ComparisonLanes(unsafe: lanes)
    deltas = unsafe ComparisonLanes(unsafe: lanes + ComparisonLanes.count)
  }

  // SAFETY: the last use of the memory.
  deinit { unsafe memory.deallocate() }

  /// The statistics of some elements of a pair, which begin at a block's start. Throws what reading them throws.
  func compare(_ elements: Range<Int>, of pair: ComparisonPair) throws(IngotError) -> ComparisonPart {
    var part = ComparisonPart()
    let places = [pair.first, pair.second] + (pair.base.map { [$0] } ?? [])
    let widest = places.reduce(1) { max($0, $1.dtype.bits / 8) }
    // Whole tiles, so that lanes begin where they do for any width.
    let length = Self.stagingBytes / widest / Self.tile * Self.tile
    var block = elements.lowerBound
    while block < elements.upperBound {
      let end = min(block + Blocking.blockElements, elements.upperBound)
      values.clear()
      deltas.clear()
      var start = block
      while start < end {
        let count = min(length, end - start)
        for (index, place) in places.enumerated() { try read(place, index, start, count) }
        compare(count, of: pair, &part)
        start += count
      }
      part.values += ComparisonPart.Sums(values)
      part.deltas += ComparisonPart.Sums(deltas)
      block = end
    }
    return part
  }

  private func read(_ place: ComparisonPair.Place, _ input: Int, _ start: Int, _ count: Int) throws(IngotError) {
    let width = place.dtype.bits / 8
    // SAFETY: count elements of the widest type fit the staging of one input.
    let target = unsafe UnsafeMutableRawBufferPointer(start: memory + input * Self.stagingBytes, count: count * width)
    try unsafe place.source.read(target, at: place.offset + start * width)
  }

  /// The first `count` staged elements.
  private func compare(_ count: Int, of pair: ComparisonPair, _ part: inout ComparisonPart) {
    let first = staged(0, pair.first.dtype, count)
    let second = staged(1, pair.second.dtype, count)
    if first.dtype == second.dtype { add(kernels.distances(first, second), to: &part) }
    guard pair.hasValues else { return }
    var start = 0
    while start < count {
      let length = min(Self.tile, count - start)
      let (x, y) = (run(0, length), run(1, length))
      part.nonfiniteA += kernels.load(first.slice(from: start, count: length), into: x)
      part.nonfiniteB += kernels.load(second.slice(from: start, count: length), into: y)
      kernels.accumulateComparison(x, y, into: values)
      if first.dtype != second.dtype { add(kernels.distances(rounded(x, 5, pair.unit), rounded(y, 6, pair.unit)), to: &part) }
      if let base = pair.base {
        let (z, dx, dy) = (run(2, length), run(3, length), run(4, length))
        kernels.load(staged(2, base.dtype, count).slice(from: start, count: length), into: z)
        kernels.subtract(x, z, into: dx)
        kernels.subtract(y, z, into: dy)
        kernels.accumulateComparison(dx, dy, into: deltas)
        kernels.countSigns(dx, dy, into: &part.signs)
      }
      start += length
    }
  }

  private func add(_ found: (differing: Int, largest: UInt64), to part: inout ComparisonPart) {
    part.differing += found.differing
    part.ulps = max(part.ulps, found.largest)
  }

  private func staged(_ input: Int, _ dtype: DType, _ count: Int) -> ElementSlice {
    // SAFETY: read has filled as many elements of this input.
    unsafe ElementSlice(unsafe: memory + input * Self.stagingBytes, dtype: dtype, count: count)
  }

  private func address(ofRun index: Int) -> UnsafeMutableRawPointer {
    // SAFETY: index is below `runs`.
    unsafe memory + 3 * Self.stagingBytes + index * Self.tile * 4
  }

  private func run(_ index: Int, _ length: Int) -> Floats {
    // SAFETY: a run holds a tile of f32.
    unsafe Floats(unsafe: address(ofRun: index).assumingMemoryBound(to: Float.self), count: length)
  }

  /// Values rounded to an output type, in run `index`.
  private func rounded(_ x: Floats, _ index: Int, _ dtype: DType) -> ElementSlice {
    // SAFETY: output types are at most 4 bytes wide, so a tile of them fits a run.
    unsafe kernels.store(x, into: MutableElementSlice(unsafe: address(ofRun: index), dtype: dtype, count: x.count))
    return unsafe ElementSlice(unsafe: address(ofRun: index), dtype: dtype, count: x.count)
  }
}

extension ComparisonPart.Sums {
  init(_ lanes: ComparisonLanes) {
    let sums = lanes.folded
    self.init(xx: sums.xx, xy: sums.xy, yy: sums.yy, dd: sums.dd, largest: sums.largest)
  }
}
