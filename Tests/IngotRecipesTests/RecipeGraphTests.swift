import IngotErrors
import IngotRecipes
import Testing

/// Recipes of several documents.
@Suite struct RecipeGraphTests {
  private func document(_ name: String?, _ models: String...) -> String {
    (name.map { "name: \($0)\n" } ?? "")
      + "merge_method: linear\nparameters: {weight: 1}\nmodels: [\(models.map { "{model: \($0)}" }.joined(separator: ", "))]\n"
  }

  private func parse(_ documents: String..., strict: Bool = false) throws -> Recipe {
    try Recipe.parse(Array(documents.joined(separator: "---\n").utf8), origin: "recipe.yml", catalog: catalog, strict: strict)
  }

  @Test func theUnnamedDocumentIsTheOutput() throws {
    let recipe = try parse(document(nil, "x", "b"), document("x", "a", "b"), strict: true)
    #expect(recipe.name == nil)
    #expect(recipe.models.map(\.name) == ["x", "b"])
    #expect(recipe.stages.map(\.name) == ["x"])
    #expect(recipe.externalModels.map(\.name) == ["a", "b"])
    #expect(recipe.notices.isEmpty)
  }

  @Test func theLastIsTheOutputWhenAllHaveNames() throws {
    let recipe = try parse(document("x", "a"), document("y", "x", "c"))
    #expect(recipe.models.map(\.name) == ["x", "c"])
    #expect(recipe.stages.map(\.name) == ["x"])
  }

  /// Whatever the order of the text: a document comes after those that it reads, and once.
  @Test func orderFollowsWhoReadsWhom() throws {
    let recipe = try parse(
      document("top", "left", "right"), document("left", "bottom", "a"), document(nil, "top", "bottom"), document("right", "bottom", "b"),
      document("bottom", "a", "b"))
    #expect(recipe.stages.map(\.name) == ["bottom", "left", "right", "top"])
    #expect(recipe.externalModels.map(\.name) == ["a", "b"])
  }

  @Test func aDocumentThatNobodyReadsIsSaid() throws {
    let recipe = try parse(document("x", "a"), document("y", "b"), document(nil, "y"))
    #expect(recipe.stages.map(\.name) == ["y"])
    let notice = try #require(recipe.notices.first { $0.message.contains("the document x") })
    #expect(notice.severity == .warning && notice.position?.line == 1)
  }

  /// mergekit replaces any text that equals a name: a document called as its method would be a circle there.
  @Test func namesAreLookedForAmongModelsOnly() throws {
    let recipe = try parse(document("linear", "a"), document(nil, "linear"))
    #expect(recipe.method.name == "linear" && recipe.stages.map(\.name) == ["linear"])
  }

  @Test func emptyDocumentsCount() throws {
    #expect(try parse("", document(nil, "a"), "", "# nothing\n").stages.isEmpty)
  }

  @Test func anchorsEndWithTheirDocument() throws {
    let error = #expect(throws: IngotError.self) {
      try parse(
        "name: x\nmerge_method: linear\nparameters: {weight: &w 1}\nmodels: [{model: a}]\n",
        "merge_method: linear\nparameters: {weight: *w}\nmodels: [{model: x}]\n")
    }
    #expect(error?.message.contains("*w") == true && error?.position?.line == 7)
  }

  @Test func referencesWithARevisionAreModels() throws {
    let recipe = try parse(document("x", "a"), document(nil, "x@main"))
    #expect(recipe.stages.isEmpty && recipe.externalModels.map(\.name) == ["x@main"])
  }

  @Test func documentsAreCounted() throws {
    let many = (0..<300).map { document("d\($0)", "a") }.joined(separator: "---\n")
    let error = #expect(throws: IngotError.self) { try parse(many) }
    #expect(error?.message.contains("more than 256 documents") == true)
  }

  @Test func adaptersOnDocuments() throws {
    let recipe = try parse(
      """
      name: first
      merge_method: linear
      models: [{model: m+l, parameters: {weight: 1}}]
      ---
      merge_method: linear
      parameters: {weight: 1}
      models: [{model: first+b+c#1}, {model: {model: first, lora: [d, {path: e}]}}, {model: other+b}]
      """)
    #expect(recipe.stages.compactMap(\.name) == ["first"])
    #expect(recipe.models.map(\.documentNames) == [["first+b+c#1", "first"], ["first"], ["other+b", "other"]])
    // Of a document nothing has to be there, of the adapters on it each.
    #expect(recipe.externalModels.map(\.name) == ["m+l", "b", "c#1", "d", "e", "other+b"])
  }
}
