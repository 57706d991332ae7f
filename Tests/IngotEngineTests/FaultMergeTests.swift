import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import Testing

/// Every system call of a whole merge, from the first look at a model to the last rename, is made to fail once: the run ends in an error or in
/// the right output, never in a third thing, and what an error leaves can be gone on with.
@Suite struct FaultMergeTests {
  static let recipe = """
    merge_method: ties
    base_model: "@base"
    models:
      - {model: "@a", parameters: {weight: 0.5, density: 0.6}}
      - {model: "@b", parameters: {weight: 0.5, density: 0.6}}
    dtype: float32
    """

  /// Three models, one of them in shards, with a tokenizer to carry over.
  static func arrange() throws -> Scratch {
    let scratch = try Scratch()
    for (place, name) in ["base", "a", "b"].enumerated() {
      let tensors = languageModel(layers: 1, width: 4, rows: 6, value: Double(place + 1) / 8)
      for tensor in tensors { for index in 0..<tensor.count { tensor.set(index, Double((index * 7 + place * 5) % 23 - 11) / 16) } }
      try scratch.model(
        name, tensors, config: languageConfig(layers: 1, rows: 6), shards: name == "a" ? 2 : 1,
        extra: name == "base"
          ? ["tokenizer.json": #"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#, "extra/x.txt": "x"] : [:])
    }
    return scratch
  }

  static func merge(_ scratch: Scratch, _ engine: Engine, resume: Bool, _ system: System) throws(IngotError) -> RunReport {
    let text = recipe.replacingOccurrences(of: "@", with: scratch.path + "/")
    let recipe = try Recipe.parse(Array(text.utf8), origin: "recipe.yml", catalog: MethodRegistry.catalog)
    var planning = PlanOptions()
    planning.shardSize = 200
    let plan = try Plan.make(recipe, options: planning, models: LocalModels(environment: [:], system: system))
    var options = DirectoryOptions()
    options.resume = resume
    options.system = system
    return try engine.merge(plan, to: scratch("OUT"), options: options)
  }

  @Test(arguments: [Fault.error(EIO), .error(ENOSPC), .error(EMFILE), .error(EINTR), .short(0), .short(1)])
  func everyCallFailsOnce(_ fault: Fault) throws {
    let scratch = try Self.arrange()
    let engine = try DirectoryMergeTests.engine()
    let clean = FaultInjector()
    _ = try Self.merge(scratch, engine, resume: false, System(faults: clean))
    let expected = scratch.output()
    #expect(expected.keys.contains("tokenizer.json") && expected.keys.filter { $0.hasSuffix(".safetensors") }.count > 1)
    var errors = 0
    var number = 1
    // Up to the first call that no run makes: how many hints about reading ahead are given depends on the medium.
    while true {
      try scratch.remove("OUT")
      let faults = FaultInjector()
      faults.fail(nil, number: number, with: fault)
      do throws(IngotError) {
        _ = try Self.merge(scratch, engine, resume: false, System(faults: faults))
      } catch {
        errors += 1
        if fault == .short(1) { #expect(faults.fired.map(\.call) == [.append], "call \(number): \(error)") }
        #expect(!scratch.exists("OUT"), "call \(number): \(faults.fired): \(error)")
        #expect(
          [.output, .noSpace, .io, .stale, .format, .notFound].contains(error.status), "call \(number): \(faults.fired): \(error)")
        // What is left can be gone on with, also when the journal says more or less than the files.
        _ = try Self.merge(scratch, engine, resume: true, .live)
      }
      let isRight = scratch.output() == expected
      #expect(isRight, "call \(number): \(faults.fired)")
      #expect(!scratch.exists("OUT.partial"), "call \(number): \(faults.fired)")
      if faults.fired.isEmpty { break }
      number += 1
    }
    #expect(number > 150)
    // Interrupted calls and short transfers are finished, except that a torn line of the journal is no line; most other faults are errors.
    if fault == .error(EINTR) { #expect(errors == 0) }
    if fault == .error(EIO) { #expect(errors > 100) }
  }

  /// A source that ends early or cannot be read is an error at whatever read it happens.
  @Test(arguments: [Fault.error(EIO), .short(0)]) func everyLaterReadFails(_ fault: Fault) throws {
    let scratch = try Self.arrange()
    let engine = try DirectoryMergeTests.engine()
    let clean = FaultInjector()
    _ = try Self.merge(scratch, engine, resume: false, System(faults: clean))
    for number in stride(from: 1, through: clean.count(.read), by: 3) {
      try scratch.remove("OUT")
      let faults = FaultInjector()
      faults.fail(.read, number: number, with: fault, repeats: true)
      let error = #expect(throws: IngotError.self) { try Self.merge(scratch, engine, resume: false, System(faults: faults)) }
      #expect(error.map { [.io, .format, .output].contains($0.status) } == true, "read \(number): \(String(describing: error))")
      #expect(!scratch.exists("OUT"))
      _ = try Self.merge(scratch, engine, resume: true, .live)
    }
  }

  /// Address space that the system refuses is the memory error, before anything is written.
  @Test(arguments: [1 << 47, Int.max - 4000, Int.max]) func refusedMemory(_ budget: Int) throws {
    let scratch = try Self.arrange()
    var options = EngineOptions()
    options.threads = 1
    options.memoryBudget = budget
    let engine = try Engine(options)
    let error = #expect(throws: IngotError.self) { try Self.merge(scratch, engine, resume: false, .live) }
    #expect(error?.status == .memory)
    #expect(!scratch.exists("OUT"))
  }
}
