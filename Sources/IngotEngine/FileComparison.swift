package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotStorage

/// How a configuration or tokenizer file differs between two models.
package struct FileDifference: Sendable, Hashable {
  /// One value. Both sides are JSON text, cut to a line's length; nil where the key is absent.
  package struct Change: Sendable, Hashable {
    /// Dots between the keys of nested objects.
    package var key: String
    package var a: String?
    package var b: String?

    package init(key: String, a: String?, b: String?) {
      self.key = key
      self.a = a
      self.b = b
    }
  }

  package enum Kind: String, Sendable, Hashable {
    case onlyA = "only_a"
    case onlyB = "only_b"
    case changed
  }

  package var name: String
  package var kind: Kind
  /// By key; empty for files that are no JSON objects.
  package var changes: [Change]

  package init(name: String, kind: Kind, changes: [Change]) {
    self.name = name
    self.kind = kind
    self.changes = changes
  }

  private static let pieceBytes = 1 << 20

  /// The differences, by file name. Compared are config.json and what a merge carries over: tokenizer, templates, generation settings, code;
  /// not weights, model cards or records of a merge. Models without files of their own have nothing to compare.
  package static func find(_ a: (any ModelFiles)?, _ b: (any ModelFiles)?) throws(IngotError) -> [FileDifference] {
    guard let a, let b else { return [] }
    let (namesA, namesB) = (try names(of: a), try names(of: b))
    var found: [FileDifference] = []
    for name in namesA.union(namesB).sorted() {
      if !namesB.contains(name) {
        found.append(FileDifference(name: name, kind: .onlyA, changes: []))
      } else if !namesA.contains(name) {
        found.append(FileDifference(name: name, kind: .onlyB, changes: []))
      } else if let changes = try changes(name, a, b) {
        found.append(FileDifference(name: name, kind: .changed, changes: changes))
      }
    }
    return found
  }

  private static func names(of files: any ModelFiles) throws(IngotError) -> Set<String> {
    let names = try files.fileNames()
    return Set(CarriedFiles.select(names, donor: "").names).union(names.contains("config.json") ? ["config.json"] : [])
  }

  /// Nil for files that say the same.
  private static func changes(_ name: String, _ a: any ModelFiles, _ b: any ModelFiles) throws(IngotError) -> [Change]? {
    let sizes = (try a.size(of: name) ?? 0, try b.size(of: name) ?? 0)
    if sizes.0 == sizes.1, try hasEqualBytes(name, a, b, count: sizes.0) { return nil }
    guard name.hasSuffix(".json"), max(sizes.0, sizes.1) <= Limit.comparedBytes, let x = try parsed(name, a), let y = try parsed(name, b)
    else {
      return []
    }
    var changes: [Change] = []
    compare(x, y, at: "", &changes)
    // The same values in another order or layout.
    return changes.isEmpty ? nil : changes
  }

  private static func hasEqualBytes(_ name: String, _ a: any ModelFiles, _ b: any ModelFiles, count: UInt64) throws(IngotError) -> Bool {
    var offset: UInt64 = 0
    while offset < count {
      let length = Int(min(UInt64(pieceBytes), count - offset))
      guard try a.read(name, offset: offset, count: length) == b.read(name, offset: offset, count: length) else { return false }
      offset += UInt64(length)
    }
    return true
  }

  /// The file's object; nil when it is something else, or no JSON: then bytes are all there is to compare.
  private static func parsed(_ name: String, _ files: any ModelFiles) throws(IngotError) -> JSONObject? {
    guard let bytes = try files.readWhole(name, limit: Limit.comparedBytes) else { return nil }
    return (try? JSON.parse(bytes, origin: name, options: .python))?.asObject
  }

  // MARK: - Values

  private static func compare(_ a: JSONObject, _ b: JSONObject, at place: String, _ changes: inout [Change]) {
    for member in a.members { compare(member.value, b[member.key], at: place + member.key, &changes) }
    for member in b.members where a[member.key] == nil {
      changes.append(Change(key: place + member.key, a: nil, b: text(member.value)))
    }
  }

  private static func compare(_ a: JSONValue, _ b: JSONValue?, at key: String, _ changes: inout [Change]) {
    guard let b else {
      changes.append(Change(key: key, a: text(a), b: nil))
      return
    }
    guard a != b else { return }
    if let first = vocabulary(a, key), let second = vocabulary(b, key) {
      // An object of the same tokens in another order is the same vocabulary.
      guard first != second else { return }
      changes.append(Change(key: key, a: summary(first, without: second), b: summary(second, without: first)))
    } else if let first = a.asObject, let second = b.asObject {
      compare(first, second, at: key + ".", &changes)
    } else if let first = a.asArray, let second = b.asArray, first.count + second.count > 16 {
      changes.append(Change(key: key, a: listSummary(first, second), b: listSummary(second, first)))
    } else {
      changes.append(Change(key: key, a: text(a), b: text(b)))
    }
  }

  /// Tokens and their numbers, for the places where tokenizers keep them.
  private static func vocabulary(_ value: JSONValue, _ key: String) -> [String: String]? {
    guard key == "model.vocab" || key == "vocab" else { return nil }
    if let object = value.asObject {
      return Dictionary(object.members.map { ($0.key, $0.value.asNumberText ?? "") }, uniquingKeysWith: { first, _ in first })
    }
    // Unigram: a list of [token, score].
    guard let list = value.asArray else { return nil }
    return Dictionary(
      list.enumerated().map { ($1.asArray?.first?.asString ?? "", String($0)) }, uniquingKeysWith: { first, _ in first })
  }

  /// `32002 tokens, 2 of its own ("<|im_start|>", "<|im_end|>"), 5 with another number`.
  private static func summary(_ tokens: [String: String], without other: [String: String]) -> String {
    let own = tokens.keys.filter { other[$0] == nil }.sorted()
    let moved = tokens.count { other[$0.key] != nil && other[$0.key] != $0.value }
    var parts = ["\(tokens.count) tokens"]
    if !own.isEmpty {
      parts.append(
        "\(own.count) of its own (\(own.prefix(5).map { text(.string($0)) }.joined(separator: ", "))\(own.count > 5 ? ", …" : ""))")
    }
    if moved > 0 { parts.append("\(moved) with another number") }
    return parts.joined(separator: ", ")
  }

  private static func listSummary(_ list: [JSONValue], _ other: [JSONValue]) -> String {
    let common = zip(list, other).prefix { $0 == $1 }.count
    let next = common < list.count ? "; entry \(common) is \(text(list[common]))" : ""
    return "\(list.count) entries\(next)"
  }

  private static func text(_ value: JSONValue) -> String {
    let whole = JSON.text(value)
    let shown = whole.prefix(120)
    return shown.endIndex < whole.endIndex ? shown + "…" : whole
  }
}
