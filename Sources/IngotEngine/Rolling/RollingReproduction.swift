internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage

/// What the recipe of a record reads of a rolling merge's state.
struct RecordedState {
  /// The state's path as the recipe has it; nil for a first step.
  let path: String?
  /// How the record names it: once, or once for each running object.
  let names: [String]
  let isEnd: Bool

  /// Nil for a recipe that is no step or end of a rolling merge.
  init?(_ recipe: Recipe) {
    let method = recipe.method.name
    guard MethodRegistry.rolling.contains(where: { $0.descriptor.name == method }) else { return nil }
    isEnd = method == RollingFinish.descriptor.name
    var (path, names): (String?, [String]) = (nil, [])
    for source in recipe.slices.first?.sources ?? [] where !source.isBase {
      // A step's model is a text, whatever it is called.
      guard case .fields(let found, _, nil) = recipe.models[source.model].location else { continue }
      path = found
      names.append(recipe.models[source.model].name)
    }
    self.path = path
    self.names = names
  }

  /// `places` with that of the state under each of the names that it has in the record.
  func spreading(_ places: [String: String]) -> [String: String] {
    guard let path, let place = places[path], !names.contains(path) else { return places }
    var all = places
    all[path] = nil
    for name in names { all[name] = place }
    return all
  }

  /// The recorded models as the recipe sees them. `directory` holds what is computed again.
  ///
  /// Throws `.unsupported` for a step whose earlier state is not to be had, and what reading the state's record throws.
  func provider(_ models: RecordedModels, directory: String) throws(IngotError) -> any ModelProvider {
    let place = isEnd ? names.first.flatMap { models.path(of: $0) } ?? directory : directory
    // Where it is gone, opening it says so.
    guard try fileStatus(place) != nil, let known = try RollingState.read(place) else { return models }
    if !isEnd, known.count > 1, let path, !models.isPlaced(path) {
      throw IngotError(
        .unsupported, "the state is that of step \(known.count), which replaced the one that it began with",
        hint: "if that was kept: --model '\(path)=PATH'; a finished model and a first step can be computed again, and 'ingot verify' "
          + "compares digests", subject: directory)
    }
    let planes = known.method.rules.planes
    if planes.count == 1 { return models }
    return RollingPlanes(models, state: path ?? "", planes: planes, for: isEnd ? .end : .step, keepsNames: true)
  }
}
