internal import IngotCheckpoints
internal import IngotErrors

/// Tokenizers that were read, so that models which share one have it parsed once.
struct TokenizerCache {
  struct Found {
    var fileName: String
    var vocabulary: Vocabulary
    /// The content, where it can be written again.
    var file: TokenizerFile?
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
    for fileName in ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"] {
      guard try files.size(of: fileName) != nil else { continue }
      throw IngotError(
        .unsupported, "the tokenizer is \(fileName) alone, which is not read here, expected tokenizer.json",
        hint: "convert it: AutoTokenizer.from_pretrained(…).save_pretrained(…) writes tokenizer.json", subject: name)
    }
    return nil
  }
}
