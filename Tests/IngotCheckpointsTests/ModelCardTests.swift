import IngotCheckpoints
import Testing

@Suite("Model card")
struct ModelCardTests {
  static func source(
    _ text: String, local: Bool = false, base: Bool = false, licence: String? = nil
  ) throws -> ModelCard.Source {
    ModelCard.Source(
      reference: try ModelReference(parsing: text), isLocal: local, isBase: base,
      licence: licence.map { ModelLicence(identifiers: [$0]) })
  }

  @Test("hub models of one licence")
  func hub() throws {
    let card = ModelCard(
      method: "ties", methodLink: "https://arxiv.org/abs/2306.01708",
      sources: [
        try Self.source("org/base", base: true, licence: "apache-2.0"), try Self.source("org/math@v1", licence: "apache-2.0"),
      ], recipe: "merge_method: ties\n\n")
    #expect(
      card.render() == """
        ---
        base_model:
        - org/base
        - org/math
        base_model_relation: merge
        library_name: transformers
        license: apache-2.0
        tags:
        - merge
        - ingot
        - mergekit
        ---

        # Merge of org/base and org/math

        Merged with Ingot by the method [ties](https://arxiv.org/abs/2306.01708), with [org/base](https://huggingface.co/org/base) as the base.

        ## Models

        * [org/base](https://huggingface.co/org/base) (base): licence apache-2.0
        * [org/math](https://huggingface.co/org/math): licence apache-2.0

        ## Recipe

        ```yaml
        merge_method: ties
        ```

        """)
    #expect(card.render() == card.render())
  }

  @Test("local paths show only their last component, in the recipe too")
  func local() throws {
    let recipe = """
      models:
        - model: /home/someone/secret/alpha
        - model: "models/beta"
        - model: /home/someone/secret/alpha-2/+../lora_x
        - model: my-models/beta-two
      """
    let card = ModelCard(
      method: "linear",
      sources: [
        try Self.source("/home/someone/secret/alpha", local: true), try Self.source("models/beta", local: true),
        try Self.source("/home/someone/secret/alpha-2/+../lora_x", local: true), try Self.source("my-models/beta-two"),
      ], recipe: recipe)
    let text = card.render()
    #expect(!text.contains("/home") && !text.contains("secret") && !text.contains("../"))
    #expect(
      card.publicRecipe == """
        models:
          - model: alpha
          - model: "beta"
          - model: alpha-2+lora_x
          - model: my-models/beta-two
        """)
    #expect(text.contains("- alpha  # a local directory\n- beta  # a local directory\n- alpha-2  # a local directory\n- lora_x  # a"))
    #expect(text.contains("* alpha-2 + lora\\_x: no licence stated"))
    #expect(text.contains("- my-models/beta-two\n"))
  }

  @Test("licences that differ are listed")
  func licences() throws {
    let card = ModelCard(
      method: "linear",
      sources: [try Self.source("a/x", licence: "mit"), try Self.source("b/y", licence: "llama3"), try Self.source("c/z")],
      recipe: "r")
    let text = card.render()
    #expect(text.contains("license:\n- mit\n- llama3\ntags:"))
    #expect(text.contains("licences differ"))
    #expect(text.contains("* [c/z](https://huggingface.co/c/z): no licence stated"))
  }

  @Test("a licence with a name and a link keeps them")
  func named() throws {
    var source = try Self.source("a/x")
    source.licence = ModelLicence(identifiers: ["other"], name: "my licence: v2", link: "https://example.org/l")
    let text = ModelCard(method: "linear", sources: [source], recipe: "r").render()
    #expect(text.contains("license: other\nlicense_name: \"my licence: v2\"\nlicense_link: \"https://example.org/l\"\n"))
    #expect(text.contains("licence other (my licence: v2)"))
  }

  @Test("a recipe cannot break out of its fence, nor a name out of its line")
  func hostile() throws {
    let source = try Self.source("/x/``` # a\n- b: \"c\" [l](u)", local: true)
    let text = ModelCard(method: "linear", sources: [source], recipe: "a: 1\n````\n# injected").render()
    #expect(text.contains("`````yaml\na: 1\n````\n# injected\n`````\n"))
    #expect(text.contains("base_model:\n- \"``` # a\\n- b: \\\"c\\\" [l](u)\"  # a local directory\n"))
    #expect(!text.contains("\n- b:"))
  }

  @Test("no models at all")
  func empty() {
    let text = ModelCard(method: "linear", sources: [], recipe: "").render()
    #expect(!text.contains("base_model") && !text.contains("license"))
    #expect(text.contains("```yaml\n\n```\n"))
  }

  @Test(
    "licences in front matter",
    arguments: [
      ("---\nlicense: mit\n---\n# x", ["mit"]), ("---\r\nlicense: apache-2.0 # ok\r\n---\r\n", ["apache-2.0"]),
      ("---\ntags:\n- a\nlicense:\n- mit\n- bsd-3-clause\nx: 1\n- no\n---", ["mit", "bsd-3-clause"]),
      ("---\nlicense: [mit, \"cc-by-4.0\"]\n---", ["mit", "cc-by-4.0"]), ("\u{FEFF}---\nlicense: 'mit'\n---", ["mit"]),
      ("---\nlicense: \"a # b\"\n---", ["a # b"]), ("---\nx:\n  license: mit\n---", nil), ("license: mit", nil), ("---\nlicense: mit", nil),
      ("---\nlicense:\n---", nil), ("---\nlicense: null\n---", nil), ("# t\n---\nlicense: mit\n---", nil), ("", nil), ("---\n---", nil),
    ] as [(String, [String]?)])
  func frontMatter(_ text: String, _ expected: [String]?) {
    #expect(ModelLicence.read(fromREADME: text)?.identifiers == expected)
  }

  @Test("name and link of another licence")
  func other() {
    let licence = ModelLicence.read(fromREADME: "---\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---")
    #expect(licence == ModelLicence(identifiers: ["other"], name: "qwen", link: "LICENSE"))
    #expect(licence?.label == "other (qwen)")
  }
}
