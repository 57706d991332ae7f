package import IngotErrors

/// One value of a recipe text together with the place it was written at. Immutable; safe to share between threads.
package struct Node: Sendable {
  /// Boxed: payloads of several sizes in one place would leave bytes that nobody writes, and jumps on them for valgrind to see.
  package indirect enum Content: Sendable {
    case scalar(Scalar)
    case sequence([Node])
    case mapping(Mapping)
  }

  package var content: Content
  /// Where the value begins. A value that came in through an alias keeps the place of its anchor: that is where it is written.
  package var position: SourcePosition

  package init(_ content: Content, position: SourcePosition) {
    self.content = content
    self.position = position
  }

  package var scalar: Scalar? {
    if case .scalar(let scalar) = content { return scalar }
    return nil
  }

  package var sequence: [Node]? {
    if case .sequence(let nodes) = content { return nodes }
    return nil
  }

  package var mapping: Mapping? {
    if case .mapping(let mapping) = content { return mapping }
    return nil
  }

  /// True for `null`, `~` and an empty value.
  package var isNull: Bool { scalar?.value == .null }

  /// What a message calls this node: `the text "abc"`, `the number 3`, `a list of 2`.
  package var found: String {
    switch content {
    case .sequence(let nodes): nodes.isEmpty ? "an empty list" : "a list of \(nodes.count)"
    case .mapping(let mapping):
      mapping.entries.isEmpty ? "an empty mapping" : "a mapping with the key '\(excerpt(mapping.entries.first?.key ?? ""))'"
    case .scalar(let scalar):
      switch scalar.value {
      case .null: "nothing"
      case .boolean(let value): "\(value)"
      case .integer, .float: "the number \(excerpt(scalar.text))"
      case .string(let text): "the text \"\(excerpt(text))\""
      }
    }
  }
}

extension Node {
  /// A leaf: the text as written, and what YAML 1.1 makes of it.
  package struct Scalar: Sendable, Hashable {
    package enum Style: Sendable, Hashable { case plain, quoted }
    /// The text after quotes, folding and escapes are undone.
    package var text: String
    package var style: Style
    /// An explicit tag in its long form (`tag:yaml.org,2002:str`), when one was written.
    package var tag: String?
    package var value: ScalarValue

    package init(text: String, style: Style, tag: String? = nil, value: ScalarValue) {
      self.text = text
      self.style = style
      self.tag = tag
      self.value = value
    }
  }

  /// Keys in the order written, each once, with constant-time lookup.
  package struct Mapping: Sendable {
    package struct Entry: Sendable {
      package var key: String
      package var keyPosition: SourcePosition
      package var value: Node
      /// What was written before under the same key: the last one counts, as in PyYAML.
      package fileprivate(set) var superseded: [Entry] = []

      package init(key: String, keyPosition: SourcePosition, value: Node) {
        self.key = key
        self.keyPosition = keyPosition
        self.value = value
      }
    }

    package private(set) var entries: [Entry] = []
    private var index: [String: Int] = [:]

    package init() {}

    package subscript(key: String) -> Entry? {
      guard let at = index[key] else { return nil }
      return entries[at]
    }

    /// Adds an entry as written; one of the same key before it is superseded.
    package mutating func append(_ entry: Entry) {
      guard let at = index[entry.key] else { return set(entry) }
      var last = entry
      // Moved, not copied: a key may come again a million times.
      swap(&last.superseded, &entries[at].superseded)
      last.superseded.append(entries[at])
      entries[at] = last
    }

    /// Puts the entries of `written` over those of merge keys.
    mutating func overlay(_ written: Node.Mapping) {
      for entry in written.entries { set(entry) }
    }

    /// Sets the value of a key whether or not it is there (merge keys: a later one wins).
    mutating func set(_ entry: Entry) {
      if let at = index[entry.key] {
        entries[at] = entry
      } else {
        index[entry.key] = entries.count
        entries.append(entry)
      }
    }
  }
}

/// A value as PyYAML's safe loader resolves it, except that timestamps stay texts.
package enum ScalarValue: Sendable, Hashable {
  case null
  case boolean(Bool)
  case integer(Int)
  /// A YAML float, or an integer that does not fit 64 bits.
  case float(Double)
  case string(String)
}

/// At most 60 characters of a text of unknown origin, with control characters escaped, for messages.
func excerpt(_ text: String) -> String {
  var result = ""
  var count = 0
  for scalar in text.unicodeScalars {
    if count == 60 { return result + "…" }
    count += 1
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned, .privateUse:
      result += scalar.escaped(asASCII: true)
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result
}
