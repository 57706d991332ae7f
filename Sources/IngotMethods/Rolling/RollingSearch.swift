internal import IngotErrors
internal import IngotTensors

/// What a search over the first running objects of a rolling merge's job needs to know: the others have the same model behind them.
///
/// Elements are numbered as in a merge of the tensors alone, so that ties fall as they do there.
struct RollingSearch: Sendable {
  /// The tensors that are searched.
  let segments: Set<Int>
  let population: UInt64
  let blocks: UInt64
  /// Of each tensor of the job: the number of its first element, and its blocks of 65,536.
  private let tensors: [(first: UInt64, blocks: UInt64)]

  private static let blockElements: UInt64 = 65_536

  init(_ request: MethodRequest) throws(IngotError) {
    var segments: Set<Int> = []
    var firsts: [String: UInt64] = [:]
    var (population, blocks): (UInt64, UInt64) = (0, 0)
    for (index, segment) in request.segments.enumerated() where RollingName.isFirst(segment.name) {
      let count = UInt64(try segment.shape.elementCount())
      segments.insert(index)
      firsts[segment.name] = blocks * Self.blockElements
      population += count
      blocks += (count + Self.blockElements - 1) / Self.blockElements
    }
    var tensors: [(first: UInt64, blocks: UInt64)] = []
    for segment in request.segments {
      guard let first = firsts[RollingName.tensor(segment.name)] else {
        throw IngotError(.internalError, "a running object without the first one", subject: segment.name)
      }
      let count = UInt64(try segment.shape.elementCount())
      tensors.append((first, (count + Self.blockElements - 1) / Self.blockElements))
    }
    self.segments = segments
    self.population = population
    self.blocks = blocks
    self.tensors = tensors
  }

  /// Of `density` of all elements.
  func search(density: Double) -> MagnitudeSearches {
    MagnitudeSearches([
      MagnitudeSearch(population: population, keep: keptCount(density: density, of: population), ties: .hash, blocks: blocks)
    ])
  }

  /// The round that the searches want, of the first running objects alone.
  func round(_ searches: MagnitudeSearches) -> Round? {
    guard var round = searches.nextRound else { return nil }
    if segments.count < tensors.count { round.segments = segments }
    return round
  }

  /// The tile where its elements stand in the search.
  func placed(_ tile: Tile) -> Tile {
    var placed = tile
    placed.jobIndex = tensors[tile.segment].first + tile.firstIndex
    return placed
  }

  /// The statistics with blocks where they stand in the search.
  func placed(_ statistics: Statistics) -> Statistics {
    if statistics.blockStarts.isEmpty { return statistics }
    var placed = statistics
    placed.blockStarts = tensors.flatMap { tensor in (0..<tensor.blocks).map { tensor.first + $0 * Self.blockElements } }
    return placed
  }
}
