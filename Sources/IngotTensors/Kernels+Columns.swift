import CKernels

/// A borrowed run of f64 sums, some for each column of a tensor. Element i of a tensor belongs to column i mod the number of columns.
@safe package struct ColumnSums {
  let base: UnsafeMutablePointer<Double>
  package let count: Int

  /// `base` must be valid for `count` values as long as this value is used.
  package init(unsafe base: UnsafeMutablePointer<Double>, count: Int) {
    unsafe self.base = unsafe base
    self.count = max(count, 0)
  }

  /// Out of range, reads give 0 and writes do nothing.
  package subscript(index: Int) -> Double {
    // SAFETY: the index is checked against count.
    get { index >= 0 && index < count ? unsafe base[index] : 0 }
    nonmutating set { if index >= 0 && index < count { unsafe base[index] = newValue } }
  }

  /// The sums from `start` on; clipped to these.
  package func slice(from start: Int, count length: Int) -> ColumnSums {
    let begin = min(max(start, 0), count)
    // SAFETY: begin lies within the sums, and so does what follows.
    return unsafe ColumnSums(unsafe: base + begin, count: min(max(length, 0), count - begin))
  }
}

extension Kernels {
  /// Adds x·x, x·y and y·y to the sums of their columns: `columns` of the first kind, then as many of the second and the third. A column's
  /// terms are added in the order of the calls. Does nothing unless there are three sums for each column.
  package func accumulateColumnMoments(_ x: Floats, _ y: Floats, firstIndex: UInt64, columns: Int, into sums: ColumnSums) {
    guard columns > 0, sums.count / 3 >= columns else { return }
    // SAFETY: both hold n values, and the kernel reduces indices by the number of columns.
    unsafe ingotk_column_moments(set, x.base, y.base, firstIndex, columns, sums.base, min(x.count, y.count))
  }

  /// x · weights.0 + y · weights.1.
  package func combination(_ x: Floats, _ y: Floats, weights: (Float, Float), into output: Floats) {
    let factors: InlineArray<2, Float> = [weights.0, weights.1]
    let rows: InlineArray<2, UnsafeMutablePointer<Float>> = unsafe [x.base, y.base]
    // SAFETY: two runs of at least n values and as many factors, all of which live until the call returns.
    unsafe rows.span.withUnsafeBufferPointer { pointers in
      unsafe factors.span.withUnsafeBufferPointer { weights in
        guard let table = pointers.baseAddress, let first = weights.baseAddress else { return }
        unsafe ingotk_linear(set, table, 2, first, 1, output.base, min(x.count, y.count, output.count))
      }
    }
  }

  /// x · weights[c] + y · weights[columns + c], c the element's column. Does nothing unless there are two weights for each column.
  package func columnCombination(_ x: Floats, _ y: Floats, firstIndex: UInt64, columns: Int, weights: [Float], into output: Floats) {
    guard columns > 0, weights.count / 2 >= columns else { return }
    // SAFETY: all hold n values, and the kernel reduces indices by the number of columns.
    unsafe ingotk_column_combination(
      set, x.base, y.base, firstIndex, columns, weights, output.base, min(x.count, y.count, output.count))
  }
}
