package import IngotErrors

/// JSON texts (RFC 8259) to values with positions, and back.
package enum JSON {
  /// What a parser takes beyond the standard.
  package struct Options: Sendable {
    /// Python writes NaN, Infinity and -Infinity; they are kept as numbers.
    package var nonFiniteNumbers: Bool
    /// Equal keys in one object: the last value wins, at the place of the first key, as in Python. Otherwise they are an error.
    package var duplicateKeys: Bool

    package init(nonFiniteNumbers: Bool = false, duplicateKeys: Bool = false) {
      self.nonFiniteNumbers = nonFiniteNumbers
      self.duplicateKeys = duplicateKeys
    }

    package static let strict = Options()
    /// What Python's json module writes and reads.
    package static let python = Options(nonFiniteNumbers: true)
  }

  /// Parses one JSON text. `origin` is the name that positions carry (a path, usually).
  ///
  /// Throws `.format` with line and column: bad syntax, invalid UTF-8, a lone surrogate, a duplicate key, nesting deeper than
  /// `Limit.jsonNesting` (parsing does not recurse; writing, comparing and freeing a tree do, once per level), or anything but white space after the value. A byte order mark is skipped. Linear in the length.
  package static func parse(_ bytes: [UInt8], origin: String, options: Options = .strict) throws(IngotError) -> JSONValue {
    var scanner = JSONScanner(bytes, origin: origin, options: options)
    scanner.skipByteOrderMark()
    let value = try scanner.value()
    try scanner.end()
    return value
  }

  package static func parse(_ text: String, origin: String, options: Options = .strict) throws(IngotError) -> JSONValue {
    try parse(Array(text.utf8), origin: origin, options: options)
  }
}
