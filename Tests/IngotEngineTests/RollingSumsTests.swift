import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Rolling merges whose state has several running objects: TIES, Fisher averages, MOS.
@Suite struct RollingSumsTests {
  private static let names = Array(RollingTests.names.dropFirst())

  private func add(_ model: String, _ scratch: Scratch, _ change: (inout RollingStep) -> Void = { _ in }) throws {
    var step = RollingStep(state: scratch("state"), model: scratch(model))
    change(&step)
    var options = DirectoryOptions.quick
    options.force = true
    _ = try Engine().merge(try RollingPlan.make(step, models: RollingTests.models), options: options)
  }

  private func finish(_ scratch: Scratch, lambda: Double? = nil) throws -> [String: TestTensor] {
    var options = DirectoryOptions.quick
    options.force = true
    let plan = try RollingPlan.finish(
      scratch("state"), to: scratch("OUT"), lambda: lambda, dtype: "float32", models: RollingTests.models)
    _ = try Engine().merge(plan, options: options)
    return try scratch.tensors()
  }

  /// Sums of small multiples of a power of two are exact, so that nothing is left to rounding.
  @Test(arguments: [(RollingMethod.ties, "tensor"), (.tiesModel, "model")])
  func votesAreThoseOfAllAtOnce(_ method: RollingMethod, _ scope: String) throws {
    let scratch = try RollingTests.scratch(exact: true, scales: [1, 4])
    let weights = [0.5, 1.25, 0.75, 2]
    for (model, weight) in zip(Self.names, weights) {
      try add(model, scratch) { step in
        (step.method, step.base, step.settings, step.weight) = (method, scratch("base"), ["density": 0.6], weight)
      }
    }
    let list = zip(Self.names, weights).map { "{model: @\($0), parameters: {weight: \($1)}}" }.joined(separator: ", ")
    try scratch.merge(
      "merge_method: ties\nbase_model: @base\nmodels: [\(list)]\nparameters: {density: 0.6, lambda: 0.5, scope: \(scope)}\ndtype: float32\n",
      to: "batch")
    let (found, expected) = (try finish(scratch, lambda: 0.5), try scratch.tensors("batch"))
    for tensor in RollingTests.merged { #expect(found[tensor]?.hasBytes(of: expected[tensor]) == true, "\(tensor)") }
    #expect(found["model.steps"]?.values == [0] && found.count == 3)
    // The state: four sums for each merged tensor, the buffer once.
    let state = try scratch.tensors("state")
    #expect(state.count == 9 && state["model.b.bias#negative_weight"]?.dtype == .f32)
    #expect(try RollingState.read(scratch("state"))?.setting == 0.6)
    #expect(try Verification(directory: scratch("state")).differences.isEmpty)
  }

  /// Enough elements for a search that samples; each running object in a job of its own would read the model for the search again.
  @Test(arguments: [RollingMethod.ties, .tiesModel]) func searchesOnceForAllRunningObjects(_ method: RollingMethod) throws {
    let scratch = try Scratch()
    var random = SplitMix(3)
    let count = 300_007
    let zero = TestTensor("w", .f32, [count])
    try scratch.model("base", [zero, TestTensor("v", .f32, [1000])])
    let magnitudes = TestTensor("w", .bf16, [count])
    for index in 0..<count { magnitudes.set(index, Double(random.next() % 8 + 1) * (random.next() & 1 == 0 ? 0.25 : -0.25)) }
    let small = TestTensor("v", .bf16, [1000], (0..<1000).map { $0 % 2 == 0 ? 4 : -4 })
    for model in ["m1", "m2"] { try scratch.model(model, [magnitudes, small]) }
    var read: [Int] = []
    for model in ["m1", "m2"] {
      var step = RollingStep(state: scratch("state"), model: scratch(model))
      (step.method, step.base, step.settings, step.allowsRepeat) = (method, scratch("base"), ["density": 0.3], true)
      var options = DirectoryOptions.quick
      options.force = true
      read.append(try Engine().merge(try RollingPlan.make(step, models: RollingTests.models), options: options).bytesRead)
    }
    let state = try scratch.tensors("state")
    var kept: [String: Int] = [:]
    for name in ["w", "v"] {
      let sides = ["", "#negative"].map { state[name + $0]?.values ?? [] }
      kept[name] = (0..<sides[0].count).count { sides[0][$0] != 0 || sides[1][$0] != 0 }
      // Twice the same model: each sum is that of two equal terms, with as much weight.
      let weights = ["#positive_weight", "#negative_weight"].map { state[name + $0]?.values ?? [] }
      for side in 0..<2 { #expect((0..<sides[side].count).allSatisfy { (sides[side][$0] != 0) == (weights[side][$0] == 2) }) }
    }
    if method == .ties {
      #expect(kept["w"] == Int(0.3 * Double(count)) && kept["v"] == 300)
    } else {
      #expect((kept["w"] ?? 0) + (kept["v"] ?? 0) == Int(0.3 * Double(count + 1000)) && kept["v"] == 1000)
    }
    // Base and model have 6 bytes for each element, with a state 10: once for the search and once for each running object, and a sample.
    #expect(read[0] <= 34 * count && read[1] <= 56 * count, "\(read) for \(count)")
  }

  /// A model alone is the trimmed model; two that cancel out leave the base.
  @Test func oneAndTwoOpposite() throws {
    let scratch = try Scratch()
    for (name, values) in [("base", [1.0, 2, 3, 4]), ("m1", [2, 2, 1, 4.5]), ("m2", [0, 2, 5, 3.5])] {
      try scratch.model(name, [TestTensor("w", .f32, [4], values)])
    }
    try add("m1", scratch) { ($0.method, $0.base, $0.settings) = (.ties, scratch("base"), ["density": 0.5]) }
    #expect(try finish(scratch)["w"]?.values == [2, 2, 1, 4])
    try add("m2", scratch)
    // Equal sides go to the positive one.
    #expect(try finish(scratch)["w"]?.values == [2, 2, 5, 4])
  }

  private static func fisher(_ scratch: Scratch, of model: String, _ seed: UInt64, zeros: Bool = false) throws {
    var random = SplitMix(seed)
    let tensors = try scratch.tensors(model).values.filter { $0.dtype != .i64 }.map { tensor in
      let size = Double(1 << (seed % 4)) * 1e-5
      let values = (0..<tensor.count).map { _ in random.next() % 5 == 0 || zeros ? 0 : size * abs(random.normal()) }
      return TestTensor(tensor.name, .f32, tensor.shape, values)
    }
    try scratch.model("\(model).fisher", tensors)
  }

  @Test func informationIsThatOfAllAtOnce() throws {
    let scratch = try RollingTests.scratch(.f32)
    let weights = [1.0, 0.5, 2, 1]
    for (number, model) in Self.names.enumerated() {
      try Self.fisher(scratch, of: model, UInt64(number) + 3, zeros: number == 2)
      try add(model, scratch) { step in
        (step.method, step.side, step.weight) = (.fisher, scratch("\(model).fisher"), weights[number])
      }
    }
    let list = zip(Self.names, weights).map { "{model: @\($0), side: {fisher: @\($0).fisher}, parameters: {weight: \($1)}}" }
    try scratch.merge("merge_method: fisher\nmodels: [\(list.joined(separator: ", "))]\n", to: "batch")
    let (found, expected) = (try finish(scratch), try scratch.tensors("batch"))
    for name in RollingTests.merged {
      let (mine, theirs) = (try #require(found[name]), try #require(expected[name]))
      let inputs = try Self.names.map { try #require(try scratch.tensors($0)[name]) }
      for index in 0..<mine.count {
        let size = inputs.map { abs($0.value(index)) }.max() ?? 0
        #expect(abs(mine.value(index) - theirs.value(index)) <= 1e-6 * size, "\(name) \(index)")
      }
    }
    #expect(found["model.steps"]?.values == [4])
  }

  @Test(arguments: [1, 0.4]) func secondMomentsAreThoseOfAllAtOnce(_ density: Double) throws {
    let scratch = try RollingTests.scratch(.f32)
    let weights = [1.0, 0.5, 2, 1]
    for (number, model) in Self.names.enumerated() {
      try Self.fisher(scratch, of: model, UInt64(number) + 3, zeros: number == 2)
      try add(model, scratch) { step in
        (step.method, step.base, step.weight) = (.ota, scratch("base"), weights[number])
        (step.side, step.settings) = (scratch("\(model).fisher"), ["density": density])
      }
    }
    let list = zip(Self.names, weights).map { "{model: @\($0), side: {second_moment: @\($0).fisher}, parameters: {weight: \($1)}}" }
    let text = "merge_method: ota\nbase_model: @base\nmodels: [\(list.joined(separator: ", "))]\nparameters: {density: \(density)}\n"
    try scratch.merge(text, to: "batch")
    let (found, expected, base) = (try finish(scratch), try scratch.tensors("batch"), try scratch.tensors("base"))
    var kept = 0
    for name in RollingTests.merged {
      let (mine, theirs, start) = (try #require(found[name]), try #require(expected[name]), try #require(base[name]))
      let inputs = try Self.names.map { try #require(try scratch.tensors($0)[name]) }
      for index in 0..<mine.count {
        let size = inputs.map { abs($0.value(index)) }.max() ?? 0
        #expect(abs(mine.value(index) - theirs.value(index)) <= 1e-6 * size, "\(name) \(index)")
        if mine.value(index) != start.value(index) { kept += 1 }
      }
    }
    #expect(density == 1 || kept < 1400)
    let half = try finish(scratch, lambda: 0.5)
    for name in RollingTests.merged {
      let (mine, whole, start) = (try #require(half[name]), try #require(found[name]), try #require(base[name]))
      for index in 0..<mine.count {
        let expected = start.value(index) + 0.5 * (whole.value(index) - start.value(index))
        #expect(abs(mine.value(index) - expected) <= 2e-7 * (abs(start.value(index)) + abs(whole.value(index))))
      }
    }
  }

  @Test func progressiveAdapters() throws {
    let scratch = try RollingTests.scratch(.f32)
    let alpha = 0.3
    var merged: [String: [[Double]]] = [:]
    for (number, model) in Self.names.enumerated() {
      try add(model, scratch) { step in
        step.method = .mos
        if number == 0 { step.settings["alpha"] = alpha }
      }
      let result = try finish(scratch)
      for name in RollingTests.merged {
        let own = try #require(try scratch.tensors(model)[name])
        let earlier = merged[name] ?? []
        let expected = (0..<own.count).map { index in
          let mean = earlier.reduce(0) { $0 + $1[index] } / Double(max(number, 1))
          return number == 0 ? own.value(index) : (1 - alpha) * own.value(index) + alpha * mean
        }
        merged[name, default: []].append(expected)
        let found = try #require(result[name]).values
        #expect(zip(found, expected).allSatisfy { abs($0 - $1) <= 1e-6 * max(1, abs($1)) }, "\(model) \(name)")
      }
    }
    let record = try #require(try RollingState.read(scratch("state")))
    #expect(record.setting == alpha && record.count == 4)
  }

  @Test func threadsAndBudgetLeaveNoTrace() throws {
    let scratch = try RollingTests.scratch()
    for (number, model) in ["m1", "m2"].enumerated() { try Self.fisher(scratch, of: model, UInt64(number)) }
    // Those of matrices are the same on one machine alone.
    for method in RollingMethod.allCases where method != .opcm {
      var states: [[String: [UInt8]]] = []
      for (number, set) in InstructionSet.available.enumerated() {
        let threads = number % 2 == 0 ? 1 : 3
        var engine = EngineOptions()
        engine.threads = threads
        engine.instructionSet = set.name
        engine.memoryBudget = number == 0 ? 4 << 20 : 64 << 20
        for model in ["m1", "m2"] {
          var step = RollingStep(state: scratch("state-\(set)"), model: scratch(model))
          (step.method, step.base) = (method, method.needsBase ? scratch("base") : nil)
          step.side = method.side.map { _ in scratch("\(model).fisher") }
          var options = DirectoryOptions.quick
          options.force = true
          let calls = set.callCount
          _ = try Engine(engine).merge(try RollingPlan.make(step, models: RollingTests.models), options: options)
          #expect(set.callCount > calls)
        }
        states.append(scratch.output("state-\(set)"))
        try scratch.remove("state-\(set)")
      }
      for state in states.dropFirst() { #expect(state == states[0] && !state.isEmpty, "\(method)") }
    }
  }

  // MARK: Computed again

  /// Finished models, wherever their state is, and first steps.
  @Test(arguments: RollingMethod.allCases) func reproduced(_ method: RollingMethod) throws {
    let scratch = try RollingTests.scratch()
    func step(_ model: String) throws {
      if method.side != nil { try Self.fisher(scratch, of: model, 3) }
      try add(model, scratch) { step in
        (step.method, step.base) = (method, method.needsBase ? scratch("base") : nil)
        step.side = method.side.map { _ in scratch("\(model).fisher") }
        if method.setting?.name == "density" { step.settings = ["density": 0.5] }
      }
    }
    try step("m1")
    #expect(try Engine().reproduce(scratch("state")).differences.isEmpty)
    try step("m2")
    _ = try finish(scratch)
    let same = try Engine().reproduce(scratch("OUT"))
    #expect(same.differences.isEmpty && same.tensors == 3)
    let gone = #expect(throws: IngotError.self) { _ = try Engine().reproduce(scratch("state")) }
    #expect(gone?.status == .unsupported && gone?.message.contains("step 2") == true, "\(gone?.message ?? "")")
    try moveDirectory(scratch("state"), to: scratch("moved"))
    let absent = #expect(throws: IngotError.self) { _ = try Engine().reproduce(scratch("OUT")) }
    #expect(absent?.status == .notFound, "\(absent?.message ?? "")")
    #expect(try Engine().reproduce(scratch("OUT"), places: [scratch("state"): scratch("moved")]).differences.isEmpty)
    // Another step into the state: what was made of it before cannot come out again.
    try moveDirectory(scratch("moved"), to: scratch("state"))
    try step("m3")
    #expect(try !Engine().reproduce(scratch("OUT")).differences.isEmpty)
  }

  /// A step whose earlier state was kept.
  @Test(arguments: [RollingMethod.runningMean, .ties, .mos]) func reproducedFromAnEarlierState(_ method: RollingMethod) throws {
    let scratch = try RollingTests.scratch()
    let base = method.needsBase ? scratch("base") : nil
    try add("m1", scratch) { ($0.method, $0.base) = (method, base) }
    for (name, bytes) in scratch.files("state") { try scratch.write("kept/" + name, bytes) }
    try add("m2", scratch)
    #expect(try Engine().reproduce(scratch("state"), places: [scratch("state"): scratch("kept")]).differences.isEmpty)
  }

  // MARK: What is refused

  private func refusal(_ model: String, _ scratch: Scratch, _ change: (inout RollingStep) -> Void = { _ in }) throws -> IngotError? {
    let before = scratch.files("state")
    let error = #expect(throws: IngotError.self) { try add(model, scratch, change) }
    #expect(scratch.files("state") == before && !scratch.exists("state.partial"))
    return error
  }

  @Test func contradictions() throws {
    let scratch = try RollingTests.scratch()
    #expect(try refusal("m1", scratch) { $0.method = .fisher }?.message.contains("needs a side file") == true)
    #expect(try refusal("m1", scratch) { ($0.method, $0.side) = (.mos, "x") }?.message.contains("no side file") == true)
    #expect(try refusal("m1", scratch) { ($0.method, $0.settings) = (.mos, ["beta": 0.5]) }?.message.contains("no beta") == true)
    #expect(try refusal("m1", scratch) { ($0.method, $0.settings) = (.mos, ["alpha": 2]) }?.message.contains("alpha is 2") == true)
    let base = scratch("base")
    #expect(
      try refusal("m1", scratch) { ($0.method, $0.base, $0.weight) = (.ties, base, -1) }?.message.contains("above 0") == true)
    let dense = try refusal("m1", scratch) { ($0.method, $0.base, $0.settings) = (.ties, base, ["density": 1.5]) }
    #expect(dense?.message.contains("density is 1.5") == true)
    // A side file that is not there, one of another model, one that lacks a tensor.
    #expect(try refusal("m1", scratch) { ($0.method, $0.side) = (.fisher, scratch("none")) }?.status == .notFound)
    try scratch.model("other.fisher", [TestTensor("model.a.weight", .f32, [2])])
    #expect(try refusal("m1", scratch) { ($0.method, $0.side) = (.fisher, scratch("other.fisher")) }?.status == .shape)
    try add("m1", scratch) { ($0.method, $0.base, $0.settings) = (.ties, base, ["density": 0.5]) }
    let other = try refusal("m2", scratch) { $0.settings = ["density": 0.25] }
    #expect(other?.status == .recipe && other?.message.contains("density 0.5") == true)
    #expect(try refusal("m2", scratch) { $0.settings = ["alpha": 0.5] }?.message.contains("no alpha") == true)
  }

  @Test func namesAndStatesThatDoNotFit() throws {
    let scratch = try RollingTests.scratch()
    try scratch.model("marked", [TestTensor("model.a.weight#sum", .f32, [2])])
    let marked = try refusal("marked", scratch) { $0.method = .mos }
    #expect(marked?.status == .unsupported && marked?.subject == "model.a.weight#sum")
    // A method of one running object does not mind.
    try add("marked", scratch) { $0.method = .runningMean }
    try scratch.remove("state")
    try add("m1", scratch) { $0.method = .mos }
    // The weights of a state of another method beside this record.
    let record = try #require(scratch.read("state/rolling.json"))
    try scratch.remove("state")
    try add("m1", scratch) { $0.method = .runningMean }
    try scratch.write("state/rolling.json", record)
    let stray = try refusal("m2", scratch)
    #expect(stray?.status == .format && stray?.message.contains("#sum") == true)
    let text = try #require(scratch.text("state/rolling.json"))
    try scratch.write("state/rolling.json", Array(text.replacingOccurrences(of: "0.1", with: "7").utf8))
    #expect(throws: IngotError.self) { _ = try RollingState.read(scratch("state")) }
  }
}
