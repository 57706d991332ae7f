package import IngotErrors
internal import IngotJSON

extension Vocabulary {
  /// A vocabulary of its own file: GPT-2's vocab.json (a BPE tokenizer's), or BERT's vocab.txt (WordPiece, a token a line), with the added
  /// tokens of added_tokens.json. Throws `.format`.
  package init(plain bytes: [UInt8], isJSON: Bool, added: [UInt8]?, origin: String) throws(IngotError) {
    var extra: [(id: Int, token: AddedToken)] = []
    if let added {
      for (id, text) in try Self.table(added, origin: origin + " (added_tokens.json)") {
        extra.append((id, AddedToken(text, isNormalized: false, isSpecial: true)))
      }
    }
    var ordinary: [(id: Int, text: String)] = []
    if isJSON {
      ordinary = try Self.table(bytes, origin: origin)
    } else {
      guard let text = String(validating: bytes, as: UTF8.self) else { throw IngotError(.format, "not valid UTF-8", subject: origin) }
      var lines = text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
      if lines.last?.isEmpty == true { lines.removeLast() }
      ordinary = lines.enumerated().map {
        ($0.offset, $0.element.unicodeScalars.last == "\r" ? String($0.element.unicodeScalars.dropLast()) : $0.element)
      }
    }
    try self.init(model: isJSON ? .bpe : .wordPiece, isByteLevel: isJSON, ordinary: ordinary, added: extra, origin: origin)
  }

  static func table(_ bytes: [UInt8], origin: String) throws(IngotError) -> [(id: Int, text: String)] {
    let root = try JSON.parse(bytes, origin: origin, options: .python)
    var tokens: [(id: Int, text: String)] = []
    for member in try root.requireObject(origin, in: origin).members {
      tokens.append((try member.value.requireInt("the number of the token \(quoted(member.key))", in: origin), member.key))
    }
    return tokens
  }
}
