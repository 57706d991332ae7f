package import IngotErrors

/// Checked reading. The `as…` forms give nil when the node is of another kind; the `require…` forms say what was found and where.
extension JSONValue {
  package var isNull: Bool {
    if case .null = kind { return true }
    return false
  }

  package var asBool: Bool? {
    if case .bool(let value) = kind { return value }
    return nil
  }

  package var asString: String? {
    if case .string(let value) = kind { return value }
    return nil
  }

  /// The text of a number as written.
  package var asNumberText: String? {
    if case .number(let text) = kind { return text }
    return nil
  }

  /// The number when it is written as an integer and fits `Int`; 3.0 and 1e3 are not integers here.
  package var asInt: Int? { asNumberText.flatMap { Int($0) } }

  /// The number rounded to the nearest double. nil when it is too large for a finite double; NaN and Infinity give themselves.
  package var asDouble: Double? {
    guard let text = asNumberText else { return nil }
    switch text {
    case "NaN": return .nan
    case "Infinity": return .infinity
    case "-Infinity": return -.infinity
    default:
      guard let value = Double(text), value.isFinite else { return nil }
      return value
    }
  }

  package var asArray: [JSONValue]? {
    if case .array(let elements) = kind { return elements }
    return nil
  }

  package var asObject: JSONObject? {
    if case .object(let object) = kind { return object }
    return nil
  }

  /// The member `key` of an object; nil for any other kind. Setting does nothing on any other kind.
  package subscript(key: String) -> JSONValue? {
    get {
      if case .object(let object) = kind { return object[key] }
      return nil
    }
    set {
      guard case .object(var object) = kind else { return }
      kind = .null  // Released first, so the members are edited in place and not copied.
      object[key] = newValue
      kind = .object(object)
    }
  }

  /// The node under a dotted path of keys, `text_config.vocab_size`. Keys that contain a dot are reached one subscript at a time.
  package subscript(path path: String) -> JSONValue? {
    var node = self
    for key in path.split(separator: ".", omittingEmptySubsequences: false) {
      guard let next = node[String(key)] else { return nil }
      node = next
    }
    return node
  }

  /// What the node is, in the words of an error message.
  package var kindName: String {
    switch kind {
    case .null: "null"
    case .bool: "a boolean"
    case .number: "a number"
    case .string: "a string"
    case .array: "an array"
    case .object: "an object"
    }
  }

  /// Where the node stands in the text called `origin`; nil for a node made in code.
  package func position(in origin: String) -> SourcePosition? {
    line > 0 ? SourcePosition(origin: origin, line: Int(line), column: Int(column)) : nil
  }

  /// Each throws `.format` with `what` as the subject, what was found, and its position in `origin`.
  package func requireInt(_ what: String, in origin: String) throws(IngotError) -> Int {
    if let value = asInt { return value }
    throw mismatch("an integer", what, origin)
  }

  package func requireString(_ what: String, in origin: String) throws(IngotError) -> String {
    if let value = asString { return value }
    throw mismatch("a string", what, origin)
  }

  package func requireArray(_ what: String, in origin: String) throws(IngotError) -> [JSONValue] {
    if let value = asArray { return value }
    throw mismatch("an array", what, origin)
  }

  package func requireObject(_ what: String, in origin: String) throws(IngotError) -> JSONObject {
    if let value = asObject { return value }
    throw mismatch("an object", what, origin)
  }

  private func mismatch(_ expected: String, _ what: String, _ origin: String) -> IngotError {
    var found = kindName
    if let text = asNumberText { found += " (\(text.prefix(40)))" }
    return IngotError(.format, "found \(found), expected \(expected)", subject: what, position: position(in: origin))
  }
}
