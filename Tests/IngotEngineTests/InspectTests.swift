import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

@Suite struct InspectTests {
  @Test func summarises() throws {
    let tensors = [
      TestTensor("model.layers.0.w", .f32, [2, 3]), TestTensor("model.layers.1.w", .f32, [2, 3]), TestTensor("norm", .bf16, [4]),
      TestTensor("ids", .i64, [5]), TestTensor("scalar", .f64, []), TestTensor("empty", .f16, [0, 7]),
    ]
    let inspection = try Inspection(of: "m", models: MemoryModels(["m": try tensors.map { try $0.view }]))
    #expect(inspection.parameters == 6 + 6 + 4 + 5 + 1)
    #expect(inspection.bytes == 48 + 8 + 40 + 8)
    #expect(inspection.types.map(\.dtype) == [.f32, .i64, .bf16, .f64, .f16])
    #expect(inspection.types.first?.tensors == 2 && inspection.types.first?.parameters == 12)
    #expect(inspection.layers == nil)
    let document = try JSON.parse(inspection.json(), origin: "inspect")
    #expect(document["schema"]?.asInt == 1)
    #expect(document["tensors"]?.asArray?.count == 6)
    #expect(document["parameters"]?.asInt == 22)
    #expect(document["config"]?.isNull == true)
  }

  @Test func readsConfigAndLayers() throws {
    try withModel(
      config: #"{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 3, "odd": {"a": [1]}, "architectures": ["A", "B"]}"#
    ) { path in
      let inspection = try Inspection(of: path, models: LocalModels(environment: [:]))
      #expect(inspection.layers?.count == 2 && inspection.layers?.prefix == "model.layers.")
      #expect(
        inspection.facts.map { "\($0.key)=\($0.value)" } == [
          "architectures=A, B", "model_type=llama", "num_hidden_layers=2", "hidden_size=3",
        ])
      #expect(inspection.tensorCounts == [3])
      let document = try JSON.parse(inspection.json(), origin: "inspect")
      #expect(document[path: "config.odd.a"]?.asArray?.count == 1)
      #expect(document["files"]?.asArray?.first?["name"]?.asString == "model.safetensors")
    }
  }

  /// A quantised model is refused by merges; looking at it is what `inspect` is for.
  @Test func looksAtQuantisedModels() throws {
    try withModel(config: #"{"quantization_config": {"quant_method": "awq"}}"#) { path in
      let inspection = try Inspection(of: path, models: LocalModels(environment: [:]))
      #expect(inspection.quantisation?.scheme == "awq")
    }
  }

  @Test func failsWithoutAPosition() {
    let error = #expect(throws: IngotError.self) { try Inspection(of: "/nowhere/model", models: LocalModels(environment: [:])) }
    #expect(error?.status == .notFound)
    #expect(error?.position == nil)
  }
}

/// A directory with three tensors and a config, removed afterwards.
private func withModel(config: String, _ body: (String) throws -> Void) throws {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("ingot-inspect-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  let header = Data(
    #"{"model.layers.0.w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"model.layers.1.w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"norm":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}"#
      .utf8)
  let length = unsafe withUnsafeBytes(of: UInt64(header.count).littleEndian) { unsafe Data($0) }
  try (length + header + Data(count: 12)).write(to: folder.appendingPathComponent("model.safetensors"))
  try Data(config.utf8).write(to: folder.appendingPathComponent("config.json"))
  try body(folder.path)
}
