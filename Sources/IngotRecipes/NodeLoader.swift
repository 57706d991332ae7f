package import IngotErrors

/// Bounds that keep a hostile recipe from costing more than a few hundred milliseconds and megabytes.
package struct RecipeLimits: Sendable {
  /// Length of the text in bytes.
  package var bytes = Limit.recipeBytes
  /// Values after aliases are expanded.
  package var nodes = Limit.recipeValues
  /// Sequences and mappings inside each other, aliases expanded.
  package var depth = Limit.recipeNesting
  /// Documents of one text.
  package var documents = Limit.recipeDocuments

  package init() {}
}

extension Node {
  /// Reads one YAML 1.1 document, or JSON, which is nearly YAML's flow style.
  ///
  /// Anchors, aliases and merge keys (`<<`) are resolved; of a key given twice the last counts (`Entry.superseded`). Throws `.recipe` with a
  /// position for text that is not UTF-8 or not YAML, an alias inside its own anchor, a tag outside the YAML core, a text beyond `limits`;
  /// `.unsupported` for several documents (see `loadAll`).
  package static func load(_ text: [UInt8], origin: String, limits: RecipeLimits = RecipeLimits()) throws(IngotError) -> Node {
    let documents = try loadAll(text, origin: origin, limits: limits)
    guard let first = documents.first, documents.count == 1 else {
      throw IngotError(
        .unsupported, "a second document begins here, expected one", position: documents.dropFirst().first?.position)
    }
    return first
  }

  /// Reads every document of a YAML stream, under the rules of `load`; there is at least one. Documents without a value are left out, unless
  /// there is no other. Anchors hold within their document, limits for all together.
  package static func loadAll(
    _ text: [UInt8], origin: String, limits: RecipeLimits = RecipeLimits()
  ) throws(IngotError) -> [Node] {
    guard text.count <= limits.bytes else {
      throw IngotError(
        .recipe, "the text has \(text.count) bytes, at most \(limits.bytes) are read",
        hint: "a recipe is a short text: is this the right file?",
        subject: origin)
    }
    var text = text
    if text.starts(with: [0xEF, 0xBB, 0xBF]) { text.removeFirst(3) }
    try checkUTF8(text, origin: origin)
    try checkDirectives(text, origin: origin)
    var loader = try NodeLoader(combiningSurrogatePairs(inJSON: text), origin: origin, limits: limits)
    return try loader.documents()
  }

  private static func checkUTF8(_ text: [UInt8], origin: String) throws(IngotError) {
    do throws(UTF8.ValidationError) {
      _ = try UTF8Span(validating: text.span)
    } catch {
      let offset = error.byteOffsets.lowerBound
      throw IngotError(
        .recipe, "byte \(offset) is not UTF-8", hint: "save the recipe as UTF-8",
        position: sourcePosition(of: offset, in: text, origin: origin))
    }
  }

  /// libyaml compares each `%TAG` line with all before it: a file of nothing else would take minutes.
  private static func checkDirectives(_ text: [UInt8], origin: String) throws(IngotError) {
    var directives = 0
    var isLineStart = true
    for (offset, byte) in text.enumerated() {
      if isLineStart, byte == UInt8(ascii: "%") {
        directives += 1
        guard directives <= Limit.recipeDirectives else {
          throw IngotError(
            .recipe, "more than \(Limit.recipeDirectives) lines begin with %", hint: "a recipe needs no YAML directives",
            position: sourcePosition(of: offset, in: text, origin: origin))
        }
      }
      // The other line breaks of YAML 1.1 (CR, NEL, LS, PS) end in these bytes; counting too many lines does no harm.
      isLineStart = byte == 0x0A || byte == 0x0D || byte == 0x85 || byte == 0xA8 || byte == 0xA9
    }
  }

  /// JSON spells characters beyond U+FFFF as two `\u` escapes, which YAML refuses: writes them as one `\U` escape. Only texts that begin
  /// with a brace or bracket, only inside double quotes. Columns to the right on such a line come out two too small.
  private static func combiningSurrogatePairs(inJSON text: [UInt8]) -> [UInt8] {
    guard let first = text.first(where: { $0 > 0x20 }), first == UInt8(ascii: "{") || first == UInt8(ascii: "[") else { return text }
    func unit(at offset: Int) -> UInt32? {
      guard offset + 6 <= text.count, text[offset] == UInt8(ascii: "\\"), text[offset + 1] == UInt8(ascii: "u") else { return nil }
      var value: UInt32 = 0
      for byte in text[(offset + 2)..<(offset + 6)] {
        guard let digit = Character(UnicodeScalar(byte)).hexDigitValue else { return nil }
        value = value << 4 | UInt32(digit)
      }
      return value
    }
    var result: [UInt8] = []
    result.reserveCapacity(text.count)
    var isQuoted = false
    var at = 0
    while at < text.count {
      let byte = text[at]
      if byte == UInt8(ascii: "\"") { isQuoted.toggle() }
      guard isQuoted, byte == UInt8(ascii: "\\"), at + 1 < text.count else {
        result.append(byte)
        at += 1
        continue
      }
      if let high = unit(at: at), (0xD800...0xDBFF).contains(high), let low = unit(at: at + 6), (0xDC00...0xDFFF).contains(low) {
        let scalar = 0x10000 + ((high & 0x3FF) << 10 | (low & 0x3FF))
        let digits = String(scalar, radix: 16)
        result += "\\U".utf8 + [UInt8](repeating: UInt8(ascii: "0"), count: max(0, 8 - digits.utf8.count)) + digits.utf8
        at += 12
      } else {
        result += [byte, text[at + 1]]
        at += 2
      }
    }
    return result
  }
}

