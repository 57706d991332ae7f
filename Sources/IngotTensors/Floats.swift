// Borrowed runs of memory for the kernels. Every type here hides its pointer and bounds every access by its count; whoever makes one
// promises that the memory outlives it. None is Sendable: a run belongs to the worker that borrowed it.

import CKernels

/// A borrowed, writable run of f32 values, usually a tile of scratch.
@safe package struct Floats {
  let base: UnsafeMutablePointer<Float>
  package let count: Int

  /// `base` must be valid for `count` values as long as this run is used. A negative count is 0.
  package init(unsafe base: UnsafeMutablePointer<Float>, count: Int) {
    unsafe self.base = unsafe base
    self.count = max(count, 0)
  }

  /// Where the values lie, for LAPACK; whoever uses it keeps to `count`.
  package var address: UnsafeMutablePointer<Float> { unsafe base }

  /// A run of no values.
  package static var empty: Floats {
    // SAFETY: a static address that no run of 0 elements touches.
    unsafe Floats(unsafe: ingotk_nothing(), count: 0)
  }

  package func prefix(_ length: Int) -> Floats { slice(from: 0, count: length) }

  /// The part that begins at `start`; clipped to this run.
  package func slice(from start: Int, count length: Int) -> Floats {
    let (begin, kept) = clip(start, length, to: count)
    // SAFETY: clip keeps begin within the run.
    return unsafe Floats(unsafe: base + begin, count: kept)
  }

  /// Out of range, reads give 0 and writes do nothing.
  package subscript(index: Int) -> Float {
    // SAFETY: the index is checked against count.
    get { index >= 0 && index < count ? unsafe base[index] : 0 }
    nonmutating set { if index >= 0 && index < count { unsafe base[index] = newValue } }
  }
}

/// Equally long runs of f32 values, such as the tiles of every input.
@safe package struct FloatTable {
  let pointers: UnsafePointer<UnsafeMutablePointer<Float>>
  package let rows: Int
  package let count: Int

  /// `pointers` must hold `rows` pointers, each valid for `count` values, as long as this table is used.
  package init(unsafe pointers: UnsafePointer<UnsafeMutablePointer<Float>>, rows: Int, count: Int) {
    unsafe self.pointers = unsafe pointers
    self.rows = max(rows, 0)
    self.count = max(count, 0)
  }

  /// A row; out of range, an empty run.
  package subscript(row: Int) -> Floats {
    // SAFETY: a static address that no run of 0 elements touches.
    guard row >= 0 && row < rows else { return unsafe Floats(unsafe: ingotk_nothing(), count: 0) }
    // SAFETY: the row is checked.
    return unsafe Floats(unsafe: pointers[row], count: count)
  }

  /// All rows but the first, or the first `length`: the fine-tuned models, where row 0 is the base.
  package func dropFirst(_ length: Int = 1) -> FloatTable {
    let dropped = min(max(length, 0), rows)
    // SAFETY: as many pointers there are.
    return unsafe FloatTable(unsafe: pointers + dropped, rows: rows - dropped, count: count)
  }

  /// The first rows.
  package func first(_ length: Int) -> FloatTable {
    unsafe FloatTable(unsafe: pointers, rows: min(max(length, 0), rows), count: count)
  }

  /// The same rows, each cut to its first `length` values.
  package func prefix(_ length: Int) -> FloatTable {
    unsafe FloatTable(unsafe: pointers, rows: rows, count: min(max(length, 0), count))
  }
}

/// The bytes of `count` elements of `dtype`, read-only; any alignment.
@safe package struct ElementSlice {
  let address: UnsafeRawPointer
  package let dtype: DType
  package let count: Int

  /// `address` must be valid for `count` elements as long as this slice is used.
  package init(unsafe address: UnsafeRawPointer, dtype: DType, count: Int) {
    unsafe self.address = unsafe address
    self.dtype = dtype
    self.count = max(count, 0)
  }

  /// The part that begins at element `start`; clipped to this slice. Types narrower than a byte are cut at whole bytes (rounded down).
  package func slice(from start: Int, count length: Int) -> ElementSlice {
    let (begin, kept) = clip(start, length, to: count)
    // SAFETY: clip keeps begin within the slice.
    return unsafe ElementSlice(unsafe: address + begin * dtype.bits / 8, dtype: dtype, count: kept)
  }
}

/// The bytes of `count` elements of `dtype`, writable; any alignment.
@safe package struct MutableElementSlice {
  let address: UnsafeMutableRawPointer
  package let dtype: DType
  package let count: Int

  /// `address` must be valid for `count` elements as long as this slice is used.
  package init(unsafe address: UnsafeMutableRawPointer, dtype: DType, count: Int) {
    unsafe self.address = unsafe address
    self.dtype = dtype
    self.count = max(count, 0)
  }

  /// The part that begins at element `start`; clipped to this slice. Types narrower than a byte are cut at whole bytes (rounded down).
  package func slice(from start: Int, count length: Int) -> MutableElementSlice {
    let (begin, kept) = clip(start, length, to: count)
    // SAFETY: clip keeps begin within the slice.
    return unsafe MutableElementSlice(unsafe: address + begin * dtype.bits / 8, dtype: dtype, count: kept)
  }
}

