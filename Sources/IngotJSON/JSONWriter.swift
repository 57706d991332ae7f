/// Writing. Non-ASCII text is written as it is; numbers as they were read.
extension JSON {
  package enum Style: Sendable {
    /// No white space at all.
    case compact
    /// One member or element per line, two spaces per level, as Python's `json.dumps(indent=2, ensure_ascii=False)`.
    case pretty
  }

  package static func bytes(_ value: JSONValue, style: Style = .compact) -> [UInt8] {
    var writer = JSONWriter()
    writer.append(value, style: style, level: 0)
    return writer.bytes
  }

  package static func text(_ value: JSONValue, style: Style = .compact) -> String {
    String(decoding: bytes(value, style: style), as: UTF8.self)
  }
}

/// Appends JSON tokens to a buffer: for texts too large to build as a tree first (an index of 100,000 tensors).
package struct JSONWriter {
  package private(set) var bytes: [UInt8] = []

  package init(reserving capacity: Int = 0) { bytes.reserveCapacity(capacity) }

  /// Gives the text so far away and begins anew.
  package mutating func take() -> [UInt8] {
    let taken = bytes
    bytes = []
    bytes.reserveCapacity(taken.count)
    return taken
  }

  /// Appends `text` as it is.
  package mutating func raw(_ text: String) { bytes.append(contentsOf: text.utf8) }

  /// Appends a string token with its quotes, escaping what JSON demands and nothing else.
  package mutating func string(_ text: String) {
    bytes.append(UInt8(ascii: "\""))
    for byte in text.utf8 {
      if byte >= 0x20, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") {
        bytes.append(byte)
      } else {
        escape(byte)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }

  private mutating func escape(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "\""): raw("\\\"")
    case UInt8(ascii: "\\"): raw("\\\\")
    case 0x08: raw("\\b")
    case 0x09: raw("\\t")
    case 0x0A: raw("\\n")
    case 0x0C: raw("\\f")
    case 0x0D: raw("\\r")
    default:
      let digits = String(byte, radix: 16)
      raw(digits.count < 2 ? "\\u000\(digits)" : "\\u00\(digits)")
    }
  }

  package mutating func append(_ value: JSONValue, style: JSON.Style = .compact, level: Int = 0) {
    switch value.kind {
    case .null: raw("null")
    case .bool(let flag): raw(flag ? "true" : "false")
    case .number(let text): raw(text)
    case .string(let text): string(text)
    case .array(let elements):
      container("[", "]", count: elements.count, style: style, level: level) { writer, index in
        writer.append(elements[index], style: style, level: level + 1)
      }
    case .object(let object):
      let members = object.members
      container("{", "}", count: members.count, style: style, level: level) { writer, index in
        writer.string(members[index].key)
        writer.raw(style == .pretty ? ": " : ":")
        writer.append(members[index].value, style: style, level: level + 1)
      }
    }
  }

  private mutating func container(
    _ open: String, _ close: String, count: Int, style: JSON.Style, level: Int, _ body: (inout JSONWriter, Int) -> Void
  ) {
    raw(open)
    for index in 0..<count {
      if index > 0 { raw(",") }
      if style == .pretty { newline(level: level + 1) }
      body(&self, index)
    }
    if style == .pretty, count > 0 { newline(level: level) }
    raw(close)
  }

  private mutating func newline(level: Int) {
    bytes.append(0x0A)
    bytes.append(contentsOf: repeatElement(0x20, count: 2 * level))
  }
}
