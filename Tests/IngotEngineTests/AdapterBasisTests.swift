import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Adapters as a basis and coefficients, and back.
@Suite struct AdapterBasisTests {
  private static let models = LocalModels(environment: [:])
  private static let modules = [("m.0.q_proj", 12, 9), ("m.1.q_proj", 7, 11)]

  private func adapter(
    _ name: String, _ seed: UInt64, in scratch: Scratch, rank: Int = 3, more: String = "", extra: [TestTensor] = [],
    modules: [(String, Int, Int)] = AdapterBasisTests.modules
  ) throws {
    var random = SplitMix(seed)
    var tensors: [TestTensor] = []
    for (module, outputs, inputs) in modules {
      for (part, shape) in [("lora_A", [rank, inputs]), ("lora_B", [outputs, rank])] {
        let values = (0..<shape[0] * shape[1]).map { _ in random.normal() }
        tensors.append(TestTensor("base_model.model.\(module).\(part).weight", .f32, shape, values))
      }
    }
    try scratch.model(name, tensors + extra)
    try scratch.write(name + "/adapter_model.safetensors", try #require(scratch.read(name + "/model.safetensors")))
    try scratch.remove(name + "/model.safetensors")
    let config = #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": 6, "target_modules": ["q_proj"]\#(more)}"#
    try scratch.write(name + "/adapter_config.json", config.utf8)
  }

  private func arrange() throws -> Scratch {
    let scratch = try Scratch()
    for (number, name) in ["a", "b", "c"].enumerated() { try adapter(name, UInt64(number) + 3, in: scratch, rank: number == 2 ? 2 : 3) }
    return scratch
  }

  private func request(_ names: [String], _ components: Int, in scratch: Scratch) throws -> AdapterBasisRequest {
    var opened: [OpenedAdapter] = []
    for name in names { opened.append(try Self.models.openAdapter(named: scratch(name))) }
    var request = AdapterBasisRequest(adapters: opened, components: components)
    request.names = names
    return request
  }

  private func quick(force: Bool = false) -> AdapterOutputOptions {
    var options = AdapterOutputOptions()
    options.sync = OutputRequest.Sync.none
    options.force = force
    return options
  }

  /// scale · B A of every module.
  private func changes(_ name: String, in scratch: Scratch, scale: Double) throws -> [String: [Double]] {
    try scratch.write(name + "/model.safetensors", try #require(scratch.read(name + "/adapter_model.safetensors")))
    let tensors = try scratch.tensors(name)
    try scratch.remove(name + "/model.safetensors")
    var found: [String: [Double]] = [:]
    for (module, outputs, inputs) in Self.modules {
      let a = try #require(tensors["base_model.model.\(module).lora_A.weight"])
      let b = try #require(tensors["base_model.model.\(module).lora_B.weight"])
      let rank = a.shape[0]
      var values: [Double] = []
      for index in 0..<outputs * inputs {
        var sum = 0.0
        for unit in 0..<rank { sum += b.value(index / inputs * rank + unit) * a.value(unit * inputs + index % inputs) }
        values.append(scale * sum)
      }
      found[module] = values
    }
    return found
  }

  private func distance(_ x: [String: [Double]], _ y: [String: [Double]]) -> Double {
    var (apart, whole) = (0.0, 0.0)
    for (name, values) in x {
      for (a, b) in zip(values, y[name] ?? []) { (apart, whole) = (apart + (a - b) * (a - b), whole + a * a) }
    }
    return (apart / whole).squareRoot()
  }

  @Test(arguments: ReversibleBasis.Granularity.allCases, [true, false]) func everyAdapterComesBack(
    _ granularity: ReversibleBasis.Granularity, _ isBalanced: Bool
  ) throws {
    let scratch = try arrange()
    let engine = try Engine()
    var errors: [Double] = []
    for components in 0...3 {
      var wanted = try request(["a", "b", "c"], components, in: scratch)
      wanted.granularity = granularity
      wanted.isBalanced = isBalanced
      let report = try engine.basis(of: wanted, to: scratch("basis"), options: quick(force: true))
      #expect(
        report.modules.count == 2 && report.models == ["a", "b", "c"] && report.modules.allSatisfy { $0.components == min(components, 2) })
      let verification = try Verification(directory: scratch("basis"))
      #expect(verification.differences.isEmpty && verification.tensors > 0)
      var largest = 0.0
      for (number, name) in ["a", "b", "c"].enumerated() {
        // By name and by number.
        let back = try engine.restore(
          components == 1 ? "\(number + 1)" : name, ofBasis: scratch("basis"), to: scratch("back"), models: Self.models,
          options: quick(force: true))
        #expect(back.modules.map(\.rank) == [3, 3])
        // alpha / rank of the stored ones, 1 of what was made.
        let stored = try changes(name, in: scratch, scale: name == "c" ? 3 : 2)
        largest = max(largest, distance(stored, try changes("back", in: scratch, scale: 1)))
      }
      errors.append(largest)
      #expect(report.modules.allSatisfy { components < 2 ? $0.error > 0.01 && $0.error <= 1 : $0.error < 1e-9 })
    }
    // The mean alone is far off; two directions of three models are all there is.
    #expect(errors[0] > 0.1 && errors[2] < 1e-5 && errors[3] < 1e-5, "\(errors)")
    #expect(errors[1] < errors[0] * 1.5)
  }

  @Test func storageIsThatOfTheFormula() throws {
    let scratch = try Scratch()
    for name in ["a", "b", "c", "d"] { try adapter(name, UInt64(name.utf8.first ?? 0), in: scratch, rank: 3) }
    let report = try Engine().basis(of: try request(["a", "b", "c", "d"], 1, in: scratch), to: scratch("basis"), options: quick())
    // (p (ρ + n) + ρ) / (ρ n) for each position.
    #expect(abs(report.storageRatio - (1.0 * (3 + 4) + 3) / (3 * 4)) < 1e-12)
    #expect(report.bytes > 0 && report.json().contains("\"storage_ratio\""))
  }

  @Test func whatIsRefused() throws {
    let scratch = try arrange()
    func refusal(_ names: [String], _ change: (inout AdapterBasisRequest) -> Void = { _ in }) throws -> IngotError? {
      var wanted = try request(names, 1, in: scratch)
      change(&wanted)
      let error = #expect(throws: IngotError.self) { try Engine().basis(of: wanted, to: scratch("basis"), options: quick()) }
      #expect(!scratch.exists("basis") && !scratch.exists("basis.partial"))
      return error
    }
    #expect(try refusal(["a"])?.status == .invalidArgument)
    #expect(try refusal(["a", "b"]) { $0.components = -1 }?.status == .invalidArgument)
    #expect(try refusal(["a", "b"]) { $0.names = ["x", "x"] }?.status == .invalidArgument)
    #expect(try refusal(["a", "b"]) { $0.dtype = .i64 }?.status == .dtype)
    try adapter("whole", 9, in: scratch, extra: [TestTensor("base_model.model.m.norm.weight", .f32, [4])])
    #expect(try refusal(["a", "whole"])?.status == .unsupported)
    try adapter("wide", 9, in: scratch, modules: [("m.0.q_proj", 12, 10)])
    #expect(try refusal(["a", "wide"])?.status == .shape)
    try adapter("nan", 9, in: scratch, extra: [])
    var bytes = try #require(scratch.read("nan/adapter_model.safetensors"))
    bytes.replaceSubrange(bytes.count - 4..<bytes.count, with: [0, 0, 0xC0, 0x7F])
    try scratch.write("nan/adapter_model.safetensors", bytes)
    #expect(try refusal(["a", "nan"])?.status == .nonFinite)
    var options = EngineOptions()
    options.memoryBudget = 1 << 20
    let large = [("m.0.q_proj", 9000, 9)]
    for name in ["x", "y"] { try adapter(name, 5, in: scratch, modules: large) }
    let wanted = try request(["x", "y"], 1, in: scratch)
    let small = #expect(throws: IngotError.self) { try Engine(options).basis(of: wanted, to: scratch("basis"), options: quick()) }
    #expect(small?.status == .memory && small?.subject == "m.0.q_proj")
  }

  @Test func basesThatAreNone() throws {
    let scratch = try arrange()
    let engine = try Engine()
    _ = try engine.basis(of: try request(["a", "b"], 1, in: scratch), to: scratch("basis"), options: quick())
    func refusal(_ model: String = "a", _ place: String = "basis") -> IngotError? {
      let error = #expect(throws: IngotError.self) {
        try engine.restore(model, ofBasis: scratch(place), to: scratch("back"), models: Self.models, options: quick())
      }
      #expect(!scratch.exists("back") && !scratch.exists("back.partial"))
      return error
    }
    #expect(refusal("a", "nowhere")?.status == .notFound)
    for model in ["c", "0", "3", "-1", ""] { #expect(refusal(model)?.status == .invalidArgument, "\(model)") }
    let text = try #require(scratch.text("basis/adapter_basis.json"))
    for (old, new) in [
      ("\"schema\": 1", "\"schema\": 2"), ("\"position\"", "\"none\""), ("\"position\"", "\"module\""), ("\"rank\": 3", "\"rank\": 4"),
      ("\"rank\": 3", "\"rank\": -3"), ("\"rank\": 3", "\"rank\": 4611686018427387904"), ("\"components\": 1", "\"components\": 2"),
      ("\"components\": 1", "\"components\": -1"), ("\"outputs\": 12", "\"outputs\": 0"), ("\"models\"", "\"other\""), ("{", "["),
      ("m.0.q_proj", "m.9.q_proj"), ("\"input_shape\"", "\"input\""),
    ] {
      let changed = text.replacingOccurrences(of: old, with: new)
      #expect(changed != text, "\(old)")
      try scratch.write("basis/adapter_basis.json", Array(changed.utf8))
      let error = refusal()
      #expect([.format, .unsupported].contains(error?.status), "\(new): \(String(describing: error))")
    }
    try scratch.write("basis/adapter_basis.json", Array(text.utf8))
    var bytes = try #require(scratch.read("basis/adapter_basis.safetensors"))
    bytes.replaceSubrange(bytes.count - 4..<bytes.count, with: [0, 0, 0xC0, 0x7F])
    try scratch.write("basis/adapter_basis.safetensors", bytes)
    // The last value is a coefficient of the second model.
    #expect(refusal("2")?.status == .nonFinite)
    try scratch.write("basis/adapter_basis.safetensors", Array(bytes.dropLast(4)))
    #expect(refusal()?.status == .format)
  }

  @Test func cancelledAndFailedRunsLeaveNothing() throws {
    let scratch = try arrange()
    let wanted = try request(["a", "b", "c"], 1, in: scratch)
    let stopping = unsafe Watcher(listener: { _ in 1 }, unsafe: nil, intervalMilliseconds: 1)
    #expect(throws: IngotError.self) { try Engine().basis(of: wanted, to: scratch("basis"), watcher: stopping) }
    #expect(!scratch.exists("basis") && !scratch.exists("basis.partial"))
    for call in [SystemCall.makeDirectory, .write, .rename] {
      let faults = FaultInjector()
      faults.fail(call, number: 1, with: .error(28))
      var options = quick()
      options.system = System(faults: faults)
      #expect(throws: IngotError.self) { try Engine().basis(of: wanted, to: scratch("basis"), options: options) }
      #expect(!scratch.exists("basis") && !scratch.exists("basis.partial"), "\(call)")
    }
    _ = try Engine().basis(of: wanted, to: scratch("basis"), options: quick())
    let again = #expect(throws: IngotError.self) { try Engine().basis(of: wanted, to: scratch("basis"), options: quick()) }
    #expect(again?.status == .exists)
  }

  // MARK: Packs of few bits

  private func pack(_ name: String, _ bits: String, _ scratch: Scratch, rules: [(String, String)] = []) throws -> AdapterReport {
    var request = AdapterPackRequest(adapter: try Self.models.openAdapter(named: scratch(name)), bits: try ColumnBits(bits))
    request.rules = try rules.map { (try TensorPattern($0.0), try ColumnBits($0.1)) }
    return try Engine().pack(request, to: scratch("pack"), options: quick(force: true))
  }

  @Test func packsComeBack() throws {
    let scratch = try arrange()
    let stored = try changes("a", in: scratch, scale: 2)
    var previous = 0.0
    for bits in ["8", "6", "4", "2"] {
      let report = try pack("a", bits, scratch)
      #expect(try Verification(directory: scratch("pack")).differences.isEmpty)
      let back = try Engine().unpack(adapter: scratch("pack"), to: scratch("back"), models: Self.models, options: quick(force: true))
      #expect(back.modules.map(\.rank) == [3, 3])
      let error = distance(stored, try changes("back", in: scratch, scale: 1))
      #expect(error > previous && error < 0.9, "\(bits): \(error)")
      // The report says so too.
      let reported = report.modules.compactMap(\.error)
      #expect(reported.count == 2 && (reported.min() ?? 0) <= error + 1e-6 && (reported.max() ?? 1) >= error - 1e-6)
      previous = error
    }
    #expect(previous > 0.1)
    let fine = try pack("a", "8", scratch)
    #expect((fine.modules.compactMap(\.error).max() ?? 1) < 0.02)
    // Columns that no group has are left out; a rule decides for its modules.
    let mixed = try pack("a", "8", scratch, rules: [("m.1.*", "8:1")])
    #expect(mixed.modules.map(\.rank) == [3, 1])
    #expect(
      try Engine().unpack(adapter: scratch("pack"), to: scratch("back"), models: Self.models, options: quick(force: true)).modules.map(
        \.rank) == [3, 1])
  }

