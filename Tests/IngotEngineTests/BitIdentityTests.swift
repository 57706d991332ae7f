import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Same recipe, inputs and seed: the same bytes, whatever runs them.
@Suite struct BitIdentityTests {
  static let cases = listed + MethodCase.averages + MethodCase.sideInputs

  private static let listed: [MethodCase] = [
    MethodCase(method: "linear"),
    MethodCase(method: "slerp"),
    MethodCase(method: "task_arithmetic", lambda: 0.8),
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9], rescale: true),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], scope: "model"),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 1]),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], rule: "inverse_keep"),
    MethodCase(method: "della", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "della", densities: [0.5, 0.3, 1], rule: "inverse_keep"),
    MethodCase(method: "passthrough", scale: 0.3),
    MethodCase(method: "della_linear", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "breadcrumbs", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "breadcrumbs_ties", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "model_stock"),
    MethodCase(method: "multislerp"),
    MethodCase(method: "karcher"),
    MethodCase(method: "nearswap", t: 0.02),
    MethodCase(method: "ram", extra: ["epsilon": "0.01"]),
    MethodCase(method: "ramplus_tl", extra: ["epsilon": "0.02"]),
    MethodCase(method: "sce", extra: ["select_topk": "0.3"]),
    MethodCase(method: "sce"),
    MethodCase(method: "linear", numerics: "stepwise"),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], numerics: "stepwise"),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], isPaper: true),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], isPaper: true),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 0.9], rule: "l1", isPaper: true),
    MethodCase(method: "arcee_fusion"),
    MethodCase(method: "nuslerp"),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false"], hasBase: false),
    MethodCase(method: "nuslerp", extra: ["nuslerp_flatten": "false", "nuslerp_row_wise": "true"]),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], extra: ["reducer": "max", "kept_count": "authors"]),
    MethodCase(method: "karcher", perModel: ["share": ["0.5", "2", "1"]]),
    MethodCase(method: "magmax"),
    MethodCase(method: "pcb", extra: ["pcb_ratio": "0.9"]),
    MethodCase(method: "pcb", extra: ["pcb_variant": "vision", "pcb_ratio": "0.1"]),
    MethodCase(method: "consensus", extra: ["task": "2"]),
    MethodCase(method: "consensus", extra: ["merge": "ties", "scope": "model"]),
    MethodCase(method: "onebit", extra: ["task": "2"]),
    MethodCase(method: "emr", extra: ["task": "1"]),
    MethodCase(method: "widen"),
    MethodCase(method: "ties_sv", densities: [0.5, 0.2, 0.9], scope: "model"),
    MethodCase(method: "hi_merging"),
    MethodCase(method: "mediator", extra: ["kappa": "-10"]),
    MethodCase(method: "twin", densities: [0.5, 0.2, 0.9]),
    MethodCase(method: "twin", densities: [0.5, 0.2, 0.9], extra: ["compress": "bernoulli"]),
    MethodCase(method: "breadcrumbs", densities: [0.5, 0.3, 0.8], scope: "row", rescale: true),
  ]

  /// Two tensors of several rounds' and outputs' items, so that workers share a tensor; rows that straddle them; small ones; mixed types;
  /// values down to subnormals.
  static let models: ReferenceModels = {
    let models = ReferenceModels(
      [
        .init(name: "model.layers.0.rows.weight", shape: [475, 1111], dtypes: [.bf16, .bf16, .bf16, .bf16]),
        .init(name: "model.mixed.weight", shape: [70_001], dtypes: [.f32, .bf16, .f16, .f32]),
        .init(name: "model.small.bias", shape: [37], dtypes: [.f16, .f16, .f16, .f16]),
        .init(name: "model.layers.1.cube.weight", shape: [3, 5, 7], dtypes: [.f32, .bf16, .f32, .f16]),
        .init(name: "model.embed_tokens.weight", shape: [301, 17], dtypes: [.f32, .bf16, .f32, .bf16]),
      ], seed: 11)
    for tensors in models.models.values {
      for tensor in tensors where tensor.dtype != .f16 {
        for index in stride(from: 0, to: tensor.count, by: 61) { tensor.set(index, tensor.value(index) * 0x1p-130) }
      }
    }
    return models
  }()

  static let withSides = models.withSides

  /// What the case reads.
  static func models(of item: MethodCase) -> [String: [TestTensor]] { !item.hasSides && item.omega == nil ? models.models : withSides }

  /// A third of worker counts × budgets × instruction sets, with teams and kinds of source: every pair of settings meets. All of them, with both
  /// teams and every kind of source, where INGOT_TEST_MATRIX is "full".
  struct Setting: CustomStringConvertible {
    var threads: Int
    /// nil: the least that the plan runs with.
    var budget: Int?
    var set: InstructionSet
    var team: WorkerTeam.Kind
    var source: SourceKind
    var description: String { "\(threads) threads, \(budget.map { "\($0 >> 20) MiB" } ?? "least memory"), \(set), \(team), \(source)" }

    static let isFull = ProcessInfo.processInfo.environment["INGOT_TEST_MATRIX"] == "full"

    static let all: [Setting] = {
      var settings: [Setting] = []
      let sources = SourceKind.allCases
      for (t, threads) in [1, 2, 3, 8].enumerated() {
        for (b, budget) in [nil, 64 << 20, 256 << 20].enumerated() {
          for (s, set) in InstructionSet.available.enumerated() where isFull || (t + b + s) % 3 == 0 {
            for team in [WorkerTeam.Kind.openMP, .pthread] where isFull || (team == .openMP) == ((t + s) % 2 == 0) {
              for source in isFull ? sources : [sources[(2 * t + s) % sources.count]] {
                settings.append(Setting(threads: threads, budget: budget, set: set, team: team, source: source))
              }
            }
          }
        }
      }
      return settings
    }()
  }

  @Test(arguments: cases) func bytesDependOnNothingElse(_ item: MethodCase) throws {
    let recipe = try Recipe(item.recipe)
    let memory = try MemoryModels(Self.models(of: item))
    var plans: [SourceKind: Plan] = [:]
    for kind in SourceKind.allCases { plans[kind] = try Plan.make(recipe, models: TestModels(inner: memory, kind: kind)) }
    var expected: [Int: Digest128]?
    var compared = 0
    for setting in Setting.all {
      let plan = try #require(plans[setting.source])
      var options = EngineOptions()
      options.threads = setting.threads
      options.memoryBudget = setting.budget ?? max(plan.leastMemory, 1 << 20)
      options.instructionSet = setting.set.name
      options.team = setting.team
      let calls = setting.set.callCount
      let report = try Engine(options).run(plan, into: NullSink())
      #expect(setting.set.callCount > calls, "\(setting)")
      #expect(report.instructionSet == setting.set.name)
      #expect(report.threads <= setting.threads)
      #expect(report.peakMemory <= options.memoryBudget, "\(setting)")
      #expect(report.digests.count == plan.tensors.count)
      if let expected { #expect(report.digests == expected, "\(setting)") } else { expected = report.digests }
      compared += report.digests.count
    }
    #expect(Setting.all.count >= 12)
    if Setting.isFull { print("\(item.method): \(compared) digests of \(Setting.all.count) settings") }
    try readAhead(item)
  }

  /// From files whose reads are under way before they are needed, past the page cache, however small they are, and from the same files read as usual.
  private func readAhead(_ item: MethodCase) throws {
    let scratch = try Scratch(onDisk: true)
    for (name, tensors) in Self.models(of: item) { try scratch.model(name, tensors) }
    let plan = try Plan.make(try Recipe(item.recipe), models: DirectoryModels(root: scratch.path))
    var expected: [Int: Digest128]?
    for (threads, reads) in [(1, ReadAhead.Choice.never), (2, .always), (8, .always)] {
      var options = EngineOptions()
      options.threads = threads
      options.team = threads == 2 ? .openMP : .pthread
      var run = RunOptions()
      run.reads = reads
      let report = try Engine(options).run(plan, into: NullSink(), options: run)
      if let expected { #expect(report.digests == expected, "\(threads) threads, reads under way") } else { expected = report.digests }
    }
  }

  /// What lies in the files is what the digests say, whether it was written past the page cache or through it.
  @Test(
    arguments: Setting.isFull
      ? cases
      : [
        MethodCase(method: "linear"), MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], scope: "model"),
        MethodCase(method: "della", densities: [0.5, 0.3, 0.8]), MethodCase(method: "passthrough", scale: 0.3),
      ])
  func filesDependOnNothingElse(_ item: MethodCase) throws {
    let scratch = try Scratch(onDisk: true)
    let plan = try Plan.make(try Recipe(item.recipe), models: try MemoryModels(Self.models(of: item)))
    let expected = try Engine().run(plan, into: NullSink()).digests
    for (index, setting) in Setting.all.enumerated() where Setting.isFull ? setting.source == .mapped : index % 5 == 0 {
      var options = EngineOptions()
      options.threads = setting.threads
      options.memoryBudget = setting.budget ?? max(plan.leastMemory, 1 << 20)
      options.instructionSet = setting.set.name
      options.team = setting.team
      let engine = try Engine(options)
      for isDirect in [true, false] {
        var writing = DirectoryOptions.quick
        writing.isDirect = isDirect
        let report = try engine.merge(plan, to: scratch("OUT"), options: writing)
        #expect(report.digests == expected, "\(setting), \(isDirect ? "direct" : "cached")")
        try Verification(directory: scratch("OUT")).requireIntact()
        try scratch.remove("OUT")
      }
    }
  }

  @Test func coversEveryMethod() {
    let covered = Set(Self.cases.map(\.method))
    // Those of matrices have tests of their own: `MatrixMethodTests`.
    for method in MethodRegistry.all where !covered.contains(method.descriptor.name) {
      if method is any MatrixMethod.Type || method is any ModelMatrixMethod.Type { continue }
      Issue.record("no case for \(method.descriptor.name)")
    }
  }

  /// The scalar set is the reference that all others are compared with, so it must be among them.
  @Test func settingsCoverEveryPair() {
    let all = Setting.all
    #expect(all.contains { $0.set == .scalar })
    for threads in [1, 2, 3, 8] {
      for team in [WorkerTeam.Kind.openMP, .pthread] { #expect(all.contains { $0.threads == threads && $0.team == team }) }
      for source in SourceKind.allCases { #expect(all.contains { $0.threads == threads && $0.source == source }) }
    }
    for set in InstructionSet.available {
      for budget in [nil, 64 << 20, 256 << 20] as [Int?] { #expect(all.contains { $0.set == set && $0.budget == budget }) }
      for team in [WorkerTeam.Kind.openMP, .pthread] { #expect(all.contains { $0.set == set && $0.team == team }) }
    }
  }

  /// The bytes in memory are those of the digests: two runs into memory that differ in everything.
  @Test(arguments: [MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]), MethodCase(method: "della", densities: [0.5, 0.3, 0.8])])
  func bytesInMemory(_ item: MethodCase) throws {
    var options = EngineOptions()
    options.threads = 1
    options.instructionSet = "scalar"
    let one = try merge(recipe: item.recipe, models: Self.models.models, options: options)
    options.threads = 3
    options.instructionSet = nil
    options.team = .pthread
    let other = try merge(recipe: item.recipe, models: Self.models.models, options: options)
    for (name, tensor) in one.tensors { #expect(tensor.hasBytes(of: other.tensors[name]), "\(name)") }
  }

  /// Another seed gives other masks, the same seed the same.
  @Test(arguments: ["dare_linear", "della"]) func seedDecides(_ method: String) throws {
    let recipe = try Recipe(MethodCase(method: method, densities: [0.5, 0.3, 0.8]).recipe)
    let memory = try MemoryModels(ReferenceTests.small.models)
    func digests(_ seed: UInt64) throws -> [Int: Digest128] {
      var options = PlanOptions()
      options.seed = seed
      return try Engine().run(try Plan.make(recipe, options: options, models: memory), into: NullSink()).digests
    }
    #expect(try digests(1) == digests(1))
    #expect(try digests(1) != digests(2))
  }
}
