import IngotCheckpoints
import IngotErrors
import IngotJSON
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
    var merged = MergedVocabulary(base, origin: "base")
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
    try merged.add("new")
    try merged.add("x")
    #expect(merged.tokens.last?.text == "new")
    #expect(merged.extent == 9)
  }

  @Test func kindsHaveNoUnion() throws {
    var merged = MergedVocabulary(try vocabulary(["a"]), origin: "base")
    #expect { try merged.unite([("other", try vocabulary(["b"], model: .wordPiece))]) } throws: { error in
      (error as? IngotError)?.status == .unsupported && (error as? IngotError)?.subject == "other"
    }
  }

  @Test func gapsTakeNoNewToken() throws {
    let gap = try Vocabulary(model: .bpe, isByteLevel: false, ordinary: [(0, "a"), (5, "b")], added: [], origin: "test")
    var merged = MergedVocabulary(gap, origin: "base")
    try merged.add("a")
    #expect(throws: IngotError.self) { try merged.add("c") }
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
    var merged = MergedVocabulary(deep, origin: "test")
    try merged.add("new")
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
    for (name, rank) in [("lm_head.weight", 2), ("model.embed_tokens.weight", 2), ("cls.predictions.bias", 1), ("lm_head.bias", 1)] {
      #expect(TensorNames.isVocabulary(name, rank: rank))
      #expect(!TensorNames.isVocabulary(name, rank: 3 - rank))
    }
    #expect(!TensorNames.isVocabulary("model.visual.pos_embed.weight", rank: 2))
    #expect(!TensorNames.isVocabulary("model.layers.0.mlp.down_proj.bias", rank: 1))
  }
}
