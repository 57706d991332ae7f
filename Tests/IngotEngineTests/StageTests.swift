import Foundation
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Synchronization
import Testing

/// Recipes of several documents: however results pass from one to the next, the bytes are those of merging the documents one by one.
@Suite struct StageTests {
  /// A document over models base, a, b and c, without its name.
  struct Document: Sendable, CustomStringConvertible {
    var description: String
    var text: String

    init(_ method: String, models: [String] = ["a", "b"], base: String? = nil, _ parameters: String = "", dtype: String? = nil) {
      description = ([method, parameters] + (dtype.map { [$0] } ?? [])).joined(separator: " ")
      text = "merge_method: \(method)\n"
      if let base { text += "base_model: \(base)\n" }
      text += "models: [\(models.map { "{model: \($0)}" }.joined(separator: ", "))]\nparameters: {\(parameters)}\n"
      if let dtype { text += "dtype: \(dtype)\n" }
    }
  }

  static let firsts = [
    Document("linear", models: ["@a", "@b"], "weight: 0.3"),
    Document("linear", models: ["@a", "@b", "@c"], "weight: 0.7, normalize: false", dtype: "bfloat16"),
    Document("task_arithmetic", models: ["@a", "@b"], base: "@base", "weight: 0.6"),
    Document("passthrough", models: ["@a"]),
    Document("passthrough", models: ["@a"], "scale: 0.5"),
    Document("dare_linear", models: ["@a", "@b"], base: "@base", "weight: 0.6, density: 0.4"),
    Document("dare_ties", models: ["@a", "@b"], base: "@base", "weight: 0.6, density: 0.4", dtype: "float16"),
    Document("della", models: ["@a", "@b"], base: "@base", "weight: 0.6, density: 0.4, epsilon: 0.1"),
    Document("ties", models: ["@a", "@b", "@c"], base: "@base", "weight: 0.6, density: 0.3"),
    Document("ties", models: ["@a", "@b", "@c"], base: "@base", "weight: 0.6, density: 0.3, scope: model", dtype: "bfloat16"),
    Document("breadcrumbs", models: ["@a", "@b"], base: "@base", "weight: 0.6, density: 0.6, gamma: 0.05"),
    Document("slerp", models: ["@a"], base: "@b", "t: 0.3"),
    Document("model_stock", models: ["@a", "@b"], base: "@base"),
    Document("karcher", models: ["@a", "@b", "@c"]),
  ]

  static let seconds = [
    Document("linear", models: ["first", "@c"], "weight: 0.5"),
    Document("ties", models: ["first", "@c"], base: "@a", "weight: 0.8, density: 0.4"),
    Document("slerp", models: ["first"], base: "@c", "t: 0.25"), Document("passthrough", models: ["first"]),
    Document("ties", models: ["@c", "@b"], base: "first", "weight: 0.8, density: 0.4, scope: model"),
  ]

  /// Tensors of several blocks, ragged, of one axis and of three, and one of integers.
  static func arrange() throws -> Scratch {
    let scratch = try Scratch()
    let all: [DType] = [.bf16, .bf16, .bf16, .bf16]
    let parts: [ReferenceModels.Part] = [
      .init(name: "model.embed_tokens.weight", shape: [263, 257], dtypes: [.f32, .f32, .f32, .f32]),
      .init(name: "vector", shape: [977], dtypes: all),
      .init(name: "cube", shape: [3, 13, 27], dtypes: all), .init(name: "mixed", shape: [37, 129], dtypes: [.bf16, .f32, .f16, .bf16]),
      .init(name: "empty", shape: [0, 3], dtypes: all),
    ]
    let integers = TestTensor("position_ids", .i64, [1, 7], (0..<7).map(Double.init))
    for (name, tensors) in ReferenceModels(parts, seed: 5).models {
      try scratch.model(
        name, tensors + [integers], config: "{\"model_type\": \"llama\"}", extra: ["tokenizer.json": "{\"of\": \"\(name)\"}"])
    }
    return scratch
  }

  static func graph(_ documents: (name: String?, text: String)...) -> String {
    documents.map { ($0.name.map { "name: \($0)\n" } ?? "") + $0.text }.joined(separator: "---\n")
  }

  static func plan(_ scratch: Scratch, _ recipe: String, _ stages: StagePlacement = .automatic) throws -> Plan {
    var options = PlanOptions()
    options.stages = stages
    return try Plan.make(
      try Recipe(recipe.replacingOccurrences(of: "@", with: scratch.path + "/")), options: options, models: LocalModels(environment: [:]))
  }

