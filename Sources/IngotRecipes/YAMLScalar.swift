extension ScalarValue {
  /// What a plain scalar means under YAML 1.1, by the rules of PyYAML's safe loader: `1e-5` is a text (a float needs a dot, an exponent
  /// a sign), `010` is eight, `1:30` is ninety, `yes` is true. Timestamps stay texts.
  package static func resolving(plain text: String) -> ScalarValue {
    switch text {
    case "", "~", "null", "Null", "NULL": return .null
    case "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON": return .boolean(true)
    case "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF": return .boolean(false)
    default: break
    }
    // No number is longer in practice, and a longer one would cost a copy of a hostile text.
    guard text.utf8.count <= 400, let first = text.utf8.first, numberStart.contains(first) else { return .string(text) }
    let bytes = Array(text.utf8)
    return yamlFloat(bytes) ?? yamlInteger(bytes) ?? .string(text)
  }

  private static let numberStart = Set("-+0123456789.".utf8)

  /// A text that reads as a number in Python (`1e-5`, ` .5 `, `1_000`); recipes may quote numbers.
  package static func number(inText text: String) -> Double? {
    guard text.utf8.count <= 400 else { return nil }
    var bytes = Array(text.utf8)
    while let last = bytes.last, isBlank(last) { bytes.removeLast() }
    bytes = Array(bytes.drop(while: isBlank))
    var cursor = Cursor(bytes)
    cursor.skipSign()
    let unsigned = String(decoding: bytes[cursor.at...], as: UTF8.self).lowercased()
    if unsigned == "inf" || unsigned == "infinity" || unsigned == "nan" { return Double(String(decoding: bytes, as: UTF8.self)) }
    let whole = cursor.skipDigits()
    var fraction = 0
    if cursor.skip(".") { fraction = cursor.skipDigits() }
    guard whole + fraction > 0 else { return nil }
    if cursor.skip("e") || cursor.skip("E") {
      cursor.skipSign()
      guard cursor.skipDigits() > 0 else { return nil }
    }
    guard cursor.isAtEnd else { return nil }
    return double(bytes)
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

  /// The number in text of the forms checked by the callers, underscores dropped.
  private static func double(_ bytes: some Sequence<UInt8>) -> Double? {
    Double(String(decoding: bytes.filter { $0 != UInt8(ascii: "_") }, as: UTF8.self))
  }

  private static func yamlFloat(_ bytes: [UInt8]) -> ScalarValue? {
    var cursor = Cursor(bytes)
    let signed = cursor.skipSign()
    let body = String(decoding: bytes[cursor.at...], as: UTF8.self)
    if [".inf", ".Inf", ".INF"].contains(body) { return .float(bytes.first == UInt8(ascii: "-") ? -.infinity : .infinity) }
    if !signed, [".nan", ".NaN", ".NAN"].contains(body) { return .float(.nan) }
    if cursor.peek(".") {
      // A sign before a bare fraction is not a float in YAML 1.1.
      guard !signed, cursor.skip("."), cursor.peekDigit() else { return nil }
      cursor.skipDigitsAndUnderscores()
      return cursor.skipYAMLExponent() ? double(bytes).map(ScalarValue.float) : nil
    }
    guard cursor.peekDigit() else { return nil }
    cursor.skipDigitsAndUnderscores()
    let isSexagesimal = cursor.peek(":")
    if isSexagesimal { guard cursor.skipSexagesimalParts() else { return nil } }
    guard cursor.skip(".") else { return nil }
    cursor.skipDigitsAndUnderscores()
    if !isSexagesimal { return cursor.skipYAMLExponent() ? double(bytes).map(ScalarValue.float) : nil }
    guard cursor.isAtEnd else { return nil }
    var value = 0.0
    var base = 1.0
    for part in unsignedParts(bytes).reversed() {
      guard let digit = double(part) else { return nil }
      value += digit * base
      base *= 60
    }
    return .float(bytes.first == UInt8(ascii: "-") ? -value : value)
  }

  private static func yamlInteger(_ bytes: [UInt8]) -> ScalarValue? {
    var cursor = Cursor(bytes)
    cursor.skipSign()
    let isNegative = bytes.first == UInt8(ascii: "-")
    func digits(_ rest: ArraySlice<UInt8>, base: Int, isNegative: Bool) -> ScalarValue? {
      var values: [Int] = []
      for byte in rest where byte != UInt8(ascii: "_") {
        guard let digit = Character(UnicodeScalar(byte)).hexDigitValue, digit < base else { return nil }
        values.append(digit)
      }
      return values.isEmpty ? nil : .counting(values, base: base, isNegative: isNegative)
    }
    if cursor.skip("0") {
      if cursor.isAtEnd { return .integer(0) }
      if cursor.skip("b") { return digits(bytes[cursor.at...], base: 2, isNegative: isNegative) }
      if cursor.skip("x") { return digits(bytes[cursor.at...], base: 16, isNegative: isNegative) }
      // The leading zero is itself a digit: `0_` is zero.
      return digits(bytes[(cursor.at - 1)...], base: 8, isNegative: isNegative)
    }
    guard cursor.peekDigit() else { return nil }
    let start = cursor.at
    cursor.skipDigitsAndUnderscores()
    if cursor.isAtEnd { return digits(bytes[start...], base: 10, isNegative: isNegative) }
    guard cursor.skipSexagesimalParts(), cursor.isAtEnd else { return nil }
    var values: [Int] = []
    for part in unsignedParts(bytes) {
      guard case .integer(let value)? = digits(ArraySlice(part), base: 10, isNegative: false) else { return nil }
      values.append(value)
    }
    return .counting(values, base: 60, isNegative: isNegative)
  }

  /// The parts between colons, without the sign and underscores.
  private static func unsignedParts(_ bytes: [UInt8]) -> [[UInt8]] {
    let dropped: [UInt8] = Array("+-_".utf8)
    return bytes.filter { !dropped.contains($0) }.split(separator: UInt8(ascii: ":")).map(Array.init)
  }

  /// Positional value of digits, most significant first; a float where 64 bits do not hold it, rounded once if they are decimal.
  private static func counting(_ digits: [Int], base: Int, isNegative: Bool) -> ScalarValue {
    var exact: Int? = 0
    var rounded = 0.0
    for digit in digits {
      rounded = rounded * Double(base) + Double(digit)
      if let value = exact {
        let (product, overflowed) = value.multipliedReportingOverflow(by: base)
        let (sum, carried) = isNegative ? product.subtractingReportingOverflow(digit) : product.addingReportingOverflow(digit)
        exact = overflowed || carried ? nil : sum
      }
    }
    if let exact { return .integer(exact) }
    if base == 10, let value = Double(digits.map(String.init).joined()) { rounded = value }
    return .float(isNegative ? -rounded : rounded)
  }
}

/// A reading position in ASCII text.
private struct Cursor {
  private let bytes: [UInt8]
  private(set) var at = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  private var current: UInt8? { at < bytes.count ? bytes[at] : nil }
  var isAtEnd: Bool { at >= bytes.count }
  func peek(_ character: UnicodeScalar) -> Bool { current == UInt8(ascii: character) }
  func peekDigit() -> Bool { current.map { (0x30...0x39).contains($0) } ?? false }

  mutating func skip(_ character: UnicodeScalar) -> Bool {
    guard peek(character) else { return false }
    at += 1
    return true
  }

  @discardableResult mutating func skipSign() -> Bool { skip("-") || skip("+") }

  mutating func skipDigitsAndUnderscores() { while peekDigit() || peek("_") { at += 1 } }

  /// Digits with single underscores between them; the number of digits.
  mutating func skipDigits() -> Int {
    var count = 0
    while peekDigit() {
      at += 1
      count += 1
      if peek("_"), at + 1 < bytes.count, (0x30...0x39).contains(bytes[at + 1]) { at += 1 }
    }
    return count
  }

  /// `e+10` or nothing, then the end of the text.
  mutating func skipYAMLExponent() -> Bool {
    if skip("e") || skip("E") {
      guard skipSign(), peekDigit() else { return false }
      while peekDigit() { at += 1 }
    }
    return isAtEnd
  }

  /// One or more of a colon and a number below 60.
  mutating func skipSexagesimalParts() -> Bool {
    guard peek(":") else { return false }
    while skip(":") {
      guard peekDigit(), let first = current else { return false }
      at += 1
      guard peekDigit() else { continue }
      guard first <= UInt8(ascii: "5") else { return false }
      at += 1
    }
    return true
  }
}
