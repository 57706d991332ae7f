import CKernels

/// Whole element-wise steps of single task-vector methods. `deltas` are task vectors, one row for each model.
extension Kernels {
  /// Of each element's values that of the largest magnitude, of equal ones the last.
  package func largest(of deltas: FloatTable, into output: Floats) {
    // SAFETY: rows pointers of at least n values.
    unsafe ingotk_magmax(set, deltas.pointers, deltas.rows, output.base, min(deltas.count, output.count))
  }

  /// The merged value where at least `least` rows mark it, else 0. Row r marks an element where |d| > thresholds[r] · |merged − d|; without
  /// `merged` that is the sum of the rows.
  package func consensus(
    _ deltas: FloatTable, merged: Floats? = nil, thresholds: [Float], atLeast least: Int, into output: Floats
  ) {
    let rows = min(deltas.rows, thresholds.count)
    // SAFETY: rows pointers of at least n values, as many thresholds.
    unsafe ingotk_consensus(
      set, deltas.pointers, rows, merged.map { unsafe UnsafePointer($0.base) }, thresholds, Int32(clamping: least), output.base,
      min(deltas.count, merged?.count ?? .max, output.count))
  }

  /// The merged value where row `row` marks it as in `consensus`, else 0. Does nothing when there is no such row.
  package func localize(_ deltas: FloatTable, merged: Floats? = nil, row: Int, threshold: Float, into output: Floats) {
    guard row >= 0, row < deltas.rows else { return }
    // SAFETY: rows pointers of at least n values; the row is one of them.
    unsafe ingotk_localize(
      set, deltas.pointers, deltas.rows, merged.map { unsafe UnsafePointer($0.base) }, row, threshold, output.base,
      min(deltas.count, merged?.count ?? .max, output.count))
  }

  /// `size` with the sign of x, a zero counting as plus.
  package func signs(_ x: Floats, size: Float, into output: Floats) {
    // SAFETY: both hold at least n values.
    unsafe ingotk_signs(set, x.base, size, output.base, min(x.count, output.count))
  }

  /// What a rolling vote adds up of terms.
  package enum VotePart: Int32, Sendable, CaseIterable {
    /// The size of the positive, or of the negative, terms times their weight.
    case positive = 0
    case negative = 1
    /// The weight of them.
    case positiveWeight = 2
    case negativeWeight = 3
  }

  /// One of the sums of a vote, of one term: 0 where it does not belong to it.
  package func votePart(_ x: Floats, _ part: VotePart, weight: Float, into output: Floats) {
    // SAFETY: both hold at least n values.
    unsafe ingotk_vote_part(set, x.base, part.rawValue, weight, output.base, min(x.count, output.count))
  }

  /// The mean of the side with the larger sum, signed; the positive one where they are equal, 0 where there is nothing. `sums` has a row for
  /// each `VotePart`, in their order; does nothing where it has not.
  package func settleVote(_ sums: FloatTable, into output: Floats) {
    guard sums.rows >= VotePart.allCases.count else { return }
    // SAFETY: four rows of at least n values.
    unsafe ingotk_settle_vote(
      set, sums[0].base, sums[1].base, sums[2].base, sums[3].base, output.base, min(sums.count, output.count))
  }

  /// scale · max(f, floor) · x in f64, rounded once; without x that of 1.
  package func informed(_ x: Floats?, by f: Floats, floor: Double, scale: Double, into output: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_informed(
      set, x.map { unsafe UnsafePointer($0.base) }, f.base, floor, scale, output.base, min(x?.count ?? .max, f.count, output.count))
  }

  /// x / y, `otherwise` where y is 0.
  package func ratio(_ x: Floats, _ y: Floats, otherwise: Float = 0, into output: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_ratio(set, x.base, y.base, otherwise, output.base, min(x.count, y.count, output.count))
  }

  /// sums[j] += x[j] · product.
  package func accumulate(_ x: Floats, scaledBy product: Double, into sums: ColumnSums) {
    // SAFETY: both hold at least n values.
    unsafe ingotk_accumulate_scaled(set, x.base, product, sums.base, min(x.count, sums.count))
  }

  /// The sign of the rows' sum, a zero sum counting as minus, with the largest magnitude among the values that have it; 0 where none has.
  package func unify(_ deltas: FloatTable, into output: Floats) {
    // SAFETY: rows pointers of at least n values.
    unsafe ingotk_unify(set, deltas.pointers, deltas.rows, output.base, min(deltas.count, output.count))
  }

  /// `values` where x has their sign, else 0.
  package func keepAgreeing(_ values: Floats, with x: Floats, into output: Floats) {
    // SAFETY: all three hold at least n values.
    unsafe ingotk_agree(set, x.base, values.base, output.base, min(x.count, values.count, output.count))
  }

