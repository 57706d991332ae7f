package import IngotErrors
internal import IngotJSON

/// The output's vocabulary: one tokenizer's, followed by tokens that others or the recipe bring. Numbers of the first stay as they are.
package struct MergedVocabulary: Sendable {
  package let base: Vocabulary
  /// By number, each text once.
  package private(set) var tokens: [Vocabulary.Token]
  /// Definitions that the base's file lacks, by number: new tokens, and tokens of its own that another model has as added ones.
  package var definitions: [(id: Int, token: AddedToken)] { defined.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 } }
  package private(set) var notices: [Notice] = []
  private var newIDs: [ExactText: Int] = [:]
  private var defined: [Int: AddedToken] = [:]

  package init(_ base: Vocabulary) {
    self.base = base
    tokens = base.tokens
  }

  package subscript(text: String) -> Int? { base[text] ?? newIDs[ExactText(text)] }

  /// One more than the highest number.
  package var extent: Int { (tokens.last?.id ?? -1) + 1 }

  package var newCount: Int { newIDs.count }

  /// Adds the tokens of other vocabularies that this one lacks: first the ordinary ones of all models in their order, by number, then the
  /// added ones. The first definition of an added token counts; others are warned about.
  ///
  /// Throws `.unsupported` when a vocabulary belongs to another kind of tokenizer.
  package mutating func unite(_ others: [(name: String, vocabulary: Vocabulary)]) throws(IngotError) {
    for (name, other) in others {
      guard other.model == base.model else {
        throw IngotError(
          .unsupported,
          "the tokenizer is a \(other.model.rawValue) tokenizer and that of the base a \(base.model.rawValue) tokenizer: they have no union",
          hint: "keep one of them: 'tokenizer_source: base', or the name of a model", subject: name)
      }
      if other.isByteLevel != base.isByteLevel {
        notices.append(
          Notice(
            .warning, "one of the tokenizers spells tokens as bytes and the other does not: new tokens of this model will hardly be met",
            subject: name))
      }
    }
    for (_, other) in others {
      for token in other.tokens where !token.isAdded && self[token.text] == nil { append(AddedToken(token.text)) }
    }
    var first: [ExactText: AddedToken] = [:]
    for (_, token) in base.added { first[ExactText(token.content)] = token }
    for (name, other) in others {
      var conflicts: [String] = []
      for (_, token) in other.added {
        if let known = first[ExactText(token.content)] {
          if known != token { conflicts.append(token.content) }
          continue
        }
        first[ExactText(token.content)] = token
        if let id = self[token.content] { defined[id] = token } else { append(token) }
      }
      if let one = conflicts.first {
        notices.append(
          Notice(
            .warning,
            "\(conflicts.count) added tokens are defined otherwise than in the models before it (the first is \(quoted(one))); the first definition counts",
            subject: name))
      }
    }
  }

  /// Adds a token that the recipe names, when it is new.
  package mutating func add(_ text: String) {
    if self[text] == nil { append(AddedToken(text)) }
  }

  private mutating func append(_ token: AddedToken) {
    let id = extent
    newIDs[ExactText(token.content)] = id
    tokens.append(Vocabulary.Token(id: id, text: token.content, isAdded: true, isOfModel: false))
    defined[id] = token
  }

  /// For each number of this vocabulary the number of the same token in `other`, −1 where it has none or no row for it.
  package func numbers(in other: Vocabulary, rows: Int) -> [Int32] {
    var numbers = [Int32](repeating: -1, count: extent)
    for token in tokens {
      if let id = other[token.text], id < rows { numbers[token.id] = Int32(truncatingIfNeeded: id) }
    }
    return numbers
  }
}
