package import IngotErrors

/// Golomb–Rice codes of the non-zero elements of a block of at most 65,536 ternary values.
///
/// A code is one stream of bits, the lowest bit of a byte first: for each non-zero element, in order, its gap (position − previous position − 1; the
/// first one's is its position) as ⌊gap / 2^b⌋ ones, a zero and the low b bits of the gap, lowest first; then one bit for each of them, 1 where it is
/// negative; then zeros up to a whole byte. Golomb 1966; as ComPEFT (arXiv 2311.13171) stores its task vectors.
package enum RiceCode {
  /// Elements of a block; the last one of a tensor may be shorter.
  package static let blockElements = 65_536
  /// The most remainder bits b of a code.
  package static let mostRemainderBits = 15

  /// A non-zero element: where it is in its block, and its sign.
  package struct Element: Sendable, Hashable {
    package var position: UInt16
    package var isNegative: Bool

    package init(position: UInt16, isNegative: Bool) {
      self.position = position
      self.isNegative = isNegative
    }
  }

  /// The b that gives the shortest code (the lowest of several), and the bytes of that code. `elements` are in the order of their positions.
  package static func size(of elements: [Element]) -> (remainderBits: Int, byteCount: Int) {
    // The ones of all gaps, for every b.
    var ones = SIMD16<UInt32>(repeating: 0)
    let shifts = SIMD16<UInt32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    var previous = -1
    for element in elements {
      let gap = Int(element.position) - previous - 1
      ones &+= SIMD16(repeating: UInt32(truncatingIfNeeded: gap)) &>> shifts
      previous = Int(element.position)
    }
    var best = (remainderBits: 0, bits: Int.max)
    for remainderBits in 0...mostRemainderBits {
      let bits = elements.count * (remainderBits + 2) + Int(ones[remainderBits])
      if bits < best.bits { best = (remainderBits, bits) }
    }
    return (best.remainderBits, (best.bits + 7) / 8)
  }

  /// The most bytes that a code of `count` elements in a block of `length` takes.
  package static func mostBytes(count: Int, length: Int, remainderBits: Int) -> Int {
    (length >> remainderBits + count * (remainderBits + 2) + 7) / 8
  }

  package static func encode(_ elements: [Element], remainderBits: Int) -> [UInt8] {
    var writer = BitWriter()
    var previous = -1
    for element in elements {
      let gap = Int(element.position) - previous - 1
      previous = Int(element.position)
      writer.appendOnes(gap >> remainderBits)
      writer.append(UInt64(gap & (1 << remainderBits - 1)) << 1, bits: remainderBits + 1)
    }
    for element in elements { writer.append(element.isNegative ? 1 : 0, bits: 1) }
    return writer.finish()
  }

  /// The `count` elements of a block of `length`. Throws `.format` for anything but exactly that in exactly these bytes.
  package static func decode(_ bytes: [UInt8], count: Int, remainderBits: Int, length: Int) throws(IngotError) -> [Element] {
    guard (0...mostRemainderBits).contains(remainderBits), (0...blockElements).contains(length), (0...length).contains(count) else {
      throw malformed("\(count) elements with \(remainderBits) remainder bits in a block of \(length)")
    }
    var reader = BitReader(bytes)
    var elements: [Element] = []
    elements.reserveCapacity(count)
    var position = -1
    for _ in 0..<count {
      guard let quotient = reader.ones(atMost: length), let remainder = reader.bits(remainderBits) else {
        throw malformed("a stream that ends after \(elements.count) of \(count) elements")
      }
      position += 1 + quotient << remainderBits + remainder
      guard position < length else { throw malformed("an element at \(position) of a block of \(length)") }
      elements.append(Element(position: UInt16(position), isNegative: false))
    }
    for first in stride(from: 0, to: count, by: 32) {
      let part = min(32, count - first)
      guard let signs = reader.bits(part) else { throw malformed("a stream that ends after \(first) of \(count) signs") }
      for index in 0..<part { elements[first + index].isNegative = signs >> index & 1 == 1 }
    }
    guard reader.isAtEnd else { throw malformed("a stream that is longer than its \(count) elements") }
    return elements
  }

  private static func malformed(_ found: String) -> IngotError {
    IngotError(.format, "found \(found), expected a Rice code of the block", hint: "the pack is damaged: copy or make it again")
  }
}

private struct BitWriter {
  private var bytes: [UInt8] = []
  private var pending: UInt64 = 0
  private var count = 0

  /// The low `bits` bits of `value`, at most 32.
  mutating func append(_ value: UInt64, bits: Int) {
    pending |= value << UInt64(count)
    count += bits
    while count >= 8 {
      bytes.append(UInt8(truncatingIfNeeded: pending))
      pending >>= 8
      count -= 8
    }
  }

  mutating func appendOnes(_ ones: Int) {
    var left = ones
    while left > 0 {
      let part = min(left, 32)
      append(1 << UInt64(part) - 1, bits: part)
      left -= part
    }
  }

  mutating func finish() -> [UInt8] {
    if count > 0 { bytes.append(UInt8(truncatingIfNeeded: pending)) }
    return bytes
  }
}

private struct BitReader {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  private var end: Int { bytes.count * 8 }

  /// At least the next 57 bits, lowest first; zeros behind the end.
  private var window: UInt64 {
    let first = position >> 3
    if first + 8 <= bytes.count {
      // SAFETY: the eight bytes lie in the array.
      let word = unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: first, as: UInt64.self) }
      return UInt64(littleEndian: word) >> UInt64(position & 7)
    }
    var word: UInt64 = 0
    for index in 0..<8 where first + index < bytes.count { word |= UInt64(bytes[first + index]) << UInt64(8 * index) }
    return word >> UInt64(position & 7)
  }

  /// How many ones come before the next zero, which is read too; nil when there are more than `limit`, or no zero.
  mutating func ones(atMost limit: Int) -> Int? {
    var ones = 0
    while true {
      let run = min((~window).trailingZeroBitCount, 56)
      ones += run
      position += run
      guard position < end, ones <= limit else { return nil }
      if run < 56 {
        position += 1
        return ones
      }
    }
  }

  /// The next `count` bits, at most 32; nil when fewer are left.
  mutating func bits(_ count: Int) -> Int? {
    guard count <= end - position else { return nil }
    let value = window & (1 << UInt64(count) - 1)
    position += count
    return Int(value)
  }

  /// True when only the zeros that fill the last byte are left.
  var isAtEnd: Bool { end - position < 8 && window & (1 << UInt64(end - position) - 1) == 0 }
}
