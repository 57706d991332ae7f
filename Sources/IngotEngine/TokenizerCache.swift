internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON

/// Tokenizers that were read, so that models which share one have it parsed once.
struct TokenizerCache {
  struct Found {
    var fileName: String
    var vocabulary: Vocabulary
    /// The content, where it can be written again.
    var file: TokenizerFile?
    var isOfSentencePiece = false
  }

  private var first: (bytes: [UInt8], found: Found)?

  /// A model's tokenizer; nil when it has no file that a tokenizer is known by. Throws `.format` for one that is damaged, `.unsupported` for one that
  /// cannot be read here.
  mutating func read(_ model: ProvidedModel, name: String) throws(IngotError) -> Found? {
    guard let files = model.files else { return nil }
    for fileName in ["tokenizer.json", "vocab.json", "vocab.txt"] {
      guard let bytes = try files.readWhole(fileName, limit: Limit.tokenizerBytes) else { continue }
      if let first, first.found.fileName == fileName, first.bytes == bytes, fileName == "tokenizer.json" { return first.found }
      let origin = files.displayPath.hasSuffix("/") ? files.displayPath + fileName : files.displayPath + "/" + fileName
      var found: Found
      if fileName == "tokenizer.json" {
        let file = try TokenizerFile(bytes, origin: origin)
        found = Found(fileName: fileName, vocabulary: file.vocabulary, file: file)
      } else {
        let added = try files.readWhole("added_tokens.json", limit: Limit.tokenizerBytes)
        let vocabulary = try Vocabulary(
          plain: bytes, isJSON: fileName == "vocab.json", added: added, origin: origin)
        found = Found(fileName: fileName, vocabulary: vocabulary, file: nil)
      }
      if first == nil { first = (bytes, found) } else { found.file = nil }
      return found
    }
    return try readSentencePiece(model, files, name: name)
  }

  /// Model types whose numbers are not the places of the pieces.
  private static let shifted: Set<String> = [
    "pegasus", "pegasus_x", "bigbird_pegasus", "xlm-roberta", "camembert", "mbart", "nllb-moe", "m2m_100",
  ]

  /// A tokenizer of SentencePiece's alone: its pieces are known, and the file can be carried over as it is.
  private mutating func readSentencePiece(_ model: ProvidedModel, _ files: any ModelFiles, name: String) throws(IngotError) -> Found? {
    for fileName in ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"] {
      guard let bytes = try files.readWhole(fileName, limit: Limit.tokenizerBytes) else { continue }
      let type = model.checkpoint.config?["model_type"]?.asString
      guard fileName == "tokenizer.model" || fileName == "spiece.model", !(type.map(Self.shifted.contains) ?? false) else {
        throw IngotError(
          .unsupported,
          "the tokenizer is \(fileName) alone, which is not read here\(type.map { " for \($0) models" } ?? ""), expected tokenizer.json",
          hint: Vocabulary.conversionHint, subject: name)
      }
      let vocabulary = try Vocabulary(
        sentencePiece: bytes, config: try files.readWhole("tokenizer_config.json", limit: Limit.tokenizerConfigBytes),
        added: try files.readWhole("added_tokens.json", limit: Limit.tokenizerBytes), origin: files.displayPath + "/" + fileName)
      return Found(fileName: fileName, vocabulary: vocabulary, file: nil, isOfSentencePiece: true)
    }
    return nil
  }
}
