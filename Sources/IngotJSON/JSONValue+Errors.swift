package import IngotErrors

extension IngotError {
  /// All of it: what is not known is null.
  package var json: JSONValue {
    .object([
      "status": .string("\(status.constantName)"), "code": .int(status.rawValue), "message": .string(message), "hint": .text(hint),
      "subject": .text(subject), "position": .position(position), "user_code": .int(userCode),
    ])
  }
}

extension Notice {
  package var json: JSONValue {
    .object([
      "severity": .string(severity == .warning ? "warning" : "info"), "message": .string(message), "subject": .text(subject),
      "position": .position(position),
    ])
  }
}

extension JSONValue {
  /// A string, or null.
  package static func text(_ text: String?) -> JSONValue { text.map { .string($0) } ?? .null }

  /// Where something is, or null.
  package static func position(_ position: SourcePosition?) -> JSONValue {
    guard let position else { return .null }
    return .object(["origin": .string(position.origin), "line": .int(position.line), "column": .int(position.column)])
  }
}
