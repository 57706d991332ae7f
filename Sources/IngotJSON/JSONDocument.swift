/// Writes a JSON document piece by piece, indented by two spaces: for reports whose parts are values of the program rather than a tree.
package struct JSONDocument {
  private var writer = JSONWriter()
  private var depth = 0
  private var isFirst = true
  private let drain: (([UInt8]) -> Void)?

  /// Bytes that a document with a drain holds before it gives them away.
  private static let pieceBytes = 1 << 16

  package init() { drain = nil }

  /// A document that gives its text away piece by piece: one of 100,000 tensors is tens of megabytes. End it with `finish`.
  package init(drain: @escaping ([UInt8]) -> Void) { self.drain = drain }

  package var bytes: [UInt8] { writer.bytes }
  package var text: String { String(decoding: writer.bytes, as: UTF8.self) }

  /// The whole text with a line feed at its end; the document is used up. A plan of 100,000 tensors is 60 MB of text: one copy less counts.
  package consuming func line() -> String {
    writer.raw("\n")
    return String(decoding: writer.bytes, as: UTF8.self)
  }

  /// Gives away what is left, with a line feed at its end.
  package consuming func finish() {
    writer.raw("\n")
    drain?(writer.take())
  }

  private mutating func begin(_ key: String?) {
    if let drain, writer.bytes.count >= Self.pieceBytes { drain(writer.take()) }
    if depth > 0 {
      writer.raw(isFirst ? "\n" : ",\n")
      writer.raw(String(repeating: "  ", count: depth))
    }
    if let key {
      writer.string(key)
      writer.raw(": ")
    }
    isFirst = false
  }

  /// Opens an object.
  package mutating func object(_ key: String? = nil, _ body: (inout JSONDocument) -> Void) { nest(key, "{", "}", body) }

  /// Opens a list.
  package mutating func list(_ key: String? = nil, _ body: (inout JSONDocument) -> Void) { nest(key, "[", "]", body) }

  private mutating func nest(_ key: String?, _ open: String, _ close: String, _ body: (inout JSONDocument) -> Void) {
    begin(key)
    writer.raw(open)
    depth += 1
    isFirst = true
    body(&self)
    depth -= 1
    if !isFirst {
      writer.raw("\n")
      writer.raw(String(repeating: "  ", count: depth))
    }
    isFirst = false
    writer.raw(close)
  }

  package mutating func value(_ text: String) {
    begin(nil)
    writer.string(text)
  }

  package mutating func value(_ number: Int) {
    begin(nil)
    writer.raw(String(number))
  }

  package mutating func field(_ key: String, _ text: String?) {
    begin(key)
    if let text { writer.string(text) } else { writer.raw("null") }
  }

  package mutating func field(_ key: String, _ number: Int) {
    begin(key)
    writer.raw(String(number))
  }

  /// NaN and infinities become null: JSON has no names for them.
  package mutating func field(_ key: String, _ number: Double) {
    begin(key)
    writer.raw(number.isFinite ? "\(number)" : "null")
  }

  package mutating func field(_ key: String, _ flag: Bool) {
    begin(key)
    writer.raw(flag ? "true" : "false")
  }

  /// A part that is JSON already.
  package mutating func field(_ key: String, json: String) {
    begin(key)
    writer.raw(json)
  }
}
