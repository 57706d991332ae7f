/// The licence that a model's README states in its front matter.
package struct ModelLicence: Sendable, Hashable {
  /// Identifiers as the hub writes them: `apache-2.0`, `llama3`, `other`. Usually one.
  package var identifiers: [String]
  /// `license_name` and `license_link`, which go with `other`.
  package var name: String?
  package var link: String?

  package init(identifiers: [String], name: String? = nil, link: String? = nil) {
    self.identifiers = identifiers
    self.name = name
    self.link = link
  }

  /// One line for people: the identifiers, or the name where they say `other`.
  package var label: String {
    let joined = identifiers.joined(separator: ", ")
    return name.map { "\(joined) (\($0))" } ?? joined
  }

  /// Reads the front matter between the first two lines `---`. nil when there is none or it states no licence.
  ///
  /// Understands what such files hold: top-level `license`, `license_name`, `license_link` as scalars, and `license` as a flow or
  /// block list. Anything else is skipped; a card is prose, and no reason to refuse a model.
  package static func read(fromREADME text: String) -> ModelLicence? {
    var identifiers: [String] = []
    var name: String?
    var link: String?
    var inList = false
    for line in frontMatter(text) {
      if inList, let item = listItem(line) {
        identifiers.append(item)
        continue
      }
      inList = false
      guard let (key, value) = member(line) else { continue }
      switch key {
      case "license":
        identifiers = flowList(value) ?? [scalar(value)].filter { !$0.isEmpty }
        inList = value.isEmpty
      case "license_name": name = scalar(value)
      case "license_link": link = scalar(value)
      default: break
      }
    }
    identifiers.removeAll { $0.isEmpty || ["null", "~"].contains($0) }
    guard !identifiers.isEmpty else { return nil }
    return ModelLicence(
      identifiers: identifiers, name: name.flatMap { $0.isEmpty ? nil : $0 }, link: link.flatMap { $0.isEmpty ? nil : $0 })
  }

  private static func frontMatter(_ text: String) -> [String] {
    let lines = text.split(omittingEmptySubsequences: false) { $0.isNewline }.map { line in
      String(line.unicodeScalars.filter { $0 != "\u{FEFF}" })
    }
    guard let first = lines.first, trimmed(first) == "---" else { return [] }
    guard let end = lines.dropFirst().firstIndex(where: { trimmed($0) == "---" }) else { return [] }
    return Array(lines[1..<end])
  }

  /// `key: value` at the left margin.
  private static func member(_ line: String) -> (key: String, value: String)? {
    guard let first = line.first, !first.isWhitespace, let colon = line.firstIndex(of: ":") else { return nil }
    return (String(line[..<colon]), trimmed(line[line.index(after: colon)...]))
  }

  private static func listItem(_ line: String) -> String? {
    let text = trimmed(line)
    return text.hasPrefix("- ") ? scalar(trimmed(text.dropFirst(2))) : nil
  }

  private static func flowList(_ value: String) -> [String]? {
    guard value.hasPrefix("["), let close = value.lastIndex(of: "]") else { return nil }
    return value[value.index(after: value.startIndex)..<close].split(separator: ",").map { scalar(trimmed($0)) }
  }

  /// A plain or quoted scalar, without a trailing comment.
  private static func scalar(_ value: String) -> String {
    for quote: Character in ["\"", "'"] where value.first == quote {
      let rest = value.dropFirst()
      return rest.firstIndex(of: quote).map { String(rest[..<$0]) } ?? String(rest)
    }
    var end = value.endIndex
    var previous: Character = " "
    for index in value.indices {
      if value[index] == "#", previous.isWhitespace {
        end = index
        break
      }
      previous = value[index]
    }
    return trimmed(value[..<end])
  }

  private static func trimmed(_ text: some StringProtocol) -> String {
    var slice = Substring(text)
    while let first = slice.first, first.isWhitespace { slice.removeFirst() }
    while let last = slice.last, last.isWhitespace { slice.removeLast() }
    return String(slice)
  }
}
