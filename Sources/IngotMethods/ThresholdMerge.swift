package import IngotErrors

/// A method whose rounds look for thresholds of magnitude and for nothing else: it gathers until every search has its cut, then it emits.
package protocol ThresholdMerge: MergeMethod where State == MagnitudeSearches {
  /// The searches before the first round.
  var initial: MagnitudeSearches { get }
}

extension ThresholdMerge {
  package func begin() -> Phase<State> { next(initial) }

  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> {
    var state = state
    state.settle(statistics)
    return next(state)
  }

  private func next(_ state: State) -> Phase<State> { state.nextRound.map { .gather(state, $0) } ?? .emit(state) }
}
