package import IngotErrors

/// Trees. Open containers are kept in an array, not on the call stack: a hostile text cannot overflow the small stack of a host's thread.
extension JSONScanner {
  /// A container whose closing bracket has not come yet, and the key that waits for its value.
  private struct OpenContainer {
    let isObject: Bool
    let line: Int32
    let column: Int32
    var elements: [JSONValue] = []
    var object = JSONObject()
    var key = JSONMember(key: "", value: .null)
    var keyOffset = 0
  }

  /// Any value, as a tree. `depth` is how many containers are open around it.
  package mutating func value(depth: Int = 0) throws(IngotError) -> JSONValue {
    var open: [OpenContainer] = []
    while true {
      if var done = try leaf(depth: depth, open: &open) {
        // Each finished value may finish the container around it, and that one the next.
        while true {
          guard var container = open.popLast() else { return done }
          try add(done, to: &container)
          if accept(UInt8(ascii: ",")) {
            if container.isObject { try readKey(&container) }
            open.append(container)
            break
          }
          try expect(
            container.isObject ? UInt8(ascii: "}") : UInt8(ascii: "]"), container.isObject ? "',' or '}'" : "',' or ']'")
          let kind: JSONValue.Kind = container.isObject ? .object(container.object) : .array(container.elements)
          done = JSONValue(kind, line: container.line, column: container.column)
        }
      }
    }
  }

  /// The next value when it is complete by itself; nil after opening a container that is not empty.
  private mutating func leaf(depth: Int, open: inout [OpenContainer]) throws(IngotError) -> JSONValue? {
    guard let first = peek() else { throw unexpected("expected a value") }
    let (line, column) = mark()
    let kind: JSONValue.Kind
    switch first {
    case UInt8(ascii: "{"), UInt8(ascii: "["):
      guard depth + open.count < Limit.jsonNesting else {
        throw failure("nested deeper than \(Limit.jsonNesting) levels", at: offset)
      }
      offset += 1
      let isObject = first == UInt8(ascii: "{")
      if accept(isObject ? UInt8(ascii: "}") : UInt8(ascii: "]")) {
        kind = isObject ? .object(JSONObject()) : .array([])
      } else {
        var container = OpenContainer(isObject: isObject, line: line, column: column)
        if isObject { try readKey(&container) }
        open.append(container)
        return nil
      }
    case UInt8(ascii: "\""): kind = .string(try string())
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
      kind = .number(try options.nonFiniteNumbers && acceptWord("-Infinity") ? "-Infinity" : number())
    default: kind = try word()
    }
    return JSONValue(kind, line: line, column: column)
  }

  private mutating func word() throws(IngotError) -> JSONValue.Kind {
    if acceptWord("true") { return .bool(true) }
    if acceptWord("false") { return .bool(false) }
    if acceptWord("null") { return .null }
    if options.nonFiniteNumbers {
      for word in ["NaN", "Infinity"] where acceptWord(word) { return .number(word) }
    }
    throw unexpected("expected a value")
  }

  private mutating func readKey(_ container: inout OpenContainer) throws(IngotError) {
    guard peek() == UInt8(ascii: "\"") else { throw unexpected("expected a key in double quotes") }
    container.keyOffset = offset
    let (line, column) = mark()
    container.key = JSONMember(key: try string(), value: .null, line: line, column: column)
    try expect(UInt8(ascii: ":"), "':' after the key")
  }

  private func add(_ value: JSONValue, to container: inout OpenContainer) throws(IngotError) {
    guard container.isObject else {
      container.elements.append(value)
      return
    }
    container.key.value = value
    if container.object.append(container.key) { return }
    guard options.duplicateKeys else {
      throw failure("the key \"\(container.key.key.prefix(200))\" is there twice in one object", at: container.keyOffset)
    }
    container.object[container.key.key] = value
  }
}
