package import IngotErrors

/// One parameter of a merge method: the only definition of its name, type, range and default.
package struct ParameterDescriptor: Sendable, Hashable {
  package enum Kind: Sendable, Hashable {
    case number(NumberRange)
    case integer(ClosedRange<Int>)
    case boolean
    /// One of these names.
    case choice([String])
  }

  package var name: String
  /// One sentence without its full stop.
  package var summary: String
  package var kind: Kind
  /// What a number may be where it holds for a part of the tensors only: over the layers, or under a filter. Nil: what it may be anywhere.
  package var partRange: NumberRange?
  /// nil and not required: the method does without.
  package var `default`: ParameterValue?
  /// The default under `preset: paper`, where the published rule differs from mergekit's.
  package var paperDefault: ParameterValue?
  package var isRequired: Bool
  /// True: each input may have its own value.
  package var isPerModel: Bool
  package var unit: String?
  /// Where the parameter counts; giving it elsewhere is an error.
  package var condition: ParameterCondition?

  package init(
    _ name: String, _ kind: Kind, _ summary: String, default: ParameterValue? = nil, paperDefault: ParameterValue? = nil,
    isRequired: Bool = false, isPerModel: Bool = false, unit: String? = nil, partRange: NumberRange? = nil
  ) {
    self.partRange = partRange
    self.name = name
    self.summary = summary
    self.kind = kind
    self.default = `default`
    self.paperDefault = paperDefault
    self.isRequired = isRequired
    self.isPerModel = isPerModel
    self.unit = unit
  }

  /// The allowed values in words: `a number from 0 to 1`.
  package var expectation: String {
    switch kind {
    case .number(let range): range == .any ? "a number" : "a number \(range)"
    case .integer(let range):
      range.upperBound == .max
        ? range.lowerBound == .min ? "a whole number" : "a whole number of at least \(range.lowerBound)"
        : "a whole number from \(range.lowerBound) to \(range.upperBound)"
    case .boolean: "true or false"
    case .choice(let names): names.count == 1 ? names.joined() : "one of " + names.joined(separator: ", ")
    }
  }

  /// `value` as this parameter takes it, or the error that says why not.
  ///
  /// As in mergekit a boolean counts as 1 or 0 where a number is expected, a number other than 0 as true where a boolean is, and a text that
  /// reads as a number as that number. `subject` names the place (`parameters.density`), `isPart` says that the value is one over the layers or
  /// under a filter. Throws `.recipe` when there is a position, else `.invalidArgument`.
  package func checked(
    _ value: ParameterValue, isPart: Bool = false, subject: String? = nil, position: SourcePosition? = nil
  ) throws(IngotError) -> ParameterValue {
    switch kind {
    case .number(let whole):
      let range = isPart ? partRange ?? whole : whole
      if let number = number(in: value), range.contains(number) {
        // Arithmetic is f32: a finite number must not become an infinite weight.
        guard abs(number) <= Double(Float.greatestFiniteMagnitude) else { throw tooLarge(number, subject: subject, position: position) }
        return .number(number)
      }
    case .integer(let range):
      if let number = number(in: value), let whole = Int(exactly: number), range.contains(whole) { return .number(number) }
    case .boolean:
      switch value {
      case .boolean: return value
      case .number(let number) where number.isFinite: return .boolean(number != 0)
      case .number: break
      case .text(let text):
        if case .boolean(let flag) = ScalarValue.resolving(plain: text) { return .boolean(flag) }
        if let number = ScalarValue.number(inText: text), number.isFinite { return .boolean(number != 0) }
      }
    case .choice(let names):
      if case .text(let text) = value, names.contains(text) { return value }
    }
    throw rejection(of: value, subject: subject, position: position)
  }

  private func number(in value: ParameterValue) -> Double? {
    switch value {
    case .number(let number): number
    case .boolean(let flag): flag ? 1 : 0
    case .text(let text): ScalarValue.number(inText: text)
    }
  }

  private func tooLarge(_ number: Double, subject: String?, position: SourcePosition?) -> IngotError {
    IngotError(
      position == nil ? .invalidArgument : .recipe, "\(name) is \(shortest(number)), which is beyond what float32 holds",
      hint: "the largest number is \(Float.greatestFiniteMagnitude)", subject: subject ?? name, position: position)
  }

  private func rejection(of value: ParameterValue, subject: String?, position: SourcePosition?) -> IngotError {
    let found =
      switch value {
      case .number(let number): shortest(number)
      case .boolean(let flag): "\(flag)"
      case .text(let text): "\"\(excerpt(text))\""
      }
    var hint: String?
    if case .choice(let names) = kind, case .text(let text) = value, let near = nearestName(to: text, among: names) {
      hint = "did you mean \(near)?"
    } else if let value = `default` {
      hint = "the default is \(value)"
    }
    return IngotError(
      position == nil ? .invalidArgument : .recipe, "\(name) is \(found), expected \(expectation)", hint: hint, subject: subject ?? name,
      position: position)
  }
}