  @Test func packsCarryWholeTensors() throws {
    let scratch = try arrange()
    let norm = TestTensor("base_model.model.m.norm.weight", .bf16, [4], [1, 2, 3, 4])
    try adapter("whole", 9, in: scratch, more: #", "modules_to_save": ["norm"]"#, extra: [norm])
    #expect(try pack("whole", "4", scratch).wholeTensors == 1)
    _ = try Engine().unpack(
      adapter: scratch("pack"), dtype: "float16", to: scratch("back"), models: Self.models, options: quick(force: true))
    try scratch.write("back/model.safetensors", try #require(scratch.read("back/adapter_model.safetensors")))
    let tensors = try scratch.tensors("back")
    #expect(tensors[norm.name]?.hasBytes(of: norm) == true)
    #expect(tensors["base_model.model.m.0.q_proj.lora_A.weight"]?.dtype == .f16)
  }

  @Test func packsThatAreNone() throws {
    let scratch = try arrange()
    _ = try pack("a", "8:2,4", scratch)
    func refusal(_ place: String = "pack", dtype: String? = nil) -> IngotError? {
      let error = #expect(throws: IngotError.self) {
        try Engine().unpack(adapter: scratch(place), dtype: dtype, to: scratch("back"), models: Self.models, options: quick())
      }
      #expect(!scratch.exists("back") && !scratch.exists("back.partial"))
      return error
    }
    #expect(refusal("nowhere")?.status == .notFound)
    #expect(refusal(dtype: "int8")?.status == .dtype)
    let text = try #require(scratch.text("pack/adapter_pack.json"))
    for (old, new) in [
      ("\"schema\": 1", "\"schema\": 2"), ("\"outputs\": 12", "\"outputs\": 13"), ("\"outputs\": 12", "\"outputs\": -1"),
      ("\"outputs\": 12", "\"outputs\": 4611686018427387904"), ("\"modules\"", "\"other\""), ("\"bits\"", "\"bit\""),
      ("m.0.q_proj", "m.9.q_proj"), ("\"float32\"", "\"int8\""), ("{", "["),
    ] {
      let changed = text.replacingOccurrences(of: old, with: new)
      #expect(changed != text, "\(old)")
      try scratch.write("pack/adapter_pack.json", Array(changed.utf8))
      #expect([.format, .unsupported].contains(refusal()?.status), "\(new)")
    }
    try scratch.write("pack/adapter_pack.json", Array(text.utf8))
    // A scale that is no number.
    var bytes = try #require(scratch.read("pack/adapter_pack.safetensors"))
    var size = 8
    for (place, byte) in bytes.prefix(8).enumerated() { size += Int(byte) << (8 * place) }
    bytes.replaceSubrange(size..<size + 4, with: [0, 0, 0xC0, 0x7F])
    try scratch.write("pack/adapter_pack.safetensors", bytes)
    #expect(refusal()?.status == .nonFinite)
    #expect(throws: IngotError.self) { _ = try pack("nothing", "8", scratch) }
  }
}
