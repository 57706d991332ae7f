import IngotErrors
import IngotRecipes
import IngotTensors
import Testing

@Suite struct PatternTests {
  @Test(
    arguments: [
      ("*", "", true), ("*.mlp.*", "model.layers.0.mlp.up_proj.weight", true), ("*.mlp", "model.layers.0.mlp.w", false),
      ("lm_head.weight", "lm_head.weight", true), ("lm_head", "lm_head.weight", false), ("l?yers.[0-4].w", "layers.3.w", true),
      ("l?yers.[!0-4].w", "layers.3.w", false), ("a\\*b", "a*b", true), ("a\\*b", "axb", false), ("a.c", "abc", false), ("[]a]", "]", true),
      ("/mlp\\.(up|down)_proj/", "x.mlp.down_proj.weight", true), ("/mlp\\.(up|down)_proj/", "x.mlp.gate_proj.weight", false),
      ("/^model/", "language_model", false), ("/norm$/", "final_norm", true), ("/norm$/", "norm.weight", false),
      ("/layers\\.(0|1|2\\d)\\./", "layers.27.w", true), ("/layers\\.(0|1|2\\d)\\./", "layers.7.w", false), ("/a{2,3}b/", "ab", false),
      ("/^a{2,3}$/", "aaa", true), ("/^a{2,3}$/", "aaaa", false), ("/^a{2,}$/", "aaaa", true), ("/^(?:ab)+c?$/", "ababc", true),
      ("/[^.]+\\.bias/", "q.bias", true), ("/\\w\\W\\D\\s/", "a.5 c", false), ("/\\w\\W\\D\\s/", "a.b ", true), ("/()*/", "", true),
      ("/(a*)*$/", "aaab", true), ("/^(|a)+$/", "aa", true), ("//", "anything", true), ("/a|^$/", "", true), ("wörter?", "wörterx", true),
      ("/x{0}y/", "y", true), ("/\\//", "a/b", true),
    ])
  func matches(_ pattern: String, _ name: String, _ isMatch: Bool) throws {
    #expect(try TensorPattern(pattern).matches(name) == isMatch)
  }

  @Test(
    arguments: [
      ("", 0), ("/(a/", 1), ("/a)/", 2), ("/*a/", 1), ("/a{2/", 2), ("/a{3,2}/", 2), ("/a{1001}/", 2), ("/[a/", 1), ("/[z-a]/", 2),
      ("[a", 0),
      ("/\\q/", 1), ("/\\/", 1), ("/(?=a)/", 1), ("/^*/", 2), ("/[é]/", 2), ("a\\", 1), ("/(((a{1000}){1000}){1000})/", 0),
    ])
  func faults(_ pattern: String, _ offset: Int) throws {
    let fault = try #require(throws: TensorPattern.Fault.self) { try TensorPattern(pattern) }
    #expect(fault.offset == offset, "\(fault)")
  }

  /// Exponential for matchers that go back.
  @Test func timeIsLinear() throws {
    let pattern = try TensorPattern("/^(a|aa|a*)*(a|b)*c$/")
    #expect(!pattern.matches(String(repeating: "a", count: 20_000)))
  }

  @Test func hostilePatternsEnd() {
    for text in [String(repeating: "(", count: 900), String(repeating: "*", count: 900), "/a" + String(repeating: "*", count: 900) + "/"] {
      if let pattern = try? TensorPattern(text) { _ = pattern.matches("aaaa") }
    }
    #expect(throws: TensorPattern.Fault.self) { try TensorPattern("/" + String(repeating: "(", count: 900) + "/") }
    #expect(throws: TensorPattern.Fault.self) { try TensorPattern(String(repeating: "a", count: 1001)) }
  }

  // MARK: Rules

  private static let head = "merge_method: ties\nbase_model: b\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 1}\n"