/// One accumulator of 16 f64 lanes: element i of a kernel call is added to lane i mod 16.
@safe package struct Lanes {
  package static let width = 16
  let base: UnsafeMutablePointer<Double>

  /// `base` must be valid for 16 values, which the caller clears before the first use.
  package init(unsafe base: UnsafeMutablePointer<Double>) { unsafe self.base = unsafe base }

  package func clear() {
    // SAFETY: 16 lanes by the promise of init.
    for lane in 0..<Lanes.width { unsafe base[lane] = 0 }
  }

  /// The sum of the lanes in one fixed order: halves onto each other, 8, 4, 2, 1.
  package func folded() -> Double {
    var sums = InlineArray<16, Double>(repeating: 0)
    // SAFETY: 16 lanes by the promise of init.
    for lane in 0..<Lanes.width { sums[lane] = unsafe base[lane] }
    var half = 8
    while half > 0 {
      for lane in 0..<half { sums[lane] += sums[lane + half] }
      half /= 2
    }
    return sums[0]
  }
}

/// One bit per element, the lowest bit of a byte first: 1 keeps.
@safe package struct KeepBits {
  let base: UnsafeMutablePointer<UInt8>
  package let count: Int

  /// `base` must be valid for `KeepBits.byteCount(count)` bytes as long as this value is used.
  package init(unsafe base: UnsafeMutablePointer<UInt8>, count: Int) {
    unsafe self.base = unsafe base
    self.count = max(count, 0)
  }

  /// The bytes that the bits of `count` elements take.
  package static func byteCount(_ count: Int) -> Int { count / 8 + (count % 8 == 0 ? 0 : 1) }

  /// The bits from element `start` on, which is rounded down to a multiple of 8; clipped to these bits.
  package func slice(from start: Int, count length: Int) -> KeepBits {
    let (begin, kept) = clip(start & ~7, length, to: count)
    // SAFETY: clip keeps begin within the bits.
    return unsafe KeepBits(unsafe: base + begin / 8, count: kept)
  }

  /// Out of range, false.
  package subscript(index: Int) -> Bool {
    // SAFETY: the index is checked against count.
    index >= 0 && index < count ? unsafe base[index / 8] >> UInt8(index % 8) & 1 == 1 : false
  }

  /// How many are kept.
  package var keptCount: Int {
    var kept = 0
    for byte in 0..<count / 8 {
      // SAFETY: whole bytes below count.
      kept += unsafe base[byte].nonzeroBitCount
    }
    for index in (count & ~7)..<count where self[index] { kept += 1 }
    return kept
  }
}

/// A list of selection keys with a bound: see `Kernels.collect`.
@safe package struct KeyBuffer {
  let base: UnsafeMutablePointer<UInt64>
  package let capacity: Int
  /// How many keys were appended.
  package private(set) var count = 0

  /// `base` must be valid for `capacity` keys as long as this buffer is used.
  package init(unsafe base: UnsafeMutablePointer<UInt64>, capacity: Int) {
    unsafe self.base = unsafe base
    self.capacity = max(capacity, 0)
  }

  package mutating func clear() { count = 0 }

  /// Out of range, 0.
  package subscript(index: Int) -> UInt64 {
    // SAFETY: the index is checked against count.
    index >= 0 && index < count ? unsafe base[index] : 0
  }

  package mutating func sort() {
    // SAFETY: the first count keys are initialised.
    var keys = unsafe UnsafeMutableBufferPointer(start: base, count: count)
    unsafe keys.sort()
  }

  /// Takes over `added` keys that a kernel wrote behind the last one.
  mutating func grow(by added: Int) { count = min(count + max(added, 0), capacity) }
}

/// A table of 64-bit counters: see `Kernels.bin`.
@safe package struct Counters {
  let base: UnsafeMutablePointer<UInt64>
  package let count: Int

  /// `base` must be valid for `count` counters as long as this table is used.
  package init(unsafe base: UnsafeMutablePointer<UInt64>, count: Int) {
    unsafe self.base = unsafe base
    self.count = max(count, 0)
  }

  package func clear() {
    // SAFETY: count counters by the promise of init.
    unsafe base.update(repeating: 0, count: count)
  }

  /// Out of range, reads give 0 and writes do nothing.
  package subscript(index: Int) -> UInt64 {
    // SAFETY: the index is checked against count.
    get { index >= 0 && index < count ? unsafe base[index] : 0 }
    nonmutating set { if index >= 0 && index < count { unsafe base[index] = newValue } }
  }
}

/// The part of `start ..< start + length` that lies in `0 ..< count`, as its first position and its length.
private func clip(_ start: Int, _ length: Int, to count: Int) -> (Int, Int) {
  let begin = min(max(start, 0), count)
  return (begin, min(max(length, 0), count - begin))
}
