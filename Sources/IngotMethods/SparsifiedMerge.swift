package import IngotErrors
package import IngotTensors

/// What drops elements of the task vectors: the half in which DARE, DELLA and Breadcrumbs differ. Its phases are those of `MergeMethod`.
package protocol Sparsifier: Sendable {
  associatedtype State: Sendable

  init(_ request: MethodRequest) throws(IngotError)

  var demands: Demands { get }

  func begin() -> Phase<State>

  /// Measures one tile of task vectors: row 0 is the base, rows 1... have it subtracted.
  func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic)

  /// `gather` straight from storage, where the round has such a form.
  func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int?

  func settle(_ state: State, _ statistics: Statistics) -> Phase<State>

  /// Drops and rescales the task vectors of one tile, in place.
  func sparsify(_ state: State, _ tile: Tile)

  /// True when what stays of every model can be told by `term`.
  func isFused(_ state: State) -> Bool

  /// The fused form of one model.
  func term(_ model: Int, segment: Int, weight: Float, _ state: State) -> FusedMerge.Term

  func findings(_ state: State) -> [Finding]
}

extension Sparsifier {
  package func isFused(_ state: State) -> Bool { false }
  package func term(_ model: Int, segment: Int, weight: Float, _ state: State) -> FusedMerge.Term { FusedMerge.Term(weight: weight) }
}

/// A method that sparsifies task vectors by one rule and then adds them, with or without a sign vote: all but its descriptor.
package protocol SparsifiedMerge: MergeMethod where State == Rule.State {
  associatedtype Rule: Sparsifier
  var combination: TaskVectorCombination { get }
  var rule: Rule { get }
}

extension SparsifiedMerge {
  package static var cropsToBase: Bool { true }
  package var demands: Demands { rule.demands }

  package func begin() -> Phase<State> { rule.begin() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    combination.subtractBase(tile)
    rule.gather(state, tile, statistic)
  }

  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? {
    rule.gatherStored(state, tile, statistic)
  }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    rule.settle(state, statistics)
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    guard rule.isFused(state) else { return nil }
    return combination.fused(segment: segment) { rule.term($0, segment: segment, weight: $1, state) }
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    combination.subtractBase(tile)
    rule.sparsify(state, tile)
    combination.combine(tile, into: output)
  }

  package func findings(_ state: State) -> [Finding] { rule.findings(state) }
}
