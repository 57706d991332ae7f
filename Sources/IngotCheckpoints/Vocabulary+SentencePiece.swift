package import IngotErrors
internal import IngotJSON

extension Vocabulary {
  /// The pieces of a SentencePiece model (tokenizer.model, spiece.model), a piece's number being its place, with the tokens that transformers adds:
  /// `config` is tokenizer_config.json, whose `added_tokens_decoder` counts, `added` is added_tokens.json.
  ///
  /// The file is a protocol buffer (https://github.com/google/sentencepiece, ModelProto): field 1 of it is a piece, whose field 1 is its text; field 2 is
  /// the trainer's description, whose field 3 is the kind of model. Throws `.format` for a file that is none, `.unsupported` for a
  /// kind of model or a tokenizer whose numbers are not the pieces' places.
  package init(sentencePiece bytes: [UInt8], config: [UInt8]?, added: [UInt8]?, origin: String) throws(IngotError) {
    let parsed = try SentencePieceModel(bytes, origin: origin)
    let settings = try config.map { (bytes) throws(IngotError) in
      try JSON.parse(bytes, origin: origin + " (tokenizer_config.json)", options: .python)
    }
    var tokens: [(id: Int, token: AddedToken)] = []
    var known: Set<ExactText> = []
    for member in settings?["added_tokens_decoder"]?.asObject?.members ?? [] {
      guard let id = Int(member.key), let content = member.value["content"]?.asString else {
        throw IngotError(.format, "an entry of added_tokens_decoder without a number or content", subject: origin)
      }
      if known.insert(ExactText(content)).inserted { tokens.append((id, AddedToken(content: content, member.value))) }
    }
    if let added {
      for (id, text) in try Self.table(added, origin: origin + " (added_tokens.json)") where known.insert(ExactText(text)).inserted {
        tokens.append((id, AddedToken(text, isNormalized: false, isSpecial: true)))
      }
    }
    if settings?["added_tokens_decoder"] == nil, let extra = settings?["extra_ids"]?.asInt, extra > 0 {
      throw IngotError(
        .unsupported, "the tokenizer has \(extra) tokens (extra_ids) that no file numbers", hint: Self.conversionHint, subject: origin)
    }
    if let first = tokens.first(where: {
      $0.id < parsed.pieces.count && ExactText(parsed.pieces[max($0.id, 0)]) != ExactText($0.token.content)
    }) {
      throw IngotError(
        .unsupported,
        "the token \(quoted(first.token.content)) has the number \(first.id), which is the place of the piece \(quoted(parsed.pieces[max(first.id, 0)])): numbers are not places here",
        hint: Self.conversionHint, subject: origin)
    }
    try self.init(
      model: parsed.model, isByteLevel: false, ordinary: parsed.pieces.enumerated().map { ($0.offset, $0.element) }, added: tokens,
      origin: origin)
  }

  /// What to do about a tokenizer that cannot be read.
  package static let conversionHint = "convert it: AutoTokenizer.from_pretrained(…).save_pretrained(…) writes tokenizer.json"
}

/// The pieces of a SentencePiece model and its kind.
private struct SentencePieceModel {
  private(set) var pieces: [String] = []
  private(set) var model = Vocabulary.Model.unigram

  init(_ bytes: [UInt8], origin: String) throws(IngotError) {
    var reader = ProtocolBufferReader(bytes[...])
    var isDescribed = false
    do throws(IngotError) {
      while let field = try reader.next() {
        switch field {
        case .bytes(1, let part): pieces.append(try Self.text(part))
        case .bytes(2, let part):
          var inner = ProtocolBufferReader(part)
          while let field = try inner.next() {
            if case .number(3, let kind) = field { model = try Self.kind(kind) }
          }
          isDescribed = true
        default: break
        }
      }
    } catch {
      var named = error
      named.subject = origin
      named.hint = Vocabulary.conversionHint
      throw named
    }
    guard isDescribed, !pieces.isEmpty else {
      throw IngotError(.format, "no SentencePiece model: it has no pieces", hint: Vocabulary.conversionHint, subject: origin)
    }
  }

  private static func text(_ piece: ArraySlice<UInt8>) throws(IngotError) -> String {
    var reader = ProtocolBufferReader(piece)
    while let field = try reader.next() {
      guard case .bytes(1, let text) = field else { continue }
      guard let valid = String(validating: text, as: UTF8.self) else { throw IngotError(.format, "a piece that is not UTF-8") }
      return valid
    }
    throw IngotError(.format, "a piece without a text")
  }

  private static func kind(_ number: UInt64) throws(IngotError) -> Vocabulary.Model {
    switch number {
    case 1: return .unigram
    case 2: return .bpe
    default: throw IngotError(.unsupported, "a SentencePiece model of the kind \(number), expected 1 (unigram) or 2 (BPE)")
    }
  }
}

/// Reads the fields of a message in a protocol buffer one after the other.
private struct ProtocolBufferReader {
  enum Field {
    case number(UInt64, UInt64)
    case bytes(UInt64, ArraySlice<UInt8>)
    /// 4 or 8 bytes, which nothing here needs.
    case fixed
  }

  private var rest: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

  private static func damaged() -> IngotError { IngotError(.format, "no SentencePiece model: it is no protocol buffer, or is cut off") }

  /// The next field; nil at the end. Throws `.format`.
  mutating func next() throws(IngotError) -> Field? {
    if rest.isEmpty { return nil }
    let key = try varint()
    guard key >> 3 > 0 else { throw Self.damaged() }
    switch key & 7 {
    case 0: return .number(key >> 3, try varint())
    case 1:
      _ = try take(8)
      return .fixed
    case 2: return .bytes(key >> 3, try take(varint()))
    case 5:
      _ = try take(4)
      return .fixed
    default: throw Self.damaged()
    }
  }

  private mutating func varint() throws(IngotError) -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 64, by: 7) {
      guard let byte = rest.popFirst() else { throw Self.damaged() }
      value |= UInt64(byte & 0x7F) << shift
      if byte < 0x80 { return value }
    }
    throw Self.damaged()
  }

  private mutating func take(_ count: UInt64) throws(IngotError) -> ArraySlice<UInt8> {
    guard let count = Int(exactly: count), count <= rest.count else { throw Self.damaged() }
    let part = rest.prefix(count)
    rest = rest.dropFirst(count)
    return part
  }
}
