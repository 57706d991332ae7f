internal import IngotRecipes

extension Recipe {
  /// The model whose names the output has: the base of the first slice or its first source; with modules the recipe's base model, where it has one.
  var namesModel: Int {
    let first = slices.first
    let lead = first?.sources[first?.base ?? 0].model ?? 0
    return form == .modules ? baseModel ?? lead : lead
  }

  /// The settings of every place of the recipe.
  var everySetting: [Setting] {
    let places =
      [settings] + modules.map(\.settings) + slices.flatMap { [$0.settings] + $0.sources.map(\.settings) } + rules.map(\.settings)
    return places.flatMap(\.all)
  }

  /// True when something depends on which layer a tensor is of.
  var needsLayers: Bool {
    if rules.contains(where: { $0.layers != nil || $0.method?.needsLayers == true }) || method.needsLayers { return true }
    return everySetting.contains { setting in
      switch setting {
      case .constant: false
      case .gradient(let values): values.count > 1
      case .conditional(let conditions):
        conditions.contains {
          if case .gradient(let values) = $0.value { return values.count > 1 }
          return false
        }
      }
    }
  }
}
