import IngotErrors
import IngotRecipes
import Testing

@Suite struct QuickTests {
  @Test func becomesTheEquivalentYAML() throws {
    let merge = QuickMerge(
      method: "ties", base: "BASE", models: [.init("A"), .init("org/B@main", weight: "0.5")],
      parameters: [.init("density", "0.5"), .init("lambda", "0, 0.5,1"), .init("scope", "off"), .init("normalize", "false")],
      dtype: "bfloat16",
      outDType: "float16", seed: 7)
    #expect(
      try merge.yaml(catalog: catalog) == """
        merge_method: ties
        base_model: BASE
        models:
          - model: A
            parameters:
              weight: 1
          - model: org/B@main
            parameters:
              weight: 0.5
        parameters:
          density: 0.5
          lambda: [0, 0.5, 1]
          scope: off
          normalize: false
        dtype: bfloat16
        out_dtype: float16
        seed: 7

        """)
    let recipe = try Recipe.quick(merge, catalog: catalog)
    #expect(recipe.models.map(\.name) == ["A", "org/B@main", "BASE"])
    #expect(try recipe.value(of: "weight", outputName: "x", source: 1, slice: 0, at: 0) == .number(0.5))
    #expect(try recipe.value(of: "lambda", outputName: "x", slice: 0, at: 0.25) == .number(0.25))
    #expect(try recipe.value(of: "scope", outputName: "x", slice: 0, at: 0) == .text("off"))
    #expect(try Array(merge.yaml(catalog: catalog).utf8) == recipe.text)
    #expect(recipe.notices.isEmpty)
  }

  @Test func methodsWithoutWeightsGetNone() throws {
    let yaml = try QuickMerge(method: "slerp", base: "a", models: [.init("b")], parameters: [.init("t", "0.5")]).yaml(catalog: catalog)
    #expect(!yaml.contains("weight"))
    let error = #expect(throws: IngotError.self) {
      try QuickMerge(method: "slerp", base: "a", models: [.init("b", weight: "1")]).yaml(catalog: catalog)
    }
    #expect(error?.message == "a weight after \"b\", but slerp has no weights")
    #expect(error?.hint == "its parameters, given with -p, are t")
  }

  @Test func aGlobalWeightReplacesTheOnes() throws {
    let yaml = try QuickMerge(
      method: "linear", models: [.init("a"), .init("b")], parameters: [.init("weight", "[{value: 1, filter: mlp}, {value: 2}]")]
    ).yaml(catalog: catalog)
    #expect(!yaml.contains("weight: 1\n"))
    #expect(yaml.contains("  weight: [{value: 1, filter: mlp}, {value: 2}]\n"))
  }

  @Test func badInputsThrow() {
    func status(_ merge: QuickMerge) -> Status? {
      do throws(IngotError) {
        _ = try Recipe.quick(merge, catalog: catalog)
        return nil
      } catch {
        return error.status
      }
    }
    #expect(status(QuickMerge(method: "nope", models: [.init("a")])) == .invalidArgument)
    #expect(status(QuickMerge(method: "linear", models: [])) == .invalidArgument)
    #expect(status(QuickMerge(method: "linear", models: [.init("a", weight: "[")])) == .recipe)
    #expect(status(QuickMerge(method: "linear", models: [.init("a", weight: "1\nmerge_method: ties")])) == .recipe)
    #expect(status(QuickMerge(method: "linear", models: [.init("a", weight: "")])) == .recipe)
    #expect(status(QuickMerge(method: "linear", models: [.init("")])) == .recipe)
    #expect(
      status(QuickMerge(method: "slerp", base: "a", models: [.init("b")], parameters: [.init("t", "0"), .init("t", "1")]))
        == .invalidArgument)
    #expect(status(QuickMerge(method: "slerp", base: "a", models: [.init("b")], parameters: [.init("t", "2")])) == .recipe)
  }

  /// Every text comes back from YAML as itself, as a block value, in flow style and as a key.
  @Test(arguments: [
    "", " ", "a", "a b", " a", "a ", "a: b", "a:b", "a #b", "#a", "- a", "-", "--", "@a", "`a", "%a", "&a", "*a", "!a", "|", ">", "'", "\"",
    "a'b\"c\\d", "[a]", "{a}",
    "a,b", "?", "? a", "yes", "No", "null", "~", "~/m", "1", "1.5", "010", "1:30", "1e5", ".5", ".inf", "0x10", "2001-12-14", "<<", "=",
    "a\nb", "a\tb",
    "\u{0}", "\u{1B}", "\u{7F}", "\u{85}", "\u{A0}", "\u{2028}", "\u{FEFF}", "é", "日本", "😀", "e\u{301}", "C:\\models\\x", "/a/b-c_d.e",
    "./x", "../x",
    "org/name@rev", "a+b", "\u{E000}", "\u{FFFE}", "---", "...", "--- a",
  ]) func everyTextSurvives(_ text: String) throws {
    let quoted = yamlScalar(text)
    for source in ["v: \(quoted)\n", "{v: \(quoted), w: 1}", "v:\n  \(quoted)"] {
      let scalar = try #require(try Node.load(Array(source.utf8), origin: "t").mapping?["v"]?.value.scalar)
      #expect(scalar.value == .string(text))
    }
    let key = try Node.load(Array("\(quoted): 1\n".utf8), origin: "t")
    #expect(key.mapping?.entries.map { Array($0.key.utf8) } == [Array(text.utf8)])
    #expect(!quoted.contains("\n"))
  }

  @Test(arguments: ["a", "/models/a-b_c.d", "org/name@main", "./x"]) func plainPathsStayPlain(_ text: String) {
    #expect(yamlScalar(text) == text)
  }

  @Test func pathsWithSpecialCharactersComeThrough() throws {
    let paths = ["/m/a b", "/m/#1: x", "C:\\m", "@home", "5", "no", "/m/\"q\"", "/m/é😀", "- x"]
    let recipe = try Recipe.quick(QuickMerge(method: "linear", models: paths.map { .init($0) }), catalog: catalog)
    #expect(recipe.models.map(\.name) == paths)
  }
}
