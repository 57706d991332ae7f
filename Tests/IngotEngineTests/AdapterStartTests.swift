import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Adapters that begin in inputs of their own.
@Suite struct AdapterStartTests {
  private static let models = LocalModels(environment: [:])

  private func arrange() throws -> Scratch {
    let scratch = try Scratch()
    try scratch.model(
      "base",
      [
        TestTensor("model.layers.0.q_proj.weight", .bf16, [6, 12]), TestTensor("model.layers.0.k_proj.weight", .bf16, [5, 9]),
        TestTensor("model.embed_tokens.weight", .bf16, [7, 12]), TestTensor("model.norm.weight", .bf16, [12]),
      ])
    return scratch
  }

  private func request(_ scratch: Scratch, rank: Int = 3, targets: [String] = ["q_proj", "k_proj"]) throws -> AdapterStartRequest {
    let base = try Self.models.open(named: scratch("base"))
    return AdapterStartRequest(base: base, baseName: "base", rank: rank, targets: try targets.map { try TensorPattern($0) })
  }

  private func quick() -> AdapterOutputOptions {
    var options = AdapterOutputOptions()
    options.sync = OutputRequest.Sync.none
    options.force = true
    return options
  }

  @discardableResult
  private func start(_ name: String, _ scratch: Scratch, _ change: (inout AdapterStartRequest) -> Void = { _ in }) throws -> AdapterReport {
    var wanted = try request(scratch)
    wanted.dtype = .f32
    change(&wanted)
    return try Engine().start(wanted, to: scratch(name), options: quick())
  }

  /// Rows of A of both modules, and whether B is zero.
  private func factors(_ name: String, _ scratch: Scratch) throws -> [[[Double]]] {
    let adapter = try Self.models.openAdapter(named: scratch(name))
    #expect(adapter.contents.modules.map(\.name) == ["model.layers.0.q_proj", "model.layers.0.k_proj"])
    try scratch.write(name + "/model.safetensors", try #require(scratch.read(name + "/adapter_model.safetensors")))
    let tensors = try scratch.tensors(name)
    try scratch.remove(name + "/model.safetensors")
    return try ["q_proj", "k_proj"].map { module in
      let stem = "base_model.model.model.layers.0.\(module)"
      #expect(try #require(tensors[stem + ".lora_B.weight"]).values.allSatisfy { $0 == 0 })
      let a = try #require(tensors[stem + ".lora_A.weight"])
      return (0..<a.shape[0]).map { row in Array(a.values[row * a.shape[1]..<(row + 1) * a.shape[1]]) }
    }
  }

  private func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }

  @Test func tasksHaveDisjointPartsOfOneBasis() throws {
    let scratch = try arrange()
    var all: [[[Double]]] = [[], []]
    for task in 1...3 {
      let report = try start("t\(task)", scratch) { $0.task = task }
      #expect(report.modules.map(\.rank) == [3, 3] && report.modules.allSatisfy { $0.norm == 0 })
      for (module, rows) in try factors("t\(task)", scratch).enumerated() { all[module] += rows }
    }
    for rows in all {
      for (i, x) in rows.enumerated() {
        for (j, y) in rows.enumerated() { #expect(abs(dot(x, y) - (i == j ? 1 : 0)) < 1e-6, "\(i) \(j)") }
      }
    }
    // Another seed is another basis; the same is the same.
    try start("again", scratch) { $0.task = 2 }
    #expect(try factors("again", scratch)[0] == Array(all[0][3..<6]))
    try start("other", scratch) { ($0.task, $0.seed) = (2, 1) }
    #expect(try factors("other", scratch)[0] != Array(all[0][3..<6]))
  }

  @Test func whatEarlierAdaptersUseIsLeftAlone() throws {
    let scratch = try arrange()
    try start("first", scratch)
    try start("second", scratch) { $0.seed = 5 }
    let earlier = try ["first", "second"].map { try Self.models.openAdapter(named: scratch($0)) }
    try start("third", scratch) { ($0.after, $0.rank) = (earlier, 2) }
    let (first, second, third) = (try factors("first", scratch), try factors("second", scratch), try factors("third", scratch))
    for module in 0..<2 {
      for x in third[module] {
        #expect(abs(dot(x, x) - 1) < 1e-6)
        for y in first[module] + second[module] { #expect(abs(dot(x, y)) < 1e-6) }
      }
    }
    // An adapter twice uses no more than once.
    try start("fourth", scratch) { ($0.after, $0.rank) = ([earlier[0], earlier[0]], 2) }
    for x in try factors("fourth", scratch)[0] { for y in first[0] { #expect(abs(dot(x, y)) < 1e-6) } }
  }

  @Test func whatIsRefused() throws {
    let scratch = try arrange()
    try start("first", scratch)
    let earlier = try Self.models.openAdapter(named: scratch("first"))
    func refusal(_ change: @escaping (inout AdapterStartRequest) -> Void) -> IngotError? {
      let error = #expect(throws: IngotError.self) { try start("out", scratch, change) }
      #expect(!scratch.exists("out") && !scratch.exists("out.partial"))
      return error
    }
    #expect(refusal { $0.rank = 0 }?.status == .invalidArgument)
    #expect(refusal { $0.task = 0 }?.status == .invalidArgument)
    #expect(refusal { $0.dtype = .i64 }?.status == .dtype)
    let few = refusal { $0.task = 4 }
    #expect(few?.status == .shape && few?.subject == "model.layers.0.k_proj")
    #expect(refusal { ($0.after, $0.task) = ([earlier], 3) }?.status == .shape)
    #expect(refusal { $0.targets = [] }?.status == .invalidArgument)
    try scratch.model("base", [TestTensor("model.layers.0.q_proj.weight", .bf16, [6, 13])])
    #expect(refusal { $0.after = [earlier] }?.status == .shape)
  }
}
