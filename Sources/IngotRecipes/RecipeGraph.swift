import IngotErrors

/// The documents of one text: each a recipe, all but one with a `name` under which others read its result as a model.
struct RecipeGraph {
  private struct Document {
    var recipe: Recipe
    var name: String?
    var position: SourcePosition
  }

  private var documents: [Document] = []
  /// By name, the place in `documents`.
  private var places: [String: Int] = [:]

  /// Throws `.recipe` with a position for what is wrong with one document, a name given twice, and a second document without a name.
  init(_ roots: [Node], text: [UInt8], origin: String, catalog: MethodCatalog, strict: Bool) throws(IngotError) {
    var unnamed: SourcePosition?
    for root in roots {
      let name = try Self.name(of: root)
      if let name {
        if let earlier = places[name.text] {
          throw IngotError(
            .recipe, "two documents have the name \(excerpt(name.text)); the first begins at line \(documents[earlier].position.line)",
            hint: "give each document a name of its own", subject: "name", position: name.position)
        }
        places[name.text] = documents.count
      } else if let unnamed {
        throw IngotError(
          .recipe, "a second document without a name; the first begins at line \(unnamed.line)",
          hint: "the document without a name is the output: give every other one a line 'name: …'", position: root.position)
      } else {
        unnamed = root.position
      }
      var parser = RecipeParser(catalog: catalog, strict: strict)
      parser.isNamed = true
      var recipe = try parser.recipe(root, text: text, origin: origin)
      recipe.name = name?.text
      documents.append(Document(recipe: recipe, name: name?.text, position: name?.position ?? root.position))
    }
  }

  private static func name(of root: Node) throws(IngotError) -> (text: String, position: SourcePosition)? {
    guard let node = root.mapping?["name"]?.value, !node.isNull else { return nil }
    guard let text = node.scalar?.text, !text.isEmpty, text.utf8.count <= Limit.documentNameBytes, !text.utf8.contains(0) else {
      throw IngotError(
        .recipe, "name is \(node.found), expected a text of 1 to \(Limit.documentNameBytes) bytes",
        hint: "other documents name it as their model",
        subject: "name", position: node.position)
    }
    return (text, node.position)
  }

  /// The recipe of the output, with all documents that it needs as its stages. Throws `.recipe` for documents that need one another in a circle.
  func recipe() throws(IngotError) -> Recipe {
    guard let output = documents.firstIndex(where: { $0.name == nil }) ?? documents.indices.last else {
      throw IngotError(.internalError, "a recipe without documents")
    }
    let order = try order(from: output)
    var result = documents[output].recipe
    var notices: [Notice] = []
    for (index, document) in documents.enumerated() {
      notices += document.recipe.notices
      if !order.contains(index) {
        notices.append(
          Notice(
            .warning, "nothing that the output needs reads the document \(excerpt(document.name ?? "")); it is not merged", subject: "name",
            position: document.position))
      }
    }
    result.name = nil
    result.documentNames = places.keys.sorted()
    result.notices = notices.inTextOrder
    result.stages = order.dropLast().map { index in
      var stage = documents[index].recipe
      // Said once, with the output's.
      stage.notices = []
      return stage
    }
    return result
  }

  /// The documents behind one, itself last: each after those that it reads. Not by recursion: the text decides how long a chain is.
  private func order(from output: Int) throws(IngotError) -> [Int] {
    var order: [Int] = []
    var path: [(document: Int, nextModel: Int)] = [(output, 0)]
    while let (document, next) = path.last {
      let models = documents[document].recipe.models
      guard models.indices.contains(next) else {
        path.removeLast()
        order.append(document)
        continue
      }
      path[path.count - 1].nextModel += 1
      let model = models[next]
      guard let name = model.documentNames.first(where: { places[$0] != nil }), let place = places[name], !order.contains(place) else {
        continue
      }
      guard !path.contains(where: { $0.document == place }) else {
        throw IngotError(
          .recipe, "the documents need one another in a circle: \(excerpt(name)) is read here, and is itself made from this document",
          hint: "a document can read only results that do not depend on its own", subject: excerpt(name), position: model.position)
      }
      path.append((place, 0))
    }
    return order
  }
}
