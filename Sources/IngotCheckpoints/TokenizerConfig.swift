package import IngotJSON

/// Edits of tokenizer_config.json and special_tokens_map.json. What is not named stays as it is, in its order.
package enum TokenizerConfig {
  /// Files that a tokenizer consists of; a model that takes another's tokenizer takes these and keeps none of its own.
  package static let files = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "tokenizer.model", "tokenizer.model.v3", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja",
    "chat_template.json",
  ]

  /// Those of them that hold a vocabulary which a rewritten tokenizer.json no longer agrees with.
  package static let vocabularies: Set<String> = [
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "tokenizer.model.v3", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json",
  ]

  /// True for a section of a config whose numbers of tokens are those of the tokenizer: that of the language model.
  package static func isOfText(_ section: String) -> Bool { NameTables.textSections.contains(section) }

  /// Adds tokens to `added_tokens_decoder`, where there is one, and leaves out removed ones, there and as special tokens: the field's library
  /// would add them again, beyond the last row.
  package static func edit(
    _ config: inout JSONValue, adding: [(id: Int, token: AddedToken)], removing: Set<ExactText>
  ) {
    if let decoder = config["added_tokens_decoder"]?.asObject {
      let new = Set(adding.map { String($0.id) })
      var entries: [(id: Int, member: JSONMember)] = []
      for member in decoder.members where !new.contains(member.key) {
        if let content = member.value["content"]?.asString, removing.contains(ExactText(content)) { continue }
        entries.append((Int(member.key) ?? .max, member))
      }
      for (id, token) in adding { entries.append((id, JSONMember(key: String(id), value: token.decoderNode))) }
      var sorted = JSONObject()
      for entry in entries.sorted(by: { $0.id < $1.id }) { _ = sorted.append(entry.member) }
      config["added_tokens_decoder"] = .object(sorted)
    }
    guard !removing.isEmpty else { return }
    func isRemoved(_ node: JSONValue) -> Bool {
      (node.asString ?? node["content"]?.asString).map { removing.contains(ExactText($0)) } ?? false
    }
    for key in config.asObject?.keys ?? [] {
      if key.hasSuffix("_token"), let node = config[key], isRemoved(node) { config[key] = nil }
      if key.hasSuffix("_special_tokens"), let list = config[key]?.asArray { config[key] = .array(list.filter { !isRemoved($0) }) }
    }
  }

  /// The chat template that a tokenizer_config.json or chat_template.json has: the text, or the one called `default`.
  package static func chatTemplate(in config: JSONValue) -> String? {
    guard let node = config["chat_template"] else { return nil }
    if let text = node.asString { return text }
    if let named = node.asArray?.first(where: { $0["name"]?.asString == "default" }) { return named["template"]?.asString }
    return node["default"]?.asString
  }
}
