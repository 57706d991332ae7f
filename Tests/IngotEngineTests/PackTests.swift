import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

extension Scratch {
  /// Packs models of this directory into PACK.
  @discardableResult
  func pack(
    _ method: String, _ models: [String], _ parameters: [String: String] = [:], to name: String = "PACK", options: EngineOptions = .init(),
    force: Bool = false
  ) throws -> PackSummary {
    let plan = try PackPlan.make(
      method: method, base: self("base"), models: models.map { self($0) }, parameters: parameters.map { (name: $0.key, value: $0.value) },
      provider: LocalModels(environment: [:]))
    var choice = PackOptions()
    choice.sync = .none
    choice.force = force
    return try Engine(options).pack(plan, to: self(name), options: choice)
  }

  /// The model base+PACK#task.
  func packed(_ task: String? = nil, base: String = "base", name: String = "PACK") throws -> ProvidedModel {
    try LocalModels(environment: [:]).open(named: self(base) + "+" + self(name) + (task.map { "#" + $0 } ?? ""))
  }

  func deltas(_ task: String? = nil, withBase: Bool = false, name: String = "PACK") throws -> ProvidedModel {
    let base = try LocalModels(environment: [:]).open(named: self("base"))
    return try LocalModels.openPack(at: self(name)).packedDeltas(task: task, base: withBase ? (base, "base") : nil)
  }

  /// Values of a stored part of PACK.
  func part(_ name: String, of pack: String = "PACK") throws -> [UInt8] { try LocalModels.openPack(at: self(pack)).bytes(name) }
}

extension ProvidedModel {
  func floats(_ name: String) throws -> [Float] {
    let bytes = try bytes(name)
    return stride(from: 0, to: bytes.count, by: 4).map { start in
      Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[start + $1]) << (8 * UInt32($1)) })
    }
  }
}

/// The numbers that the papers' own code gives for the shared small example.
@Suite("Golden packs")
struct GoldenPackTests {
  static let name = "model.layers.0.mlp.up_proj.weight"
  static let base = [1, -2, 0.5, 0, 3, -1]
  static let models: [(String, [Double])] = [
    ("A", [1.5, -2.25, 0.125, 0.4375, 3.0625, -0.25]), ("B", [0.8125, -1, 0.625, 0.3125, 2.375, -1.25]),
    ("C", [1.25, -2.125, 0.9375, -0.5, 3.1875, -1.0625]),
  ]
  private let scratch: Scratch
  private let expected: [String: Any]

  init() throws {
    scratch = try Scratch()
    expected = try #require(try golden("elementwise.json") as? [String: Any])
    for (model, values) in [("base", Self.base)] + Self.models { try scratch.model(model, [TestTensor(Self.name, .bf16, [2, 3], values)]) }
  }

