internal import IngotCheckpoints
package import IngotErrors
internal import IngotMethods
package import IngotRecipes

extension Plan {
  /// Works out everything that headers, configs and the recipe tell; reads no tensor data. Throws what the checks find, before any byte is written.
  package static func make(
    _ recipe: Recipe, options: PlanOptions = PlanOptions(), models provider: any ModelProvider
  ) throws(IngotError) -> Plan {
    try make(recipe, options: options, stages: try StageModels(recipe, options: options, models: provider))
  }

  /// Plans one document, given those that it reads.
  static func make(_ recipe: Recipe, options: PlanOptions, stages: StageModels) throws(IngotError) -> Plan {
    let models = try stages.models(of: recipe)
    let numerics = options.numerics ?? recipe.numerics
    try MethodRegistry.catalog.require(numerics, of: recipe.method)
    var planner = try Planner(recipe: recipe, models: models, seed: options.seed ?? recipe.seed ?? 0, numerics: numerics)
    planner.stages = stages.read(by: recipe)
    planner.mostTensors = options.mostTensors - stages.tensorCount
    return try planner.plan(options)
  }
}

extension ModelProvider {
  /// What a recipe names: its models as they are merged, in the layout of the one whose names the output has, then its side files.
  func models(of recipe: Recipe) throws(IngotError) -> [ProvidedModel] {
    var models: [ProvidedModel] = []
    for reference in recipe.models {
      let isModel = models.count < recipe.modelCount || models.count == recipe.activationScaling?.base
      if !isModel, (try? LocalModels.parse(reference))?.adapters.isEmpty == false {
        throw IngotError(
          .recipe, "a side file with an adapter, expected a side file alone", subject: reference.name, position: reference.position)
      }
      let model = try open(reference)
      do throws(IngotError) {
        // What lies beside a side file says nothing of it.
        models.append(isModel ? try model.readable() : try model.gathered())
      } catch { throw error.at(reference.position) }
    }
    return try recipe.inDonorsLayout(models)
  }
}
