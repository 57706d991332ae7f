import CKernels

/// Random masks. Draws are words of Philox4x32-10 (see `Philox`): one 32-bit word for each element, from the seed, the stream and the
/// element's index alone.
extension Kernels {
  /// The threshold of `bernoulli` that keeps with probability `p`: p · 2³², rounded to nearest even, clamped to 0...2³²; NaN gives 0.
  package static func threshold(keeping p: Double) -> UInt64 {
    guard p > 0 else { return 0 }
    return p >= 1 ? 1 << 32 : UInt64((p * 0x1p32).rounded(.toNearestOrEven))
  }

  /// Keeps element i iff its word is below `threshold` (0...2³²).
  package func bernoulli(seed: UInt64, stream: UInt64, firstIndex: UInt64, threshold: UInt64, into bits: KeepBits) {
    // SAFETY: bits hold (count + 7) / 8 bytes.
    unsafe ingotk_bernoulli(set, seed, stream, firstIndex, threshold, bits.base, bits.count)
  }

  /// In place: x · scale where kept, +0 elsewhere.
  package func applyMask(_ x: Floats, _ bits: KeepBits, scale: Float = 1) {
    // SAFETY: both cover n elements.
    unsafe ingotk_apply_mask(set, x.base, bits.base, scale, min(x.count, bits.count))
  }

  /// all += |x|; kept += |x| where kept. The lanes are distinct.
  package func accumulateMaskedAbsolute(_ x: Floats, _ bits: KeepBits, all: Lanes, kept: Lanes) {
    // SAFETY: both cover n elements, lanes hold 16 each.
    unsafe ingotk_masked_absolute(set, x.base, bits.base, all.base, kept.base, min(x.count, bits.count))
  }

  /// As `accumulateMaskedAbsolute` of x − base, straight from storage. Returns more than 0 where one of the inputs may be NaN or infinite.
  package func accumulateMaskedAbsolute(
    _ x: ElementSlice, minus base: ElementSlice, _ bits: KeepBits, all: Lanes, kept: Lanes
  ) -> Int {
    // SAFETY: the views' own promises; all cover n elements, lanes hold 16 each.
    var delta = unsafe ingotk_delta(source: x.address, base: base.address, dtype: x.dtype.rawValue, base_dtype: base.dtype.rawValue)
    return unsafe ingotk_masked_absolute_deltas(
      set, &delta, bits.base, all.base, kept.base, min(x.count, base.count, bits.count))
  }

  /// Words of scratch that `dellaRow` needs for a row.
  package static func dellaScratch(rowLength: Int) -> Int { 2 * rowLength }

  /// Samples one whole row by magnitude (DELLA, arXiv 2406.11617).
  ///
  /// With r the rank of |d| among the c elements of the row, ascending from 1, equal magnitudes sharing the mean of their ranks: the keep
  /// probability is k = (density − epsilon) + 2 · epsilon · (r − 1) / (c − 1), and density where c = 1. It is computed in f64 and clamped to
  /// 0 ... 1 − 2⁻³²; an element is kept iff its word is below k · 2³² rounded to nearest even.
  ///
  /// - Parameters:
  ///   - d: the row, shorter than 2³¹.
  ///   - epsilon: half the width of the window; a negative one counts as 0.
  ///   - probabilities: receives k rounded to f32 where given; exact ranks of all elements cost a sort.
  ///   - scratch: at least `dellaScratch(rowLength:)` values, contents lost. Too little: nothing is done.
  package func dellaRow(
    _ d: Floats, density: Double, epsilon: Double, seed: UInt64, stream: UInt64, firstIndex: UInt64, bits: KeepBits,
    probabilities: Floats? = nil, scratch: Floats
  ) {
    let n = min(d.count, bits.count, probabilities?.count ?? .max)
    guard n < 1 << 31, scratch.count >= Kernels.dellaScratch(rowLength: n) else { return }
    // SAFETY: all cover n elements; scratch has 2 n words, which the kernel uses as 32-bit integers.
    unsafe ingotk_della_row(
      set, d.base, density, epsilon, seed, stream, firstIndex, bits.base, probabilities?.base,
      UnsafeMutableRawPointer(scratch.base).assumingMemoryBound(to: UInt32.self), n)
  }

  /// In place: x / k where kept, +0 elsewhere.
  package func divideKept(_ x: Floats, _ bits: KeepBits, by probabilities: Floats) {
    // SAFETY: all cover n elements.
    unsafe ingotk_divide_kept(set, x.base, bits.base, probabilities.base, min(x.count, bits.count, probabilities.count))
  }
}
