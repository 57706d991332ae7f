import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Bad input: one error that says what, and nothing at the destination.
@Suite("Packs that are refused")
struct PackRefusalTests {
  private static let kinds: [(method: String, models: [String])] = [
    ("compeft", ["A"]), ("bitdelta", ["A"]), ("tall", ["A", "B"]), ("emr", ["A", "B"]),
  ]

  private func tensors(_ seed: UInt64, change: Double) -> [TestTensor] {
    var (common, own) = (SplitMix(1), SplitMix(seed))
    return [("model.layers.0.mlp.weight", [20, 11]), ("model.norm.weight", [13])].map { name, shape in
      let count = shape.reduce(1, *)
      return TestTensor(name, .f32, shape, (0..<count).map { _ in common.normal() + change * own.normal() })
    }
  }

  private func arrange() throws -> Scratch {
    let scratch = try Scratch()
    for (name, seed, change) in [("base", 2, 0.0), ("A", 3, 0.1), ("B", 4, 0.1)] as [(String, UInt64, Double)] {
      try scratch.model(name, tensors(seed, change: change))
    }
    return scratch
  }

  private func expect(
    _ status: Status, _ words: [String], sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void
  ) {
    guard let error = #expect(throws: IngotError.self, sourceLocation: sourceLocation, performing: body) else { return }
    #expect(error.status == status, "\(error)", sourceLocation: sourceLocation)
    let text = [error.message, error.hint ?? "", error.subject ?? ""].joined(separator: "\n")
    for word in words { #expect(text.contains(word), "\(word) in \(error)", sourceLocation: sourceLocation) }
  }

  /// PACK with its header's text changed, as PACK2; the length of the header stays.
  private func rewrite(_ scratch: Scratch, _ old: String, _ new: String) throws {
    let bytes = try #require(scratch.read("PACK/" + DeltaPack.fileName))
    let length = (0..<8).reduce(0) { $0 | Int(bytes[$1]) << (8 * $1) }
    let text = String(decoding: bytes[8..<8 + length], as: UTF8.self)
    #expect(text.contains(old))
    var header = Array(text.replacing(old, with: new).utf8)
    while header.count < length { header.append(0x20) }
    while header.count > length, header.last == 0x20 { header.removeLast() }
    let size = (0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) }
    try scratch.write("PACK2/" + DeltaPack.fileName, size + header + bytes[(8 + length)...])
  }

  @Test func parameters() throws {
    let scratch = try arrange()
    expect(.invalidArgument, ["compfet", "compeft"]) { try scratch.pack("compfet", ["A"]) }
    expect(.invalidArgument, ["densty", "density"]) { try scratch.pack("compeft", ["A"], ["densty": "1"]) }
    for value in ["0", "1.1", "-1", "nan", "x", ""] {
      expect(.invalidArgument, ["density"]) { try scratch.pack("compeft", ["A"], ["density": value]) }
    }
    expect(.invalidArgument, ["twice", "/A"]) { try scratch.pack("emr", ["A", "B", "A"]) }
    expect(.invalidArgument, ["the base is among"]) { try scratch.pack("emr", ["A", "base"]) }
    expect(.invalidArgument, ["2 models", "exactly 1"]) { try scratch.pack("bitdelta", ["A", "B"]) }
    expect(.invalidArgument, ["3 values", "2 models"]) { try scratch.pack("tall", ["A", "B"], ["lambda": "1,2,3"]) }
    expect(.invalidArgument, ["int8", "bfloat16"]) { try scratch.pack("emr", ["A"], ["vector_dtype": "int8"]) }
    expect(.notFound, ["nowhere"]) { try scratch.pack("emr", ["nowhere"]) }
    #expect(!scratch.exists("PACK") && !scratch.exists("PACK.partial"))
  }

