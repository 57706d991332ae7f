extension Lanes {
  /// Adds a count or another scalar to lane 0.
  package func add(_ value: Double) {
    // SAFETY: 16 lanes by the promise of init.
    unsafe base[0] += value
  }
}
