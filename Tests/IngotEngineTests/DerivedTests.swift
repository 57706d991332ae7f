import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Bytes as a source.
final class BytesSource: ByteSource {
  let name = "bytes"
  let bytes: [UInt8]
  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset + destination.count <= bytes.count else { throw IngotError(.io, "beyond the end", subject: name) }
    for index in 0..<destination.count { unsafe destination[index] = bytes[offset + index] }
  }
}

/// A model of one shard whose tensors are given as places in it.
func model(_ bytes: [UInt8], _ tensors: [CheckpointTensor], config: String? = nil) throws -> ProvidedModel {
  let shard = CheckpointShard(name: "m.bin", size: UInt64(bytes.count), modificationTime: 1, headerDigest: 2)
  let checkpoint = try Checkpoint(
    displayPath: "m", shards: [shard], tensors: tensors, config: try config.map { try JSON.parse($0, origin: "config.json") })
  return ProvidedModel(path: "m", checkpoint: checkpoint, sources: [BytesSource(bytes)], files: nil)
}

extension ProvidedModel {
  /// Bytes `range` of a tensor.
  func bytes(_ name: String, _ range: Range<Int>) throws -> [UInt8] {
    let tensor = try #require(checkpoint[name])
    var bytes = [UInt8](repeating: 0xA5, count: range.count)
    var failure: IngotError?
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(IngotError) {
        try unsafe sources[tensor.shard].read(buffer, at: Int(tensor.fileOffset) + range.lowerBound)
      } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  func bytes(_ name: String) throws -> [UInt8] { try bytes(name, 0..<(try #require(checkpoint[name]).byteCount)) }

  /// Any range must give what the whole gives.
  func checkRanges(_ name: String, width: Int, seed: UInt64, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let whole = try bytes(name)
    var random = SplitMix(seed)
    for _ in 0..<40 {
      let start = Int.random(in: 0...whole.count / width, using: &random)
      let end = Int.random(in: start...whole.count / width, using: &random)
      let range = start * width..<end * width
      let isSame = try bytes(name, range) == Array(whole[range])
      #expect(isSame, "\(name) \(range)", sourceLocation: sourceLocation)
    }
  }
}

@Suite("Derived tensors")
struct DerivedTests {
  @Test(
    "strided tensors in any ranges",
    arguments: [
      ([300, 500], [1, 300], 0), ([40, 30], [100, 1], 7), ([40, 30], [200, 3], 1), ([5, 6, 7, 8], [1, 5, 30, 210], 0),
      ([7, 1, 5, 9], [1, 99, 7, 35], 2), ([1000], [9000], 0), ([3, 4], [0, 1], 5), ([20, 30], [0, 0], 3), ([2, 300, 500], [1, 2, 600], 0),
      ([3, 400_000], [1, 3], 0),
    ] as [([Int], [Int], Int)])
  func strided(_ shape: [Int], _ strides: [Int], _ offset: Int) throws {
    for (dtype, width) in [(DType.bf16, 2), (.f32, 4), (.i64, 8), (.u8, 1)] {
      let count = zip(shape, strides).reduce(offset + 1) { $0 + ($1.0 - 1) * $1.1 }
      let stored = (0..<count * width).map { UInt8(truncatingIfNeeded: ($0 &* 2_654_435_761) >> 7) }
      let elements = shape.reduce(1, *)
      let tensor = CheckpointTensor(
        name: "t", dtype: dtype, shape: Shape(shape), shard: 0, fileOffset: UInt64(offset * width), byteCount: elements * width,
        strides: strides)
      let readable = try model(stored, [tensor]).readable()
      let found = try readable.bytes("t")
      var expected: [UInt8] = []
      expected.reserveCapacity(elements * width)
      for element in 0..<elements {
        var rest = element
        var place = offset
        for axis in shape.indices.reversed() {
          place += rest % shape[axis] * strides[axis]
          rest /= shape[axis]
        }
        expected += stored[place * width..<(place + 1) * width]
      }
      let isSame = found == expected
      #expect(isSame)
      try readable.checkRanges("t", width: width, seed: 3)
      #expect(readable.checkpoint.shards.count == 2 && readable.checkpoint["t"]?.dtype == dtype)
    }
  }

  static func quantised(_ rows: Int, _ columns: Int) throws -> ProvidedModel {
    let weights = rows * columns
    let scales = (rows + 127) / 128 * ((columns + 127) / 128)
    var bytes = (0..<weights).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 11) & 0x7B }
    for index in 0..<scales { unsafe withUnsafeBytes(of: Float(index + 1) / 8) { unsafe bytes += Array($0) } }
    return try model(
      bytes,
      [
        CheckpointTensor(
          name: "a.weight", dtype: .f8E4M3, shape: Shape([rows, columns]), shard: 0, fileOffset: 0, byteCount: weights),
        CheckpointTensor(
          name: "a.weight_scale_inv", dtype: .f32, shape: Shape([(rows + 127) / 128, (columns + 127) / 128]), shard: 0,
          fileOffset: UInt64(weights), byteCount: 4 * scales),
      ], config: #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "hidden_size": 1}"#)
  }

  @Test("FP8 in any ranges", arguments: [(300, 500), (3, 70_000), (1000, 3), (129, 129)])
  func fp8(_ rows: Int, _ columns: Int) throws {
    let readable = try Self.quantised(rows, columns).readable()
    let tensor = try #require(readable.checkpoint["a.weight"])
    #expect(tensor.dtype == .f32 && tensor.nominalDType == .bf16 && readable.checkpoint.tensors.count == 1)
    #expect(readable.checkpoint.config?["quantization_config"] == nil && readable.checkpoint.config?["hidden_size"] != nil)
    try readable.checkRanges("a.weight", width: 4, seed: 5)
    // Once decoded there is nothing left to decode.
    #expect(try readable.readable().checkpoint.shards.count == readable.checkpoint.shards.count)
  }

  @Test("MXFP4 in any ranges")
  func mxfp4() throws {
    let (experts, outputs, groups) = (2, 130, 3)
    let items = experts * outputs * groups
    let bytes = (0..<items * 17).map { UInt8(truncatingIfNeeded: $0 &* 41 &+ 3) & 0x7F }
    let readable = try model(
      bytes,
      [
        CheckpointTensor(
          name: "x_blocks", dtype: .u8, shape: Shape([experts, outputs, groups, 16]), shard: 0, fileOffset: 0, byteCount: items * 16),
        CheckpointTensor(
          name: "x_scales", dtype: .u8, shape: Shape([experts, outputs, groups]), shard: 0, fileOffset: UInt64(items * 16), byteCount: items
        ),
      ]
    ).readable()
    #expect(readable.checkpoint["x"]?.shape == Shape([experts, groups * 32, outputs]))
    try readable.checkRanges("x", width: 4, seed: 6)
  }

  @Test("what decides the values is in the identity of the source")
  func identity() throws {
    func digest(_ config: String) throws -> UInt128 {
      let bytes = [UInt8](repeating: 0x38, count: 64 * 64) + [UInt8](repeating: 0, count: 16)
      let readable = try model(
        bytes,
        [
          CheckpointTensor(name: "a.weight", dtype: .f8E4M3, shape: Shape([64, 64]), shard: 0, fileOffset: 0, byteCount: 4096),
          CheckpointTensor(name: "a.weight_scale_inv", dtype: .f32, shape: Shape([2, 2]), shard: 0, fileOffset: 4096, byteCount: 16),
        ], config: #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": \#(config)}}"#
      ).readable()
      return try #require(readable.checkpoint.shards.last).headerDigest
    }
    #expect(try digest("[32, 32]") == digest("[32, 32]"))
    #expect(try digest("[32, 32]") != digest("[33, 32]"))
  }

  @Test("a source that changes is seen through what is derived from it")
  func change() throws {
    let scratch = try Scratch()
    try scratch.model("q", [TestTensor("w", .f32, [2, 2], [1, 2, 3, 4])])
    let stored = try LocalModels(environment: [:]).open(path: scratch("q"), isDirectory: true)
    var strided = stored
    var tensor = try #require(stored.checkpoint["w"])
    tensor.strides = [1, 2]
    strided.checkpoint = try Checkpoint(displayPath: "q", shards: stored.checkpoint.shards, tensors: [tensor], config: nil)
    let derived = try #require(try strided.readable().sources.last)
    try derived.requireUnchanged()
    try scratch.write("q/model.safetensors", [UInt8](repeating: 0, count: 5))
    #expect(try #require(throws: IngotError.self) { try derived.requireUnchanged() }.status == .stale)
  }

  /// Shapes, types, names and configs at random: either an error or tensors that can be read.
  @Test func hostileQuantisedCheckpoints() throws {
    var random = SplitMix(99)
    let names = ["weight", "weight_scale_inv", "weight_scale", "input_scale", "x_blocks", "x_scales", "weight_zero_point", "x"]
    let configs = [
      #"{}"#, #"{"quantization_config": {"quant_method": "fp8"}}"#, #"{"quantization_config": {"quant_method": "mxfp4"}}"#,
      #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 1073741824]}}"#,
      #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [3, 2]}}"#,
      #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [9223372036854775807, 2]}}"#,
      #"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"format": "float-quantized", "weights": {"type": "float", "num_bits": 8, "strategy": "channel"}}}}}"#,
      #"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": 3}}}"#,
      #"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": []}}"#,
    ]
    let bytes = [UInt8](repeating: 0x31, count: 4096)
    var decoded = 0
    for _ in 0..<10_000 {
      var tensors: [CheckpointTensor] = []
      for prefix in ["a.", "b."] {
        for name in names where Int.random(in: 0..<3, using: &random) == 0 {
          let dtype = [DType.f8E4M3, .f8E4M3, .f32, .u8, .u8, .bf16, .f8E8M0, .i64].randomElement(using: &random) ?? .f32
          var shape = (0..<Int.random(in: 0...4, using: &random)).map { _ in [0, 1, 1, 2, 3, 5].randomElement(using: &random) ?? 1 }
          if name == "x_blocks", Bool.random(using: &random) { shape = [1, 2, 1, 16] }
          if name == "x_scales", Bool.random(using: &random) { shape = [1, 2, 1] }
          if name == "weight", Bool.random(using: &random) { shape = [6, 5] }
          if name.hasPrefix("weight_scale"), Bool.random(using: &random) {
            shape = [[1], [6, 1], [2, 3], [1, 1]].randomElement(using: &random) ?? []
          }
          guard let count = try? Shape(shape).byteCount(dtype), count <= 2048 else { continue }
          tensors.append(
            CheckpointTensor(
              name: prefix + name, dtype: dtype, shape: Shape(shape), shard: 0,
              fileOffset: UInt64(Int.random(in: 0...bytes.count - count, using: &random)), byteCount: count))
        }
      }
      guard let readable = try? model(bytes, tensors, config: configs.randomElement(using: &random)).readable() else { continue }
      for tensor in readable.checkpoint.tensors { #expect(try readable.bytes(tensor.name).count == tensor.byteCount) }
      if readable.checkpoint.shards.count > 1 { decoded += 1 }
    }
    #expect(decoded > 100)
  }

  private struct OneModel: ModelProvider {
    let model: ProvidedModel
    func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel { model }
  }

  /// Decoded, adapted and gathered inputs are computed with the kernels that were asked for, and give the same bytes with all of them.
  @Test func instructionSetsGiveTheSame() throws {
    let rank = 3
    var tensors: [CheckpointTensor] = []
    var bytes: [UInt8] = []
    for (name, shape) in [("lora_A.weight", [rank, 500]), ("lora_B.weight", [300, rank]), ("lora_magnitude_vector", [300])] {
      let count = shape.reduce(1, *)
      tensors.append(
        CheckpointTensor(
          name: "base_model.model.a.\(name)", dtype: .f32, shape: Shape(shape), shard: 0, fileOffset: UInt64(bytes.count),
          byteCount: 4 * count))
      for index in 0..<count { unsafe withUnsafeBytes(of: Float(index * 7 % 23 - 11) / 37) { unsafe bytes += Array($0) } }
    }
    let config = #"{"peft_type": "LORA", "r": 3, "lora_alpha": 5, "use_dora": true}"#
    let adapted = try Self.quantised(300, 500).applying(
      try model(bytes, tensors), files: AdapterFiles(config: Array(config.utf8)), name: "m")
    let recipe = try Recipe("{merge_method: linear, dtype: bfloat16, models: [{model: m, parameters: {weight: 0.7}}]}")
    let copy = try Recipe("{merge_method: passthrough, dtype: float32, models: [{model: m}]}")
    var expected: [[Int: Digest128]]?
    for set in InstructionSet.available {
      var options = EngineOptions()
      options.threads = 2
      options.instructionSet = set.name
      let engine = try Engine(options)
      var digests: [[Int: Digest128]] = []
      for recipe in [recipe, copy] {
        // Nothing but the derived tensors needs kernels for the copy.
        let calls = set.callCount
        digests.append(try engine.run(try Plan.make(recipe, models: OneModel(model: adapted)), into: NullSink()).digests)
        #expect(set.callCount > calls, "\(set)")
      }
      if let expected { #expect(digests == expected, "\(set)") } else { expected = digests }
    }
    #expect(InstructionSet.available.count > 1)
  }
}
