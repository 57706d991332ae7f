import IngotErrors

/// What another parameter of the method must be for a parameter to say anything.
package struct ParameterCondition: Sendable, Hashable {
  package var parameter: String
  package var value: ParameterValue
  /// False: anything but the value.
  package var isEqual: Bool

  package static func `is`(_ parameter: String, _ value: ParameterValue) -> ParameterCondition {
    ParameterCondition(parameter: parameter, value: value, isEqual: true)
  }

  package static func isNot(_ parameter: String, _ value: ParameterValue) -> ParameterCondition {
    ParameterCondition(parameter: parameter, value: value, isEqual: false)
  }

  /// `with merge: ties`, `with another task than 0`.
  package var words: String { isEqual ? "with \(parameter): \(value)" : "with another \(parameter) than \(value)" }

  func holds(_ found: ParameterValue?) -> Bool { (found == value) == isEqual }

  /// True where it holds for some tensor at least.
  func mayHold(_ setting: Setting) -> Bool {
    guard case .constant(let found) = setting else { return true }
    return holds(found)
  }
}

extension ParameterDescriptor {
  /// The same parameter where it counts only under a condition.
  package func only(_ condition: ParameterCondition) -> ParameterDescriptor {
    var parameter = self
    parameter.condition = condition
    return parameter
  }

  /// The summary, with the condition behind it.
  package var meaning: String { condition.map { "\(summary); only \($0.words)" } ?? summary }
}

extension RecipeParser {
  /// A parameter that is given where nothing looks at it contradicts what is: an error rather than a result that ignores it.
  func checkConditions(
    _ levels: [Settings], rules: [TensorRule], preset: Recipe.Preset, of method: MethodDescriptor
  ) throws(IngotError) {
    // A rule may be what makes the condition hold for its tensors.
    let all = levels + rules.filter { ($0.method ?? method) == method }.map(\.settings)
    for (index, parameter) in method.parameters.enumerated() {
      guard let condition = parameter.condition, let given = all.lazy.compactMap({ $0[index] }).first,
        let other = method.parameters.firstIndex(where: { $0.name == condition.parameter })
      else { continue }
      let found = all.compactMap { $0[other]?.setting }
      if found.contains(where: condition.mayHold) { continue }
      let descriptor = method.parameters[other]
      let standard = preset == .paper ? descriptor.paperDefault ?? descriptor.default : descriptor.default
      // The recipe's own level, which comes first, leaves no tensor to the default.
      if levels.first?[other] == nil, condition.holds(standard) { continue }
      var now = standard
      if case .constant(let value)? = found.first { now = value }
      throw IngotError(
        .recipe, "\(parameter.name) is given, but it counts only \(condition.words), which is \(now.map { "\($0)" } ?? "open")",
        hint: "remove it, or change \(condition.parameter)", subject: "parameters.\(parameter.name)", position: given.position)
    }
  }
}