  static func engine(threads: Int = 2, memory: Int = 64 << 20) throws -> Engine {
    var options = EngineOptions()
    options.threads = threads
    options.memoryBudget = memory
    return try Engine(options)
  }

  /// The output's weight files.
  static func weights(_ scratch: Scratch, _ name: String) -> [String: [UInt8]] {
    scratch.files(name).filter { $0.key.hasSuffix(".safetensors") }
  }

  @Test(arguments: firsts) func sameBytesStreamedStoredAndOneByOne(_ first: Document) throws {
    let scratch = try Self.arrange()
    try scratch.merge(first.text, to: "first")
    for (number, second) in Self.seconds.enumerated() {
      try scratch.merge(second.text.replacingOccurrences(of: "first", with: "@first"), to: "alone\(number)")
      let expected = Self.weights(scratch, "alone\(number)")
      #expect(!expected.isEmpty)
      let recipe = Self.graph(("first", first.text), (nil, second.text))
      for (way, placement) in [("streamed", StagePlacement.automatic), ("stored", .stored)] {
        let plan = try Self.plan(scratch, recipe, placement)
        #expect(plan.stages.map(\.isStreamed) == [placement == .automatic])
        // With plenty of both, and with the least: stored results need not be merged in every way.
        for (threads, memory) in [(2, 64 << 20), (1, max(plan.leastMemory, 1 << 20))].prefix(way == "stored" ? 1 : 2) {
          let name = "\(way)\(number)-\(threads)"
          let report = try Self.engine(threads: threads, memory: memory).merge(plan, to: scratch(name), options: .quick)
          #expect(Self.weights(scratch, name) == expected, "\(second) \(way) \(threads)")
          #expect(report.peakMemory <= memory)
          #expect(scratch.text("\(name)/tokenizer.json") == scratch.text("alone\(number)/tokenizer.json"))
          #expect(!scratch.exists("\(name)/.stages") && !scratch.exists("\(name).partial"))
          try Verification(directory: scratch(name)).requireIntact()
        }
      }
    }
  }

