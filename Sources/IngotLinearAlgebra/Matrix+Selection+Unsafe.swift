// Selection by magnitude, of contiguous matrices. A magnitude is the bit pattern of |x|, whose order is that of the numbers.

extension Matrix where Element == Float {
  /// Counts elements by a digit of their magnitude, the `width` bits from `shift` on: of those whose higher bits are `known` each adds 1 to
  /// `counters[first + digit]`.
  package func countMagnitudes(known: UInt32, shift: UInt32, width: UInt32, into counters: inout [UInt64], from first: Int) {
    let bins = 1 << Int(width)
    guard first >= 0, counters.count - first >= bins else { return }
    unsafe withElements { elements in
      for index in elements.indices {
        // SAFETY: the index is one of the elements'; the digit is below the number of bins, for which there is room.
        let magnitude = unsafe elements[index].bitPattern & 0x7fff_ffff
        if magnitude >> (shift + width) != known { continue }
        counters[first + Int(magnitude >> shift & UInt32(bins - 1))] += 1
      }
    }
  }

  /// self += factor · (x + y) where the magnitude of x is at least `threshold`. Returns in how many places. Does nothing unless all three are
  /// contiguous and of one shape.
  package func addSelected(_ x: Matrix<Float>, plus y: Matrix<Float>, threshold: UInt32, times factor: Float) -> Int {
    var selected = 0
    unsafe withElements { target in
      unsafe x.withElements { first in
        unsafe y.withElements { second in
          guard target.count == first.count, target.count == second.count else { return }
          for index in target.indices {
            // SAFETY: all three have this index.
            let value = unsafe first[index]
            if value.bitPattern & 0x7fff_ffff < threshold { continue }
            unsafe target[index] += factor * (value + second[index])
            selected += 1
          }
        }
      }
    }
    return selected
  }
}
