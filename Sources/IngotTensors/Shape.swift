package import IngotErrors

/// Extents of a tensor in elements, outermost first. A scalar has rank 0.
package struct Shape: Hashable, Sendable, CustomStringConvertible {
  package var dimensions: [Int]

  package init(_ dimensions: [Int]) { self.dimensions = dimensions }

  package var rank: Int { dimensions.count }

  package var description: String { "[" + dimensions.map(String.init).joined(separator: ", ") + "]" }

  /// Length of the last axis; a 1-D tensor is one row, a scalar is a row of one element.
  package var rowLength: Int { dimensions.last ?? 1 }

  /// The number of elements. Throws `.shape` on a negative extent or when the product does not fit 63 bits.
  package func elementCount() throws(IngotError) -> Int {
    let product = try span()
    return dimensions.contains(0) ? 0 : product
  }

  /// The product of the extents that are not 0: every product of some extents divides it, also of a shape without elements.
  package func span() throws(IngotError) -> Int {
    var product = 1
    for extent in dimensions where extent != 0 {
      guard extent > 0 else { throw IngotError(.shape, "shape \(self) has a negative extent") }
      let (next, overflow) = product.multipliedReportingOverflow(by: extent)
      guard !overflow else { throw IngotError(.shape, "shape \(self) has more elements than 63 bits can count") }
      product = next
    }
    return product
  }

  /// The bytes that `elementCount()` elements of `dtype` take. Throws `.shape` on overflow or when sub-byte elements do not fill whole bytes.
  package func byteCount(_ dtype: DType) throws(IngotError) -> Int {
    let (bits, overflow) = try elementCount().multipliedReportingOverflow(by: dtype.bits)
    guard !overflow else { throw IngotError(.shape, "shape \(self) of \(dtype.safetensorsName) has more bytes than 63 bits can count") }
    guard bits % 8 == 0 else {
      throw IngotError(.shape, "shape \(self) of \(dtype.safetensorsName) does not fill whole bytes (\(bits) bits)")
    }
    return bits / 8
  }
}