  private func numbers(_ key: String) throws -> [Double] { try #require(expected[key] as? [Double]) }

  private func check(_ found: [Float], _ wanted: [Double]) {
    #expect(found.count == wanted.count)
    for (x, y) in zip(found, wanted) { #expect(abs(Double(x) - y) <= 2e-6 * max(1, abs(y)), "\(found) \(wanted)") }
  }

  @Test func compeft() throws {
    let summary = try scratch.pack("compeft", ["A"], ["density": "0.5"])
    check(try scratch.deltas().floats(Self.name), try numbers("compeft_tau"))
    #expect(summary.tasks.first?.kept == 3)
    let positions = try scratch.deltas().floats(Self.name).indices.filter { try scratch.deltas().floats(Self.name)[$0] != 0 }
    #expect(positions.map(Double.init) == (try numbers("compeft_positions")))
    check(try scratch.packed().floats(Self.name), zip(Self.base, try numbers("compeft_tau")).map { $0 + $1 })
    // α scales the one magnitude.
    try scratch.pack("compeft", ["A"], ["density": "0.5", "alpha": "3"], to: "TRIPLE")
    check(try scratch.deltas(name: "TRIPLE").floats(Self.name), try numbers("compeft_tau").map { 3 * $0 })
  }

  @Test func bitdelta() throws {
    try scratch.pack("bitdelta", ["A"])
    check(try scratch.packed().floats(Self.name), try numbers("bitdelta_model"))
    let bits = try numbers("bitdelta_bits").enumerated().reduce(UInt8(0)) { $1.element == 1 ? $0 | 0x80 >> UInt8($1.offset) : $0 }
    #expect(try scratch.part("bits/" + Self.name) == [bits])
    check(try LocalModels.openPack(at: scratch("PACK")).floats("scales"), try numbers("bitdelta_alpha"))
  }

  @Test(arguments: ["0.2", "0.4", "0.6"]) func tall(_ lambda: String) throws {
    try scratch.pack("tall", ["A", "B", "C"], ["lambda": lambda])
    let merged = try numbers("tall_mtl")
    check(try LocalModels.openPack(at: scratch("PACK")).floats("vector/" + Self.name), merged)
    let masks = try #require(expected["tall_mask_" + lambda] as? [[Double]])
    for (task, mask) in masks.enumerated() {
      check(try scratch.deltas("\(task)").floats(Self.name), zip(mask, merged).map { $0 * $1 })
    }
    if lambda == "0.4" {
      check(try scratch.packed("A").floats(Self.name), try numbers("tall_recon_A_.4"))
      #expect(try scratch.part("bits/" + Self.name).first.map(Double.init) == numbers("tall_packbits_A").first)
    }
  }

  @Test func tallWithOneThresholdPerModel() throws {
    try scratch.pack("tall", ["A", "B", "C"], ["lambda": "0.4,0.2,0.6"])
    let merged = try numbers("tall_mtl")
    for (task, lambda) in ["0.4", "0.2", "0.6"].enumerated() {
      let mask = try #require((expected["tall_mask_" + lambda] as? [[Double]])?[task])
      check(try scratch.deltas("\(task)").floats(Self.name), zip(mask, merged).map { $0 * $1 })
    }
  }

  @Test func emr() throws {
    try scratch.pack("emr", ["A", "B", "C"])
    let opened = try LocalModels.openPack(at: scratch("PACK"))
    check(try opened.floats("vector/" + Self.name), try numbers("emr_unified"))
    check(try opened.floats("scales"), try numbers("emr_rescale"))
    check(try scratch.packed("A").floats(Self.name), try numbers("emr_model_A"))
    let masks = try #require(expected["emr_masks"] as? [[Double]])
    for (task, mask) in masks.enumerated() {
      let found = try scratch.deltas("\(task)").floats(Self.name)
      #expect(zip(found, mask).allSatisfy { ($0 != 0) == ($1 == 1) })
    }
  }

  @Test func emrOverMeansOfTensors() throws {
    for (model, values) in [("base", Self.base)] + Self.models {
      try scratch.model(
        model, [TestTensor("one", .bf16, [2], Array(values[0..<2])), TestTensor("two", .bf16, [4], Array(values[2..<6]))])
    }
    try scratch.pack("emr", ["A", "B", "C"], ["scope": "tensor_means"])
    check(try LocalModels.openPack(at: scratch("PACK")).floats("scales"), try numbers("emr_rescale_mean_of_tensors"))
  }
}

/// A base and three fine-tuned models of several tensors: one of several blocks and a ragged end, small ones, mixed types, an integer one.
private enum Family {
  static let models: [(name: String, tensors: [TestTensor])] = {
    var random = SplitMix(21)
    let shapes: [(String, [Int], [DType])] = [
      ("model.layers.0.mlp.up_proj.weight", [151, 467], [.bf16, .bf16, .bf16, .bf16]),
      ("model.layers.0.self_attn.q_proj.weight", [41, 53], [.f32, .bf16, .f32, .f16]),
      ("model.layers.0.norm.weight", [37], [.f16, .f16, .f32, .bf16]), ("model.cube.mlp", [3, 5, 7], [.f32, .f32, .f32, .f32]),
      ("model.empty", [0, 4], [.f32, .f32, .f32, .f32]),
    ]
    var models: [(name: String, tensors: [TestTensor])] = ["base", "A", "B", "C"].map { ($0, []) }
    for (name, shape, dtypes) in shapes {
      let count = shape.reduce(1, *)
      let base = (0..<count).map { _ in random.normal() }
      for model in models.indices {
        let tensor = TestTensor(name, dtypes[model], shape)
        for index in 0..<count {
          // Some elements do not change, and one base is −0.
          let delta = model == 0 || index % 7 == model ? 0 : random.normal() / 64
          tensor.set(index, index == 1 ? (model == 1 ? 0.25 : -0.0) : base[index] + delta)
        }
        models[model].tensors.append(tensor)
      }
    }
    for model in models.indices { models[model].tensors.append(TestTensor("model.ids", .i64, [3], [1, 2, 3])) }
    return models
  }()

  static func write(to scratch: Scratch) throws { for (name, tensors) in models { try scratch.model(name, tensors) } }

  static var packed: [TestTensor] { models[0].tensors.filter { $0.dtype != .i64 } }

  /// θ and τ in f32.
  static func base(_ tensor: Int) -> [Float] { models[0].tensors[tensor].values.map { Float($0) } }
  static func delta(_ model: Int, _ tensor: Int) -> [Float] {
    zip(models[model].tensors[tensor].values, base(tensor)).map { Float($0) - $1 }
  }
}

/// What unpacks is what the papers' formulas give in f32, element by element and bit by bit.
@Suite("Packs against plain references")
struct PackReferenceTests {
  private let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    try Family.write(to: scratch)
  }

  /// The deltas and the model of one task; a delta of 0 leaves the base's bits.
  private func check(_ task: String?, withBase: Bool = false, ranges: Bool = false, _ reference: (_ tensor: Int) throws -> [Float]) throws {
    let (deltas, model) = (try scratch.deltas(task, withBase: withBase), try scratch.packed(task))
    for (index, tensor) in Family.packed.enumerated() {
      let wanted = try reference(index)
      let found = try deltas.floats(tensor.name)
      #expect(found.map(\.bitPattern) == wanted.map(\.bitPattern), "\(tensor.name)")
      if try form(of: tensor.name) != .whole {
        let applied = zip(Family.base(index), wanted).map { $1 == 0 ? $0 : $0 + $1 }
        #expect(try model.floats(tensor.name).map(\.bitPattern) == applied.map(\.bitPattern), "\(tensor.name)")
      }
      if ranges, tensor.count > 0 {
        try deltas.checkRanges(tensor.name, width: 4, seed: 3)
        if model.checkpoint[tensor.name]?.dtype == .f32 { try model.checkRanges(tensor.name, width: 4, seed: 4) }
      }
    }
    #expect(model.checkpoint["model.ids"]?.dtype == .i64)
    #expect(deltas.checkpoint.tensors.count == Family.packed.count)
  }

  /// ‖τ − unpacked‖ / ‖τ‖ from the elements.
  private func error(_ model: Int, _ task: String?) throws -> Double {
    let deltas = try scratch.deltas(task, withBase: true)
    var (error, norm) = (0.0, 0.0)
    for (index, tensor) in Family.packed.enumerated() {
      for (x, y) in zip(Family.delta(model, index), try deltas.floats(tensor.name)) {
        error += Double(x - y) * Double(x - y)
        norm += Double(x) * Double(x)
      }
    }
    return (error / norm).squareRoot()
  }

  private func scales() throws -> [Float] { try LocalModels.openPack(at: scratch("PACK")).floats("scales") }

  private func description() throws -> DeltaPack { try DeltaPack(try LocalModels.openPack(at: scratch("PACK")).checkpoint) }
  private func form(of name: String) throws -> DeltaPack.Form? { try description().tensors.first { $0.name == name }?.form }

  @Test(arguments: ["0.001", "0.1", "0.5", "1"]) func compeft(_ density: String) throws {
    let summary = try scratch.pack("compeft", ["A"], ["density": density, "alpha": "2"])
    // All elements with their keys; every tensor begins at a multiple of a block.
    var keys: [UInt64] = []
    var bases: [Int: UInt64] = [:]
    var next: UInt64 = 0
    var values: [Double] = []
    for stored in try description().tensors {
      let index = try #require(Family.packed.firstIndex { $0.name == stored.name })
      let tensor = Family.packed[index]
      bases[index] = next
      for (place, value) in Family.delta(1, index).enumerated() {
        keys.append(Kernels.key(value, index: next + UInt64(place), ties: .hash))
        values.append(Double(value))
      }
      next += UInt64((tensor.count + 65_535) / 65_536 * 65_536)
    }
    let keep = Int(try #require(Double(density)) * Double(keys.count))
    let threshold = keep == keys.count ? 0 : keys.sorted(by: >)[keep - 1]
    let mean = values.reduce(0, +) / Double(values.count)
    let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count - 1)
    let magnitude = try #require(try scales().first)
    #expect(abs(Double(magnitude) / (2 * variance.squareRoot()) - 1) < 1e-6)
    var kept = 0
    try check(nil, ranges: density == "0.1") { index in
      Family.delta(1, index).enumerated().map { place, value in
        guard Kernels.key(value, index: (bases[index] ?? 0) + UInt64(place), ties: .hash) >= threshold, value != 0 else { return 0 }
        kept += 1
        return value > 0 ? magnitude : -magnitude
      }
    }
    let task = try #require(summary.tasks.first)
    #expect(task.kept == kept && kept <= keep)
    #expect(abs(task.error - (try error(1, nil))) < 1e-6)
  }

  @Test(arguments: ["blocks", "all"]) func bitdelta(_ layers: String) throws {
    let summary = try scratch.pack("bitdelta", ["A"], ["layers": layers])
    let (alphas, stored) = (try scales(), try description().tensors)
    // By its name the empty tensor is in no block.
    #expect(alphas.count == (layers == "all" ? 4 : 3))
    try check(nil, withBase: true, ranges: layers == "all") { index in
      let values = Family.delta(1, index)
      guard let place = stored.first(where: { $0.name == Family.packed[index].name })?.scaleIndex else { return values }
      let alpha = alphas[place]
      let mean = values.reduce(0) { $0 + Double(abs($1)) } / Double(max(values.count, 1))
      #expect(abs(Double(alpha) - mean) <= 1e-6 * mean)
      return values.map { $0 >= 0 ? alpha : -alpha }
    }
    #expect(abs((try #require(summary.tasks.first)).error - (try error(1, nil))) < 1e-6)
    let deltas = #expect(throws: IngotError.self) { try scratch.deltas() }
    #expect(deltas?.hint?.contains("--base") == true)
    // Whole tensors keep their type and bytes.
    let norm = Family.models[1].tensors[2]
    #expect(try scratch.packed().checkpoint[norm.name]?.dtype == norm.dtype)
    #expect(try scratch.part("whole/" + norm.name) == norm.data)
  }

  /// One half of the blocks as signs, the other whole: what 1bit-Merging stores.
  @Test(arguments: [
    ("attention", ["q_proj", "attention.output"]), ("mlp", ["up_proj", "intermediate"]),
    ("all", ["q_proj", "attention.output", "up_proj", "intermediate", "embed"]),
  ])
  func layersOfOneKind(_ layers: String, _ packed: [String]) throws {
    let scratch = try Scratch()
    let names = [
      "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight",
      "bert.layer.0.attention.output.dense.weight", "bert.layer.0.intermediate.dense.weight", "model.layers.0.mlp.bias",
    ]
    func tensors(_ value: Double) -> [TestTensor] {
      names.map { TestTensor($0, .f32, $0.hasSuffix("bias") ? [4] : [2, 2], [value, 2 * value, -value, 0]) }
    }
    try scratch.model("base", tensors(0))
    try scratch.model("A", tensors(1))
    try scratch.pack("bitdelta", ["A"], ["layers": layers])
    let pack = try LocalModels.openPack(at: scratch("PACK"))
    let signs = pack.checkpoint.tensors.map(\.name).filter { $0.hasPrefix("bits/") }
    #expect(signs.count == packed.count && packed.allSatisfy { part in signs.contains { $0.contains(part) } }, "\(signs)")
    for name in names {
      let expected: [Float] = signs.contains("bits/" + name) ? [1, 1, -1, 1] : [1, 2, -1, 0]
      #expect(try scratch.packed().floats(name) == expected, "\(name)")
    }
  }

  @Test(arguments: [DType.f32, .bf16, .f16]) func tall(_ dtype: DType) throws {
    let name = try #require(dtype.torchName)
    let summary = try scratch.pack("tall", ["A", "B", "C"], ["lambda": "0.3,0.4,0.6", "vector_dtype": name])
    for (task, lambda) in [Float(0.3), 0.4, 0.6].enumerated() {
      try check(summary.tasks[task].name, ranges: dtype == .bf16 && task == 2) { index in
        let all = (1...3).map { Family.delta($0, index) }
        return all[task].indices.map { place in
          let sum = all[0][place] + all[1][place] + all[2][place]
          let own = all[task][place]
          return abs(own) > lambda * abs(sum - own) ? rounded(sum, dtype) : 0
        }
      }
      #expect(abs(summary.tasks[task].error - (try error(task + 1, "\(task)"))) < 1e-6)
    }
    #expect(summary.tasks.map(\.name) == ["A", "B", "C"])
  }

  @Test(arguments: ["model", "tensor_means"], [DType.f32, .bf16]) func emr(_ scope: String, _ dtype: DType) throws {
    let summary = try scratch.pack("emr", ["C", "A", "B"], ["scope": scope, "vector_dtype": try #require(dtype.torchName)])
    let order = [3, 1, 2]
    let factors = try scales()
    for (task, model) in order.enumerated() {
      var (all, kept) = (0.0, 0.0)
      try check("\(task)") { index in
        let values = order.map { Family.delta($0, index) }
        var (own, common) = (0.0, 0.0)
        let result = values[task].indices.map { place in
          let column = values.map { $0[place] }
          let isPositive = column[0] + column[1] + column[2] > 0
          let largest = column.filter { isPositive ? $0 > 0 : $0 < 0 }.map(\.magnitude).max() ?? 0
          let united = rounded(isPositive ? largest : -largest, dtype)
          own += Double(column[task].magnitude)
          guard isPositive ? column[task] > 0 : column[task] < 0 else { return Float(0) }
          common += Double(united.magnitude)
          return factors[task] * united
        }
        let weight = scope == "model" ? 1 : 1 / Double(max(values[task].count, 1))
        all += own * weight
        kept += common * weight
        return result
      }
      #expect(abs(Double(factors[task]) / (all / kept) - 1) < 1e-6)
      #expect(abs(summary.tasks[task].error - (try error(model, "\(task)"))) < 1e-6)
    }
  }

  private func rounded(_ value: Float, _ dtype: DType) -> Float {
    switch dtype {
    case .bf16: Float(bitPattern: UInt32(bfloat16(value)) << 16)
    case .f16: Float(Float16(value))
    default: value
    }
  }
}

/// Sizes, ways of use, and what packs depend on.
@Suite("Packs")
struct PackTests {
  private static let kinds: [(method: String, models: [String], parameters: [String: String])] = [
    ("compeft", ["A"], ["density": "0.13"]), ("bitdelta", ["A"], [:]), ("tall", ["A", "B", "C"], [:]), ("emr", ["A", "B", "C"], [:]),
  ]

  @Test(arguments: 0..<4) func bytesDependOnNothingElse(_ kind: Int) throws {
    let scratch = try Scratch()
    try Family.write(to: scratch)
    let item = Self.kinds[kind]
    var expected: [UInt8]?
    for (number, set) in InstructionSet.available.enumerated() {
      for threads in [1, 3] {
        var options = EngineOptions()
        options.threads = threads
        options.instructionSet = set.name
        // Room for one worker, or for all.
        options.memoryBudget = (number + threads) % 2 == 0 ? 4 << 20 : 64 << 20
        try scratch.pack(item.method, item.models, item.parameters, options: options, force: true)
        let found = try #require(scratch.read("PACK/" + DeltaPack.fileName))
        if let expected { #expect(found == expected, "\(set) \(threads)") } else { expected = found }
      }
    }
    #expect(!scratch.exists("PACK.partial"))
  }

  /// Enough elements for several items of one tensor, and for a threshold that is searched from a sample.
  @Test(arguments: ["compeft", "emr"]) func threadsShareATensor(_ method: String) throws {
    let scratch = try Scratch()
    var random = SplitMix(5)
    let (base, model) = (TestTensor("w", .f32, [1_300_001]), TestTensor("w", .bf16, [1_300_001]))
    for index in 0..<model.count { model.set(index, Double(Int64(bitPattern: random.next()) >> 20) * 0x1p-43) }
    try scratch.model("base", [base])
    try scratch.model("A", [model])
    var options = EngineOptions()
    options.threads = 1
    try scratch.pack(method, ["A"], options: options)
    options.threads = 3
    options.team = .pthread
    try scratch.pack(method, ["A"], to: "OTHER", options: options)
    let (one, other) = (scratch.read("PACK/" + DeltaPack.fileName), scratch.read("OTHER/" + DeltaPack.fileName))
    let isSame = one == other
    #expect(isSame && one != nil)
  }

  @Test func sizes() throws {
    let scratch = try Scratch()
    var random = SplitMix(77)
    let count = 1 << 20
    let (base, model) = (TestTensor("model.layers.0.mlp.w", .f32, [1024, 1024]), TestTensor("model.layers.0.mlp.w", .f32, [1024, 1024]))
    for index in 0..<count { model.set(index, random.normal()) }
    try scratch.model("base", [base])
    try scratch.model("A", [model])
    try scratch.model("more/A", [model])
    let golomb: [(String, Double, Double)] = [("0.05", 0.3364, 0.3393), ("0.1", 0.5690, 0.5756), ("0.2", 0.9219, 0.9388)]
    for (density, entropy, bound) in golomb {
      let summary = try scratch.pack("compeft", ["A"], ["density": density], force: true)
      let bits = 8 * Double(summary.codedBytesPerTask) / Double(count)
      #expect(bits <= 1.05 * bound && bits >= entropy, "\(density): \(bits)")
      #expect(Double(summary.byteCount) <= 1.05 * bound * Double(count) / 8)
    }
    let signs = try scratch.pack("bitdelta", ["A"], to: "SIGNS")
    #expect(Double(signs.byteCount) <= 1.02 * Double(count) / 8)
    for method in ["tall", "emr"] {
      let masks = try scratch.pack(method, ["A", "more/A"], to: method)
      #expect(Double(masks.codedBytesPerTask) <= 1.02 * Double(count) / 8)
      #expect(Double(masks.byteCount) <= 4 * Double(count) + 2 * 1.02 * Double(count) / 8 + 4096)
    }
    // A pack of one model with its own masks has all of it.
    #expect(try PackSummary(path: scratch("tall")).tasks.map(\.name) == ["A", "A-2"])
  }

  @Test func inRecipes() throws {
    let scratch = try Scratch()
    try Family.write(to: scratch)
    try scratch.pack("emr", ["A", "B", "C"])
    // The model itself, as its base's types; in a merge its values are not rounded first.
    try scratch.merge("merge_method: passthrough\nmodels: [{model: \"@base+@PACK#B\"}]\n", to: "APPLIED")
    let applied = try scratch.tensors("APPLIED")
    let model = try scratch.packed("B")
    for (index, tensor) in Family.packed.enumerated() {
      let found = try #require(applied[tensor.name])
      #expect(found.dtype == tensor.dtype)
      let wanted = TestTensor(tensor.name, tensor.dtype, tensor.shape, try model.floats(tensor.name).map(Double.init))
      #expect(found.hasBytes(of: wanted), "\(index)")
    }
    let recipe =
      "merge_method: ties\nbase_model: @base\nmodels: [{model: NAME1}, {model: NAME2}]\nparameters: {weight: 1, density: 0.5}\ndtype: float32\n"
    try scratch.merge(
      recipe.replacing("NAME1", with: "\"@base+@PACK#0\"").replacing("NAME2", with: "{model: @base, lora: {path: @PACK, task: B}}"))
    for (task, name) in [("A", "ONE"), ("B", "TWO")] {
      try scratch.merge("merge_method: passthrough\nmodels: [{model: \"@base+@PACK#\(task)\"}]\ndtype: float32\n", to: name)
    }
    try scratch.merge(recipe.replacing("NAME1", with: "@ONE").replacing("NAME2", with: "@TWO"), to: "STORED")
    let (found, stored) = (try scratch.tensors(), try scratch.tensors("STORED"))
    for tensor in Family.packed { #expect(try #require(found[tensor.name]).hasBytes(of: stored[tensor.name]), "\(tensor.name)") }
    let record = try #require(scratch.text("OUT/ingot.json"))
    #expect(record.contains("\"task\": \"A\"") && record.contains("\"task\": \"B\""))
  }

  @Test func reproduced() throws {
    let scratch = try Scratch()
    try Family.write(to: scratch)
    try scratch.pack("tall", ["A", "B"])
    try scratch.merge("merge_method: passthrough\nmodels: [{model: \"@base+@PACK#B\"}]\n")
    let reproduction = try Engine().reproduce(scratch("OUT"))
    #expect(reproduction.differences.isEmpty)
  }

  @Test func shardingKeepsTheIdentity() throws {
    let scratch = try Scratch()
    try Family.write(to: scratch)
    try scratch.pack("bitdelta", ["A"])
    try scratch.model("sharded", Family.models[0].tensors, shards: 3)
    #expect(try scratch.packed(base: "sharded").floats("model.cube.mlp") == scratch.packed().floats("model.cube.mlp"))
  }

  @Test func equalModels() throws {
    let scratch = try Scratch()
    try Family.write(to: scratch)
    for name in ["A", "B", "C"] { try scratch.model(name, Family.models[0].tensors) }
    for item in Self.kinds {
      let summary = try scratch.pack(item.method, item.models, item.parameters, force: true)
      #expect(summary.tasks.allSatisfy { $0.error == 0 })
      // BitDelta's zeros count as plus, times a mean of 0.
      for tensor in Family.packed {
        let deltas = try scratch.deltas("0", withBase: true).floats(tensor.name)
        #expect(deltas.allSatisfy { $0 == 0 })
      }
    }
  }
}
