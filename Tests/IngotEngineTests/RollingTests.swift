import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Merges of models that come one at a time.
@Suite struct RollingTests {
  static let models = LocalModels(environment: [:])
  static let names = ["base", "m1", "m2", "m3", "m4"]

  /// Fine-tunes of one base, with a buffer of integers; `exact` makes all values multiples of 1/64 below 1, times the tensor's scale.
  static func scratch(_ dtype: DType = .bf16, exact: Bool = false, scales: [Double] = [1, 1]) throws -> Scratch {
    let scratch = try Scratch()
    var random = SplitMix(5)
    let shapes = [("model.a.weight", [37, 41]), ("model.b.bias", [7])]
    let base = shapes.map { _ in [Double]() }.enumerated().map { index, _ in
      (0..<shapes[index].1.reduce(1, *)).map { _ in exact ? Double(Int(random.next() % 65) - 32) / 64 : random.normal() }
    }
    for (number, name) in names.enumerated() {
      var tensors = [TestTensor("model.steps", .i64, [1], [Double(number)])]
      for ((part, values), scale) in zip(zip(shapes, base), scales) {
        let changed = values.map { value in
          number == 0 || random.next() % 4 == 0 ? value : value + (exact ? Double(Int(random.next() % 17) - 8) / 64 : 0.1 * random.normal())
        }
        tensors.append(TestTensor(part.0, dtype, part.1, changed.map { scale * $0 }))
      }
      try scratch.model(name, tensors, config: #"{"model_type": "llama"}"#)
      // A state knows a model by sizes, headers and times, and files written one right after the other may have one time.
      try FileManager.default.setAttributes(
        [.modificationDate: Date(timeIntervalSince1970: Double(1_000_000 + number))], ofItemAtPath: scratch(name + "/model.safetensors"))
    }
    return scratch
  }

  @discardableResult
  private func add(_ model: String, _ scratch: Scratch, _ change: (inout RollingStep) -> Void = { _ in }) throws -> RollingPlan {
    var step = RollingStep(state: scratch("state"), model: scratch(model))
    change(&step)
    let plan = try RollingPlan.make(step, models: Self.models)
    var options = DirectoryOptions.quick
    options.force = true
    _ = try Engine().merge(plan, options: options)
    return plan
  }

  private func finish(_ scratch: Scratch, lambda: Double? = nil, dtype: String? = nil) throws -> [String: TestTensor] {
    let plan = try RollingPlan.finish(scratch("state"), to: scratch("OUT"), lambda: lambda, dtype: dtype, models: Self.models)
    var options = DirectoryOptions.quick
    options.force = true
    _ = try Engine().merge(plan, options: options)
    return try scratch.tensors()
  }

  private func batch(_ scratch: Scratch, _ method: String, hasBase: Bool, own: [String] = ["", "", "", ""], global: String) throws
    -> [String: TestTensor]
  {
    let list = zip(Self.names.dropFirst(), own).map { "{model: @\($0), parameters: {\($1)}}" }.joined(separator: ", ")
    try scratch.merge(
      "merge_method: \(method)\n\(hasBase ? "base_model: @base\n" : "")models: [\(list)]\nparameters: {\(global)}\n", to: "batch")
    return try scratch.tensors("batch")
  }

  static let merged = ["model.a.weight", "model.b.bias"]

  @Test(arguments: [DType.bf16, .f32]) func sumsAreThoseOfAllAtOnce(_ dtype: DType) throws {
    let weights = [0.5, 1.25, -0.75, 2]
    let own = weights.map { "weight: \($0)" }
    for (method, name, other, hasBase) in [
      (RollingMethod.runningMean, "uniform_soup", "", false), (.weightedMean, "linear", "", false),
      (.taskArithmetic, "task_arithmetic", "lambda: 0.3", true),
    ] {
      let scratch = try Self.scratch(dtype)
      for (model, weight) in zip(Self.names.dropFirst(), weights) {
        try add(model, scratch) { step in
          step.method = method
          if method.takesWeight { step.weight = weight }
          if hasBase { step.base = scratch("base") }
        }
      }
      let found = try finish(scratch, lambda: hasBase ? 0.3 : nil)
      let expected = try batch(scratch, name, hasBase: hasBase, own: name == "uniform_soup" ? ["", "", "", ""] : own, global: other)
      for tensor in Self.merged {
        #expect(found[tensor]?.dtype == dtype)
        #expect(found[tensor]?.hasBytes(of: expected[tensor]) == true, "\(method) \(tensor)")
      }
      #expect(found["model.steps"]?.values == [hasBase ? 0 : 4])
    }
  }

  @Test func averagesFade() throws {
    let scratch = try Self.scratch(.f32)
    for model in Self.names.dropFirst() {
      try add(model, scratch) { step in
        step.method = .ema
        step.settings["beta"] = 0.7
      }
    }
    let found = try finish(scratch)
    let expected = try batch(scratch, "ema", hasBase: false, global: "beta: 0.7")
    for name in Self.merged {
      let (mine, theirs) = (try #require(found[name]), try #require(expected[name]))
      for index in 0..<mine.count {
        #expect(abs(mine.value(index) - theirs.value(index)) <= 4 * 0x1p-23 * max(1, abs(theirs.value(index))))
      }
    }
  }

  /// Against the definition: the largest change, of equal ones the last.
  @Test func largestMagnitudes() throws {
    let scratch = try Self.scratch(exact: true)
    for model in Self.names.dropFirst() {
      try add(model, scratch) { step in
        if model == "m1" { (step.method, step.base) = (.magmax, scratch("base")) }
      }
    }
    let state = try scratch.tensors("state")
    let result = try finish(scratch, lambda: 0.5, dtype: "float32")
    let all = try Self.names.map { try scratch.tensors($0) }
    for name in Self.merged {
      for index in 0..<(state[name]?.count ?? 0) {
        let base = all[0][name]?.value(index) ?? .nan
        var largest = 0.0
        for model in all.dropFirst() {
          let change = (model[name]?.value(index) ?? .nan) - base
          if abs(change) >= abs(largest) { largest = change }
        }
        #expect(state[name]?.value(index) == largest)
        #expect(result[name]?.value(index) == base + 0.5 * largest)
      }
    }
    // Both signs of one magnitude do occur, so that the order matters.
    #expect(state.values.contains { $0.dtype == .f32 })
  }

  /// Of DOP too: a step knows nothing of the models before but their merge.
  @Test(arguments: [0.8, 0.5]) func dualProjections(_ alpha: Double) throws {
    let scratch = try Self.scratch(.f32)
    for model in Self.names.dropFirst() {
      try add(model, scratch) { step in
        (step.method, step.base) = (.dop, scratch("base"))
        if alpha != 0.8 { step.settings["alpha"] = alpha }
      }
    }
    let expected = try batch(scratch, "dop", hasBase: true, global: "merged_weight: \(alpha)")
    let base = try scratch.tensors("base")
    for lambda in [1, 0.25] {
      let found = try finish(scratch, lambda: lambda)
      for name in Self.merged {
        let (mine, theirs, start) = (try #require(found[name]), try #require(expected[name]), try #require(base[name]))
        for index in 0..<mine.count {
          let wanted = start.value(index) + lambda * (theirs.value(index) - start.value(index))
          #expect(abs(mine.value(index) - wanted) <= 2e-6 * max(1, abs(wanted)))
        }
      }
    }
    #expect(try refusal("m1", scratch) { $0.settings["alpha"] = 0.25 }?.message.contains("alpha") == true)
    #expect(try refusal("m1", scratch) { $0.weight = 2 }?.message.contains("weight") == true)
  }

  /// One model at a time gives what all at once do.
  @Test(arguments: [0.5, 0.9]) func orthogonalProjections(_ alpha: Double) throws {
    let scratch = try Self.scratch(.f32)
    for model in Self.names.dropFirst() {
      let plan = try add(model, scratch) { step in
        (step.method, step.base) = (.opcm, scratch("base"))
        if model == "m1" || alpha != 0.5 { step.settings["alpha"] = alpha }
      }
      #expect(plan.state.count == Int(model.dropFirst()))
    }
    let record = try #require(try RollingState.read(scratch("state")))
    #expect(record.norms.count == 4 && record.norms.allSatisfy { $0 > 0 } && record.stateNorm > 0 && record.setting == alpha)
    let expected = try batch(scratch, "opcm", hasBase: true, global: "projection_alpha: \(alpha)")
    let base = try scratch.tensors("base")
    for lambda in [1, 0.25] {
      let found = try finish(scratch, lambda: lambda)
      for name in Self.merged {
        let (mine, theirs, start) = (try #require(found[name]), try #require(expected[name]), try #require(base[name]))
        for index in 0..<mine.count {
          let wanted = start.value(index) + lambda * (theirs.value(index) - start.value(index))
          #expect(abs(mine.value(index) - wanted) <= 2e-6 * max(1, abs(wanted)))
        }
      }
    }
    // A model like the base: nothing to scale by.
    let still = try Self.scratch(.f32)
    try still.model("same", Array(try still.tensors("base").values), config: #"{"model_type": "llama"}"#)
    try add("same", still) { step in (step.method, step.base) = (.opcm, still("base")) }
    let same = try finish(still)
    for name in Self.merged { #expect(same[name]?.hasBytes(of: try still.tensors("base")[name]) == true) }
    for text in ["\"norms\": [0.0]", "\"state_norm\": 0.0"] {
      let whole = try #require(still.text("state/rolling.json"))
      #expect(whole.contains(text), "\(whole)")
      try still.write("state/rolling.json", Array(whole.replacingOccurrences(of: text, with: "\"other\": 1").utf8))
      let error = #expect(throws: IngotError.self) { _ = try RollingState.read(still("state")) }
      #expect(error?.status == .format)
      try still.write("state/rolling.json", Array(whole.utf8))
    }
    #expect(try refusal("m1", still) { $0.settings["alpha"] = 0.25 }?.message.contains("alpha") == true)
    #expect(try refusal("m1", still) { $0.settings["alpha"] = 2 }?.status == .recipe)
  }

  /// The record counts, the state verifies, and the result keeps the type that the models share.
  @Test func recordAndTypes() throws {
    let scratch = try Self.scratch()
    let first = try add("m1", scratch) { $0.method = .runningMean }
    #expect(!first.replaces && first.state.count == 1)
    let second = try add("m2", scratch)
    #expect(second.replaces && second.state.count == 2 && second.state.identity == first.state.identity)
    let record = try #require(try RollingState.read(scratch("state")))
    #expect(record.count == 2 && record.weightSum == 2 && record.dtype == "bfloat16" && record.models.count == 2)
    let verification = try Verification(directory: scratch("state"))
    #expect(verification.tensors == 3 && verification.differences.isEmpty)
    #expect(try scratch.tensors("state")["model.a.weight"]?.dtype == .f32)
    #expect(try finish(scratch)["model.a.weight"]?.dtype == .bf16)
    #expect(try finish(scratch, dtype: "float16")["model.a.weight"]?.dtype == .f16)
    #expect(!scratch.exists("OUT/rolling.json") && !scratch.exists("state.partial"))
    #expect(try Engine().reproduce(scratch("OUT")).differences.isEmpty)
  }

  /// A step that is cancelled has not happened; the same step afterwards does.
  @Test func interruptedStepsLeaveTheState() throws {
    let scratch = try Self.scratch()
    try add("m1", scratch) { $0.method = .runningMean }
    let before = scratch.files("state")
    let plan = try RollingPlan.make(RollingStep(state: scratch("state"), model: scratch("m2")), models: Self.models)
    var options = DirectoryOptions.quick
    options.force = true
    let flag = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    unsafe flag.initialize(to: 1)
    defer { unsafe flag.deallocate() }
    let watcher = unsafe Watcher(unsafe: flag)
    let error = #expect(throws: IngotError.self) { _ = try Engine().merge(plan, options: options, watcher: watcher) }
    #expect(error?.status == .cancelled)
    #expect(scratch.files("state") == before)
    #expect(try add("m2", scratch).state.count == 2)
  }

  // MARK: What is refused

  private func refusal(_ model: String, _ scratch: Scratch, _ change: (inout RollingStep) -> Void = { _ in }) throws -> IngotError? {
    let before = scratch.files("state")
    let error = #expect(throws: IngotError.self) { try add(model, scratch, change) }
    #expect(scratch.files("state") == before && !scratch.exists("state.partial"))
    return error
  }

  @Test func contradictions() throws {
    let scratch = try Self.scratch()
    #expect(try refusal("m1", scratch)?.message.contains("needs a method") == true)
    #expect(try refusal("m1", scratch) { $0.method = .magmax }?.message.contains("needs a base") == true)
    #expect(try refusal("m1", scratch) { step in (step.method, step.base) = (.ema, scratch("base")) }?.message.contains("no base") == true)
    #expect(try refusal("m1", scratch) { step in (step.method, step.weight) = (.magmax, 2) }?.message.contains("no weight") == true)
    #expect(try refusal("m1", scratch) { step in (step.method, step.settings["beta"]) = (.ema, 1) }?.message.contains("beta is 1") == true)
    #expect(try refusal("m1", scratch) { step in (step.method, step.weight) = (.weightedMean, .nan) }?.status == .invalidArgument)
    #expect(
      try refusal("m1", scratch) { step in (step.method, step.settings) = (.runningMean, ["alpha": 0.5]) }?.message.contains("no alpha")
        == true)
    #expect(
      try refusal("m1", scratch) { step in (step.method, step.base, step.settings) = (.opcm, scratch("base"), ["alpha": 2]) }?.status
        == .invalidArgument)
    try add("m1", scratch) { step in (step.method, step.base) = (.taskArithmetic, scratch("base")) }
    let other = try refusal("m2", scratch) { $0.method = .magmax }
    #expect(other?.status == .recipe && other?.message.contains("task_arithmetic") == true)
    #expect(try refusal("m2", scratch) { $0.base = scratch("m3") }?.status == .stale)
    #expect(try refusal("m1", scratch)?.message.contains("number 1 of 1") == true)
    #expect(try add("m1", scratch) { $0.allowsRepeat = true }.state.count == 2)
    // The base may be given again, and must be as it was.
    #expect(try add("m2", scratch) { $0.base = scratch("base") }.state.count == 3)
    let bytes = try #require(scratch.read("base/model.safetensors"))
    try scratch.remove("base/model.safetensors")
    try scratch.write("base/model.safetensors", bytes)
    #expect(try refusal("m3", scratch)?.status == .stale)
    #expect(throws: IngotError.self) { _ = try RollingPlan.finish(scratch("state"), to: scratch("OUT"), models: Self.models) }
  }

  @Test func recordsThatAreNone() throws {
    let scratch = try Self.scratch()
    try scratch.write("plain", Array("text".utf8))
    for place in ["m1", "plain"] {
      let error = #expect(throws: IngotError.self) { _ = try RollingState.read(scratch(place)) }
      #expect(error?.status == .exists)
    }
    #expect(try RollingState.read(scratch("nothing")) == nil)
    try add("m1", scratch) { step in (step.method, step.settings["beta"]) = (.ema, 0.5) }
    let text = try #require(scratch.text("state/rolling.json"))
    let changes = [
      ("\"ema\"", "\"running_mean\""), ("\"ema\"", "\"none\""), ("0.5", "0.25"), ("\"count\": 1", "\"count\": 2"),
      ("\"schema\": 1", "\"schema\": 2"),
      ("\"count\": 1", "\"count\": -1"), ("\"weight_sum\": 1.0", "\"weight_sum\": null"), ("\"models\"", "\"other\""), ("{", "["),
      ("\"identity\"", "\"identify\""), ("\"schema\": 1", "\"schema\": 1e99"),
    ]
    for (old, new) in changes {
      let changed = text.replacingOccurrences(of: old, with: new)
      #expect(changed != text)
      try scratch.write("state/rolling.json", Array(changed.utf8))
      let error = #expect(throws: IngotError.self, "\(new)") { _ = try RollingState.read(scratch("state")) }
      #expect(error?.status == .format || error?.status == .unsupported, "\(new): \(error?.message ?? "")")
    }
  }

  @Test func ends() throws {
    let scratch = try Self.scratch()
    let absent = #expect(throws: IngotError.self) { _ = try RollingPlan.finish(scratch("state"), to: scratch("OUT"), models: Self.models) }
    #expect(absent?.status == .notFound)
    for (model, weight) in [("m1", 1.0), ("m2", -1)] {
      try add(model, scratch) { step in (step.method, step.weight) = (.weightedMean, weight) }
    }
    let none = #expect(throws: IngotError.self) { _ = try finish(scratch) }
    #expect(none?.status == .recipe && none?.message.contains("sum to zero") == true)
    let useless = #expect(throws: IngotError.self) { _ = try finish(scratch, lambda: 2) }
    #expect(useless?.status == .invalidArgument)
    try add("m3", scratch) { $0.weight = 2 }
    #expect(throws: IngotError.self) { _ = try finish(scratch, dtype: "int8") }
    #expect(try finish(scratch)["model.a.weight"]?.dtype == .bf16)
    // A model of other tensors, and one that is not there.
    try scratch.model("other", [TestTensor("model.a.weight", .bf16, [2])])
    #expect(try refusal("other", scratch)?.status == .shape)
    #expect(try refusal("nowhere", scratch)?.status == .notFound)
  }
}
