import CKernels

/// How elements of equal magnitude are ordered when a selection keeps only some of them.
package enum TieRule: Int32, Sendable, CaseIterable {
  /// By a fixed hash of the flat index: no part of the tensor is favoured.
  case hash = 0
  /// The lower flat index is kept first.
  case index = 1
  /// They are not told apart: all with the threshold's magnitude are kept.
  case ge = 2

  /// The low half of a key. The hash is one-to-one over the first 2³² elements of a tensor, so no two of their keys are equal.
  package func tie(at index: UInt64) -> UInt32 {
    let low = UInt32(truncatingIfNeeded: index)
    switch self {
    case .hash: return TieRule.mix(low ^ TieRule.mix(UInt32(truncatingIfNeeded: index >> 32)))
    case .index: return ~low
    case .ge: return 0
    }
  }

  /// lowbias32 (C. Wellons, public domain): a bijection with mix(0) = 0.
  private static func mix(_ word: UInt32) -> UInt32 {
    var x = word
    x ^= x >> 16
    x = x &* 0x7feb_352d
    x ^= x >> 15
    x = x &* 0x846c_a68b
    return x ^ x >> 16
  }
}

/// Selection by magnitude.
///
/// The **key** of an element is (bits of |x|, 31) · 2³² + (tie, 32): keys order elements by magnitude, then by the tie rule, and the
/// largest keys are kept. `firstIndex` is the flat index of a run's first element in the scope of the selection.
extension Kernels {
  /// The key of one element.
  package static func key(_ x: Float, index: UInt64, ties: TieRule) -> UInt64 {
    UInt64(x.bitPattern & 0x7fff_ffff) << 32 | UInt64(ties.tie(at: index))
  }

  /// Counts the keys above `high` into `above` and appends those in `low ... high`, in index order.
  ///
  /// Returns false when the buffer was too small: it then holds as many as fit, and `above` is complete all the same.
  package func collect(
    _ x: Floats, firstIndex: UInt64, ties: TieRule, low: UInt64, high: UInt64, above: inout UInt64, into keys: inout KeyBuffer
  ) -> Bool {
    let room = keys.capacity - keys.count
    // SAFETY: at most room keys are written behind the last one.
    let found = unsafe ingotk_collect(
      set, x.base, firstIndex, ties.rawValue, low, high, &above, keys.base + keys.count, room, x.count)
    keys.grow(by: min(Int(found), room))
    return found <= room
  }

  /// As `collect` of x − base, straight from storage; keys come in no particular order. `bad` is raised where one of the inputs may be NaN or
  /// infinite.
  package func collect(
    _ x: ElementSlice, minus base: ElementSlice, firstIndex: UInt64, ties: TieRule, low: UInt64, high: UInt64, above: inout UInt64,
    into keys: inout KeyBuffer, bad: inout Int
  ) -> Bool {
    let room = keys.capacity - keys.count
    // SAFETY: the views' own promises; at most room keys are written behind the last one.
    var delta = unsafe ingotk_delta(source: x.address, base: base.address, dtype: x.dtype.rawValue, base_dtype: base.dtype.rawValue)
    let found = unsafe ingotk_collect_deltas(
      set, &delta, firstIndex, ties.rawValue, low, high, &above, keys.base + keys.count, room, min(x.count, base.count), &bad)
    keys.grow(by: min(Int(found), room))
    return found <= room
  }

  /// Adds to `counts[(key − low) >> shift]` for each key; ranges beyond the counters are not counted. `shift` is 0 ... 63.
  package static func bin(_ keys: KeyBuffer, low: UInt64, shift: Int, into counts: Counters) {
    guard shift >= 0, shift < 64 else { return }
    // SAFETY: the first count keys are initialised, and the kernel compares each place with the number of counters.
    unsafe ingotk_bin_keys(keys.base, keys.count, low, Int32(shift), counts.base, counts.count)
  }

  /// In place: zero (+0) where the key is below `threshold`, or equal to it when not `inclusive`.
  package func trim(_ x: Floats, firstIndex: UInt64, ties: TieRule, threshold: UInt64, inclusive: Bool) {
    // SAFETY: x is the only run.
    unsafe ingotk_trim(set, x.base, firstIndex, ties.rawValue, threshold, inclusive, x.count)
  }

  /// The key of rank `rank` counted from the largest (rank 0) of `count` keys, which are reordered; how many equal it and how many are
  /// larger. A rank out of range gives 0.
  package static func select(
    unsafe keys: UnsafeMutablePointer<UInt64>, count: Int, rank: Int
  ) -> (key: UInt64, equal: Int, larger: Int) {
    guard rank >= 0, rank < count else { return (0, 0, 0) }
    var equal = 0
    var larger = 0
    // SAFETY: the caller's keys; the rank is in range.
    let key = unsafe ingotk_select(keys, count, rank, &equal, &larger)
    return (key, equal, larger)
  }
}
