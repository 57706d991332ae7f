package import IngotErrors

extension Recipe {
  /// Where layer `layer` (0-based) of a slice with `count` layers stands on a gradient: k/(K−1), and 1 in a slice of one layer.
  /// Tensors before and after the layers stand at 0.
  package static func layerPosition(_ layer: Int, of count: Int) -> Double {
    count > 1 ? Double(layer) / Double(count - 1) : 1
  }

  /// The default of a parameter under the recipe's preset.
  package func defaultValue(of parameter: ParameterDescriptor) -> ParameterValue? {
    preset == .paper ? parameter.paperDefault ?? parameter.default : parameter.default
  }

  /// The value of a parameter for one tensor: the source's own setting, else its slice's, else its module's, else the recipe's, else the
  /// method's default.
  ///
  /// A setting all of whose filters miss the name gives way to the next level. Filters see `inputName` for parameters that may differ by
  /// model when a source is given, else `outputName`. Parameters of the whole tensor skip the source's level.
  /// A rule's settings come before all of these; the method is then the rule's, and what the rule leaves open comes from the recipe's parameters
  /// of the same name.
  /// - Parameters:
  ///   - name: a parameter of the method.
  ///   - source: index into the slice's sources; nil for a parameter of the whole tensor.
  ///   - slice: index into `slices`.
  ///   - t: layer position, 0…1 (`layerPosition`).
  ///   - rule: index into `rules` of the one that holds for the tensor.
  /// - Returns: nil for a parameter that has no value and needs none.
  /// Throws `.recipe` for a required parameter without a value (the base model needs none unless it is an input), `.internalError` for a
  /// name or index that the recipe does not have.
  package func value(
    of name: String, outputName: String, inputName: String? = nil, source: Int? = nil, slice: Int, at t: Double, rule: Int? = nil
  ) throws(IngotError) -> ParameterValue? {
    let rule = rule.flatMap { rules.indices.contains($0) ? rules[$0] : nil }
    let owner = rule?.method ?? method
    guard let index = owner.parameters.firstIndex(where: { $0.name == name }), slices.indices.contains(slice) else {
      throw IngotError(.internalError, "\(owner.name) has no parameter \(name), or the recipe no slice \(slice)")
    }
    let parameter = owner.parameters[index]
    let part = slices[slice]
    var input: Source?
    if parameter.isPerModel, let source {
      guard part.sources.indices.contains(source) else {
        throw IngotError(.internalError, "slice \(slice) has no source \(source)")
      }
      input = part.sources[source]
    }
    let tensor = input == nil ? outputName : inputName ?? outputName
    if let value = rule?.settings[index]?.setting.value(for: tensor, at: t) { return value }
    let levels = levels(of: name, input: input, part)
    for level in levels {
      guard let value = level.setting.value(for: tensor, at: t) else { continue }
      return rule?.method == nil ? value : try parameter.checked(value, isPart: true, position: level.position)
    }
    if parameter.isRequired, !(input.map { $0.isBase && !owner.baseIsInput } ?? false) {
      let model = input.map { " for the model \(excerpt(models[$0.model].name))" } ?? ""
      let isSet = !levels.isEmpty || rule?.settings[index] != nil
      throw IngotError(
        .recipe, "\(name) has no value\(model)" + (isSet ? ": no filter of its settings matches this tensor" : ""),
        hint: isSet ? "add an entry without a filter at the end of the list" : "add '\(name): …' under parameters of the rule",
        subject: tensor,
        position: rule?.position ?? levels.first?.position ?? methodPosition)
    }
    return defaultValue(of: parameter)
  }

  /// What the recipe says about a parameter of its own method, nearest first.
  private func levels(of name: String, input: Source?, _ slice: Slice) -> [Settings.Entry] {
    guard let index = method.parameters.firstIndex(where: { $0.name == name }) else { return [] }
    let module = modules.indices.contains(slice.module) ? modules[slice.module].settings[index] : nil
    return [input?.settings[index], slice.settings[index], module, settings[index]].compactMap(\.self)
  }
}
