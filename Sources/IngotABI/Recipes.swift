public import CIngot
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes

// MARK: recipe

@c @implementation public func ingot_recipe_parse(
  _ text: UnsafePointer<CChar>?, _ bytes: UInt64, _ origin: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ options: UnsafePointer<ingot_recipe_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let options = try unsafe ingot_recipe_options.copy(ofOptional: options)
    let origin = try unsafe optionalText(origin, "origin") ?? "recipe"
    let recipe = try unsafe Recipe.parse(
      copiedBytes(text, bytes), origin: origin, catalog: MethodRegistry.catalog, strict: options.flags & UInt32(INGOT_RECIPE_STRICT) != 0)
    unsafe out.pointee = RecipeObject(recipe).makeHandle()
  }
}

@c @implementation public func ingot_recipe_notices_json(_ recipe: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe RecipeObject.find(recipe)?.notices.pointer
}

@c @implementation public func ingot_recipe_method(_ recipe: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe RecipeObject.find(recipe)?.method.pointer
}

@c @implementation public func ingot_recipe_model_count(_ recipe: OpaquePointer?) -> UInt64 {
  unsafe UInt64(RecipeObject.find(recipe)?.models.count ?? 0)
}

@c @implementation public func ingot_recipe_model(_ recipe: OpaquePointer?, _ index: UInt64) -> UnsafePointer<CChar>? {
  guard let models = unsafe RecipeObject.find(recipe)?.models, let index = Int(exactly: index), index < models.count else { return nil }
  return unsafe models[index].pointer
}

@c @implementation public func ingot_recipe_destroy(_ recipe: OpaquePointer?) { unsafe RecipeObject.destroy(recipe) }

final class RecipeObject: HandleObject {
  static let kind = HandleKind.recipe
  static let typeName = "ingot_recipe"

  let recipe: Recipe
  let notices: CText
  let method: CText
  let models: [CText]

  init(_ recipe: Recipe) {
    self.recipe = recipe
    notices = CText(JSON.text(.array(recipe.notices.map(\.json))))
    method = CText(recipe.method.name)
    models = recipe.externalModels.map { CText($0.name) }
  }
}

/// The caller's text, which may be empty and needs no NUL.
private func copiedBytes(_ text: UnsafePointer<CChar>?, _ bytes: UInt64) throws(IngotError) -> [UInt8] {
  guard let text = unsafe text else { throw nullArgument("text") }
  // SAFETY: the C contract: `bytes` bytes are there.
  return unsafe [UInt8](unsafe UnsafeRawBufferPointer(start: text, count: try count(bytes, "bytes")))
}
