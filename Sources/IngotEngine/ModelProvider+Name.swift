package import IngotErrors
internal import IngotRecipes

extension ModelProvider {
  /// Opens a model that stands in no recipe: a path, or a name of the hub's cache. Throws as opening a model of a recipe does, without a position.
  package func open(named reference: String) throws(IngotError) -> ProvidedModel {
    let nowhere = SourcePosition(origin: "", line: 0, column: 0)
    do throws(IngotError) {
      return try open(IngotRecipes.ModelReference(.text(reference), position: nowhere))
    } catch {
      var failure = error
      if failure.position == nowhere { failure.position = nil }
      throw failure
    }
  }
}