  @Test func models() throws {
    let scratch = try arrange()
    try scratch.model("other", [TestTensor("model.layers.0.mlp.weight", .f32, [20, 12]), TestTensor("model.norm.weight", .f32, [13])])
    expect(.shape, ["model.layers.0.mlp.weight"]) { try scratch.pack("compeft", ["other"]) }
    let bad = tensors(5, change: 0.1)
    bad[1].set(3, .nan)
    try scratch.model("bad", bad)
    for (method, _) in Self.kinds { expect(.nonFinite, ["model.norm.weight"]) { try scratch.pack(method, ["bad"]) } }
    let large = tensors(5, change: 0.1)
    large[0].set(3, 1e6)
    try scratch.model("large", large)
    expect(.nonFinite, ["vector_dtype"]) { try scratch.pack("tall", ["large"], ["vector_dtype": "float16"]) }
    #expect(!scratch.exists("PACK") && !scratch.exists("PACK.partial"))
    try scratch.pack("tall", ["A"])
    expect(.exists, ["--force"]) { try scratch.pack("tall", ["A"]) }
    expect(.unsupported, ["delta pack", "BASE+"]) { try scratch.merge("merge_method: passthrough\nmodels: [{model: @PACK}]\n") }
    expect(.unsupported, ["delta pack"]) { try scratch.pack("tall", ["PACK"], to: "AGAIN") }
    // --force replaces a pack, and nothing else.
    try scratch.pack("emr", ["A"], force: true)
    expect(.exists, ["does not look like"]) { try scratch.pack("emr", ["A"], to: "A", force: true) }
  }

  @Test func memory() throws {
    let scratch = try arrange()
    for name in ["C", "D"] { try scratch.model(name, tensors(6, change: 0.1)) }
    var options = EngineOptions()
    options.memoryBudget = 1 << 20
    expect(.memory, ["--memory"]) { try scratch.pack("tall", ["A", "B", "C", "D"], options: options) }
    #expect(!scratch.exists("PACK"))
  }

  @Test func tasks() throws {
    let scratch = try arrange()
    try scratch.pack("emr", ["A", "B"])
    expect(.invalidArgument, ["2 tasks", "A, B"]) { _ = try scratch.packed() }
    expect(.invalidArgument, ["\"C\"", "A, B"]) { _ = try scratch.packed("C") }
    expect(.invalidArgument, ["\"2\""]) { _ = try scratch.packed("2") }
    #expect(try scratch.packed("1").floats("model.norm.weight") == scratch.packed("B").floats("model.norm.weight"))
    try scratch.write("lora/adapter_config.json", "{}".utf8)
    expect(.invalidArgument, ["only packs have tasks"]) { _ = try scratch.packed("B", name: "lora") }
  }

  @Test(arguments: 0..<4) func otherBases(_ kind: Int) throws {
    let scratch = try arrange()
    let item = Self.kinds[kind]
    try scratch.pack(item.method, item.models)
    let pack = try DeltaPack(try LocalModels.openPack(at: scratch("PACK")).checkpoint)
    try scratch.model("another", tensors(9, change: 1))
    for (name, tensor, words) in [
      ("another", nil, ["base base", pack.baseDigest, "another"]), ("lacking", 1, ["model.norm.weight"]),
      ("reshaped", 0, ["[20, 11]", "[11, 20]"]),
    ] as [(String, Int?, [String])] {
      if name == "lacking" { try scratch.model(name, [tensors(2, change: 0)[0]]) }
      if name == "reshaped", let tensor {
        var changed = tensors(2, change: 0)
        changed[tensor] = TestTensor(changed[tensor].name, .f32, [11, 20], changed[tensor].values)
        try scratch.model(name, changed)
      }
      expect(.shape, words) { _ = try scratch.packed("0", base: name) }
      expect(.shape, words.filter { $0 != "another" }) {
        let base = try LocalModels(environment: [:]).open(named: scratch(name))
        _ = try LocalModels.openPack(at: scratch("PACK")).packedDeltas(task: "0", base: (base, name))
      }
      expect(.shape, words) {
        try scratch.merge("merge_method: linear\nmodels: [{model: \"@\(name)+@PACK#0\"}]\nparameters: {weight: 1}\n")
      }
      #expect(!scratch.exists("OUT") && !scratch.exists("OUT.partial"))
    }
  }

