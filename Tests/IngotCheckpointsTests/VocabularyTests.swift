import IngotCheckpoints
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

@Suite struct VocabularyTests {
  private func vocabulary(
    _ words: [String], added: [(Int, AddedToken)] = [], model: Vocabulary.Model = .bpe
  ) throws -> Vocabulary {
    try Vocabulary(
      model: model, isByteLevel: false, ordinary: words.enumerated().map { ($0.offset, $0.element) }, added: added.map { ($0.0, $0.1) },
      origin: "test")
  }

  @Test func textsDifferByTheirBytes() throws {
    // Canonically equivalent texts are different tokens.
    let made = try vocabulary(["é", "e\u{301}", "Ω", "\u{2126}"])
    #expect(made.tokens.count == 4)
    #expect([made["é"], made["e\u{301}"], made["Ω"], made["\u{2126}"]] == [0, 1, 2, 3])
  }

  @Test func unionKeepsNumbersAndAppendsInOrder() throws {
    let base = try vocabulary(["a", "b", "c"], added: [(3, AddedToken("<s>", isSpecial: true))])
    let first = try vocabulary(
      ["x", "b", "a", "y"], added: [(4, AddedToken("<s>", isNormalized: true)), (5, AddedToken("<p>", isSpecial: true))])
    let second = try vocabulary(["z", "<p>", "x"], added: [(3, AddedToken("c", isSpecial: true))])
    var merged = MergedVocabulary(base)
    try merged.unite([("first", first), ("second", second)])
    // <p> is an ordinary token of the second, so it comes before the added ones; its definition is the first's.
    #expect(merged.tokens.map(\.text) == ["a", "b", "c", "<s>", "x", "y", "z", "<p>"])
    #expect(merged.tokens.map(\.id) == Array(0..<8))
    #expect(merged.newCount == 4)
    #expect(merged.definitions.map(\.id) == [2, 4, 5, 6, 7])
    #expect(merged.definitions.map(\.token.isSpecial) == [true, false, false, false, true])
    #expect(merged.notices.count == 1)
    #expect(merged.notices.first?.message.contains("1 added tokens are defined otherwise") == true)
    #expect(merged.numbers(in: first, rows: 100) == [2, 1, -1, 4, 0, 3, -1, 5])
    #expect(merged.numbers(in: first, rows: 4) == [2, 1, -1, -1, 0, 3, -1, -1])
    merged.add("new")
    merged.add("x")
    #expect(merged.tokens.last?.text == "new")
    #expect(merged.extent == 9)
  }