/// A merge method as recipes, help, bindings and documents see it.
package struct MethodDescriptor: Sendable, Hashable {
  /// What the base model is to a method.
  package enum BaseRole: String, Sendable, Hashable {
    /// No role of its own: a base model, where a recipe has one, is one more input (mergekit's rule for linear and karcher).
    case none
    case optional
    case required
  }

  /// What one statistic of the method is taken over.
  package enum Scope: String, Sendable, Hashable {
    case element, row, tensor, group, model
  }

  /// Where the method was published.
  package struct Reference: Sendable, Hashable {
    package var text: String
    package var url: String?
    package init(_ text: String, url: String? = nil) {
      self.text = text
      self.url = url
    }
  }

  /// The name in recipes, lower case with underscores.
  package var name: String
  package var title: String
  /// One line.
  package var summary: String
  /// The result as one line of mathematics, with θ₀ the base, θᵢ the models and τᵢ = θᵢ − θ₀; nil where none says it better than the summary.
  package var formula: String?
  package var reference: Reference?
  package var base: BaseRole
  /// How many inputs beside the base model; with `BaseRole.none` the base model counts.
  package var models: ClosedRange<Int>
  package var parameters: [ParameterDescriptor]
  package var scopes: [Scope]
  /// Tensors that it needs besides those of the models.
  package var sideInputs: [SideInputDescriptor]
  /// True when the method can round to the tensors' type after every step (`numerics: stepwise`).
  package var hasStepwiseNumerics: Bool
  /// True when the result depends on which layer a tensor is of.
  package var needsLayers: Bool
  /// True when a slice of one model that is not the base is that model's layers, as in mergekit; one of the base alone is the base's in any case.
  package var copiesLoneModel: Bool
  /// What happens in degenerate cases (zero norm, one model, parallel vectors) and where mergekit differs, one sentence each.
  package var notes: [String]
  /// A recipe that shows the method at work, without the comment above it; nil has one made of what the descriptor says (`exampleRecipe`).
  package var example: String?

  package init(
    name: String, title: String, summary: String, formula: String? = nil, reference: Reference? = nil, base: BaseRole,
    models: ClosedRange<Int>, parameters: [ParameterDescriptor], scopes: [Scope], sideInputs: [SideInputDescriptor] = [],
    hasStepwiseNumerics: Bool = false, needsLayers: Bool = false, copiesLoneModel: Bool = false, notes: [String] = [],
    example: String? = nil
  ) {
    self.copiesLoneModel = copiesLoneModel
    self.sideInputs = sideInputs
    self.name = name
    self.title = title
    self.summary = summary
    self.formula = formula
    self.reference = reference
    self.base = base
    self.models = models
    self.parameters = parameters
    self.scopes = scopes
    self.hasStepwiseNumerics = hasStepwiseNumerics
    self.needsLayers = needsLayers
    self.notes = notes
    self.example = example
  }

  /// True when a base model, where one is given, is merged like every other input and needs their parameters.
  package var baseIsInput: Bool { base == .none }

  package func parameter(_ name: String) -> ParameterDescriptor? { parameters.first { $0.name == name } }

  /// `exactly 1 model beside the base`, `2 models or more`.
  package var modelsExpectation: String {
    let suffix = baseIsInput ? "" : " beside the base"
    let (low, high) = (models.lowerBound, models.upperBound)
    if low == high { return "exactly \(low) model\(low == 1 ? "" : "s")\(suffix)" }
    if high == .max { return "\(low) model\(low == 1 ? "" : "s") or more\(suffix)" }
    return "\(low) to \(high) models\(suffix)"
  }
}

/// The methods a recipe may name.
package struct MethodCatalog: Sendable {
  package let methods: [MethodDescriptor]
  private let index: [String: Int]
  private let parameterNames: Set<String>

  /// Where two descriptors have one name the first counts.
  package init(_ methods: [MethodDescriptor]) {
    self.methods = methods
    index = Dictionary(methods.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
    parameterNames = Set(methods.flatMap { $0.parameters.map(\.name) })
  }

  package func method(_ name: String) -> MethodDescriptor? { index[name].map { methods[$0] } }

  /// True when some method has a parameter of that name.
  package func hasParameter(_ name: String) -> Bool { parameterNames.contains(name) }

  /// The method whose name `found` is most likely a slip of: `Dare-TIES`, `tiess`.
  package func nearestMethod(to found: String) -> MethodDescriptor? {
    guard found.utf8.count <= 100 else { return nil }
    let usual = String(found.lowercased().map { $0 == "-" || $0 == " " ? "_" : $0 })
    return method(usual) ?? nearestName(to: usual, among: methods.map(\.name)).flatMap { method($0) }
  }

  /// Throws `.recipe` (`.invalidArgument` without a position) when the method does not have these numerics.
  package func require(
    _ numerics: Recipe.Numerics, of method: MethodDescriptor, position: SourcePosition? = nil
  ) throws(IngotError) {
    guard numerics == .stepwise, !method.hasStepwiseNumerics else { return }
    let others = methods.filter(\.hasStepwiseNumerics).map(\.name).joined(separator: ", ")
    throw IngotError(
      position == nil ? .invalidArgument : .recipe, "\(method.name) has no stepwise numerics", hint: "the methods that have are \(others)",
      subject: "numerics", position: position)
  }

  /// The method of that name, or a `.recipe` error (`.invalidArgument` without a position) that names the nearest or all.
  package func require(_ name: String, position: SourcePosition? = nil) throws(IngotError) -> MethodDescriptor {
    if let method = method(name) { return method }
    let hint =
      nearestMethod(to: name).map { "did you mean \($0.name)?" } ?? "the methods are " + methods.map(\.name).joined(separator: ", ")
    throw IngotError(
      position == nil ? .invalidArgument : .recipe, "unknown merge method \"\(excerpt(name))\"", hint: hint, subject: "merge_method",
      position: position)
  }
}
