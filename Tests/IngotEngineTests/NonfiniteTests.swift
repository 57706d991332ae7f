import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// NaN and infinities among values that are combined: counted, named, refused, or carried.
@Suite struct NonfiniteTests {
  static let cases: [MethodCase] = [
    MethodCase(method: "linear"),
    MethodCase(method: "slerp"),
    MethodCase(method: "task_arithmetic"),
    MethodCase(method: "ties", densities: [0.5, 0.3, 1]),
    MethodCase(method: "ties", densities: [0.5, 0.3, 1], scope: "model"),
    MethodCase(method: "ties"),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 1]),
    MethodCase(method: "dare_linear", densities: [0.5, 0.3, 1], rule: "inverse_keep"),
    MethodCase(method: "dare_ties", densities: [0.5, 0.3, 1]),
    MethodCase(method: "della", densities: [0.5, 0.3, 0.8]),
    MethodCase(method: "della", densities: [0.5, 0.3, 0.8], rule: "inverse_keep"),
    MethodCase(method: "passthrough", scale: 2),
  ]

  /// Rows that straddle output pieces; large enough that a selection samples.
  private static func models(_ dtype: DType = .bf16) -> [String: [TestTensor]] {
    ReferenceModels([.init(name: "w", shape: [480, 1111], dtypes: [dtype, dtype, dtype, dtype])], seed: 21).models
  }

  @Test(arguments: cases) func countsAndNames(_ item: MethodCase) throws {
    let models = Self.models()
    let tensor = try #require(models["a"]?.first)
    // The row of element 524,288 is computed for two pieces of output; every other element of it is bad, and one element far away.
    let places = Array(stride(from: 471 * 1111, to: 472 * 1111, by: 2)) + [17]
    for (number, place) in places.enumerated() { tensor.set(place, number % 3 == 0 ? .nan : number % 3 == 1 ? .infinity : -.infinity) }
    let error = #expect(throws: IngotError.self) { _ = try merge(recipe: item.recipe, models: models) }
    #expect(error?.status == .nonFinite)
    #expect(error?.message.contains("\(places.count) in a") == true, "\(error?.message ?? "")")
    #expect(error?.subject == "w")
    #expect(error?.hint?.contains("allow-nonfinite") == true)
  }

  /// A tensor that is bad throughout is counted once, however often its elements are read.
  @Test func countsEachElementOnce() throws {
    let models = Self.models(.f16)
    let tensor = try #require(models["b"]?.first)
    for index in 0..<tensor.count { tensor.set(index, .nan) }
    let error = #expect(throws: IngotError.self) {
      _ = try merge(recipe: MethodCase(method: "ties", densities: [0.5, 0.3, 1]).recipe, models: models)
    }
    #expect(error?.message.contains("\(tensor.count) in b") == true, "\(error?.message ?? "")")
  }

  @Test(arguments: cases) func carriesThrough(_ item: MethodCase) throws {
    let models = Self.models()
    let base = try #require(models["base"]?.first)
    let first = try #require(models["a"]?.first)
    let last = try #require(models["c"]?.first)
    first.set(3, .nan)
    if item.modelCount == 3 { last.set(1_000, .infinity) }
    if item.method != "linear" && item.method != "passthrough" { base.set(70_000, .nan) }
    var options = RunOptions()
    options.allowsNonfinite = true
    let result = try merge(recipe: item.recipe, models: models, run: options)
    let output = try #require(result.tensors["w"])
    let warning = try #require(result.report.notices.first { $0.severity == .warning })
    #expect(warning.message.contains("1 in a"), "\(warning.message)")
    #expect(warning.subject == "w")
    // What a mask drops is skipped; DARE and DELLA may drop these elements or, with a rescale by mass, spread them.
    let isDrawn = item.method.hasPrefix("dare") || item.method == "della"
    if item.method == "slerp" {
      #expect(output.value(3).isNaN)
    } else if !isDrawn {
      #expect(output.value(3).isNaN)
      if item.modelCount == 3 { #expect(!output.value(1_000).isFinite) }
      if item.method != "linear" && item.method != "passthrough" { #expect(output.value(70_000).isNaN) }
      #expect(output.values.count { !$0.isFinite } <= 3)
    }
  }

  /// Finite values whose merge is beyond float16: an error that counts them, or infinities and a warning.
  @Test(arguments: ["", "dtype: float16\n"]) func beyondFloat16(_ dtype: String) throws {
    let (count, places) = (200_001, [0, 77, 65_536, 200_000])
    let stored: DType = dtype.isEmpty ? .f16 : .f32
    let (base, model) = (TestTensor("w", stored, [count]), TestTensor("w", stored, [count]))
    for place in places { model.set(place, place % 2 == 0 ? 30_000 : -40_000) }
    model.set(5, 20_000)
    let other = [TestTensor("v", stored, [3], [1, 2, 3])]
    let models = ["base": [base] + other, "a": [model] + other]
    for method in ["task_arithmetic", "ties", "magmax"] {
      let weight = method == "magmax" ? "" : ", parameters: {weight: 1}"
      let recipe = "merge_method: \(method)\nbase_model: base\nmodels: [{model: a\(weight)}]\nparameters: {lambda: 3}\n\(dtype)"
      let error = #expect(throws: IngotError.self) { _ = try merge(recipe: recipe, models: models) }
      #expect(error?.status == .nonFinite && error?.subject == "w")
      #expect(error?.message.contains("4 values of the result are beyond what F16 holds") == true, "\(error?.message ?? "")")
      #expect(error?.hint?.contains("bfloat16") == true)
      var options = RunOptions()
      options.allowsNonfinite = true
      let found = try merge(recipe: recipe, models: models, run: options)
      #expect(found.report.notices.contains { $0.severity == .warning && $0.message.contains("F16") && $0.subject == "w" })
      let output = try #require(found.tensors["w"])
      #expect(output.values.count { !$0.isFinite } == 4 && output.value(0) == .infinity && output.value(77) == -.infinity)
      #expect(output.value(5) == 60_000)
      #expect(try merge(recipe: recipe + "out_dtype: bfloat16\n", models: models).tensors["w"]?.value(0).isFinite == true)
    }
  }

  /// Dropped by a mask, an infinity leaves no trace: the term is skipped, not multiplied by zero.
  @Test(arguments: ["dare_linear", "dare_ties"]) func droppedTermsAreSkipped(_ method: String) throws {
    let base = TestTensor("w", .f32, [4096], [Double](repeating: 1, count: 4096))
    let model = TestTensor("w", .f32, [4096], [Double](repeating: .infinity, count: 4096))
    let recipe = PropertyTests.recipe(method, ["a"], extra: "density: 0.5", global: "rescale: false")
    var options = RunOptions()
    options.allowsNonfinite = true
    let result = try merge(recipe: recipe, models: ["base": [base], "a": [model]], run: options)
    let words = Reference.words(seed: 0, tensor: "w", model: 0, count: 4096)
    for index in 0..<4096 {
      #expect(result.tensors["w"]?.value(index) == (words[index] < 0x8000_0000 ? .infinity : 1))
    }
  }

  /// The same values are non-finite on every instruction set, and the same bytes come out.
  @Test(arguments: cases.filter { $0.rule == nil && $0.scope == nil }) func sameBytesOnEveryInstructionSet(_ item: MethodCase) throws {
    let models = Self.models(.f32)
    for (number, name) in ["base", "a", "b", "c"].enumerated() {
      let tensor = try #require(models[name]?.first)
      for index in stride(from: 5 * number, to: tensor.count, by: 211 + number) {
        let bits: UInt32 = [0x7fc0_0000, 0x7f80_0000, 0xff80_0000, 0xffc1_2345, 0x7f81_0001][(index + number) % 5]
        unsafe tensor.bytes.storeBytes(of: bits, toByteOffset: 4 * index, as: UInt32.self)
      }
    }
    var run = RunOptions()
    run.allowsNonfinite = true
    var expected: TestTensor?
    for set in InstructionSet.available {
      var options = EngineOptions()
      options.instructionSet = set.name
      let output = try #require(try merge(recipe: item.recipe, models: models, options: options, run: run).tensors["w"])
      if let expected { #expect(output.hasBytes(of: expected), "\(set): the first at \(output.firstDifference(from: expected))") }
      expected = expected ?? output
    }
  }
}

extension TestTensor {
  /// Where two tensors of f32 differ first, with the patterns.
  func firstDifference(from other: TestTensor) -> String {
    for index in 0..<count {
      let (here, there) = unsafe (
        bytes.load(fromByteOffset: 4 * index, as: UInt32.self), other.bytes.load(fromByteOffset: 4 * index, as: UInt32.self)
      )
      if here != there { return "\(index): \(String(here, radix: 16)) and \(String(there, radix: 16))" }
    }
    return "none"
  }
}
