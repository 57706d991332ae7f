extension MethodDescriptor {
  /// The models that examples name, beside `models/base`.
  private static let exampleModels = ["models/french", "models/code", "models/maths"]

  /// A recipe for this method, as a file: `example` under a comment, or one made of the descriptor, with two models where the method takes as many
  /// and every required parameter.
  package var exampleRecipe: String {
    let comment = "# \(summary)\n"
    if let example { return comment + example + (example.hasSuffix("\n") ? "" : "\n") }
    var lines = ["merge_method: \(name)"]
    if base == .required { lines.append("base_model: models/base") }
    let count = min(max(min(2, models.upperBound), models.lowerBound), Self.exampleModels.count)
    let sides = sideInputs.filter(\.isRequired)
    func side(_ inputs: [SideInputDescriptor], of model: String) -> String {
      "side: {" + inputs.map { "\($0.name): \($0.name)/\(model).safetensors" }.joined(separator: ", ") + "}"
    }
    let (own, shared) = (sides.filter(\.isPerModel), sides.filter { !$0.isPerModel })
    if !shared.isEmpty { lines.append(side(shared, of: "base")) }
    lines.append("models:")
    for model in Self.exampleModels.prefix(count) {
      lines.append("  - model: \(model)")
      if !own.isEmpty { lines.append("    " + side(own, of: String(model.dropFirst("models/".count)))) }
    }
    let required = parameters.filter(\.isRequired).map { "\($0.name): \($0.exampleValue)" }
    if !required.isEmpty { lines.append("parameters: {\(required.joined(separator: ", "))}") }
    lines.append("dtype: bfloat16")
    return comment + lines.joined(separator: "\n") + "\n"
  }
}

extension ParameterDescriptor {
  /// A value that the parameter takes.
  fileprivate var exampleValue: String {
    switch kind {
    case .number(let range): range.contains(0.5) ? "0.5" : shortest(range.anyValue)
    case .integer(let range): "\(range.lowerBound)"
    case .boolean: "true"
    case .choice(let names): names.first ?? ""
    }
  }
}

extension NumberRange {
  /// Some number of a range that 0.5 is not in.
  fileprivate var anyValue: Double {
    switch (lower, upper) {
    case (.closed(let bound)?, _), (_, .closed(let bound)?): bound
    case (.open(let low)?, .open(let high)?): (low + high) / 2
    case (.open(let bound)?, nil): bound + 1
    case (nil, .open(let bound)?): bound - 1
    case (nil, nil): 1
    }
  }
}
