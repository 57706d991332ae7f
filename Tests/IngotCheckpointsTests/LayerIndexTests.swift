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

  @Test("two prefixes that fit are an error that names them, only when asked")
  func ambiguous() throws {
    let names = Self.names("encoder.block.", 0..<2) + Self.names("decoder.block.", 0..<2)
    let index = LayerIndex(names: names, config: try Self.config(#"{"num_layers":2}"#))
    let error = try #require(throws: IngotError.self) { try index.layers(of: "t5") }
    #expect(error.status == .unsupported && error.subject == "t5")
    #expect(error.message.contains("\"decoder.block.\" and \"encoder.block.\""))
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

  @Test("numbers with a gap, too few, too many, or written oddly do not fit", arguments: [[0, 1, 3], [0, 1], [0, 1, 2, 3], [1, 2, 3]])
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