  @Test func kindsHaveNoUnion() throws {
    var merged = MergedVocabulary(try vocabulary(["a"]))
    #expect { try merged.unite([("other", try vocabulary(["b"], model: .wordPiece))]) } throws: { error in
      (error as? IngotError)?.status == .unsupported && (error as? IngotError)?.subject == "other"
    }
  }

  @Test func newTokensComeBehindGaps() throws {
    let gap = try Vocabulary(model: .bpe, isByteLevel: false, ordinary: [(0, "a"), (5, "b")], added: [], origin: "test")
    var merged = MergedVocabulary(gap)
    merged.add("a")
    merged.add("c")
    #expect(merged["c"] == 6 && merged.extent == 7 && merged.tokens.count == 3)
    #expect(merged.numbers(in: gap, rows: 10) == [0, -1, -1, -1, -1, 5, -1])
  }

  /// The field's library numbers tokens by how many there are, so every gap gets a token, where the library takes its number from.
  @Test(arguments: [
    (#"{"a": 0, "b": 4}"#, #"[{"id": 2, "content": "<s>"}, {"id": 7, "content": "<e>"}]"#, 5, [2, 5, 6, 7]),
    (#"{"a": 0, "b": 1}"#, #"[{"id": 5, "content": "<e>"}]"#, 2, [2, 3, 4, 5]),
    (#"{"a": 0, "<|unused_1|>": 2}"#, "[]", 3, []),
    (#"{"a": 0, "b": 1}"#, "[]", 2, []),
  ])
  func gapsAreFilled(_ vocabulary: String, _ added: String, _ size: Int, _ numbers: [Int]) throws {
    let text = #"{"added_tokens": \#(added), "model": {"type": "WordLevel", "vocab": \#(vocabulary)}}"#
    var file = try TokenizerFile(Array(text.utf8), origin: "tokenizer.json")
    let before = file.vocabulary
    try file.fillGaps(below: before.extent) { $0 == "<|unused_3|>" }
    let again = try TokenizerFile(file.bytes, origin: "again").vocabulary
    #expect(again.tokens.map(\.id) == Array(0..<before.extent))
    #expect(again.modelCount == size)
    #expect(again.added.map(\.id) == numbers)
    #expect(again["<|unused_3|>"] == nil)
    for token in before.tokens { #expect(again[token.text] == token.id) }
  }

  /// A few bytes must not become millions of tokens.
  @Test func tooManyGaps() throws {
    func file(_ last: Int) throws -> TokenizerFile {
      try TokenizerFile(Array(#"{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": \#(last)}}}"#.utf8), origin: "tokenizer.json")
    }
    var wide = try file(Limit.tokenNumber)
    let error = #expect(throws: IngotError.self) { try wide.fillGaps(below: Limit.tokenNumber + 1) { _ in false } }
    #expect(error?.status == .unsupported && error?.message.contains("16777214 of the numbers below 16777216") == true)
    var narrow = try file(1000)
    try narrow.fillGaps(below: 1001) { _ in false }
  }

  // MARK: - SentencePiece

  /// A field of a protocol buffer that holds bytes.
  private static func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }

  private static func pieces(_ texts: [String], kind: UInt8 = 2) -> [UInt8] {
    // Text, score (a float), kind of piece; then the trainer's description with a field before the kind, and a normalizer's.
    texts.flatMap { field(1, field(1, Array($0.utf8)) + [2 << 3 | 5, 0, 0, 128, 63, 3 << 3, 1]) }
      + field(2, field(1, Array("corpus".utf8)) + [3 << 3, kind]) + field(3, field(1, Array("identity".utf8)))
  }

  @Test func piecesOfSentencePiece() throws {
    let bytes = Self.pieces(["<unk>", "<s>", "▁a", "b"])
    let config = #"{"added_tokens_decoder": {"1": {"content": "<s>", "special": true}, "4": {"content": "<|x|>", "special": true}}}"#
    let made = try Vocabulary(
      sentencePiece: bytes, config: Array(config.utf8), added: Array(#"{"<|x|>": 4, "<|y|>": 5}"#.utf8), origin: "tokenizer.model")
    #expect(made.tokens.map(\.text) == ["<unk>", "<s>", "▁a", "b", "<|x|>", "<|y|>"])
    #expect(made.model == .bpe && made.modelCount == 4 && made.added.map(\.id) == [1, 4, 5])
    #expect(try Vocabulary(sentencePiece: Self.pieces(["a"], kind: 1), config: nil, added: nil, origin: "t").model == .unigram)
  }

  @Test func whatIsNoSentencePieceModel() throws {
    let whole = Self.pieces(["<unk>", "<s>", "▁a", "b"])
    for count in whole.indices {
      #expect(throws: IngotError.self) {
        try Vocabulary(sentencePiece: Array(whole.prefix(count / 2)), config: nil, added: nil, origin: "t")
      }
    }
    var random = SplitMix(11)
    for _ in 0..<2000 {
      var bytes = whole
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      // Either tokens or an error, and no trap.
      _ = try? Vocabulary(sentencePiece: bytes, config: nil, added: nil, origin: "t")
    }
    let tiktoken = Array("IQ== 0\nIg== 1\n".utf8)
    for (bytes, config) in [
      (tiktoken, nil), (Self.pieces(["a"], kind: 3), nil), ([], nil), (Self.pieces(["a"]), #"{"extra_ids": 100}"#),
      (Self.pieces(["a", "b"]), #"{"added_tokens_decoder": {"1": {"content": "c"}}}"#),
      (Self.pieces(["a", "b"]), #"{"added_tokens_decoder": {"-1": {"content": "c"}}}"#),
      (Self.pieces(["a", "b"]), #"{"added_tokens_decoder": {"x": {"content": "c"}}}"#), (Self.pieces(["a", "a"]), nil),
    ] as [([UInt8], String?)] {
      #expect(throws: IngotError.self) {
        try Vocabulary(sentencePiece: bytes, config: config.map { Array($0.utf8) }, added: nil, origin: "t")
      }
    }
  }

  @Test func limits() throws {
    let made = try vocabulary(["a", "<s>", "b", "c"], added: [(1, AddedToken("<s>")), (4, AddedToken("d")), (5, AddedToken("e"))])
    #expect(made.modelCount == 4)
    let cut = try made.limited(to: 5, origin: "test")
    #expect(cut.tokens.map(\.text) == ["a", "<s>", "b", "c", "d"])
    #expect(cut.modelCount == 4)
    let deep = try made.limited(to: 2, origin: "test")
    #expect(deep.tokens.map(\.text) == ["a", "<s>"])
    #expect(deep.modelCount == 2)
    #expect(deep.added.map(\.id) == [1])
    var merged = MergedVocabulary(deep)
    merged.add("new")
    #expect(merged["new"] == 2)
  }

  @Test func hostileNumbers() throws {
    for ordinary in [[(0, "a"), (0, "b")], [(-1, "a")], [(1 << 24, "a")], [(Int.min, "a")], [(0, "a"), (1, "a")]] {
      #expect(throws: IngotError.self) {
        try Vocabulary(model: .bpe, isByteLevel: false, ordinary: ordinary.map { ($0.0, $0.1) }, added: [], origin: "test")
      }
    }
    // An added token that the vocabulary has under another number: that of the vocabulary counts, and it is said.
    let made = try vocabulary(["a", "b"], added: [(7, AddedToken("b"))])
    #expect(made["b"] == 1)
    #expect(made.notices.count == 1)
    #expect(throws: IngotError.self) { try vocabulary(["a", "b"], added: [(1, AddedToken("c"))]) }
  }

  // MARK: - Files

  private static let bpe = """
    {"version": "1.0", "odd": 1e-05, "added_tokens": [
      {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
      {"id": 6, "content": "<x>", "special": true}],
     "normalizer": null, "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5},
     "merges": ["a b", ["ab", "c"]]}}
    """

  @Test func removalTakesMergesAlong() throws {
    var file = try TokenizerFile(Array(Self.bpe.utf8), origin: "tokenizer.json")
    #expect(file.vocabulary.tokens.map(\.text) == ["<s>", "a", "b", "c", "ab", "abc", "<x>"])
    file.remove(from: 5)
    file.add([(5, AddedToken("new"))])
    let again = try TokenizerFile(file.bytes, origin: "again")
    #expect(again.vocabulary.tokens.map(\.text) == ["<s>", "a", "b", "c", "ab", "new"])
    #expect(again.root["model"]?["merges"]?.asArray == [.string("a b")])
    #expect(again.root["odd"]?.asNumberText == "1e-05")
    #expect(again.root.asObject?.keys == ["version", "odd", "added_tokens", "normalizer", "model"])
    #expect(again.root["added_tokens"]?.asArray?.map { $0["id"]?.asInt } == [0, 5])
  }

  @Test func aNewDefinitionReplacesTheOld() throws {
    var file = try TokenizerFile(Array(Self.bpe.utf8), origin: "tokenizer.json")
    file.add([(0, AddedToken("<s>")), (7, AddedToken("y")), (3, AddedToken("c", isSpecial: true))])
    let again = try TokenizerFile(file.bytes, origin: "again")
    #expect(again.vocabulary.added.map(\.id) == [0, 3, 6, 7])
    #expect(again.vocabulary.added.map(\.token.isSpecial) == [false, true, true, false])
  }

  @Test func kindsOfFiles() throws {
    func kind(_ model: String) throws -> Vocabulary {
      try TokenizerFile(Array("{\"model\": \(model)}".utf8), origin: "tokenizer.json").vocabulary
    }
    #expect(try kind("{\"vocab\": {\"a\": 0}, \"merges\": []}").model == .bpe)
    #expect(try kind("{\"vocab\": {\"a\": 0}, \"continuing_subword_prefix\": \"##\"}").model == .wordPiece)
    #expect(try kind("{\"vocab\": {\"a\": 0}}").model == .wordLevel)
    let unigram = try kind("{\"vocab\": [[\"<unk>\", 0], [\"a\", -1.5]]}")
    #expect(unigram.model == .unigram)
    #expect(unigram["a"] == 1)
    for text in ["3", "{}", "{\"vocab\": [1]}", "{\"vocab\": [[]]}", "{\"type\": \"New\", \"vocab\": {}}", "{\"vocab\": {\"a\": 1.5}}"] {
      #expect(throws: IngotError.self) { try kind(text) }
    }
  }

  @Test func plainFiles() throws {
    let bert = try Vocabulary(plain: Array("[PAD]\r\n[UNK]\nhé\n".utf8), isJSON: false, added: nil, origin: "vocab.txt")
    #expect(bert.tokens.map(\.text) == ["[PAD]", "[UNK]", "hé"])
    let gpt = try Vocabulary(
      plain: Array("{\"b\": 1, \"a\": 0}".utf8), isJSON: true, added: Array("{\"<x>\": 2}".utf8), origin: "vocab.json")
    #expect(gpt.tokens.map(\.text) == ["a", "b", "<x>"])
    #expect(gpt.added.count == 1)
    #expect(throws: IngotError.self) { try Vocabulary(plain: [0xFF, 0x0A], isJSON: false, added: nil, origin: "vocab.txt") }
  }

  @Test func tokenizerConfig() throws {
    var config = try JSON.parse(
      """
      {"added_tokens_decoder": {"0": {"content": "<s>", "special": true}, "9": {"content": "<pad>", "special": true}},
       "pad_token": "<pad>", "bos_token": {"content": "<s>"}, "additional_special_tokens": ["<pad>", "<s>"], "other": 1.0}
      """, origin: "tokenizer_config.json")
    TokenizerConfig.edit(
      &config, adding: [(7, AddedToken("new")), (8, AddedToken("<e>", isSpecial: true))], removing: [ExactText("<pad>")])
    #expect(config["added_tokens_decoder"]?.asObject?.keys == ["0", "7", "8"])
    #expect(config["added_tokens_decoder"]?["8"]?["special"] == .bool(true))
    #expect(config.asObject?.keys == ["added_tokens_decoder", "bos_token", "additional_special_tokens", "other"])
    #expect(config["additional_special_tokens"] == .array([.string("<s>")]))
  }

  @Test func vocabularyTensors() {
    for (name, shape, axis) in [
      ("lm_head.weight", [9, 4], 0), ("model.embed_tokens.weight", [9, 4], 0), ("cls.predictions.bias", [9], 0), ("lm_head.bias", [9], 0),
      ("final_logits_bias", [1, 9], 1), ("model.final_logits_bias", [1, 9], 1),
    ] {
      #expect(TensorNames.vocabularyAxis(name, Shape(shape)) == axis)
    }
    for (name, shape) in [
      ("lm_head.weight", [9]), ("lm_head.bias", [9, 4]), ("final_logits_bias", [2, 9]), ("final_logits_bias", [9]),
      ("model.visual.pos_embed.weight", [9, 4]), ("model.layers.0.mlp.down_proj.bias", [9]), ("lm_head.weight", []),
    ] {
      #expect(TensorNames.vocabularyAxis(name, Shape(shape)) == nil)
    }
  }
}
