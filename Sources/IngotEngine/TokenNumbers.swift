internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON

/// The numbers of tokens that config.json and generation_config.json name (bos, eos, pad, where a decoder starts, images …), for another
/// vocabulary than the one that they were written for.
struct TokenNumbers {
  /// The vocabulary that the config means, by number.
  private let texts: [Int: String]
  private let output: MergedVocabulary
  /// The config of the model whose tokenizer the output has: what it says of a token that the output lacks.
  private let other: JSONValue?
  private(set) var notices: [Notice] = []

  /// How keys end that name tokens.
  private static let endings = ["_token_id", "_token_ids", "_token_index"]
  /// Lists of numbers in generation_config.json.
  private static let lists: Set<String> = ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids"]
  /// Pairs of a place and a number.
  private static let placed = "forced_decoder_ids"

  init(of tokens: [Vocabulary.Token], to output: MergedVocabulary, other: JSONValue?) {
    texts = Dictionary(tokens.map { ($0.id, $0.text) }, uniquingKeysWith: { first, _ in first })
    self.output = output
    self.other = other
  }

  /// Gives every token its number in the output; a token that the output lacks keeps its number, unless the other model's config has one for
  /// the same key. Says what changed. `file` is the file's name, for notices.
  mutating func renumber(_ config: inout JSONValue, file: String) {
    renumber(&config, other, file: file, path: "")
    for section in config.asObject?.keys ?? [] where TokenizerConfig.isOfText(section) {
      guard var inner = config[section], inner.asObject != nil else { continue }
      renumber(&inner, other?[section], file: file, path: section + ".")
      if inner != config[section] { config[section] = inner }
    }
  }

  private mutating func renumber(_ config: inout JSONValue, _ other: JSONValue?, file: String, path: String) {
    for member in config.asObject?.members ?? [] {
      let key = member.key
      guard key == Self.placed || Self.lists.contains(key) || Self.endings.contains(where: key.hasSuffix) else { continue }
      let node = member.value
      guard let new = renumbered(node, placed: key == Self.placed) else {
        if let said = other?[key], said.asInt != nil || said.asArray != nil {
          config[key] = said
          note(
            "\(path)\(key) is \(JSON.text(said)) as in the tokenizer's model, and was \(JSON.text(node)): not all of its tokens are in the output",
            file)
        } else {
          note("\(path)\(key) is \(JSON.text(node)), of which not every token is in the output; check it", file)
        }
        continue
      }
      guard new != node else { continue }
      config[key] = new
      notices.append(Notice(.info, "\(path)\(key) was \(JSON.text(node)) and is \(JSON.text(new)) now: the same tokens", subject: file))
    }
  }

  private mutating func note(_ message: String, _ file: String) { notices.append(Notice(.warning, message, subject: file)) }

  /// The same tokens' numbers; nil when one of them is not in the output. Numbers that were of no token stay as they are.
  private func renumbered(_ node: JSONValue, placed: Bool = false) -> JSONValue? {
    if let list = node.asArray {
      var new: [JSONValue] = []
      for entry in list {
        if placed, let pair = entry.asArray, pair.count == 2 {
          guard let number = renumbered(pair[1]) else { return nil }
          new.append(.array([pair[0], number]))
          continue
        }
        guard let number = renumbered(entry) else { return nil }
        new.append(number)
      }
      return new == list ? node : .array(new)
    }
    guard let id = node.asInt, let text = texts[id] else { return node }
    guard let number = output[text] else { return nil }
    return number == id ? node : .int(number)
  }
}
