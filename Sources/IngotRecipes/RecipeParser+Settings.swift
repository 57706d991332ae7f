import IngotErrors

extension RecipeParser {
  /// mergekit's parameters that change no result here.
  static let immaterialParameters: Set<String> = ["int8_mask"]

  /// The `parameters` of a mapping, checked against the method.
  mutating func settings(
    _ fields: Node.Mapping, at place: String, of method: MethodDescriptor, isPerModel: Bool
  ) throws(IngotError) -> Settings {
    var settings = Settings(parameterCount: method.parameters.count)
    guard let node = optional("parameters", of: fields) else { return settings }
    let place = path(place, "parameters")
    let mapping = try self.fields(of: node, subject: place, hint: "write each parameter as 'name: value' on its own line")
    let catalog = catalog
    try check(
      mapping, at: place, valid: method.parameters.map(\.name), immaterial: Self.immaterialParameters,
      explaining: { key in
        guard catalog.hasParameter(key) else { return "is not a parameter of \(method.name)" }
        let owners = catalog.methods.filter { $0.parameter(key) != nil }.map(\.name).prefix(3).joined(separator: ", ")
        return "is a parameter of \(owners), not of \(method.name)"
      })
    for (index, parameter) in method.parameters.enumerated() {
      guard let entry = mapping[parameter.name] else { continue }
      let subject = path(place, parameter.name)
      let setting = try setting(entry.value, of: parameter, subject: subject)
      if isPerModel, !parameter.isPerModel {
        try ignore(
          "'\(parameter.name)' of \(method.name) cannot differ by model; it belongs under parameters of the recipe or of a slice",
          subject: subject, position: entry.keyPosition)
      } else {
        settings[index] = Settings.Entry(setting: setting, position: entry.value.position)
      }
    }
    return settings
  }

  private mutating func setting(_ node: Node, of parameter: ParameterDescriptor, subject: String) throws(IngotError) -> Setting {
    switch node.content {
    case .scalar: return .constant(try constant(node, of: parameter, subject: subject))
    case .mapping: return .conditional([try condition(node, of: parameter, subject: subject)])
    case .sequence(let nodes):
      guard let first = nodes.first else {
        throw IngotError(
          .recipe, "\(parameter.name) is an empty list, expected \(parameter.expectation)", subject: subject, position: node.position)
      }
      guard first.mapping != nil else { return .gradient(try gradient(nodes, of: parameter, subject: subject)) }
      var conditions: [Setting.Condition] = []
      for (number, entry) in nodes.enumerated() {
        conditions.append(try condition(entry, of: parameter, subject: "\(subject)[\(number)]"))
      }
      return .conditional(conditions)
    }
  }

  private mutating func condition(
    _ node: Node, of parameter: ParameterDescriptor, subject: String
  ) throws(IngotError) -> Setting.Condition {
    let fields = try fields(of: node, subject: subject, hint: "a list holds either numbers or entries with value and filter, not both")
    try check(fields, at: subject, valid: ["value", "filter"])
    let value = try required("value", of: fields, at: subject, in: node.position)
    let inner = path(subject, "value")
    let filter = try optional("filter", of: fields).map { (node) throws(IngotError) in
      try text(of: node, subject: path(subject, "filter"), expected: "a part of a tensor name")
    }
    switch value.content {
    case .scalar: return Setting.Condition(.constant(try constant(value, of: parameter, isPart: true, subject: inner)), filter: filter)
    case .sequence(let nodes) where !nodes.isEmpty:
      return Setting.Condition(.gradient(try gradient(nodes, of: parameter, subject: inner)), filter: filter)
    case .sequence, .mapping:
      throw IngotError(
        .recipe, "found \(value.found), expected \(parameter.expectation)", subject: inner, position: value.position)
    }
  }

