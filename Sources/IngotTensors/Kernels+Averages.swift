import CKernels

/// Steps of averages.
extension Kernels {
  /// Adds to `counts[slot]` how many values of x are zero, to `counts[slot + 1]` in how many elements only one of x and y is. Does nothing where
  /// there are no such counters.
  package func countZeros(_ x: Floats, _ y: Floats, into counts: Counters, at slot: Int) {
    guard slot >= 0, slot + 2 <= counts.count else { return }
    // SAFETY: both runs hold at least n values; two counters from the slot on.
    unsafe ingotk_count_zeros(set, x.base, y.base, counts.base + slot, min(x.count, y.count))
  }

  /// base + Σ q d / Σ q with the deltas d = x − base and q = d² or |d|; the plain mean of the deltas where Σ q is below 1e-13. Computed in f64 and
  /// rounded once before the base is added; where it is zero, base itself.
  package func variedMean(_ base: Floats, _ x: FloatTable, squares: Bool, into output: Floats) {
    // SAFETY: rows pointers of at least n values.
    unsafe ingotk_varied_mean(
      set, base.base, x.pointers, x.rows, squares, output.base, min(base.count, x.count, output.count))
  }
}
