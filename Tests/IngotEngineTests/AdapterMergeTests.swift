import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotStorage
import IngotTensors
import Testing

/// The config of an adapter in memory.
private struct ConfigFile: ModelFiles {
  let displayPath = "lora"
  let config: [UInt8]
  func fileNames() throws(IngotError) -> [String] { [Adapter.configName] }
  func size(of name: String) throws(IngotError) -> UInt64? { name == Adapter.configName ? UInt64(config.count) : nil }
  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] { config }
  func modificationTime(of name: String) -> Int64 { 0 }
}

/// An adapter of f32 tensors that follow each other, of small numbers.
private func adapter(_ tensors: [(String, [Int])], _ config: String = AdapterMergeTests.config, name: String = "lora") throws
  -> OpenedAdapter
{
  var bytes: [UInt8] = []
  var described: [CheckpointTensor] = []
  for (name, shape) in tensors {
    let count = shape.reduce(1, *)
    described.append(
      CheckpointTensor(name: name, dtype: .f32, shape: Shape(shape), shard: 0, fileOffset: UInt64(bytes.count), byteCount: 4 * count))
    for index in 0..<count {
      let value = Float((index * 7 + bytes.count) % 23 - 11) / 16
      bytes += (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * UInt32($0))) }
    }
  }
  return try OpenedAdapter(try model(bytes, described), files: ConfigFile(config: Array(config.utf8)), name: name)
}

private func pair(_ module: String, outputs: Int, inputs: Int, rank: Int = 3) -> [(String, [Int])] {
  [("base_model.model.\(module).lora_A.weight", [rank, inputs]), ("base_model.model.\(module).lora_B.weight", [outputs, rank])]
}

@Suite("Merged adapters")
struct AdapterMergeTests {
  static let config = #"{"peft_type": "LORA", "r": 3, "lora_alpha": 6}"#

  private func twoModules() throws -> OpenedAdapter {
    try adapter(pair("m.0.q", outputs: 40, inputs: 30) + pair("m.1.q", outputs: 30, inputs: 50))
  }

  @Test("a cancelled or failed run leaves nothing, whichever call fails")
  func failures() throws {
    let scratch = try Scratch()
    let request = AdapterMergeRequest(adapters: [try twoModules()], weights: [1], method: "cat")
    let engine = try Engine(EngineOptions())
    let stopping = unsafe Watcher(listener: { _ in 1 }, unsafe: nil, intervalMilliseconds: 1)
    #expect(throws: IngotError.self) { try engine.merge(request, to: scratch("CANCELLED"), watcher: stopping) }
    #expect(!scratch.exists("CANCELLED"))
    #expect(!scratch.exists("CANCELLED.partial"))
    let clean = FaultInjector()
    var options = AdapterOutputOptions()
    options.system = System(faults: clean)
    _ = try engine.merge(request, to: scratch("OUT"), options: options)
    let expected = scratch.files("OUT").filter { $0.key != "ingot.json" }
    for call in [SystemCall.makeDirectory, .write, .truncate, .sync, .append, .rename] {
      for number in 1...max(clean.count(call), 1) {
        let faults = FaultInjector()
        faults.fail(call, number: number, with: .error(28))
        options.system = System(faults: faults)
        do {
          _ = try engine.merge(request, to: scratch("FAILED"), options: options)
          // Only what comes after the rename may fail without an error.
          #expect(scratch.files("FAILED").filter { $0.key != "ingot.json" } == expected)
          try scratch.remove("FAILED")
        } catch let error as IngotError {
          #expect([.noSpace, .output].contains(error.status), "\(call) \(number): \(error)")
          #expect(!scratch.exists("FAILED") && !scratch.exists("FAILED.partial"), "\(call) \(number)")
        }
      }
    }
  }