  @Test func digestsTellResultsApartAndNotTheWay() throws {
    let scratch = try Self.arrange()
    let second = Self.seconds[0].text
    var digests: Set<String> = []
    for first in Self.firsts {
      let recipe = Self.graph(("first", first.text), (nil, second))
      let plan = try Self.plan(scratch, recipe)
      #expect(try Self.plan(scratch, recipe, .stored).digest == plan.digest)
      #expect(
        try Self.plan(scratch, Self.graph((nil, second.replacingOccurrences(of: "first", with: "other")), ("other", first.text))).digest
          == plan.digest)
      digests.insert(plan.digest.description)
    }
    #expect(digests.count == Self.firsts.count)
  }

  /// Results of results, one read by two, and adapters between layouts on top of computed tensors.
  @Test func graphs() throws {
    let scratch = try Self.arrange()
    try scratch.merge("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n", to: "bottom")
    try scratch.merge("merge_method: slerp\nbase_model: @bottom\nmodels: [{model: @c}]\nparameters: {t: 0.5}\n", to: "left")
    try scratch.merge(
      "merge_method: task_arithmetic\nbase_model: @base\nmodels: [{model: @bottom}]\nparameters: {weight: 0.5}\n", to: "right")
    let top = "merge_method: ties\nbase_model: right\nmodels: [{model: left}, {model: bottom}]\nparameters: {weight: 1, density: 0.5}\n"
    try scratch.merge(top.replacingOccurrences(of: "model: ", with: "model: @"), to: "top")
    let recipe = Self.graph(
      (nil, top), ("bottom", "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"),
      ("left", "merge_method: slerp\nbase_model: bottom\nmodels: [{model: @c}]\nparameters: {t: 0.5}\n"),
      ("right", "merge_method: task_arithmetic\nbase_model: @base\nmodels: [{model: bottom}]\nparameters: {weight: 0.5}\n"))
    for placement in [StagePlacement.automatic, .stored] {
      let plan = try Self.plan(scratch, recipe, placement)
      _ = try Self.engine().merge(plan, to: scratch("OUT"), options: .quick)
      #expect(Self.weights(scratch, "OUT") == Self.weights(scratch, "top"))
      let json = try JSON.parse(plan.json(), origin: "plan")
      #expect(
        json["stages"]?.asArray?.compactMap { $0["name"]?.asString } == ["bottom", "right", "left"] || json["stages"]?.asArray?.count == 3)
      #expect(plan.table().contains("document left: slerp"))
      try scratch.remove("OUT")
    }
  }

  /// Chains in which every document reads the two before it would be read more and more often: at some point a result is stored.
  @Test func dearResultsAreStored() throws {
    let scratch = try Self.arrange()
    var documents = ["name: d0\n" + Self.firsts[0].text, "name: d1\n" + Self.firsts[0].text]
    for number in 2..<14 {
      documents.append(
        "name: d\(number)\nmerge_method: linear\nmodels: [{model: d\(number - 1)}, {model: d\(number - 2)}]\nparameters: {weight: 1}\n")
    }
    let plan = try Self.plan(scratch, documents.joined(separator: "---\n"))
    let stored = plan.storedStages.count
    #expect(stored > 0 && stored < 8)
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: .quick)
    let all = try Self.plan(scratch, documents.joined(separator: "---\n"), .stored)
    #expect(all.storedStages.count == 13)
    _ = try Self.engine().merge(all, to: scratch("stored"), options: .quick)
    #expect(Self.weights(scratch, "OUT") == Self.weights(scratch, "stored"))
  }

  /// Results inside results take stack: of a long chain some are stored.
  @Test func deepResultsAreStored() throws {
    let scratch = try Self.arrange()
    var documents = ["name: d0\n" + Self.firsts[4].text]
    for number in 1..<40 {
      documents.append("name: d\(number)\nmerge_method: passthrough\nmodels: [{model: d\(number - 1), parameters: {scale: 1.01}}]\n")
    }
    let plan = try Self.plan(scratch, documents.joined(separator: "---\n"))
    #expect(plan.storedStages.count == 4)
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: .quick)
    _ = try Self.engine().merge(
      try Self.plan(scratch, documents.joined(separator: "---\n"), .stored), to: scratch("stored"), options: .quick)
    #expect(Self.weights(scratch, "OUT") == Self.weights(scratch, "stored"))
  }

  // MARK: Documents that multiply

  /// A few lines that ask for a model of 2⁴⁰ layers.
  @Test func documentsThatDoubleEachOther() throws {
    let scratch = try Scratch()
    try scratch.model("a", languageModel(layers: 2, value: 1), config: languageConfig(layers: 2))
    var documents: [String] = []
    for number in 0..<40 {
      let model = number == 0 ? "@a" : "d\(number - 1)"
      let slice = "{sources: [{model: \(model), layer_range: [0, \(2 << number)]}]}"
      documents.append("name: d\(number)\nmerge_method: passthrough\nslices: [\(slice), \(slice)]\n")
    }
    let text = documents.joined(separator: "---\n").replacingOccurrences(of: "@", with: scratch.path + "/")
    var options = PlanOptions()
    options.mostTensors = 1000
    let error = #expect(throws: IngotError.self) {
      try Plan.make(try Recipe(text), options: options, models: LocalModels(environment: [:]))
    }
    #expect(error?.status == .recipe && error?.message.contains("more tensors than the") == true, "\(String(describing: error))")
  }

  /// Two documents that both read the two before them, a hundred times: what identifies them and what they have to say does not double each time.
  @Test func documentsThatReachTheirSourcesInManyWays() throws {
    let scratch = try Scratch()
    for name in ["a", "b"] { try scratch.model(name, [TestTensor("w", .f32, [2], [1, 2])], extra: ["model.py": "x"]) }
    var documents: [String] = []
    for number in 0..<100 {
      let (a, b) = number == 0 ? ("@a", "@b") : ("a\(number - 1)", "b\(number - 1)")
      for name in ["a", "b"] {
        documents.append("name: \(name)\(number)\nmerge_method: linear\nmodels: [{model: \(a)}, {model: \(b)}]\nparameters: {weight: 1}\n")
      }
    }
    documents.append("merge_method: linear\nmodels: [{model: a99}, {model: b99}]\nparameters: {weight: 1}\n")
    let plan = try Self.plan(scratch, documents.joined(separator: "---\n"))
    #expect(plan.models.count == 2 && plan.models.allSatisfy { $0.shards.count <= 2 } && plan.notices.count < 1000)
  }

  @Test func sideFilesAndCardComeFromTheSources() throws {
    let scratch = try Self.arrange()
    let recipe = Self.graph(
      ("first", Self.firsts[2].text),
      (nil, "merge_method: linear\nbase_model: first\nmodels: [{model: first}, {model: @c}]\nparameters: {weight: 1}\n"))
    let plan = try Self.plan(scratch, recipe)
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: .quick)
    #expect(scratch.text("OUT/tokenizer.json") == "{\"of\": \"base\"}")
    let card = try #require(scratch.text("OUT/README.md"))
    for name in ["base", "a", "b", "c"] { #expect(card.contains("- \(name)  # a local directory")) }
    #expect(!card.contains("- first"))
    #expect(scratch.text("OUT/mergekit_config.yml") == recipe.replacingOccurrences(of: "@", with: scratch.path + "/"))
    let record = try JSON.parse(try #require(scratch.text("OUT/ingot.json")), origin: "ingot.json")
    #expect(record["stages"]?.asArray?.first?["method"]?.asString == "task_arithmetic")
  }

  // MARK: Failures

  @Test func resumeUsesAFinishedStageAgain() throws {
    let scratch = try Self.arrange()
    let recipe = Self.graph(("first", Self.firsts[8].text), (nil, Self.seconds[0].text))
    let plan = try Self.plan(scratch, recipe, .stored)
    _ = try Self.engine().merge(plan, to: scratch("whole"), options: .quick)
    // Cancelled in the second document: the first has been stored.
    let stage = scratch("OUT.partial/.stages/1")
    let stageBytes = plan.stages[0].plan.bytesWritten
    let error = #expect(throws: IngotError.self) {
      try Self.engine(threads: 1).merge(
        plan, to: scratch("OUT"), options: .quick,
        watcher: DirectoryMergeTests.watcher { _ in FileManager.default.fileExists(atPath: stage) })
    }
    #expect(error?.status == .cancelled)
    #expect(!scratch.exists("OUT") && scratch.exists("OUT.partial/.stages/1/ingot.json"))
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).filter { $0.hasPrefix("OUT") } == ["OUT.partial"])
    var options = DirectoryOptions.quick
    options.resume = true
    let report = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
    #expect(report.bytesWritten < stageBytes + plan.bytesWritten && report.bytesWritten <= plan.bytesWritten)
    #expect(Self.weights(scratch, "OUT") == Self.weights(scratch, "whole"))
    #expect(!scratch.exists("OUT.partial") && !scratch.exists("OUT/.stages"))
  }

  /// A stage is believed only if its bytes are what its record says.
  @Test func aDamagedStageIsMadeAgain() throws {
    let scratch = try Self.arrange()
    let recipe = Self.graph(("first", Self.firsts[0].text), (nil, Self.seconds[0].text))
    let plan = try Self.plan(scratch, recipe, .stored)
    _ = try Self.engine().merge(plan, to: scratch("whole"), options: .quick)
    let stage = scratch("OUT.partial/.stages/1")
    #expect(throws: IngotError.self) {
      try Self.engine(threads: 1).merge(
        plan, to: scratch("OUT"), options: .quick,
        watcher: DirectoryMergeTests.watcher { _ in FileManager.default.fileExists(atPath: stage) })
    }
    let place = plan.stages[0].plan.tensors[0]
    let file = try #require(FileHandle(forUpdatingAtPath: scratch("OUT.partial/.stages/1/model.safetensors")))
    try file.seek(toOffset: UInt64(place.offset + 100))
    try file.write(contentsOf: Data([1, 2, 3, 4, 5]))
    try file.close()
    var options = DirectoryOptions.quick
    options.resume = true
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
    #expect(Self.weights(scratch, "OUT") == Self.weights(scratch, "whole"))
  }

  @Test func cancelInsideAStageLeavesNothingButThePartialOutput() throws {
    let scratch = try Self.arrange()
    let recipe = Self.graph(("first", Self.firsts[8].text), (nil, Self.seconds[0].text))
    let plan = try Self.plan(scratch, recipe, .stored)
    let error = #expect(throws: IngotError.self) {
      try Self.engine(threads: 1).merge(plan, to: scratch("OUT"), options: .quick, watcher: DirectoryMergeTests.watcher { _ in true })
    }
    #expect(error?.status == .cancelled && error?.message.hasPrefix("document first: ") == true)
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).filter { $0.hasPrefix("OUT") } == ["OUT.partial"])
    var options = DirectoryOptions.quick
    options.force = true
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
    #expect(!scratch.exists("OUT.partial") && !scratch.exists("OUT/.stages"))
  }

  @Test func nonfiniteValuesOfAnEarlierDocumentAreNamed() throws {
    let scratch = try Scratch()
    for (name, value) in [("a", 1.0), ("b", Double.infinity), ("c", 2.0)] {
      try scratch.model(name, [TestTensor("w", .f32, [100_000], [Double](repeating: 1, count: 70_000) + [value])])
    }
    let recipe = Self.graph(
      ("first", "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"),
      (nil, "merge_method: linear\nmodels: [{model: first}, {model: @c}]\nparameters: {weight: 1}\n"))
    for placement in [StagePlacement.automatic, .stored] {
      let error = #expect(throws: IngotError.self) {
        _ = try Self.engine().merge(try Self.plan(scratch, recipe, placement), to: scratch("OUT"), options: .quick)
      }
      #expect(error?.status == .nonFinite && error?.subject == "w" && error?.message.contains("1 in \(scratch("b"))") == true)
      try scratch.remove("OUT.partial")
      var options = DirectoryOptions.quick
      options.run.allowsNonfinite = true
      _ = try Self.engine().merge(try Self.plan(scratch, recipe, placement), to: scratch("OUT"), options: options)
      #expect(try scratch.tensors()["w"]?.value(70_000) == .infinity)
      try scratch.remove("OUT")
    }
  }

  @Test func changedSourcesOfAnEarlierDocumentAreNoticed() throws {
    let scratch = try Self.arrange()
    let plan = try Self.plan(scratch, Self.graph(("first", Self.firsts[0].text), (nil, Self.seconds[0].text)))
    try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 1)], ofItemAtPath: scratch("b/model.safetensors"))
    let error = #expect(throws: IngotError.self) { try Self.engine().merge(plan, to: scratch("OUT"), options: .quick) }
    #expect(error?.status == .stale)
  }

  @Test func unknownNamesGetTheNearDocument() throws {
    let scratch = try Self.arrange()
    let error = #expect(throws: IngotError.self) {
      try Self.plan(scratch, Self.graph(("first", Self.firsts[0].text), (nil, "merge_method: passthrough\nmodels: [{model: firsd}]\n")))
    }
    #expect(error?.status == .notFound && error?.hint == "did you mean the document first?" && error?.position?.line == 7)
  }

  // MARK: Memory

  @Test func memoryOfStagesIsCounted() throws {
    let scratch = try Self.arrange()
    let alone = try Self.plan(scratch, Self.seconds[0].text.replacingOccurrences(of: "first", with: "@a"))
    let plan = try Self.plan(scratch, Self.graph(("first", Self.firsts[0].text), (nil, Self.seconds[0].text)))
    #expect(plan.leastMemory > alone.leastMemory)
    let least = plan.leastMemory
    guard least > 1 << 20 else { return }
    let error = #expect(throws: IngotError.self) { try Self.engine(memory: least - 1).merge(plan, to: scratch("OUT"), options: .quick) }
    #expect(error?.status == .memory)
  }

  /// Models of tensors in memory, into memory.
  @Test func tensorsInMemory() throws {
    let models = ReferenceModels([.init(name: "w", shape: [301, 257], dtypes: [.f32, .f32, .f32, .f32])], seed: 9).models
    defer { withExtendedLifetime(models) {} }
    for first in Self.firsts {
      let text = Self.graph(("first", first.text), (nil, Self.seconds[1].text)).replacingOccurrences(of: "@", with: "")
      let plan = try Plan.make(try Recipe(text), models: MemoryModels(models))
      let output = TestTensor("w", plan.tensors[0].dtype, [301, 257])
      _ = try Self.engine().run(plan, into: try MemorySink(plan: plan, outputs: [try output.view]))
      let between = try Plan.make(try Recipe(first.text.replacingOccurrences(of: "@", with: "")), models: MemoryModels(models))
      let middle = TestTensor("w", between.tensors[0].dtype, [301, 257])
      _ = try Self.engine().run(between, into: try MemorySink(plan: between, outputs: [try middle.view]))
      var given = models
      given["first"] = [middle]
      defer { withExtendedLifetime(middle) {} }
      let last = try Plan.make(try Recipe(Self.seconds[1].text.replacingOccurrences(of: "@", with: "")), models: MemoryModels(given))
      let expected = TestTensor("w", last.tensors[0].dtype, [301, 257])
      _ = try Self.engine().run(last, into: try MemorySink(plan: last, outputs: [try expected.view]))
      #expect(output.hasBytes(of: expected), "\(first)")
    }
    var options = PlanOptions()
    options.stages = .stored
    let text = Self.graph(("first", Self.firsts[0].text), (nil, Self.seconds[0].text)).replacingOccurrences(of: "@", with: "")
    let plan = try Plan.make(try Recipe(text), options: options, models: MemoryModels(models))
    let output = TestTensor("w", plan.tensors[0].dtype, [301, 257])
    let error = #expect(throws: IngotError.self) {
      try Self.engine().run(plan, into: try MemorySink(plan: plan, outputs: [try output.view]))
    }
    #expect(error?.status == .unsupported)
  }
}
