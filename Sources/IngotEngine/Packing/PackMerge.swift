internal import IngotCheckpoints
package import IngotErrors
package import IngotJSON
internal import IngotMethods
internal import IngotRecipes

/// The ways back from a pack, as merges: a recipe, and the models that it reads.
package struct PackMerge: Sendable {
  /// What a person would write.
  package let recipe: JSONValue
  private let models: any ModelProvider

  /// The differences of one task alone, as f32 tensors; `base` is needed for tensors that the pack has whole. `task` is its name, or its number from 0
  /// on; nil for a pack's only one.
  ///
  /// Throws `.notFound` and `.format` for what is no pack, `.invalidArgument` for a task that is not there, `.shape` for another base.
  package static func unpacking(_ pack: String, task: String?, base: String?, models: LocalModels) throws(IngotError) -> PackMerge {
    let deltas = try LocalModels.openPack(at: pack).packedDeltas(
      task: task, base: try base.map { (name) throws(IngotError) in (try models.open(named: name), name) })
    return PackMerge(
      recipe: ["merge_method": "passthrough", "models": [["model": ["model": ["path": .string(pack)]]]]], models: SingleModel(deltas))
  }

  /// The model that a pack and its base make: BASE+PACK, and with a `scale` other than 1 task arithmetic with that weight.
  ///
  /// Throws `.notFound` and `.format` for what is no pack, `.invalidArgument` for a scale that is not finite. The base is looked at by `plan`.
  package static func applying(
    _ pack: String, task: String?, scale: Double = 1, base: String, models: LocalModels
  ) throws(IngotError) -> PackMerge {
    guard scale.isFinite else {
      throw IngotError(.invalidArgument, "scale is \(scale), expected a finite number", subject: "scale")
    }
    var place: JSONValue = ["path": .string(try LocalModels.openPack(at: pack).path)]
    place["task"] = task.map { .string($0) }
    // A base may have adapters of its own.
    let parts = try IngotCheckpoints.ModelReference(parsing: base)
    let adapters = parts.adapters.map { JSONValue.string($0.description) } + [place]
    let model: JSONValue = ["model": .string(parts.model.description), "lora": .array(adapters)]
    if scale == 1 { return PackMerge(recipe: ["merge_method": "passthrough", "models": [["model": model]]], models: models) }
    return PackMerge(
      recipe: [
        "merge_method": "task_arithmetic", "base_model": .string(base),
        "models": [["model": model, "parameters": ["weight": .double(scale)]]],
      ], models: models)
  }

  /// Throws what planning throws. Nothing has a line and a column: the recipe is made here.
  package func plan(_ options: PlanOptions) throws(IngotError) -> Plan {
    do throws(IngotError) {
      let parsed = try Recipe.parse(JSON.bytes(recipe), origin: "pack", catalog: MethodRegistry.catalog, strict: true)
      return try Plan.make(parsed, options: options, models: models)
    } catch {
      var failure = error
      failure.position = nil
      throw failure
    }
  }
}
