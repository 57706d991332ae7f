internal import IngotErrors
internal import IngotRecipes

/// Resolves parameters, and remembers the answers of slices in which nothing depends on the tensor: plans of 100,000 tensors ask millions of times.
final class ParameterCache {
  private let recipe: Recipe
  private let isUniform: Bool
  private var known: [[Int]: [String: ParameterValue]] = [:]

  init(_ recipe: Recipe) {
    self.recipe = recipe
    isUniform = recipe.everySetting.allSatisfy {
      if case .constant = $0 { return true }
      return false
    }
  }

  func parameters(
    output: String, input: String? = nil, source: Int? = nil, slice: Int, at position: Double, rule: Int? = nil
  ) throws(IngotError) -> [String: ParameterValue] {
    let key = [slice, source ?? -1, rule ?? -1]
    if isUniform, let found = known[key] { return found }
    var values: [String: ParameterValue] = [:]
    let method = rule.flatMap { recipe.rules[$0].method } ?? recipe.method
    for parameter in method.parameters where parameter.isPerModel == (source != nil) {
      values[parameter.name] = try recipe.value(
        of: parameter.name, outputName: output, inputName: input, source: source, slice: slice, at: position, rule: rule)
    }
    if isUniform { known[key] = values }
    return values
  }
}
