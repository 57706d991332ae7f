package import IngotErrors

/// A merge given on a command line: `-m ties -b BASE A B=0.5 -p density=0.5`, already split at its `=` signs.
package struct QuickMerge: Sendable {
  package struct Model: Sendable {
    package var reference: String
    /// The text after `=`; nil: 1 where the method weighs its models.
    package var weight: String?
    package init(_ reference: String, weight: String? = nil) {
      self.reference = reference
      self.weight = weight
    }
  }
  package struct Parameter: Sendable {
    package var name: String
    /// A value as a recipe has it, or numbers with commas between them for a gradient.
    package var value: String
    package init(_ name: String, _ value: String) {
      self.name = name
      self.value = value
    }
  }
  package var method: String
  package var base: String?
  package var models: [Model]
  package var parameters: [Parameter]
  package var dtype: String?
  package var outDType: String?
  package var seed: UInt64?

  package init(
    method: String, base: String? = nil, models: [Model], parameters: [Parameter] = [], dtype: String? = nil, outDType: String? = nil,
    seed: UInt64? = nil
  ) {
    self.method = method
    self.base = base
    self.models = models
    self.parameters = parameters
    self.dtype = dtype
    self.outDType = outDType
    self.seed = seed
  }

  /// The same merge as a recipe in mergekit's YAML. Throws `.invalidArgument` for an unknown method, no models, or a weight for a method
  /// that weighs none, a parameter given twice; `.recipe` for a value that is not YAML.
  package func yaml(catalog: MethodCatalog) throws(IngotError) -> String {
    let descriptor = try catalog.require(method)
    guard !models.isEmpty else {
      throw IngotError(.invalidArgument, "no models given", hint: "name the models to merge after the options")
    }
    let weight = descriptor.parameter("weight").flatMap { $0.isPerModel ? $0 : nil }
    let needsWeight = weight?.isRequired == true && !parameters.contains { $0.name == "weight" }
    var lines = ["merge_method: \(yamlScalar(method))"]
    if let base { lines.append("base_model: \(yamlScalar(base))") }
    lines.append("models:")
    for model in models {
      lines.append("  - model: \(yamlScalar(model.reference))")
      if let value = model.weight {
        guard weight != nil else {
          let names = descriptor.parameters.map(\.name).joined(separator: ", ")
          throw IngotError(
            .invalidArgument, "a weight after \"\(excerpt(model.reference))\", but \(method) has no weights",
            hint: names.isEmpty ? "remove '=\(excerpt(value))'" : "its parameters, given with -p, are \(names)", subject: model.reference)
        }
        lines += ["    parameters:", "      weight: \(try flow(value, of: "weight"))"]
      } else if needsWeight, descriptor.baseIsInput || model.reference != base {
        lines += ["    parameters:", "      weight: 1"]
      }
    }
    // In a recipe the last would count; on one line of a terminal the two contradict each other.
    if let twice = parameters.indices.first(where: { index in parameters[..<index].contains { $0.name == parameters[index].name } }) {
      let name = excerpt(parameters[twice].name)
      throw IngotError(.invalidArgument, "the parameter \(name) is given twice", hint: "remove one of the two", subject: name)
    }
    if !parameters.isEmpty { lines.append("parameters:") }
    for parameter in parameters { lines.append("  \(yamlScalar(parameter.name)): \(try flow(parameter.value, of: parameter.name))") }
    if let dtype { lines.append("dtype: \(yamlScalar(dtype))") }
    if let outDType { lines.append("out_dtype: \(yamlScalar(outDType))") }
    if let seed { lines.append("seed: \(seed)") }
    return lines.joined(separator: "\n") + "\n"
  }

  /// A value on one line of YAML; `0,0.5,1` is the gradient `[0, 0.5, 1]`.
  private func flow(_ value: String, of name: String) throws(IngotError) -> String {
    let parts = value.split(separator: ",", omittingEmptySubsequences: false)
    if parts.count > 1, parts.allSatisfy({ ScalarValue.number(inText: String($0)) != nil }) {
      return "[" + parts.map { $0.filter { $0 != " " } }.joined(separator: ", ") + "]"
    }
    if value.isEmpty { return "\"\"" }
    return yamlFlow(try Node.load(Array(value.utf8), origin: "value of \(excerpt(name))"))
  }
}

extension Recipe {
  /// The recipe of a quick merge, by way of its YAML text, which is the recipe's `text`.
  package static func quick(_ merge: QuickMerge, catalog: MethodCatalog, strict: Bool = false) throws(IngotError) -> Recipe {
    try parse(Array(try merge.yaml(catalog: catalog).utf8), origin: "command line", catalog: catalog, strict: strict)
  }
}
