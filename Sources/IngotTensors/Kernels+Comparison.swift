import CKernels

/// The sums of a comparison: five accumulators of 16 f64 lanes.
@safe package struct ComparisonLanes {
  package static let count = 5 * Lanes.width
  private let base: UnsafeMutablePointer<Double>

  /// `base` must be valid for `ComparisonLanes.count` values, which the caller clears before the first use.
  package init(unsafe base: UnsafeMutablePointer<Double>) { unsafe self.base = unsafe base }

  package func clear() {
    // SAFETY: as many lanes by the promise of init.
    unsafe base.update(repeating: 0, count: Self.count)
  }

  /// Σ x², Σ x·y, Σ y², Σ (x − y)², each folded in one fixed order, and max |x − y|.
  package var folded: (xx: Double, xy: Double, yy: Double, dd: Double, largest: Double) {
    // SAFETY: five times 16 lanes by the promise of init.
    func lanes(_ index: Int) -> Lanes { unsafe Lanes(unsafe: base + index * Lanes.width) }
    var largest = 0.0
    // SAFETY: the fifth accumulator.
    for lane in 4 * Lanes.width..<Self.count { unsafe largest = max(largest, base[lane]) }
    return (lanes(0).folded(), lanes(1).folded(), lanes(2).folded(), lanes(3).folded(), largest)
  }

  fileprivate var start: UnsafeMutablePointer<Double> {
    // SAFETY: handed to the kernels, which stay within the lanes.
    unsafe base
  }
}

/// Where two task vectors pull apart.
package struct SignCounts: Sendable, Hashable {
  /// Elements that are not zero: of the first run, of the second, of both.
  package var first = 0
  package var second = 0
  package var both = 0
  /// Elements whose signs are opposite.
  package var opposite = 0

  package init() {}
}

/// Statistics of two runs side by side.
extension Kernels {
  /// Adds the products, the squared differences and the largest difference of two runs to the lanes; element i goes to lane i mod 16.
  /// Pairs with a value that is not finite add nothing.
  package func accumulateComparison(_ x: Floats, _ y: Floats, into lanes: ComparisonLanes) {
    // SAFETY: both hold at least n values; lanes hold five times 16.
    unsafe ingotk_compare(set, x.base, y.base, lanes.start, min(x.count, y.count))
  }

  /// Counts the signs of two runs.
  package func countSigns(_ x: Floats, _ y: Floats, into counts: inout SignCounts) {
    var found = InlineArray<4, UInt64>(repeating: 0)
    var span = found.mutableSpan
    // SAFETY: both hold at least n values; the kernel writes four counts.
    unsafe span.withUnsafeMutableBufferPointer { buffer in
      if let base = buffer.baseAddress { unsafe ingotk_conflicts(set, x.base, y.base, base, min(x.count, y.count)) }
    }
    counts.first += Int(found[0])
    counts.second += Int(found[1])
    counts.both += Int(found[2])
    counts.opposite += Int(found[3])
  }

  /// How many elements have other bits, and the largest distance in units of the last place among finite values of a floating-point type.
  ///
  /// Both slices are of one type of whole bytes; for others, and for types narrower than a byte, nothing is counted.
  package func distances(_ x: ElementSlice, _ y: ElementSlice) -> (differing: Int, largest: UInt64) {
    guard x.dtype == y.dtype else { return (0, 0) }
    var largest: UInt64 = 0
    // SAFETY: both hold at least n elements of the width.
    let differing = unsafe ingotk_distances(
      set, x.dtype.bits / 8, x.address, y.address, x.dtype.finiteLimit, &largest, min(x.count, y.count))
    return (Int(differing), largest)
  }
}

extension DType {
  /// The least magnitude pattern that is no finite value; 0 for types that have no order of patterns here.
  fileprivate var finiteLimit: UInt64 {
    switch self {
    case .f64: 0x7ff0_0000_0000_0000
    case .f32: 0x7f80_0000
    case .f16: 0x7c00
    case .bf16: 0x7f80
    case .f8E4M3: 0x7f
    case .f8E5M2: 0x7c
    default: 0
    }
  }
}
