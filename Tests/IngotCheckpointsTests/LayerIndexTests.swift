import IngotCheckpoints
import IngotErrors
import IngotJSON
import Testing

@Suite("Layer index")
struct LayerIndexTests {
  static func config(_ text: String) throws -> JSONValue { try JSON.parse(text, origin: "config.json") }

  static func names(_ prefix: String, _ numbers: some Sequence<Int>, _ suffix: String = ".w") -> [String] {
    numbers.map { "\(prefix)\($0)\(suffix)" }
  }

  @Test(
    "the prefix whose numbers are exactly the config's layers",
    arguments: [
      ("model.layers.", #"{"num_hidden_layers":4}"#), ("transformer.h.", #"{"n_layer":4}"#), ("h.", #"{"n_layer":4}"#),
      ("", #"{"num_layers":4}"#), ("language_model.model.layers.", #"{"text_config":{"num_hidden_layers":4}}"#),
      ("distilbert.transformer.layer.", #"{"n_layers":4}"#),
    ])
  func found(_ prefix: String, _ config: String) throws {
    let names = Self.names(prefix, 0..<4) + Self.names(prefix, 0..<4, ".b") + ["model.embed.weight", "visual.blocks.7.w", "norm"]
    let index = LayerIndex(names: names, config: try Self.config(config))
    let layers = try #require(try index.layers(of: "m"))
    #expect(layers == LayerIndex.Layers(prefix: prefix, count: 4))
    #expect(try index.requireLayers(of: "m") == layers)
    #expect(layers.layer(of: prefix + "3.w") == 3)
    #expect(layers.layer(of: prefix + "3") == 3)
    #expect(layers.layer(of: prefix + "4.w") == nil)
    #expect(layers.layer(of: prefix + "x.w") == nil)
    #expect(layers.layer(of: "other." + prefix + "3.w") == nil)
    #expect(layers.renaming(prefix + "3.experts.3.w", toLayer: 12) == prefix + "12.experts.3.w")
    #expect(layers.renaming("norm", toLayer: 1) == "norm")
  }

  @Test("experts inside a layer are not layers, even when there are as many")
  func experts() throws {
    let names = (0..<4).flatMap { Self.names("model.layers.\($0).mlp.experts.", 0..<4) }
    let layers = try LayerIndex(names: names, config: try Self.config(#"{"num_hidden_layers":4}"#)).layers(of: "m")
    #expect(layers?.prefix == "model.layers.")
  }

  @Test("encoder and decoder are two stacks, and asking for one is an error that names both")
  func encoderDecoder() throws {
    let names = Self.names("encoder.block.", 0..<2) + Self.names("decoder.block.", 0..<2) + ["shared.weight", "decoder.norm.weight"]
    let index = LayerIndex(names: names, config: try Self.config(#"{"num_layers":2,"num_decoder_layers":2}"#))
    #expect(index.stacks.map(\.part) == [.decoder, .encoder])
    #expect(index.stacks.map(\.place?.key) == ["num_decoder_layers", "num_layers"])
    #expect(index.part(of: "shared.weight") == .shared && index.part(of: "decoder.norm.weight") == .decoder)
    let error = try #require(throws: IngotError.self) { try index.layers(of: "t5") }
    #expect(error.status == .unsupported && error.subject == "t5" && error.hint?.contains("modules") == true)
    #expect(error.message.contains("\"decoder.block.\" (decoder) and \"encoder.block.\" (encoder)"))
  }

  /// Stacks as PREFIX part count KEYS, and the main one.
  @Test(
    "the stacks of the field's layouts",
    arguments: [
      (
        #"{"text_config":{"num_hidden_layers":3},"vision_config":{"depth":3}}"#,
        ["model.language_model.layers.": 3, "model.visual.blocks.": 3],
        [
          "model.language_model.layers. text_decoder text_config.num_hidden_layers",
          "model.visual.blocks. vision_tower vision_config.depth",
        ], "model.language_model.layers."
      ),
      (
        #"{"num_hidden_layers":4,"vision_config":{"depth":2}}"#, ["model.layers.": 4, "visual.blocks.": 2],
        ["model.layers. text_decoder num_hidden_layers", "visual.blocks. vision_tower vision_config.depth"], "model.layers."
      ),
      (
        #"{"encoder_layers":2,"decoder_layers":2,"num_hidden_layers":2}"#, ["model.encoder.layers.": 2, "model.decoder.layers.": 2],
        ["model.decoder.layers. decoder decoder_layers", "model.encoder.layers. encoder encoder_layers"], nil
      ),
      (
        #"{"num_hidden_layers":2}"#, ["model.decoder.layers.": 2], ["model.decoder.layers. text_decoder num_hidden_layers"],
        "model.decoder.layers."
      ),
      (#"{"num_hidden_layers":2}"#, ["vit.encoder.layer.": 2], ["vit.encoder.layer. vision_tower num_hidden_layers"], "vit.encoder.layer."),
      (
        #"{"text_config":{"num_hidden_layers":2},"vision_config":{"num_hidden_layers":3}}"#,
        ["text_model.encoder.layers.": 2, "vision_model.encoder.layers.": 3],
        [
          "text_model.encoder.layers. text_decoder text_config.num_hidden_layers",
          "vision_model.encoder.layers. vision_tower vision_config.num_hidden_layers",
        ], "text_model.encoder.layers."
      ),
      (
        #"{"text_config":{"num_hidden_layers":2},"audio_config":{"encoder_layers":3,"num_hidden_layers":3}}"#,
        ["language_model.model.layers.": 2, "audio_tower.layers.": 3],
        [
          "audio_tower.layers. audio_tower audio_config.num_hidden_layers",
          "language_model.model.layers. text_decoder text_config.num_hidden_layers",
        ],
        "language_model.model.layers."
      ),
      // Deepstack mergers are counted nowhere; they have positions of their own but are no layers of the model.
      (
        #"{"text_config":{"num_hidden_layers":4},"vision_config":{"depth":2}}"#,
        ["model.language_model.layers.": 4, "model.visual.blocks.": 2, "model.visual.deepstack_merger_list.": 3],
        [
          "model.language_model.layers. text_decoder text_config.num_hidden_layers",
          "model.visual.blocks. vision_tower vision_config.depth",
          "model.visual.deepstack_merger_list. multi_modal_projector -",
        ], "model.language_model.layers."
      ),
    ] as [(String, [String: Int], [String], String?)])
  func layouts(_ config: String, _ prefixes: [String: Int], _ expected: [String], _ main: String?) throws {
    let names = prefixes.flatMap { Self.names($0.key, 0..<$0.value) }
    let index = LayerIndex(names: names, config: try Self.config(config))
    #expect(index.stacks.map { "\($0.layers.prefix) \($0.part.rawValue) \($0.place?.path ?? "-")" } == expected)
    if let main {
      #expect(try index.layers(of: "m")?.prefix == main)
    } else {
      #expect(throws: IngotError.self) { try index.layers(of: "m") }
    }
  }

  @Test("blocks beyond the config's count are extra: multi-token prediction")
  func extraBlocks() throws {
    let names = Self.names("model.layers.", 0..<5) + Self.names("mtp.layers.", 0..<2) + ["model.layers.0.mlp.experts.9.w"]
    let index = LayerIndex(names: names, config: try Self.config(#"{"num_hidden_layers":4,"num_nextn_predict_layers":1}"#))
    let layers = try #require(try index.layers(of: "m"))
    #expect(index.stacks.count == 1 && layers == LayerIndex.Layers(prefix: "model.layers.", count: 4))
    #expect(layers.layer(of: "model.layers.4.w") == nil && layers.extraBlock(of: "model.layers.4.w") == 0)
    #expect(layers.extraBlock(of: "model.layers.3.w") == nil && index.layer(of: "mtp.layers.1.w") == nil)
    #expect(layers.moving("model.layers.4.w.7", to: 6, under: "h.") == "h.6.w.7")
    #expect(index.layer(of: "model.layers.0.mlp.experts.9.w")?.layer == 0)
  }

  @Test("without a config or a count there are no layers")
  func none() throws {
    let names = Self.names("model.layers.", 0..<4)
    for config in [nil, try Self.config("{}"), try Self.config(#"{"num_hidden_layers":"4"}"#), try Self.config(#"{"num_layers":0}"#)] {
      let index = LayerIndex(names: names, config: config)
      #expect(try index.layers(of: "m") == nil)
      let error = try #require(throws: IngotError.self) { try index.requireLayers(of: "m") }
      #expect(error.message.contains("num_hidden_layers"))
    }
  }

  @Test("numbers with a gap or too few do not fit", arguments: [[0, 1, 3], [0, 1], [1, 2, 3], [0, 1, 2, 4]])
  func unfit(_ numbers: [Int]) throws {
    let index = LayerIndex(names: Self.names("model.layers.", numbers), config: try Self.config(#"{"num_hidden_layers":3}"#))
    #expect(try index.layers(of: "m") == nil)
    let error = try #require(throws: IngotError.self) { try index.requireLayers(of: "m") }
    #expect(error.message.contains("0 to 2") && error.message.contains("\"model.layers.\", has \(numbers.count) numbers"))
  }

  @Test("odd numbers in names neither count nor crash", arguments: ["99999999999999999999", "00", "", "0x", "-0", "٠"])
  func odd(_ number: String) throws {
    let names = Self.names("l.", 0..<2) + ["l.\(number).w", "\(number)", ".", "..", ""]
    let layers = try #require(try LayerIndex(names: names, config: try Self.config(#"{"n_layer":2}"#)).layers(of: "m"))
    #expect(layers.layer(of: "l.\(number).w") == nil)
    #expect(layers.layer(of: "l.") == nil)
  }

  @Test("the count's place")
  func place() throws {
    let place = try #require(LayerIndex.countPlace(in: try Self.config(#"{"text_config":{"n_layer":7},"n_layer":null}"#)))
    #expect(place.path == "text_config.n_layer" && place.count == 7)
  }
}
