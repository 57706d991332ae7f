import CKernels

/// Whole element-wise steps of single methods.
extension Kernels {
  /// base + w (other − base) with w = clamp(t / max(|other − base|, 1e-6), 0, 1); where w is 1, `other` itself.
  package func nearswap(_ base: Floats, _ other: Floats, t: Float, into output: Floats) {
    // SAFETY: all three hold at least n values.
    unsafe ingotk_nearswap(set, base.base, other.base, t, output.base, min(base.count, other.count, output.count))
  }

  /// The mean of the deltas with |d| > `epsilon`; where there is only one, that one times its row's factor; 0 where there is none.
  package func meanOfActive(_ deltas: FloatTable, epsilon: Float, unique: [Float], into output: Floats) {
    let rows = min(deltas.rows, unique.count)
    // SAFETY: rows pointers of at least n values, as many factors.
    unsafe ingotk_ram(set, deltas.pointers, rows, epsilon, unique, output.base, min(deltas.count, output.count))
  }

  /// Adds to `counts[2 r]` the elements in which row r alone is above `epsilon`, to `counts[2 r + 1]` those which it shares with another.
  ///
  /// Does nothing unless `counts` has two counters for each row.
  package func countActive(_ deltas: FloatTable, epsilon: Float, into counts: Counters) {
    guard counts.count >= 2 * deltas.rows else { return }
    // SAFETY: rows pointers of at least n values, twice as many counters.
    unsafe ingotk_ram_counts(set, deltas.pointers, deltas.rows, epsilon, counts.base, deltas.count)
  }

  /// Adds the number of values above zero to `counts[0]`, of those below to `counts[1]`. Does nothing unless there are two counters.
  package func countSigns(_ x: Floats, into counts: Counters) {
    guard counts.count >= 2 else { return }
    // SAFETY: two counters.
    unsafe ingotk_count_signs(set, x.base, counts.base, x.count)
  }

  /// `other` where |importance| reaches the threshold (NaN does), else `base`.
  package func selectImportant(_ importance: Floats, threshold: Float, base: Floats, other: Floats, into output: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_select_important(
      set, importance.base, threshold, base.base, other.base, output.base, min(importance.count, base.count, other.count, output.count))
  }

  // MARK: SCE

  /// The population variance of x − base over the models `x`, computed in f64 and rounded once; the squares of all x − base are added to
  /// `energy`. Returns how many variances are not 0; equal models give exactly 0.
  package func variance(_ base: Floats, _ x: FloatTable, into output: Floats, energy: Lanes) -> Int {
    // SAFETY: rows pointers of at least n values; lanes hold 16.
    unsafe Int(ingotk_variance(set, base.base, x.pointers, x.rows, output.base, energy.base, min(base.count, x.count, output.count)))
  }

  /// lanes += (x − base)² where `selected` is not 0; without it, everywhere.
  package func accumulateEnergy(_ base: Floats, _ x: Floats, selected: Floats?, into lanes: Lanes) {
    let n = min(base.count, x.count, selected?.count ?? .max)
    // SAFETY: all hold at least n values; lanes hold 16.
    unsafe ingotk_energy(set, base.base, x.base, selected.map { unsafe UnsafePointer($0.base) }, lanes.base, n)
  }

  /// base + the mean, by the weights, of the deltas that have the sign of their plain sum, 0 counting as plus; the weights' sum is at least
  /// `floor`. Where `selected` is 0, base.
  package func mergeAgreeing(_ base: Floats, _ x: FloatTable, selected: Floats?, weights: [Float], floor: Float = 1e-6, into output: Floats)
  {
    let n = min(base.count, x.count, selected?.count ?? .max, output.count)
    // SAFETY: all hold at least n values, and there is a weight for each row.
    unsafe ingotk_sce_merge(
      set, base.base, x.pointers, min(x.rows, weights.count), selected.map { unsafe UnsafePointer($0.base) }, weights, floor, output.base, n
    )
  }

  // MARK: Arcee Fusion

  /// Values of scratch that `divergence` needs for a row.
  package static func divergenceScratch(rowLength: Int) -> Int { 4 * max(rowLength, 0) }

  /// Σ P ln(P/Q) over one row, P and Q the softmaxes of `other` and `base` plus 1e-8, in f64; 0 for equal rows, where a value is infinite,
  /// and when `scratch` is shorter than `divergenceScratch` says.
  package func divergence(_ base: Floats, _ other: Floats, scratch: Floats) -> Double {
    let n = min(base.count, other.count)
    guard scratch.count >= Self.divergenceScratch(rowLength: n) else { return 0 }
    // SAFETY: the scratch has room for 2 n doubles, which the kernel reads and writes at any alignment.
    return unsafe ingotk_row_divergence(
      set, base.base, other.base, UnsafeMutableRawPointer(scratch.base).assumingMemoryBound(to: Double.self), n)
  }

  /// exp of each number up to 700; 0 below −700. In place.
  package func exponential(_ x: inout [Double]) {
    let copy = x
    // SAFETY: as many results as numbers.
    unsafe ingotk_exponential(set, copy, &x, copy.count)
  }

  /// ln of each positive normal number. In place.
  package func logarithm(_ x: inout [Double]) {
    let copy = x
    // SAFETY: as many results as numbers.
    unsafe ingotk_logarithm(set, copy, &x, copy.count)
  }

  // MARK: Rounding after every step

  /// Rounds every value to the nearest of `dtype`, in place; F16 and BF16 only.
  package func round(_ x: Floats, to dtype: DType) {
    // SAFETY: x is the only run.
    unsafe ingotk_round_to(set, dtype.rawValue, x.base, x.count)
  }

  /// `electAndMerge` over terms that are weighted already, every sum and quotient rounded to `dtype`.
  package func electAndMergeStepwise(
    _ terms: FloatTable, weights: [Float], normalize: Bool, zeroSign: ZeroSign = .positive, dtype: DType, into output: Floats
  ) {
    let rows = min(terms.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_stepwise_elect(
      set, dtype.rawValue, terms.pointers, rows, weights, normalize, zeroSign.rawValue, output.base, min(terms.count, output.count))
  }
}
