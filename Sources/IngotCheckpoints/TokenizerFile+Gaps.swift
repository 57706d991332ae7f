package import IngotErrors
internal import IngotJSON

extension TokenizerFile {
  /// The file with a token at every number, so that the field's library gives tokens that are added the numbers behind the highest: it takes the size
  /// of the model's vocabulary for the first added token, and one more than the last for each that follows. Of a number nobody uses it
  /// makes a token that no text has; rows of embeddings stay what they are.
  ///
  /// Nothing changes where there is no gap below `limit`, the number that the first new token gets. `isTaken` says which texts cannot stand in.
  /// Throws `.unsupported` when there are more gaps than any tokenizer has.
  package mutating func fillGaps(below limit: Int, isTaken: (String) -> Bool) throws(IngotError) {
    let tokens = vocabulary.tokens.filter { $0.id < limit }
    guard tokens.count < limit else { return }
    guard limit - tokens.count <= Limit.tokenGaps else {
      throw IngotError(
        .unsupported,
        "\(limit - tokens.count) of the numbers below \(limit) have no token, expected at most \(Limit.tokenGaps) where tokens are added",
        hint: "keep one model's tokenizer as it is: 'tokenizer_source: base', or the name of a model")
    }
    var texts: [Int: String] = Dictionary(minimumCapacity: tokens.count)
    for token in tokens { texts[token.id] = token.text }
    func filler(_ id: Int) -> String {
      var text = "<|unused_\(id)|>"
      while vocabulary[text] != nil || isTaken(text) { text += "_" }
      return text
    }
    // Numbers below the end of the model's own vocabulary can only be given there.
    let end = (tokens.last { $0.isOfModel }?.id ?? -1) + 1
    let own = Set(tokens.lazy.filter(\.isOfModel).map(\.id))
    if own.count < end, var entries = root["model"]?["vocab"]?.asObject {
      for id in 0..<end where !own.contains(id) {
        _ = entries.append(JSONMember(key: texts[id] ?? filler(id), value: .int(id)))
      }
      root["model"]?["vocab"] = .object(entries)
    }
    let missing = (end..<max(limit, end)).filter { texts[$0] == nil }
    add(missing.map { ($0, AddedToken(filler($0), isNormalized: false)) })
  }
}