  @Test func headers() throws {
    let scratch = try arrange()
    try scratch.pack("emr", ["A", "B"])
    func refuses(_ old: String, _ new: String, _ status: Status, _ words: [String], sourceLocation: SourceLocation = #_sourceLocation)
      throws
    {
      try rewrite(scratch, old, new)
      expect(status, words, sourceLocation: sourceLocation) { _ = try scratch.packed("0", name: "PACK2") }
      expect(status, words, sourceLocation: sourceLocation) { _ = try PackSummary(path: scratch("PACK2")) }
    }
    try refuses("\"version\":\"1\"", "\"version\":\"2\"", .unsupported, ["version", "\"2\"", "expected 1"])
    try refuses("\"method\":\"emr\"", "\"method\":\"emx\"", .unsupported, ["emx", "compeft"])
    try refuses("\"method\":\"emr\"", "\"method\":\"tall\"", .format, ["8 stored tensors, expected 7"])
    try refuses("masked", "ternary", .format, ["no codes/model"])
    try refuses("masked", "what", .format, ["\"what\""])
    try refuses("[20,11]]", "[11,20]]", .format, ["[11, 20]"])
    try refuses("[20,11]]", "[-20,11]]", .format, ["expected"])
    try refuses("[20,11]]", "[9223372036854775807,9223372036854775807]]", .format, ["expected"])
    try refuses("\"[\\\"A\\\",\\\"B\\\"]\"", "\"[\\\"A\\\"]\"", .format, ["expected"])
    try refuses("\"[\\\"A\\\",\\\"B\\\"]\"", "\"[\\\"A\\\",\\\"A\\\"]\"", .format, ["tasks"])
    try refuses("\"base_name\"", "\"bose_name\"", .format, ["base_name"])
    try refuses("vector/model.norm", "vectxr/model.norm", .format, ["vector/model.norm"])
    try rewrite(scratch, DeltaPack.format, "another-format")
    expect(.format, ["ingot delta pack"]) { _ = try PackSummary(path: scratch("PACK2")) }
    expect(.notFound, ["nowhere"]) { _ = try PackSummary(path: scratch("nowhere")) }
    expect(.format, [DeltaPack.fileName]) { _ = try PackSummary(path: scratch("A")) }
  }

  /// Everything that can be read of a pack, read.
  private func readAll(_ pack: ProvidedModel, _ base: ProvidedModel, task: String) throws {
    for model in [try base.applying(pack: pack, task: task, name: "base"), try pack.packedDeltas(task: task, base: (base, "base"))] {
      for tensor in model.checkpoint.tensors { _ = try model.bytes(tensor.name) }
    }
  }

  @Test("a changed byte of bits or codes is found out", arguments: 0..<4) func checks(_ kind: Int) throws {
    let scratch = try arrange()
    let item = Self.kinds[kind]
    try scratch.pack(item.method, item.models)
    let base = try LocalModels(environment: [:]).open(named: scratch("base"))
    let bytes = try #require(scratch.read("PACK/" + DeltaPack.fileName))
    let checkpoint = try LocalModels.openPack(at: scratch("PACK")).checkpoint
    for tensor in checkpoint.tensors where ["codes", "bits", "checks"].contains(where: { tensor.name.hasPrefix($0 + "/") }) {
      let task = tensor.shape.dimensions[0] == 2 ? 1 : 0
      // A byte of the task that is read.
      let place = Int(tensor.fileOffset) + tensor.byteCount - 1
      var changed = bytes
      changed[place] ^= 0x40
      try scratch.write("PACK2/" + DeltaPack.fileName, changed)
      expect(.format, ["damaged"]) {
        try readAll(try LocalModels.openPack(at: scratch("PACK2")), base, task: "\(item.models.count > 1 ? max(task, 1) : 0)")
      }
    }
  }

  @Test("changed anywhere, a pack gives an error or values", arguments: 0..<4) func hostile(_ kind: Int) throws {
    let scratch = try arrange()
    let item = Self.kinds[kind]
    try scratch.pack(item.method, item.models)
    let base = try LocalModels(environment: [:]).open(named: scratch("base"))
    let bytes = try #require(scratch.read("PACK/" + DeltaPack.fileName))
    var random = SplitMix(UInt64(100 + kind))
    var (opened, failed) = (0, 0)
    for _ in 0..<400 {
      var changed = bytes
      switch Int.random(in: 0..<8, using: &random) {
      case 0: changed.removeLast(Int.random(in: 1...changed.count, using: &random))
      case 1: changed.insert(UInt8.random(in: 0...255, using: &random), at: Int.random(in: 0...changed.count, using: &random))
      case 2:
        // A digit of the header for another.
        let digits = changed.indices.prefix(changed.count * 3 / 4).filter { (0x30...0x39).contains(changed[$0]) }
        for _ in 0..<Int.random(in: 1...3, using: &random) {
          if let place = digits.randomElement(using: &random) { changed[place] = UInt8.random(in: 0x30...0x39, using: &random) }
        }
      default:
        for _ in 0..<Int.random(in: 1...4, using: &random) {
          changed[Int.random(in: 8..<changed.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
      }
      try scratch.write("PACK2/" + DeltaPack.fileName, changed)
      do {
        try readAll(try LocalModels.openPack(at: scratch("PACK2")), base, task: "0")
        opened += 1
      } catch let error as IngotError {
        #expect(error.status != .internalError, "\(error)")
        failed += 1
      }
    }
    #expect(failed > 100 && opened > 0, "\(opened) \(failed)")
  }
}
