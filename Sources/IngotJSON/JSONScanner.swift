package import IngotErrors

/// Reads JSON tokens from bytes, front to back. `JSON.parse` builds trees with it; formats that need no tree (a safetensors header
/// of 100,000 tensors) call it directly.
///
/// Every read is bounds-checked, and every failure throws `.format` with line and column. One thread at a time.
package struct JSONScanner {
  package let origin: String
  package let options: JSON.Options
  private let bytes: [UInt8]
  package internal(set) var offset = 0

  // The last place that was turned into line and column: positions are asked for in rising order, so each byte is counted once.
  private var markOffset = 0
  private var markLine: Int32 = 1
  private var markColumn: Int32 = 1

  package init(_ bytes: [UInt8], origin: String, options: JSON.Options = .strict) {
    self.bytes = bytes
    self.origin = origin
    self.options = options
  }

  // MARK: - Punctuation

  /// The next byte that is not white space, not consumed; nil at the end.
  package mutating func peek() -> UInt8? {
    while offset < bytes.count {
      let byte = bytes[offset]
      switch byte {
      case 0x20, 0x0A, 0x0D, 0x09: offset += 1
      default: return byte
      }
    }
    return nil
  }

  /// Consumes `byte` if it comes next (after white space).
  package mutating func accept(_ byte: UInt8) -> Bool {
    guard peek() == byte else { return false }
    offset += 1
    return true
  }

  /// Consumes `byte` or throws, saying what was found. `what` completes "expected …".
  package mutating func expect(_ byte: UInt8, _ what: String) throws(IngotError) {
    guard accept(byte) else { throw unexpected("expected \(what)") }
  }

  /// Throws unless only white space is left.
  package mutating func end() throws(IngotError) {
    if peek() != nil { throw unexpected("expected the end of the text") }
  }

  package mutating func skipByteOrderMark() {
    if offset == 0, bytes.starts(with: [0xEF, 0xBB, 0xBF]) {
      offset = 3
      markOffset = 3
    }
  }

  // MARK: - Strings

  /// A string token.
  package mutating func string() throws(IngotError) -> String {
    guard peek() == UInt8(ascii: "\"") else { throw unexpected("expected a string") }
    let start = offset + 1
    var place = start
    var isASCII = true
    while place < bytes.count {
      let byte = bytes[place]
      if byte == UInt8(ascii: "\"") {
        offset = place + 1
        if isASCII { return String(decoding: bytes[start..<place], as: UTF8.self) }
        return try validated(bytes[start..<place], at: start)
      }
      if byte == UInt8(ascii: "\\") { return try escapedString(from: start) }
      if byte < 0x20 { throw failure("a control character (0x\(hex(byte))) in a string; write it as an escape", at: place) }
      if byte >= 0x80 { isASCII = false }
      place += 1
    }
    throw failure("a string without its closing quote", at: start - 1)
  }

  private func validated(_ slice: ArraySlice<UInt8>, at start: Int) throws(IngotError) -> String {
    guard let text = String(validating: slice, as: UTF8.self) else { throw failure("a string that is not valid UTF-8", at: start) }
    return text
  }

  /// A string that holds at least one escape; `start` is the offset after the opening quote.
  private mutating func escapedString(from start: Int) throws(IngotError) -> String {
    var buffer: [UInt8] = []
    var place = start
    while place < bytes.count {
      let byte = bytes[place]
      switch byte {
      case UInt8(ascii: "\""):
        offset = place + 1
        return try validated(buffer[...], at: start)
      case UInt8(ascii: "\\"):
        place = try appendEscape(at: place, to: &buffer)
      case 0..<0x20:
        throw failure("a control character (0x\(hex(byte))) in a string; write it as an escape", at: place)
      default:
        buffer.append(byte)
        place += 1
      }
    }
    throw failure("a string without its closing quote", at: start - 1)
  }

  /// Decodes the escape whose backslash is at `place`; returns the offset after it.
  private func appendEscape(at place: Int, to buffer: inout [UInt8]) throws(IngotError) -> Int {
    guard place + 1 < bytes.count else { throw failure("the text ends inside an escape", at: place) }
    let letter = bytes[place + 1]
    switch letter {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): buffer.append(letter)
    case UInt8(ascii: "b"): buffer.append(0x08)
    case UInt8(ascii: "f"): buffer.append(0x0C)
    case UInt8(ascii: "n"): buffer.append(0x0A)
    case UInt8(ascii: "r"): buffer.append(0x0D)
    case UInt8(ascii: "t"): buffer.append(0x09)
    case UInt8(ascii: "u"): return try appendCodePoint(at: place, to: &buffer)
    default: throw failure("an unknown escape; JSON has \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u", at: place)
    }
    return place + 2
  }

  private func appendCodePoint(at place: Int, to buffer: inout [UInt8]) throws(IngotError) -> Int {
    var code = try hexDigits(at: place)
    var next = place + 6
    if code >= 0xDC00, code <= 0xDFFF { throw failure("a low surrogate without the high one before it", at: place) }
    if code >= 0xD800, code <= 0xDBFF {
      guard next + 1 < bytes.count, bytes[next] == UInt8(ascii: "\\"), bytes[next + 1] == UInt8(ascii: "u") else {
        throw failure("a high surrogate without the low one after it", at: place)
      }
      let low = try hexDigits(at: next)
      guard low >= 0xDC00, low <= 0xDFFF else { throw failure("a high surrogate without the low one after it", at: place) }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
      next += 6
    }
    guard let scalar = Unicode.Scalar(code) else { throw failure("an escape that is no Unicode scalar", at: place) }
    buffer.append(contentsOf: UTF8.encode(scalar)?.map { $0 } ?? [])
    return next
  }

  /// The value of `\uXXXX` whose backslash is at `place`.
  private func hexDigits(at place: Int) throws(IngotError) -> UInt32 {
    guard place + 6 <= bytes.count else { throw failure("the text ends inside an escape", at: place) }
    var code: UInt32 = 0
    for index in (place + 2)..<(place + 6) {
      let digit: UInt8
      switch bytes[index] {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = bytes[index] - UInt8(ascii: "0")
      case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = bytes[index] - UInt8(ascii: "a") + 10
      case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = bytes[index] - UInt8(ascii: "A") + 10
      default: throw failure("\\u needs four hexadecimal digits", at: place)
      }
      code = code << 4 | UInt32(digit)
    }
    return code
  }

  // MARK: - Numbers and words

  /// A non-negative integer token that fits 64 bits: for offsets and extents.
  package mutating func unsignedInteger() throws(IngotError) -> UInt64 {
    guard let first = peek(), isDigit(first) else { throw unexpected("expected a non-negative integer") }
    let start = offset
    var value: UInt64 = 0
    while offset < bytes.count, isDigit(bytes[offset]) {
      let (product, overflowed) = value.multipliedReportingOverflow(by: 10)
      let (sum, overflowedAgain) = product.addingReportingOverflow(UInt64(bytes[offset] - UInt8(ascii: "0")))
      if overflowed || overflowedAgain { throw failure("an integer that does not fit 64 bits", at: start) }
      value = sum
      offset += 1
    }
    if first == UInt8(ascii: "0"), offset - start > 1 { throw failure("a number with a leading zero", at: start) }
    if offset < bytes.count {
      switch bytes[offset] {
      case UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"):
        throw failure("a number with a fraction; expected an integer", at: start)
      default: break
      }
    }
    return value
  }

  /// A number token as written.
  mutating func number() throws(IngotError) -> String {
    let start = offset
    var place = offset
    func digits() -> Int {
      let from = place
      while place < bytes.count, isDigit(bytes[place]) { place += 1 }
      return place - from
    }
    if place < bytes.count, bytes[place] == UInt8(ascii: "-") { place += 1 }
    let integerStart = place
    let integerDigits = digits()
    if integerDigits == 0 { throw failure("a number without digits", at: start) }
    if integerDigits > 1, bytes[integerStart] == UInt8(ascii: "0") { throw failure("a number with a leading zero", at: start) }
    if place < bytes.count, bytes[place] == UInt8(ascii: ".") {
      place += 1
      if digits() == 0 { throw failure("a number without digits after the point", at: start) }
    }
    if place < bytes.count, bytes[place] == UInt8(ascii: "e") || bytes[place] == UInt8(ascii: "E") {
      place += 1
      if place < bytes.count, bytes[place] == UInt8(ascii: "+") || bytes[place] == UInt8(ascii: "-") { place += 1 }
      if digits() == 0 { throw failure("a number without digits in the exponent", at: start) }
    }
    offset = place
    return String(decoding: bytes[start..<place], as: UTF8.self)
  }

  mutating func acceptWord(_ word: String) -> Bool {
    let letters = word.utf8
    guard bytes.count - offset >= letters.count, bytes[offset..<(offset + letters.count)].elementsEqual(letters) else { return false }
    offset += letters.count
    return true
  }

  private func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

  // MARK: - Places and failures

  /// Line and column of the current offset, counted on from the last place asked for.
  mutating func mark() -> (line: Int32, column: Int32) {
    while markOffset < offset {
      let byte = bytes[markOffset]
      if byte == 0x0A {
        if markLine < .max { markLine += 1 }
        markColumn = 1
      } else if byte & 0xC0 != 0x80, markColumn < .max {
        markColumn += 1
      }
      markOffset += 1
    }
    return (markLine, markColumn)
  }

  /// A `.format` error at the current offset that says what stands there.
  package func unexpected(_ expectation: String) -> IngotError {
    guard offset < bytes.count else { return failure("the text ends here; \(expectation)", at: offset) }
    let byte = bytes[offset]
    let found = byte > 0x20 && byte < 0x7F ? "'\(Character(Unicode.Scalar(byte)))'" : "byte 0x\(hex(byte))"
    return failure("found \(found), \(expectation)", at: offset)
  }

  /// A `.format` error at `place` (a byte offset).
  package func failure(_ message: String, at place: Int) -> IngotError {
    var line = 1
    var column = 1
    for byte in bytes.prefix(max(0, place)) {
      if byte == 0x0A {
        line += 1
        column = 1
      } else if byte & 0xC0 != 0x80 {
        column += 1
      }
    }
    return IngotError(
      .format, "not valid JSON: \(message)", subject: origin, position: SourcePosition(origin: origin, line: line, column: column))
  }

  private func hex(_ byte: UInt8) -> String {
    let text = String(byte, radix: 16, uppercase: true)
    return text.count < 2 ? "0" + text : text
  }
}
