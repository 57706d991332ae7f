package import IngotErrors
internal import IngotJSON

/// A token that a tokenizer finds in the text before its model sees the rest: special tokens, and those added after training.
package struct AddedToken: Sendable, Hashable {
  package var content: String
  package var isSingleWord = false
  package var stripsLeft = false
  package var stripsRight = false
  package var isNormalized: Bool
  package var isSpecial: Bool

  /// An ordinary word, as the field's library adds one.
  package init(_ content: String, isNormalized: Bool = true, isSpecial: Bool = false) {
    self.content = content
    self.isNormalized = isNormalized
    self.isSpecial = isSpecial
  }
}

/// The tokens of one tokenizer and their numbers. Immutable.
package struct Vocabulary: Sendable {
  /// How the tokenizer cuts text into tokens; the names of tokenizer.json.
  package enum Model: String, Sendable, Hashable { case bpe = "BPE", wordPiece = "WordPiece", unigram = "Unigram", wordLevel = "WordLevel" }

  package struct Token: Sendable, Hashable {
    package var id: Int
    package var text: String
    /// True for a token that is among the added ones, whether or not the model's own vocabulary has it too.
    package var isAdded: Bool
    /// True for a token of the model's own vocabulary.
    package var isOfModel: Bool
  }

  package let model: Model
  /// Tokens are spelt in the printable stand-ins of bytes (GPT-2's).
  package let isByteLevel: Bool
  /// By number, each number and each text once.
  package let tokens: [Token]
  /// By number.
  package let added: [(id: Int, token: AddedToken)]
  /// How many tokens the model's own vocabulary has: the field's library numbers added tokens from there on.
  package let modelCount: Int
  package let notices: [Notice]
  private let ids: [ExactText: Int]

  /// Throws `.format` when two tokens have one number, or one text has two.
  package init(
    model: Model, isByteLevel: Bool, ordinary: [(id: Int, text: String)], added: [(id: Int, token: AddedToken)], origin: String
  ) throws(IngotError) {
    var ids: [ExactText: Int] = Dictionary(minimumCapacity: ordinary.count + added.count)
    var places: [Int: Token] = Dictionary(minimumCapacity: ordinary.count + added.count)
    var notices: [Notice] = []
    for (id, text) in ordinary {
      let token = Token(id: try Self.checked(id, text, origin), text: text, isAdded: false, isOfModel: true)
      if let other = places.updateValue(token, forKey: id) { throw Self.shared(id, other.text, text, origin) }
      guard ids.updateValue(id, forKey: ExactText(text)) == nil else { throw Self.repeated(text, origin) }
    }
    var kept: [(id: Int, token: AddedToken)] = []
    var seen: Set<ExactText> = []
    for (id, token) in added {
      guard seen.insert(ExactText(token.content)).inserted else { throw Self.repeated(token.content, origin) }
      var id = try Self.checked(id, token.content, origin)
      if let known = ids[ExactText(token.content)] {
        if known != id {
          notices.append(
            Notice(
              .warning, "the added token \(quoted(token.content)) has the number \(id), and \(known) in the vocabulary, which counts",
              subject: origin))
        }
        id = known
      } else if let other = places[id] {
        throw Self.shared(id, other.text, token.content, origin)
      }
      ids[ExactText(token.content)] = id
      places[id] = Token(id: id, text: token.content, isAdded: true, isOfModel: places[id] != nil)
      kept.append((id, token))
    }
    self.model = model
    self.isByteLevel = isByteLevel
    tokens = places.values.sorted { $0.id < $1.id }
    self.added = kept.sorted { $0.id < $1.id }
    modelCount = ordinary.count
    self.notices = notices
    self.ids = ids
  }

  /// The number of a token.
  package subscript(text: String) -> Int? { ids[ExactText(text)] }

  /// One more than the highest number.
  package var extent: Int { (tokens.last?.id ?? -1) + 1 }

  /// The vocabulary without the tokens whose number is `limit` or more: embeddings have no row for them.
  package func limited(to limit: Int, origin: String) throws(IngotError) -> Vocabulary {
    if extent <= limit { return self }
    return try Vocabulary(
      model: model, isByteLevel: isByteLevel, ordinary: tokens.filter { $0.id < limit && $0.isOfModel }.map { ($0.id, $0.text) },
      added: added.filter { $0.id < limit }, origin: origin)
  }

  private static func checked(_ id: Int, _ text: String, _ origin: String) throws(IngotError) -> Int {
    guard id >= 0, id <= Limit.tokenNumber else {
      throw IngotError(
        .format, "the token \(quoted(text)) has the number \(id), expected 0 to \(Limit.tokenNumber)",
        hint: "the tokenizer is damaged: download it again", subject: origin)
    }
    return id
  }

  private static func shared(_ id: Int, _ a: String, _ b: String, _ origin: String) -> IngotError {
    IngotError(
      .format, "the tokens \(quoted(a)) and \(quoted(b)) have one number, \(id)", hint: "the tokenizer is damaged: download it again",
      subject: origin)
  }

  private static func repeated(_ text: String, _ origin: String) -> IngotError {
    IngotError(
      .format, "the token \(quoted(text)) is there twice", hint: "the tokenizer is damaged: download it again", subject: origin)
  }
}

/// A token in messages: at most 40 characters, nothing that a terminal would act on.
package func quoted(_ token: String) -> String {
  var text = "\""
  for scalar in token.unicodeScalars.prefix(40) {
    let isPlain = scalar.value >= 0x20 && !(0x7F...0x9F).contains(scalar.value) && scalar.properties.generalCategory != .format
    text += isPlain ? String(scalar) : scalar.escaped(asASCII: true)
  }
  return text + (token.unicodeScalars.count > 40 ? "…\"" : "\"")
}