  @Test("threads and budgets do not change the bytes; a budget too small is refused")
  func budgets() throws {
    let scratch = try Scratch()
    var tensors: [(String, [Int])] = []
    for index in 0..<12 { tensors += pair("m.\(index).q", outputs: 300 + index, inputs: 200) }
    let one = try adapter(tensors)
    var request = AdapterMergeRequest(adapters: [one, one], weights: [1, 0.5], method: "knots_ties")
    request.options.density = 0.5
    var outputs: [[UInt8]] = []
    for (threads, memory) in [(1, 1 << 20), (3, 1 << 28), (2, 4 << 20)] {
      var options = EngineOptions()
      options.threads = threads
      options.memoryBudget = memory
      let name = "OUT\(threads)"
      let report = try Engine(options).merge(request, to: scratch(name))
      #expect(report.workspaceBytes <= memory && report.modules.count == 12)
      #expect(report.modules.map(\.name) == (0..<12).map { "m.\($0).q" })
      outputs.append(try #require(scratch.read(name + "/adapter_model.safetensors")))
    }
    #expect(outputs[0] == outputs[1] && outputs[1] == outputs[2])
    var small = EngineOptions()
    small.memoryBudget = 1 << 20
    let wide = AdapterMergeRequest(adapters: [try adapter(pair("m", outputs: 30_000, inputs: 100))], weights: [1], method: "svd")
    let error = #expect(throws: IngotError.self) { try Engine(small).merge(wide, to: scratch("WIDE")) }
    #expect(error?.status == .memory && error?.subject == "m")
    #expect(!scratch.exists("WIDE") && !scratch.exists("WIDE.partial"))
  }

  @Test func configs() throws {
    func layout(_ ranks: [(String, Int)]) -> AdapterLayout {
      AdapterLayout(modules: ranks.map { .init(name: $0.0, inputShape: [4], outputs: 4, rank: $0.1) }, whole: [], dtype: .f32, fanInFanOut: false)
    }
    func targets(_ layout: AdapterLayout, _ configs: String...) throws -> [String] {
      let inputs = try configs.map { try JSON.parse($0, origin: "c") }
      return try #require(try layout.config(from: inputs)["target_modules"]?.asArray).compactMap(\.asString)
    }
    // A longer name comes first: its end may be a shorter one.
    let mixed = layout([("q", 2), ("a.q", 3), ("b.a.q", 2), ("c", 5)])
    let config = try mixed.config(from: [])
    #expect(config["r"]?.asInt == 5 && config["lora_alpha"]?.asInt == 5)
    #expect(config["rank_pattern"]?.asObject?.keys == ["b.a.q", "a.q", "q"])
    #expect(config["alpha_pattern"] == config["rank_pattern"])
    let settings = try AdapterSettings(config, origin: "c", compile: ProvidedModel.namePattern)
    for (name, rank) in [("q", 2), ("a.q", 3), ("b.a.q", 2), ("c", 5)] {
      #expect(settings.rank(of: name) == rank)
      #expect(try settings.scale(of: name) == 1)
    }
    #expect(throws: IngotError.self) { try layout([("q(", 2), ("c", 5)]).config(from: []) }
    _ = try layout([("q(", 5), ("c", 5)]).config(from: [])
    let two = layout([("m.0.q", 2), ("m.0.k", 2)])
    #expect(try targets(two, #"{"target_modules": ["q"]}"#, #"{"target_modules": ["k", "q"]}"#) == ["k", "q"])
    #expect(try targets(two, #"{"target_modules": ["q"]}"#) == ["m.0.q", "m.0.k"])
    #expect(try targets(two, #"{"target_modules": "all-linear"}"#) == ["m.0.q", "m.0.k"])
    #expect(try targets(two, #"{"target_modules": ["q", "k"], "layers_to_transform": [0]}"#) == ["m.0.q", "m.0.k"])
  }

  /// Names, shapes and settings at random: an error, or figures of every module.
  @Test func hostileAdapters() throws {
    var random = SplitMix(11)
    let names = [
      "m.lora_A.weight", "m.lora_B.weight", "m.lora_A.default.weight", "m.lora_B.bias", "m.lora_magnitude_vector", "e.lora_embedding_A",
      "e.lora_embedding_B", "n.weight", "n.modules_to_save.default.weight", "m.base_layer.weight", "lora_A", "", ".", "x.lora_A.weight",
    ]
    let settings = [
      "", #", "use_dora": true"#, #", "rank_pattern": {"m": 2}"#, #", "rank_pattern": {"": 3, "\\": 1}"#,
      #", "alpha_pattern": {"m": 1e308}, "rank_pattern": {"^m$": 9223372036854775807}"#, #", "r": 0"#, #", "use_rslora": true"#,
    ]
    let engine = try Engine(EngineOptions())
    let scratch = try Scratch()
    var options = AdapterOutputOptions()
    options.force = true
    options.sync = .none
    var count = 0
    for _ in 0..<1000 {
      var tensors: [(String, [Int])] = []
      for name in names where Int.random(in: 0..<5, using: &random) == 0 {
        let shapes = [[3, 4], [6, 3], [3, 6], [4, 3], [6], [4, 6], [0, 4], [3], [], [3, 0], [0, 3], [2, 3, 1]]
        tensors.append(("base_model.model." + name, shapes.randomElement(using: &random) ?? []))
      }
      if Bool.random(using: &random) {
        tensors = pair("m", outputs: 6, inputs: 4) + tensors.filter { !$0.0.hasPrefix("base_model.model.m.lora") }
      }
      let config = #"{"peft_type": "LORA", "r": 3, "lora_alpha": 6"# + (settings.randomElement(using: &random) ?? "") + "}"
      guard let opened = try? adapter(tensors, config) else { continue }
      let found = try? opened.inspection(spectrum: Bool.random(using: &random))
      if let found { #expect(found.modules.count == opened.contents.modules.count) }
      var request = AdapterMergeRequest(adapters: [opened, opened], weights: [1, 2], method: "svd")
      request.wholeTensors = AdapterMergeRequest.WholeTensors.allCases.randomElement(using: &random) ?? .omit
      if count < 20, (try? engine.merge(request, to: scratch("OUT"), options: options)) != nil { count += 1 }
    }
    #expect(count == 20)
  }
}