/// A value as it stands, or as its anchor is known.
private struct Anchored {
  var node: Node
  /// Values in the node with aliases expanded, and levels of nesting.
  var count: Int
  var height: Int
}

/// A sequence or mapping whose end has not come yet.
private struct OpenCollection {
  let isMapping: Bool
  let anchor: String?
  /// Values made before it.
  let start: Int
  let position: SourcePosition
  private(set) var height = 0
  private var nodes: [Node] = []
  private var written = Node.Mapping()
  private var merged = Node.Mapping()
  /// The key whose value comes next.
  private var key: (name: Node.Scalar, position: SourcePosition)?

  init(isMapping: Bool, anchor: String?, start: Int, position: SourcePosition) {
    self.isMapping = isMapping
    self.anchor = anchor
    self.start = start
    self.position = position
  }

  var content: Node.Content {
    guard isMapping else { return .sequence(nodes) }
    guard !merged.entries.isEmpty else { return .mapping(written) }
    var all = merged
    all.overlay(written)
    return .mapping(all)
  }

  /// Adds an element, a key or its value.
  mutating func take(_ value: Anchored, at position: SourcePosition) throws(IngotError) {
    guard isMapping else {
      height = max(height, value.height)
      nodes.append(value.node)
      return
    }
    guard let (name, keyPosition) = key else {
      guard let name = value.node.scalar else {
        throw IngotError(.recipe, "found \(value.node.found) as a key, expected a text", position: position)
      }
      key = (name, position)
      return
    }
    key = nil
    height = max(height, value.height)
    if name.style == .plain, name.tag == nil, name.text == "<<" { return try merge(value.node) }
    written.append(Node.Mapping.Entry(key: name.text, keyPosition: keyPosition, value: value.node))
  }

  /// `<<: mapping` or `<<: [mapping, …]`, where the first of a list wins.
  private mutating func merge(_ value: Node) throws(IngotError) {
    for node in (value.sequence ?? [value]).reversed() {
      guard let mapping = node.mapping else {
        throw IngotError(.recipe, "found \(node.found), expected a mapping to merge with <<", subject: "<<", position: node.position)
      }
      for entry in mapping.entries { merged.set(entry) }
    }
  }
}

/// Builds the tree from events. One use per text.
private struct NodeLoader: ~Copyable {
  private var events: YAMLEventReader
  private let origin: String
  private let limits: RecipeLimits
  private var anchors: [String: Anchored] = [:]
  private var openAnchors: [String: SourcePosition] = [:]
  /// Values made so far, aliases expanded.
  private var count = 0

  init(_ text: [UInt8], origin: String, limits: RecipeLimits) throws(IngotError) {
    events = try YAMLEventReader(text, origin: origin)
    self.origin = origin
    self.limits = limits
  }

  mutating func documents() throws(IngotError) -> [Node] {
    _ = try events.next()
    var found: [Node] = []
    while true {
      let event = try events.next()
      guard case .documentStart = event.kind else { break }
      guard found.count < limits.documents else {
        throw IngotError(.recipe, "more than \(limits.documents) documents", hint: "split the recipe", position: event.position)
      }
      found.append(try compose(try events.next()).node)
      _ = try events.next()
      anchors = [:]
    }
    guard let first = found.first else {
      throw IngotError(
        .recipe, "the recipe is empty", hint: "a recipe is a mapping with merge_method and models or slices",
        position: SourcePosition(origin: origin, line: 1, column: 1))
    }
    let present = found.filter { !$0.isNull }
    return present.isEmpty ? [first] : present
  }

