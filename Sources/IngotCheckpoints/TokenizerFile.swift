package import IngotErrors
package import IngotJSON

/// The content of a tokenizer.json (https://github.com/huggingface/tokenizers), kept whole: what is not edited is written as it was read.
package struct TokenizerFile: Sendable {
  package internal(set) var root: JSONValue
  package let vocabulary: Vocabulary

  /// Throws `.format` with a position, or naming the token, for anything that is no tokenizer.
  package init(_ bytes: [UInt8], origin: String) throws(IngotError) {
    root = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try root.requireObject(origin, in: origin)
    guard let node = root["model"] else { throw IngotError(.format, "no model, expected a tokenizer with its vocabulary", subject: origin) }
    _ = try node.requireObject("model", in: origin)
    let model = try Self.model(of: node, origin)
    vocabulary = try Vocabulary(
      model: model, isByteLevel: Self.isByteLevel(root), ordinary: try Self.ordinary(node, model, origin),
      added: try Self.added(root, origin), origin: origin)
  }

  private static func model(of node: JSONValue, _ origin: String) throws(IngotError) -> Vocabulary.Model {
    if let said = node["type"]?.asString {
      if let model = Vocabulary.Model(rawValue: said) { return model }
      throw IngotError(
        .unsupported, "a tokenizer of the type \(quoted(said)), expected BPE, WordPiece, Unigram or WordLevel", subject: origin,
        position: node["type"]?.position(in: origin))
    }
    // Old files do not say.
    if node["merges"] != nil { return .bpe }
    if node["vocab"]?.asArray != nil { return .unigram }
    return node["continuing_subword_prefix"] != nil ? .wordPiece : .wordLevel
  }

  private static func ordinary(
    _ node: JSONValue, _ model: Vocabulary.Model, _ origin: String
  ) throws(IngotError) -> [(id: Int, text: String)] {
    let vocabulary = node["vocab"] ?? .null
    var tokens: [(id: Int, text: String)] = []
    if model == .unigram {
      for (id, entry) in try vocabulary.requireArray("model.vocab", in: origin).enumerated() {
        guard let text = entry.asArray?.first else {
          throw IngotError(
            .format, "found \(entry.kindName), expected a token and its score", subject: "model.vocab",
            position: entry.position(in: origin))
        }
        tokens.append((id, try text.requireString("model.vocab", in: origin)))
      }
      return tokens
    }
    for member in try vocabulary.requireObject("model.vocab", in: origin).members {
      tokens.append((try member.value.requireInt("the number of the token \(quoted(member.key))", in: origin), member.key))
    }
    return tokens
  }

  private static func added(_ root: JSONValue, _ origin: String) throws(IngotError) -> [(id: Int, token: AddedToken)] {
    guard let list = root["added_tokens"], !list.isNull else { return [] }
    var tokens: [(id: Int, token: AddedToken)] = []
    for entry in try list.requireArray("added_tokens", in: origin) {
      _ = try entry.requireObject("an added token", in: origin)
      let content = try (entry["content"] ?? .null).requireString("the content of an added token", in: origin)
      let id = try (entry["id"] ?? .null).requireInt("the number of the added token \(quoted(content))", in: origin)
      tokens.append((id, AddedToken(content: content, entry)))
    }
    return tokens
  }

  private static func isByteLevel(_ root: JSONValue) -> Bool {
    ["pre_tokenizer", "decoder", "post_processor"].contains { section in
      guard let node = root[section] else { return false }
      let parts = (node["pretokenizers"] ?? node["decoders"] ?? node["processors"])?.asArray ?? []
      return ([node] + parts).contains { $0["type"]?.asString == "ByteLevel" }
    }
  }

  // MARK: - Writing

  /// The file with more added tokens, in place of their old definition where there is one.
  ///
  /// The field's library numbers added tokens in the order of the file, so they stand by number.
  package mutating func add(_ tokens: [(id: Int, token: AddedToken)]) {
    var entries: [(id: Int, node: JSONValue)] = []
    let new = Set(tokens.map(\.id))
    for (place, node) in (root["added_tokens"]?.asArray ?? []).enumerated() {
      let id = node["content"]?.asString.flatMap { vocabulary[$0] } ?? place
      if !new.contains(id) { entries.append((id, node)) }
    }
    for (id, token) in tokens { entries.append((id, token.node(id: id))) }
    root["added_tokens"] = .array(entries.sorted { $0.id < $1.id }.map(\.node))
  }

  /// The file without the tokens from number `limit` on, and without the merges that make or need them.
  package mutating func remove(from limit: Int) {
    if let list = root["added_tokens"]?.asArray {
      root["added_tokens"] = .array(list.filter { node in (node["content"]?.asString.flatMap { vocabulary[$0] } ?? 0) < limit })
    }
    if let list = root["model"]?["vocab"]?.asArray {
      root["model"]?["vocab"] = .array(Array(list.prefix(limit)))
      return
    }
    guard let entries = root["model"]?["vocab"]?.asObject else { return }
    var kept = JSONObject()
    for member in entries.members where (member.value.asInt ?? 0) < limit { _ = kept.append(member) }
    guard kept.count < entries.count else { return }
    root["model"]?["vocab"] = .object(kept)
    guard let merges = root["model"]?["merges"]?.asArray else { return }
    let prefix = root["model"]?["continuing_subword_prefix"]?.asString ?? ""
    root["model"]?["merges"] = .array(
      merges.filter { node in
        guard let (left, right) = Self.pair(node) else { return true }
        let tail = !prefix.isEmpty && right.hasPrefix(prefix) ? String(right.dropFirst(prefix.count)) : right
        return [left, right, left + tail].allSatisfy { (vocabulary[$0] ?? limit) < limit }
      })
  }

  /// A merge is a pair of texts, or one text with a space between them.
  private static func pair(_ node: JSONValue) -> (left: String, right: String)? {
    if let parts = node.asArray, parts.count == 2, let left = parts[0].asString, let right = parts[1].asString { return (left, right) }
    guard let text = node.asString, let space = text.firstIndex(of: " ") else { return nil }
    return (String(text[..<space]), String(text[text.index(after: space)...]))
  }

  package var bytes: [UInt8] { JSON.bytes(root, style: .pretty) + [0x0A] }
}

extension AddedToken {
  /// From an entry of `added_tokens`; a flag that is absent is false.
  init(content: String, _ entry: JSONValue) {
    func flag(_ key: String) -> Bool { entry[key]?.asBool ?? false }
    self.init(content, isNormalized: flag("normalized"), isSpecial: flag("special"))
    isSingleWord = flag("single_word")
    stripsLeft = flag("lstrip")
    stripsRight = flag("rstrip")
  }

  fileprivate func node(id: Int) -> JSONValue {
    .object([
      "id": .int(id), "content": .string(content), "single_word": .bool(isSingleWord), "lstrip": .bool(stripsLeft),
      "rstrip": .bool(stripsRight), "normalized": .bool(isNormalized), "special": .bool(isSpecial),
    ])
  }

  /// An entry of `added_tokens_decoder` in tokenizer_config.json.
  package var decoderNode: JSONValue {
    .object([
      "content": .string(content), "lstrip": .bool(stripsLeft), "normalized": .bool(isNormalized), "rstrip": .bool(stripsRight),
      "single_word": .bool(isSingleWord), "special": .bool(isSpecial),
    ])
  }
}
