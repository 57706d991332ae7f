import IngotErrors

extension RecipeParser {
  /// The `modules` form: for each part of the model its slices or models, and parameters between the slices' and the recipe's.
  mutating func modules(
    _ entry: Node.Mapping.Entry, base: ModelReference?, method: MethodDescriptor
  ) throws(IngotError) -> ([Recipe.Module], [Recipe.Slice]) {
    let hint = "write the name of each part with its slices or models below it, as 'text_decoder:'"
    let named = try fields(of: entry.value, subject: "modules", hint: hint)
    try noteSuperseded(named, at: "modules")
    var modules: [Recipe.Module] = []
    var slices: [Recipe.Slice] = []
    for part in named.entries {
      let place = path("modules", part.key)
      let fields = try fields(of: part.value, subject: place, hint: "write 'slices:' or 'models:' below the part's name")
      try check(fields, at: place, valid: ["slices", "models", "parameters"])
      var own = try self.slices(of: fields, at: place, named: part, base: base, method: method)
      for index in own.indices { own[index].module = modules.count }
      let settings = try settings(fields, at: place, of: method, isPerModel: false)
      let range = slices.count..<slices.count + own.count
      modules.append(Recipe.Module(name: part.key, slices: range, settings: settings, position: part.keyPosition))
      slices += own
    }
    return (modules, slices)
  }

  /// Exactly one of `slices` and `models` has an entry.
  private mutating func slices(
    of fields: Node.Mapping, at place: String, named part: Node.Mapping.Entry, base: ModelReference?, method: MethodDescriptor
  ) throws(IngotError) -> [Recipe.Slice] {
    let present = ["slices", "models"].compactMap { fields[$0] }.filter { !$0.value.isAbsent }
    guard let list = present.first, present.count == 1 else {
      throw IngotError(
        .recipe, present.isEmpty ? "the module has neither slices nor models" : "the module has both slices and models",
        hint: "a module has either; a part that the recipe does not name is copied", subject: place,
        position: present.last?.keyPosition ?? part.keyPosition)
    }
    if list.key == "models", method.base == .required, base == nil { throw missingBase(method, at: list.keyPosition) }
    if list.key == "models" { return [try wholeModels(list, at: path(place, "models"), base: base, method: method)] }
    return try self.slices(list, at: path(place, "slices"), base: base, method: method)
  }
}
