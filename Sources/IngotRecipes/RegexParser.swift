internal import IngotErrors

/// Reads a regular expression between slashes into a tree.
struct RegexParser {
  let bytes: [UInt8]
  /// The offset of the closing slash.
  let end: Int
  /// The offset of the next byte; the pattern begins behind the opening slash.
  var at = 1
  private var depth = 0

  init(bytes: [UInt8], end: Int) {
    self.bytes = bytes
    self.end = end
  }

  private func fault(_ message: String, at offset: Int? = nil) -> TensorPattern.Fault {
    TensorPattern.Fault(message: message, offset: offset ?? at)
  }

  private var next: UInt8? { at < end ? bytes[at] : nil }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard next == UInt8(ascii: character) else { return false }
    at += 1
    return true
  }

  mutating func parse() throws(TensorPattern.Fault) -> PatternTree {
    let tree = try alternatives()
    if at < end { throw fault("a closing parenthesis without an opening one") }
    return tree
  }

  private mutating func alternatives() throws(TensorPattern.Fault) -> PatternTree {
    var parts = [try sequence()]
    while take("|") { parts.append(try sequence()) }
    return parts.count == 1 ? parts[0] : .either(parts)
  }

  private mutating func sequence() throws(TensorPattern.Fault) -> PatternTree {
    var parts: [PatternTree] = []
    while let byte = next, byte != UInt8(ascii: "|"), byte != UInt8(ascii: ")") { parts.append(try repetition()) }
    return .cat(parts)
  }

  private mutating func repetition() throws(TensorPattern.Fault) -> PatternTree {
    let start = at
    var tree = try atom()
    if case .start = tree, let byte = next, "*+?{".utf8.contains(byte) { throw fault("nothing to repeat") }
    while true {
      if take("*") {
        tree = .repeated(tree, 0, nil)
      } else if take("+") {
        tree = .repeated(tree, 1, nil)
      } else if take("?") {
        tree = .repeated(tree, 0, 1)
      } else if next == UInt8(ascii: "{") {
        let (least, most) = try counts()
        tree = .repeated(tree, least, most)
      } else {
        return tree
      }
      // Each sign nests the tree once more, and the compiler follows it.
      if at - start > 4 * Limit.patternNesting, case .repeated(.repeated(.repeated, _, _), _, _) = tree {
        throw fault("too many repetitions of one another", at: start)
      }
    }
  }

  /// `{m}`, `{m,}` or `{m,n}`.
  private mutating func counts() throws(TensorPattern.Fault) -> (Int, Int?) {
    let start = at
    at += 1
    let least = try count(start) ?? 0
    var most: Int? = least
    if take(",") { most = try count(start) }
    guard take("}") else { throw fault("braces that are not {m}, {m,} or {m,n}; write \\{ for the character", at: start) }
    if let most, most < least { throw fault("a repetition from \(least) to \(most)", at: start) }
    return (least, most)
  }

  private mutating func count(_ start: Int) throws(TensorPattern.Fault) -> Int? {
    var value: Int?
    while let byte = next, byte >= 0x30, byte <= 0x39 {
      let sum = (value ?? 0) * 10 + Int(byte - 0x30)
      guard sum <= Limit.patternRepeats else { throw fault("a repetition of more than \(Limit.patternRepeats)", at: start) }
      value = sum
      at += 1
    }
    return value
  }

  private mutating func atom() throws(TensorPattern.Fault) -> PatternTree {
    guard let byte = next else { throw fault("the pattern ends too early") }
    let start = at
    at += 1
    switch byte {
    case UInt8(ascii: "."): return .set(.all)
    case UInt8(ascii: "^"): return .start
    case UInt8(ascii: "$"): return .end
    case UInt8(ascii: "["): return .set(try brackets(negation: [UInt8(ascii: "^")]))
    case UInt8(ascii: "\\"): return .set(try escape())
    case UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "?"), UInt8(ascii: "{"): throw fault("nothing to repeat", at: start)
    case UInt8(ascii: "("):
      depth += 1
      defer { depth -= 1 }
      guard depth <= Limit.patternNesting else { throw fault("groups nested more than \(Limit.patternNesting) deep", at: start) }
      if take("?"), !take(":") { throw fault("groups with (? other than (?: ) are not known here", at: start) }
      let tree = try alternatives()
      guard take(")") else { throw fault("a parenthesis is not closed", at: start) }
      return tree
    default: return .set(ByteSet(byte))
    }
  }

  /// What follows a backslash.
  private mutating func escape() throws(TensorPattern.Fault) -> ByteSet {
    guard let byte = next else { throw fault("the pattern ends after a backslash", at: at - 1) }
    at += 1
    var set = ByteSet()
    switch byte {
    case UInt8(ascii: "d"), UInt8(ascii: "D"): set.insert(0x30...0x39)
    case UInt8(ascii: "w"), UInt8(ascii: "W"):
      set.insert(0x30...0x39)
      set.insert(0x41...0x5A)
      set.insert(0x61...0x7A)
      set.insert(0x5F...0x5F)
    case UInt8(ascii: "s"), UInt8(ascii: "S"):
      set.insert(0x09...0x0D)
      set.insert(0x20...0x20)
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A:
      throw fault("\\\(String(UnicodeScalar(byte))) is not known here", at: at - 2)
    default: return ByteSet(byte)
    }
    return byte < 0x61 ? set.inverted : set
  }

  /// A set in brackets, from behind the opening one to behind the closing one.
  mutating func brackets(negation: [UInt8]) throws(TensorPattern.Fault) -> ByteSet {
    let start = at - 1
    var isNegated = false
    if let byte = next, negation.contains(byte) {
      isNegated = true
      at += 1
    }
    var set = ByteSet()
    var isFirst = true
    while let byte = next, byte != UInt8(ascii: "]") || isFirst {
      isFirst = false
      at += 1
      guard byte < 0x80 else { throw fault("a character outside ASCII in brackets", at: at - 1) }
      if byte == UInt8(ascii: "\\") {
        set.formUnion(try escape())
        continue
      }
      guard next == UInt8(ascii: "-"), at + 1 < end, bytes[at + 1] != UInt8(ascii: "]") else {
        set.insert(byte...byte)
        continue
      }
      let last = bytes[at + 1]
      guard last >= byte, last < 0x80 else { throw fault("a range in brackets that runs backwards or leaves ASCII", at: at - 1) }
      set.insert(byte...last)
      at += 2
    }
    guard take("]") else { throw fault("a bracket is not closed", at: start) }
    return isNegated ? set.inverted : set
  }
}