  /// `electAndMerge`, a zero sum counting as plus, but where the terms of the other sign reach (1 − slack) times those of the elected one
  /// together all of them enter.
  package func electWithSlack(_ deltas: FloatTable, weights: [Float], normalize: Bool, slack: Float, into output: Floats) {
    let rows = min(deltas.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_elect_with_slack(
      set, deltas.pointers, rows, weights, normalize, slack, output.base, min(deltas.count, output.count))
  }

  /// `electAndMerge`, but of the terms that have the elected sign the one of the largest magnitude in the place of their sum.
  package func electLargest(_ deltas: FloatTable, weights: [Float], zeroSign: ZeroSign = .positive, into output: Floats) {
    let rows = min(deltas.rows, weights.count)
    // SAFETY: rows pointers of at least n values, as many weights.
    unsafe ingotk_elect_largest(
      set, deltas.pointers, rows, weights, zeroSign.rawValue, output.base, min(deltas.count, output.count))
  }

  /// x where it is not 0 and its magnitude at least `share` times that of `merged`, else `merged`.
  package func protect(_ x: Floats, share: Float, over merged: Floats, into output: Floats) {
    // SAFETY: all three hold at least n values.
    unsafe ingotk_protect(set, x.base, share, merged.base, output.base, min(x.count, merged.count, output.count))
  }

  // MARK: Rows

  /// Values of scratch that `trimRow` needs for a row.
  package static func trimScratch(rowLength: Int) -> Int { 2 * max(rowLength, 0) }

  /// In place: of one row's keys the `drop` largest go, of the others the `keep` largest stay; the rest is zero (+0). All of it is when
  /// `scratch` is shorter than `trimScratch` says.
  package func trimRow(_ x: Floats, firstIndex: UInt64, ties: TieRule, drop: Int, keep: Int, scratch: Floats) {
    let isPossible = scratch.count >= Self.trimScratch(rowLength: x.count)
    // SAFETY: the scratch has room for as many keys as there are values, which the kernel reads and writes at any alignment.
    unsafe ingotk_trim_row(
      set, x.base, firstIndex, ties.rawValue, max(drop, 0), isPossible ? max(keep, 0) : 0,
      UnsafeMutableRawPointer(scratch.base).assumingMemoryBound(to: UInt64.self), x.count)
  }

  /// Adds, over the elements: 1 where x and y have opposite signs; 1 where neither is 0; the smaller magnitude where signs are opposite; both
  /// magnitudes.
  package func accumulateConflicts(_ x: Floats, _ y: Floats, opposite: Lanes, both: Lanes, opposed: Lanes, all: Lanes) {
    // SAFETY: both hold at least n values, lanes hold 16 each.
    unsafe ingotk_conflict_mass(set, x.base, y.base, opposite.base, both.base, opposed.base, all.base, min(x.count, y.count))
  }

  // MARK: Scores

  /// Which of the scores `competition` gives; the others become 0.
  package enum ScorePart: Int32, Sendable {
    case all = 0
    case positive = 1
    case negative = -1
  }

  /// PCB's score of one row's elements, in f64, rounded once: with u the place of |x| between the row's two bounds (0 to 1), exp(rows · u²)
  /// times tanh(x · Σ x over the rows), the sum in f32; `pairwise`, times Σ tanh(z · z′) over the rows with z = sign(x) · u.
  ///
  /// `bounds` holds the lower and the upper one of each row. Does nothing where it does not, or when there is no such row. With a `least` above
  /// 0 scores below it become 0, whatever `part` is, and few of them are computed.
  package func competition(
    _ deltas: FloatTable, row: Int, bounds: [Float], pairwise: Bool, part: ScorePart = .all, least: Float = 0, into output: Floats
  ) {
    guard row >= 0, row < deltas.rows, bounds.count / 2 >= deltas.rows else { return }
    // SAFETY: rows pointers of at least n values, two bounds for each; the row is one of them.
    unsafe ingotk_competition(
      set, deltas.pointers, deltas.rows, row, bounds, pairwise, part.rawValue, least, output.base, min(deltas.count, output.count))
  }

  /// PCB's merge: Σ b · f · x̄ / max(Σ b, 1e-12) with x̄ the value clamped in magnitude to low ... high and b the place of its score between
  /// cut and top, 0 at the cut and below. `limits` holds low, high, cut, top and f of each row; does nothing where it does not.
  package func balance(_ deltas: FloatTable, scores: FloatTable, limits: [Float], into output: Floats) {
    let rows = min(deltas.rows, scores.rows)
    guard limits.count / 5 >= rows else { return }
    // SAFETY: rows pointers of at least n values in both tables, five limits for each.
    unsafe ingotk_balance(
      set, deltas.pointers, scores.pointers, rows, limits, output.base, min(deltas.count, scores.count, output.count))
  }

  /// Σ x · weights[row · columns + c] over the rows, c the element's column. Does nothing unless there are `columns` weights for each row.
  package func columnSum(_ x: FloatTable, firstIndex: UInt64, columns: Int, weights: [Float], into output: Floats) {
    guard columns > 0, weights.count / columns >= x.rows else { return }
    // SAFETY: rows pointers of at least n values, and the kernel reduces indices by the number of columns.
    unsafe ingotk_column_sum(set, x.pointers, x.rows, firstIndex, columns, weights, output.base, min(x.count, output.count))
  }

  /// Σ x · score over the rows: `value` where |x| is above the row's cut, else the softmax over the rows of |x|. In f64, rounded once.
  package func significanceSum(_ x: FloatTable, cuts: [Double], value: Double, into output: Floats) {
    let rows = min(x.rows, cuts.count)
    // SAFETY: rows pointers of at least n values, as many cuts.
    unsafe ingotk_significance_sum(set, x.pointers, rows, cuts, value, output.base, min(x.count, output.count))
  }
}