  private func gradient(_ nodes: [Node], of parameter: ParameterDescriptor, subject: String) throws(IngotError) -> [Double] {
    guard case .number = parameter.kind else {
      throw IngotError(
        .recipe, "\(parameter.name) is a list, expected \(parameter.expectation)", hint: "only numbers can change over the layers",
        subject: subject, position: nodes.first?.position)
    }
    var values: [Double] = []
    for (number, node) in nodes.enumerated() {
      guard node.scalar != nil else {
        throw IngotError(
          .recipe, "found \(node.found), expected \(parameter.expectation)",
          hint: "a list holds either numbers or entries with value and filter, not both", subject: "\(subject)[\(number)]",
          position: node.position)
      }
      if let value = try constant(node, of: parameter, isPart: true, subject: "\(subject)[\(number)]").number { values.append(value) }
    }
    return values
  }

  private func constant(
    _ node: Node, of parameter: ParameterDescriptor, isPart: Bool = false, subject: String
  ) throws(IngotError) -> ParameterValue {
    guard let scalar = node.scalar else {
      throw IngotError(.recipe, "found \(node.found), expected \(parameter.expectation)", subject: subject, position: node.position)
    }
    let value: ParameterValue
    switch (parameter.kind, scalar.value) {
    case (_, .null):
      throw IngotError(
        .recipe, "\(parameter.name) has no value, expected \(parameter.expectation)", hint: "give it a value or remove the line",
        subject: subject, position: node.position)
    // A choice may be called `off` or `1`: the text counts, not what YAML takes it for.
    case (.choice, _), (_, .string): value = .text(scalar.text)
    case (_, .boolean(let flag)): value = .boolean(flag)
    case (_, .integer(let number)): value = .number(Double(number))
    case (_, .float(let number)): value = .number(number)
    }
    return try parameter.checked(value, isPart: isPart, subject: subject, position: node.position)
  }

  /// Every required parameter must be set on some level for every input that needs it; filters may still miss a tensor.
  func checkRequired(
    _ slices: [Recipe.Slice], _ modules: [Recipe.Module], _ settings: Settings, of method: MethodDescriptor, at entry: Node.Mapping.Entry
  ) throws(IngotError) {
    for (index, parameter) in method.parameters.enumerated() where parameter.isRequired && settings[index] == nil {
      for slice in slices where !slice.isCopied && slice.settings[index] == nil && modules[slice.module].settings[index] == nil {
        guard parameter.isPerModel else {
          throw IngotError(
            .recipe, "\(parameter.name) is missing; \(method.name) needs \(parameter.expectation)",
            hint: "add '\(parameter.name): …' under parameters", subject: "parameters.\(parameter.name)",
            position: slices.count == 1 ? entry.keyPosition : slice.position)
        }
        for source in slice.sources where source.settings[index] == nil && (method.baseIsInput || !source.isBase) {
          let name = excerpt(models[source.model].name)
          let input = source.isBase ? "the base model \(name), one more input of \(method.name)," : "the model \(name)"
          throw IngotError(
            .recipe, "\(input) has no \(parameter.name), expected \(parameter.expectation)",
            hint: source.isImplicit
              ? "list it with parameters like the others, or remove base_model"
              : "add '\(parameter.name): …' under parameters of the model or of the recipe", subject: "parameters.\(parameter.name)",
            position: source.position)
        }
      }
    }
  }

  /// Says and drops what is set for a base model that the method does not merge like the others.
  mutating func noteUnusedBaseSettings(_ slices: inout [Recipe.Slice], of method: MethodDescriptor) {
    guard !method.baseIsInput else { return }
    for (number, slice) in slices.enumerated() {
      guard let base = slice.base, !slice.sources[base].settings.isEmpty else { continue }
      notices.append(
        Notice(
          .info, "the parameters of the base model \(excerpt(models[slice.sources[base].model].name)) are not used by \(method.name)",
          subject: "parameters", position: slice.sources[base].position))
      slices[number].sources[base].settings = Settings(parameterCount: method.parameters.count)
    }
  }
}