  /// The value that begins with `event`. Not by recursion: the text decides how deep values nest, and a host's thread may have little stack.
  private mutating func compose(_ event: YAMLEvent) throws(IngotError) -> Anchored {
    var open: [OpenCollection] = []
    var event = event
    while true {
      var position = event.position
      let value: Anchored
      switch event.kind {
      case .alias(let name): value = try expand(name, at: position, depth: open.count + 1)
      case .scalar(let text, let isPlain, let tag, let anchor):
        let start = try self.open(anchor, at: position)
        let scalar = Node.Scalar(
          text: text, style: isPlain ? .plain : .quoted, tag: tag, value: try self.value(of: text, isPlain: isPlain, tag: tag, at: position)
        )
        value = close(anchor, Node(.scalar(scalar), position: position), since: start, height: 0)
      case .sequenceStart(let tag, let anchor), .mappingStart(let tag, let anchor):
        let isMapping = if case .mappingStart = event.kind { true } else { false }
        let start = try self.open(anchor, at: position)
        try checkCollection(tag, is: isMapping ? "map" : "seq", at: position, depth: open.count + 1)
        open.append(OpenCollection(isMapping: isMapping, anchor: anchor, start: start, position: position))
        event = try events.next()
        continue
      case .sequenceEnd, .mappingEnd:
        guard let ended = open.popLast() else { throw misplaced(event) }
        position = ended.position
        value = close(ended.anchor, Node(ended.content, position: position), since: ended.start, height: ended.height + 1)
      case .streamStart, .streamEnd, .documentStart, .documentEnd: throw misplaced(event)
      }
      guard !open.isEmpty else { return value }
      try open[open.count - 1].take(value, at: position)
      event = try events.next()
    }
  }

  private func misplaced(_ event: YAMLEvent) -> IngotError {
    IngotError(.internalError, "a YAML event out of order", position: event.position)
  }

  /// Counts a value and makes its anchor known as unfinished.
  private mutating func open(_ anchor: String?, at position: SourcePosition) throws(IngotError) -> Int {
    let start = count
    try add(1, at: position)
    guard let anchor else { return start }
    if let earlier = anchors[anchor]?.node.position ?? openAnchors[anchor] {
      throw IngotError(
        .recipe, "the anchor &\(excerpt(anchor)) is given twice; the first is at line \(earlier.line), column \(earlier.column)",
        hint: "give each anchor its own name", position: position)
    }
    openAnchors[anchor] = position
    return start
  }

  private mutating func close(_ anchor: String?, _ node: Node, since start: Int, height: Int) -> Anchored {
    let anchored = Anchored(node: node, count: count - start, height: height)
    if let anchor {
      openAnchors[anchor] = nil
      anchors[anchor] = anchored
    }
    return anchored
  }

  private mutating func expand(_ name: String, at position: SourcePosition, depth: Int) throws(IngotError) -> Anchored {
    guard let anchored = anchors[name] else {
      let isOpen = openAnchors[name] != nil
      throw IngotError(
        .recipe,
        isOpen ? "the alias *\(excerpt(name)) stands inside its own anchor" : "the alias *\(excerpt(name)) has no anchor before it",
        hint: isOpen ? nil : "write &\(excerpt(name)) before the value that is meant; a text that begins with * needs quotes",
        position: position)
    }
    try add(anchored.count, at: position)
    guard anchored.height + depth <= limits.depth + 1 else { throw tooDeep(at: position) }
    return anchored
  }

  private mutating func add(_ values: Int, at position: SourcePosition) throws(IngotError) {
    // Both are at most the limit, so the sum cannot overflow.
    guard count + values <= limits.nodes else {
      throw IngotError(.recipe, "more than \(limits.nodes) values, aliases expanded", hint: "split the recipe", position: position)
    }
    count += values
  }

  private func tooDeep(at position: SourcePosition) -> IngotError {
    IngotError(.recipe, "lists and mappings more than \(limits.depth) levels deep", position: position)
  }

  private func checkCollection(_ tag: String?, is kind: String, at position: SourcePosition, depth: Int) throws(IngotError) {
    guard depth <= limits.depth else { throw tooDeep(at: position) }
    guard let tag, tag != "!", tag != "tag:yaml.org,2002:" + kind else { return }
    throw unknownTag(tag, at: position)
  }

  private func unknownTag(_ tag: String, at position: SourcePosition) -> IngotError {
    IngotError(
      .recipe, "the tag \(excerpt(tag)) does not fit a recipe value", hint: "remove the tag; recipes need none", position: position)
  }

  private func value(of text: String, isPlain: Bool, tag: String?, at position: SourcePosition) throws(IngotError) -> ScalarValue {
    guard let tag else { return isPlain ? .resolving(plain: text) : .string(text) }
    let resolved = ScalarValue.resolving(plain: text)
    switch (tag, resolved) {
    case ("!", _), ("tag:yaml.org,2002:str", _): return .string(text)
    case ("tag:yaml.org,2002:null", _): return .null
    case ("tag:yaml.org,2002:bool", .boolean), ("tag:yaml.org,2002:int", .integer), ("tag:yaml.org,2002:float", .float): return resolved
    case ("tag:yaml.org,2002:float", .integer(let value)): return .float(Double(value))
    case ("tag:yaml.org,2002:float", .string):
      if let number = ScalarValue.number(inText: text) { return .float(number) }
    case ("tag:yaml.org,2002:bool", _), ("tag:yaml.org,2002:int", _), ("tag:yaml.org,2002:float", _): break
    default: throw unknownTag(tag, at: position)
    }
    throw IngotError(.recipe, "the text \"\(excerpt(text))\" does not fit its tag \(excerpt(tag))", position: position)
  }
}
