import CKernels

/// The arithmetic on runs of f32 values, with one instruction set chosen for its lifetime.
///
/// Results are the same bits for every instruction set. Where runs of one call differ in length, the shortest counts and the rest stays
/// untouched. An output may be one of the inputs; runs that overlap otherwise are a caller's bug and give unspecified values. Calls are
/// free of allocation and safe from any thread on disjoint runs. Rounding is to nearest even, assuming the thread's default mode.
package struct Kernels: Sendable {
  package let instructionSet: InstructionSet
  let set: Int32

  package init(_ instructionSet: InstructionSet) {
    self.instructionSet = instructionSet
    set = instructionSet.ordinal
  }

  // MARK: Conversion

  /// Widens (F64: rounds) elements to f32 and returns how many of the results are NaN or infinite.
  ///
  /// Types without arithmetic become zeros; callers check `DType.hasArithmetic` first. F32 and BF16 keep NaN bits exactly.
  @discardableResult
  package func load(_ source: ElementSlice, into output: Floats) -> Int {
    let n = min(source.count, output.count)
    // SAFETY: both hold at least n elements.
    return unsafe Int(ingotk_load(set, source.dtype.rawValue, source.address, output.base, n))
  }

  /// Rounds values to the slice's type (F32, F16 or BF16), nearest-even; overflow gives infinity, NaN stays NaN. Other types: nothing.
  package func store(_ values: Floats, into output: MutableElementSlice) {
    let n = min(values.count, output.count)
    // SAFETY: both hold at least n elements.
    unsafe ingotk_store(set, output.dtype.rawValue, values.base, output.address, n)
  }

  // MARK: Combination

  /// (Σ wᵢ xᵢ, in row order) / divisor; a divisor of 1 divides nothing. One input with weight 1 and divisor 1 is copied bit for bit.
  package func linearCombination(_ inputs: FloatTable, weights: [Float], divisor: Float = 1, into output: Floats) {
    let rows = min(inputs.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_linear(set, inputs.pointers, rows, weights, divisor, output.base, min(inputs.count, output.count))
  }

  /// x · factor.
  package func scale(_ x: Floats, by factor: Float, into output: Floats) {
    // SAFETY: both hold at least n values.
    unsafe ingotk_scale(set, x.base, factor, output.base, min(x.count, output.count))
  }

  /// x − base: the task vector of a fine-tuned model.
  package func subtract(_ x: Floats, _ base: Floats, into output: Floats) {
    // SAFETY: all three hold at least n values.
    unsafe ingotk_subtract(set, x.base, base.base, output.base, min(x.count, base.count, output.count))
  }

  /// base + m with m = delta · scale; where m is zero, base itself, so that its −0 survives.
  package func addDelta(_ delta: Floats, scaledBy scale: Float = 1, to base: Floats, into output: Floats) {
    // SAFETY: all three hold at least n values.
    unsafe ingotk_add_delta(set, delta.base, scale, base.base, output.base, min(delta.count, base.count, output.count))
  }

  /// (Σ wᵢ dᵢ over the terms with dᵢ ≠ 0) / divisor: zeros are masked-out elements and are skipped.
  package func weightedSum(_ deltas: FloatTable, weights: [Float], divisor: Float = 1, into output: Floats) {
    let rows = min(deltas.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_weighted_sum(set, deltas.pointers, rows, weights, divisor, output.base, min(deltas.count, output.count))
  }

  /// Elects a sign for every element and merges the terms that agree with it (TIES, arXiv 2306.01708, sections 4.2 and 4.3).
  ///
  /// With Dᵢ = wᵢ dᵢ: the sign of Σ Dᵢ is elected, `zeroSign` where that is exactly 0; the result is the sum of the Dᵢ with that sign,
  /// divided, if `normalize`, by the sum of their weights (by 1 if that is 0). Zero terms never agree.
  package func electAndMerge(
    _ deltas: FloatTable, weights: [Float], normalize: Bool, zeroSign: ZeroSign = .positive, into output: Floats
  ) {
    let rows = min(deltas.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_elect(
      set, deltas.pointers, rows, weights, normalize, zeroSign.rawValue, output.base, min(deltas.count, output.count))
  }

  // MARK: Sums

  /// lanes += x · y; products are exact in f64.
  package func accumulateDot(_ x: Floats, _ y: Floats, into lanes: Lanes) {
    // SAFETY: both hold at least n values, lanes hold 16.
    unsafe ingotk_dot(set, x.base, y.base, lanes.base, min(x.count, y.count))
  }

  /// lanes += |x|.
  package func accumulateAbsolute(_ x: Floats, into lanes: Lanes) {
    // SAFETY: lanes hold 16.
    unsafe ingotk_absolute(set, x.base, lanes.base, x.count)
  }

  /// The three dot products of two runs in one pass; the lanes end as three `accumulateDot` would leave them. The lanes are distinct.
  package func accumulateMoments(_ x: Floats, _ y: Floats, xx: Lanes, xy: Lanes, yy: Lanes) {
    // SAFETY: both hold at least n values, lanes hold 16 each.
    unsafe ingotk_moments(set, x.base, y.base, xx.base, xy.base, yy.base, min(x.count, y.count))
  }
}

/// The sign that a vote takes where the weighted sum is exactly zero.
package enum ZeroSign: Int32, Sendable, CaseIterable {
  /// mergekit's rule.
  case positive = 0
  case negative = 1
  /// No term agrees: the merged delta is 0.
  case none = 2
}
