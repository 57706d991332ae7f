import IngotCheckpoints
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

@Suite("Config edits")
struct ConfigEditTests {
  static func parse(_ text: String) throws -> JSONValue { try JSON.parse(text, origin: "config.json", options: .python) }
  static func apply(_ edit: ConfigEdit, _ text: String) throws -> (text: String, notices: [Notice]) {
    let (config, notices) = try edit.apply(to: try parse(text), origin: "config.json")
    return (JSON.text(config), notices)
  }
  static func layers(_ numbers: [Int]) -> [ConfigEdit.LayerSource] { numbers.map { ConfigEdit.LayerSource(layer: $0) } }

  @Test("no edit leaves every byte that matters")
  func untouched() throws {
    let text = #"{"z":1e-05,"rope":{"theta":10000.0},"limit":[0.0,Infinity],"num_hidden_layers":2,"a":"é","dtype":"float32"}"#
    #expect(try Self.apply(ConfigEdit(), text).text == text)
    let pretty = ConfigEdit.text(try Self.parse("{\"a\":[],\"b\":1e-05}"))
    #expect(String(decoding: pretty, as: UTF8.self) == "{\n  \"a\": [],\n  \"b\": 1e-05\n}\n")
  }

  @Test("layers are counted and per-layer lists follow their layers")
  func layers() throws {
    let text =
      #"{"num_hidden_layers":3,"layer_types":["a","b","c"],"other":[1,2,3],"mlp_only_layers":[0,2],"hybrid_override_pattern":"M-*","n_layer":3}"#
    let (result, notices) = try Self.apply(ConfigEdit(layers: Self.layers([0, 1, 1, 2, 2])), text)
    #expect(
      result
        == #"{"num_hidden_layers":5,"layer_types":["a","b","b","c","c"],"other":[1,2,3],"mlp_only_layers":[0,3,4],"hybrid_override_pattern":"M--**","n_layer":5}"#
    )
    #expect(notices.isEmpty)
    #expect(try Self.apply(ConfigEdit(layers: Self.layers([0, 1, 2])), text).text == text)
  }

  @Test("under text_config, and lists of another length stay")
  func nested() throws {
    let text = #"{"text_config":{"num_hidden_layers":2,"layer_types":["a","b"],"no_rope_layers":[1]},"layer_types":["x","y"]}"#
    let result = try Self.apply(ConfigEdit(layers: Self.layers([1])), text).text
    #expect(result == #"{"text_config":{"num_hidden_layers":1,"layer_types":["b"],"no_rope_layers":[1]},"layer_types":["x","y"]}"#)
  }

  @Test("a layer from another model brings that model's entry")
  func otherModel() throws {
    let donor = #"{"num_hidden_layers":2,"layer_types":["a","b"],"mlp_only_layers":[]}"#
    let other = try Self.parse(#"{"num_hidden_layers":3,"layer_types":["x","y","z"],"mlp_only_layers":[2]}"#)
    let edit = ConfigEdit(layers: [.init(layer: 0), .init(config: other, layer: 2), .init(layer: 1)])
    #expect(try Self.apply(edit, donor).text == #"{"num_hidden_layers":3,"layer_types":["a","z","b"],"mlp_only_layers":[1]}"#)
    let silent = ConfigEdit(layers: [.init(layer: 0), .init(config: try Self.parse(#"{"num_hidden_layers":9}"#), layer: 7)])
    let error = try #require(throws: IngotError.self) { try Self.apply(silent, donor) }
    #expect(error.status == .unsupported && error.message.contains("layer 7"))
  }

  @Test("settings that hang on a layer's place are left and said so")
  func positions() throws {
    let text = #"{"num_hidden_layers":2,"first_k_dense_replace":1,"sliding_window_pattern":null,"decoder_sparse_step":0}"#
    let (result, notices) = try Self.apply(ConfigEdit(layers: Self.layers([0])), text)
    #expect(result == #"{"num_hidden_layers":1,"first_k_dense_replace":1,"sliding_window_pattern":null,"decoder_sparse_step":0}"#)
    #expect(notices.count == 1 && notices.first?.message.contains("first_k_dense_replace = 1") == true)
  }

  @Test("layers without a layer count are an error")
  func noCount() throws {
    let error = try #require(throws: IngotError.self) { try Self.apply(ConfigEdit(layers: Self.layers([0])), "{}") }
    #expect(error.status == .format && error.subject == "config.json")
  }

  @Test(
    "vocabulary size goes where the config has it",
    arguments: [
      (#"{"vocab_size":5,"x":1}"#, #"{"vocab_size":9,"x":1}"#),
      (#"{"text_config":{"vocab_size":5}}"#, #"{"text_config":{"vocab_size":9}}"#),
      (#"{"vocab_size":5,"text_config":{"vocab_size":5}}"#, #"{"vocab_size":9,"text_config":{"vocab_size":9}}"#),
      (#"{"x":1}"#, #"{"x":1,"vocab_size":9}"#),
    ])
  func vocabulary(_ text: String, _ expected: String) throws {
    #expect(try Self.apply(ConfigEdit(vocabularySize: 9), text).text == expected)
  }

  @Test(
    "the dtype goes under the key that is there",
    arguments: [
      (#"{"torch_dtype":"float32","x":1}"#, #"{"torch_dtype":"bfloat16","x":1}"#), (#"{"dtype":"float32"}"#, #"{"dtype":"bfloat16"}"#),
      (#"{"x":1}"#, #"{"x":1,"torch_dtype":"bfloat16"}"#),
      (
        #"{"dtype":"f","text_config":{"dtype":"f"},"vision_config":{"torch_dtype":"f"},"v_config":{"dtype":null}}"#,
        #"{"dtype":"bfloat16","text_config":{"dtype":"bfloat16"},"vision_config":{"torch_dtype":"bfloat16"},"v_config":{"dtype":null}}"#
      ),
    ])
  func dtype(_ text: String, _ expected: String) throws {
    #expect(try Self.apply(ConfigEdit(dtype: .bf16), text).text == expected)
  }

  @Test(
    "the tie flag is written only where it changes something",
    arguments: [
      (#"{"tie_word_embeddings":true}"#, #"{"tie_word_embeddings":false}"#), (#"{"model_type":"llama"}"#, #"{"model_type":"llama"}"#),
      (#"{"model_type":"gemma2"}"#, #"{"model_type":"gemma2","tie_word_embeddings":false}"#),
      (#"{"text_config":{"tie_word_embeddings":true}}"#, #"{"text_config":{"tie_word_embeddings":false}}"#),
    ])
  func tie(_ text: String, _ expected: String) throws {
    #expect(try Self.apply(ConfigEdit(tieWordEmbeddings: false), text).text == expected)
  }
}

@Suite("Carried files")
struct CarriedFilesTests {
  @Test("side files go along, weights and other formats do not")
  func selection() {
    let keep = [
      "1_Pooling/config.json", "LICENSE", "added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt",
      "modeling_x.py", "modules.json", "preprocessor_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
      "tokenizer_config.json", "vocab.json", "vocab.txt",
    ]
    let drop = [
      "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
      "pytorch_model.bin.index.json", "consolidated.00.pth", "training_args.bin", "model.Q4_K.GGUF", "tf_model.h5", "flax_model.msgpack",
      "rust_model.ot", "onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.xml", "README.md", "readme.md", ".gitattributes",
      ".cache/huggingface/x.json", "original/params.json", "config.json", "mergekit_config.yml", "ingot.json", "runs/events.out",
      "checkpoint-100/tokenizer.json", "adapter_config.json", "adapter_model.safetensors", "a//b", "../x.json", "/x.json", "x\0.json",
    ]
    let result = CarriedFiles.select((keep + drop).reversed(), donor: "m")
    #expect(result.names == keep)
    #expect(result.notices.count == 1 && result.notices.first?.message.contains("modeling_x.py") == true)
    #expect(CarriedFiles.select(["vocab.txt"], donor: "m").notices.isEmpty)
  }
}
