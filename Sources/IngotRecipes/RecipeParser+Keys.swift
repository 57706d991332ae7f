import IngotErrors

extension RecipeParser {
  /// Keys people put anywhere for themselves; never taken for slips.
  private static let personal: Set<String> = ["note", "notes", "type", "mode", "name"]

  /// Looks at every key of a mapping: valid ones pass, `immaterial` ones (mergekit's, without effect here) are said so, a slip of a valid key
  /// is an error with the right name, every other is a warning, or an error when strict.
  mutating func check(
    _ mapping: Node.Mapping, at place: String, valid: [String], immaterial: Set<String> = [], explaining: (String) -> String? = { _ in nil }
  ) throws(IngotError) {
    try noteSuperseded(mapping, at: place)
    for entry in mapping.entries where !valid.contains(entry.key) {
      let subject = path(place, entry.key)
      let key = excerpt(entry.key)
      if immaterial.contains(entry.key) {
        notices.append(
          Notice(.info, "'\(key)' is known to mergekit and changes nothing here", subject: subject, position: entry.keyPosition))
        continue
      }
      let isExempt = Self.personal.contains(entry.key) || catalog.hasParameter(entry.key)
      if !isExempt, let near = nearestName(to: entry.key, among: valid) {
        throw IngotError(
          .recipe, "unknown key '\(key)'", hint: "did you mean \(near)?", subject: subject, position: entry.keyPosition)
      }
      try ignore(
        "'\(key)' " + (explaining(entry.key) ?? "is not a key of recipes in this place"), subject: subject, position: entry.keyPosition)
    }
  }

  /// Warns about keys that are given twice, of which the last counts; throws when strict.
  mutating func noteSuperseded(_ mapping: Node.Mapping, at place: String) throws(IngotError) {
    for entry in mapping.entries.flatMap(\.superseded) {
      let (key, subject) = (excerpt(entry.key), path(place, entry.key))
      let later = mapping[entry.key].map { " at line \($0.keyPosition.line)" } ?? ""
      if strict {
        throw IngotError(
          .recipe, "the key '\(key)' is given again\(later)", hint: "remove one of the two", subject: subject, position: entry.keyPosition)
      }
      notices.append(
        Notice(
          .warning, "'\(key)' is given again\(later); the last one counts, as in mergekit", subject: subject, position: entry.keyPosition))
    }
  }

  /// Warns about something that will have no effect; throws it when strict.
  mutating func ignore(_ message: String, subject: String, position: SourcePosition) throws(IngotError) {
    if strict {
      throw IngotError(
        .recipe, message, hint: "remove it, or run without strict checking to have it ignored", subject: subject, position: position)
    }
    notices.append(Notice(.warning, message + "; it is ignored", subject: subject, position: position))
  }

  func path(_ place: String, _ key: String) -> String { place.isEmpty ? excerpt(key) : place + "." + excerpt(key) }

  func required(_ key: String, of mapping: Node.Mapping, at place: String, in position: SourcePosition) throws(IngotError) -> Node {
    guard let entry = mapping[key] else {
      throw IngotError(
        .recipe, "\(key) is missing", hint: "add a line '\(key): …'", subject: path(place, key), position: position)
    }
    return entry.value
  }

  /// The value of a key that may be missing or null.
  func optional(_ key: String, of mapping: Node.Mapping) -> Node? {
    guard let node = mapping[key]?.value, !node.isNull else { return nil }
    return node
  }

  /// The text of a scalar as written, whatever YAML takes it for (a directory may be called `1e5` or `no`).
  func text(of node: Node, subject: String, expected: String) throws(IngotError) -> String {
    guard let scalar = node.scalar, scalar.value != .null else {
      throw IngotError(.recipe, "found \(node.found), expected \(expected)", subject: subject, position: node.position)
    }
    return scalar.text
  }

  func elements(of node: Node, subject: String) throws(IngotError) -> [Node] {
    guard let nodes = node.sequence else {
      throw IngotError(
        .recipe, "\(subject) is \(node.found), expected a list", hint: "begin each entry with '- '", subject: subject,
        position: node.position)
    }
    return nodes
  }

  func fields(of node: Node, subject: String, hint: String? = nil) throws(IngotError) -> Node.Mapping {
    guard let mapping = node.mapping else {
      throw IngotError(.recipe, "found \(node.found), expected a mapping", hint: hint, subject: subject, position: node.position)
    }
    return mapping
  }
}