  @Test func rules() throws {
    let recipe = try parse(
      Self.head + """
        tensors:
        - {match: "*.mlp.*", layers: "0-3, 7, 9-", parameters: {density: 0.5}}
        - {match: /embed/, from: d, dtype: float16, parameters: {scale: 2}}
        - {match: "*norm*", method: linear, parameters: {normalize: false}}
        """)
    #expect(recipe.rules.map(\.pattern.text) == ["*.mlp.*", "/embed/", "*norm*"])
    #expect(recipe.rules[0].layers == [0...3, 7...7, 9...Int.max])
    #expect(recipe.rules[0].matches("x.mlp.w", layer: 3) && !recipe.rules[0].matches("x.mlp.w", layer: 4))
    #expect(!recipe.rules[0].matches("x.mlp.w", layer: nil) && recipe.rules[0].matches("x.mlp.w", layer: 1000))
    #expect(recipe.rules[1].from == 3 && recipe.models.map(\.name) == ["a", "b", "c", "d"] && recipe.rules[1].dtype == .f16)
    #expect(recipe.rules[2].method?.name == "linear" && recipe.notices.isEmpty)
    func value(_ name: String, rule: Int?, source: Int? = nil) throws -> ParameterValue? {
      try recipe.value(of: name, outputName: "n", source: source, slice: 0, at: 0, rule: rule)
    }
    // The rule's own, then the recipe's of the same name, then the default of the rule's method.
    #expect(try value("density", rule: 0, source: 0) == .number(0.5) && value("density", rule: nil, source: 0) == .number(1))
    #expect(try value("normalize", rule: 2) == .boolean(false) && value("weight", rule: 2, source: 0) == .number(1))
  }

  @Test(
    arguments: [
      ("- {match: \"/(/\"}", "a parenthesis is not closed, at character 2 of \"/(/\"", "tensors[0].match"),
      ("- {layers: 1}", "match is missing", "tensors[0].match"),
      ("- {match: a, layers: 3-1}", "expected a layer or FIRST-LAST", "tensors[0].layers"),
      ("- {match: a, layers: x}", "layers is \"x\"", "tensors[0].layers"),
      ("- {match: a, method: linaer}", "unknown merge method", "merge_method"),
      ("- {match: a, from: d, method: linear}", "both from and method", "tensors[0].from"),
      ("- {match: a, method: slerp}", "found 2 models, expected exactly 1 model beside the base for slerp", "tensors[0].method"),
      ("- {match: a, method: passthrough}", "expected exactly 1 model for passthrough", "tensors[0].method"),
      ("- {match: a, parameters: {density: 2}}", "density is 2", "tensors[0].parameters.density"),
      ("- {mach: a}", "unknown key 'mach'", "tensors[0].mach"),
      ("- a", "expected a mapping", "tensors[0]"),
    ])
  func refused(_ rule: String, _ message: String, _ subject: String) throws {
    let error = try #require(throws: IngotError.self) { try parse(Self.head + "tensors:\n" + rule + "\n") }
    #expect(error.status == .recipe && error.message.contains(message), "\(error)")
    #expect(error.subject == subject && error.position?.line == 6)
  }

  @Test func aRuleWithoutEffectIsSaid() throws {
    #expect(try parse(Self.head + "tensors: [{match: a}]\n").notices.map(\.message).contains { $0.contains("changes nothing") })
    #expect(throws: IngotError.self) { try parse(Self.head + "tensors: [{match: a}]\n", strict: true) }
  }

  @Test func missing() throws {
    #expect(try parse(Self.head).missing == .error && parse(Self.head + "missing: union\n").missing == .union)
    let error = try #require(throws: IngotError.self) { try parse(Self.head + "missing: unoin\n") }
    #expect(error.hint == "did you mean union?")
  }
}

@Test func lookaheadIsNamed() throws {
  let fault = try #require(throws: TensorPattern.Fault.self) { try TensorPattern("/(?=a)/") }
  #expect(fault.message.contains("(? other than (?: )"))
}
