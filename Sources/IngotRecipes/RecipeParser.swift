package import IngotErrors
import IngotTensors

extension Recipe {
  /// Reads a recipe from YAML or JSON text and checks everything that needs no model: keys, the method, the types and ranges of its
  /// parameters, the number of inputs, the base model, required parameters.
  ///
  /// `origin` names the text in positions. Unknown keys are warnings in `notices`, or errors when `strict`; a key that is a slip of a valid
  /// one is an error always. Throws `.recipe` with position, subject (the key's path) and hint; `.unsupported` for parts of mergekit's
  /// language that this version does not have. A text of several documents gives the recipe of the output, with the others as its `stages`.
  package static func parse(
    _ text: [UInt8], origin: String, catalog: MethodCatalog, strict: Bool = false, limits: RecipeLimits = RecipeLimits()
  ) throws(IngotError) -> Recipe {
    let documents = try Node.loadAll(text, origin: origin, limits: limits)
    guard let only = documents.first, documents.count == 1 else {
      return try RecipeGraph(documents, text: text, origin: origin, catalog: catalog, strict: strict).recipe()
    }
    var parser = RecipeParser(catalog: catalog, strict: strict)
    return try parser.recipe(only, text: text, origin: origin)
  }
}

/// Turns the tree into a recipe. The parts are in the other files of this name.
struct RecipeParser {
  let catalog: MethodCatalog
  let strict: Bool
  /// True for one of several documents, where `name` has a meaning.
  var isNamed = false
  var notices: [Notice] = []
  var models: [ModelReference] = []
  private var ordinals: [[String]: Int] = [:]

  init(catalog: MethodCatalog, strict: Bool) {
    self.catalog = catalog
    self.strict = strict
  }

  static let topKeys = [
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template", "seed", "preset", "numerics", "missing", "tensors", "side", "aim",
  ]

  /// mergekit's keys that change nothing here, besides the name of the only document.
  static let immaterialTopKeys: Set<String> = ["int8_mask", "residual_weight"]

  mutating func recipe(_ root: Node, text: [UInt8], origin: String) throws(IngotError) -> Recipe {
    guard let top = root.mapping else {
      throw IngotError(
        .recipe, "the recipe is \(root.found), expected a mapping", hint: "begin with a line such as 'merge_method: linear'",
        position: root.position)
    }
    if top["merge_method"] == nil, let experts = top["experts"] {
      throw IngotError(
        .unsupported, "found experts and no merge_method: a configuration of mergekit-moe, expected a recipe of a merge",
        hint: "models of experts are not built here; those that exist are merged like others", subject: "experts",
        position: experts.keyPosition)
    }
    try check(
      top, at: "", valid: isNamed ? Self.topKeys + ["name"] : Self.topKeys,
      immaterial: isNamed ? Self.immaterialTopKeys : Self.immaterialTopKeys.union(["name"]))
    let methodNode = try required("merge_method", of: top, at: "", in: root.position)
    let methodName = try self.text(of: methodNode, subject: "merge_method", expected: "the name of a merge method")
    let method = try catalog.require(methodName, position: methodNode.position)
    let (form, formEntry) = try self.form(top, in: root.position)
    let base = try optional("base_model", of: top).map { (node) throws(IngotError) in try reference(node, subject: "base_model") }
    if method.base == .required, base == nil, form == .models { throw missingBase(method, at: methodNode.position) }
    let settings = try self.settings(top, at: "", of: method, isPerModel: false)
    var sides = try self.sides(top, at: "", of: method, isPerModel: false)
    var slices: [Recipe.Slice]
    var modules: [Recipe.Module] = []
    switch form {
    case .models: slices = [try wholeModels(formEntry, base: base, method: method)]
    case .slices: slices = try self.slices(formEntry, base: base, method: method)
    case .modules: (modules, slices) = try self.modules(formEntry, base: base, method: method)
    }
    if modules.isEmpty {
      let none = Settings(parameterCount: method.parameters.count)
      modules = [Recipe.Module(name: nil, slices: 0..<slices.count, settings: none, position: formEntry.keyPosition)]
    }
    let baseOrdinal = base.map { ordinal(of: $0) }
    let rules = try rules(top, of: method, in: slices)
    // After all others: a model that only the tokenizer names must not change their ordinals.
    let tokenizer = try tokenizer(top)
    try checkRequired(slices, modules, settings, of: method, at: formEntry)
    let preset = try preset(top)
    let levels = [settings] + modules.map(\.settings) + slices.flatMap { [$0.settings] + $0.sources.map(\.settings) }
    try checkConditions(levels, rules: rules, preset: preset, of: method)
    try checkRequiredSides(slices, sides, of: method, at: formEntry)
    let modelCount = models.count
    let scaling = try placeSides(&slices, &sides, top, base: base)
    noteUnusedBaseSettings(&slices, of: method)
    return Recipe(
      origin: origin, text: text, method: method, methodPosition: methodNode.position, form: form, models: models, modelCount: modelCount,
      baseModel: baseOrdinal,
      slices: slices, modules: modules, settings: settings, dtype: try dtype("dtype", of: top), outDType: try dtype("out_dtype", of: top),
      seed: try seed(top),
      preset: preset, tokenizer: tokenizer, chatTemplate: try chatTemplate(top), numerics: try numerics(top, method),
      missing: try missing(top), sides: sides, activationScaling: scaling, rules: rules, notices: notices.inTextOrder)
  }

  /// Side files stand behind all models, so that they change nobody's ordinal.
  private mutating func placeSides(
    _ slices: inout [Recipe.Slice], _ sides: inout [Recipe.Side], _ top: Node.Mapping, base: ModelReference?
  ) throws(IngotError) -> Recipe.ActivationScaling? {
    place(&sides)
    for slice in slices.indices {
      for source in slices[slice].sources.indices { place(&slices[slice].sources[source].sides) }
    }
    guard let (found, side, base) = try activationScaling(top, base: base) else { return nil }
    var scaling = found
    scaling.base = ordinal(of: base)
    scaling.side = ordinal(of: side)
    return scaling
  }

  /// The place of a model among the recipe's models, at its end when it is new.
  mutating func ordinal(of model: ModelReference) -> Int {
    let identity = model.identity
    if let known = ordinals[identity] { return known }
    ordinals[identity] = models.count
    models.append(model)
    return models.count - 1
  }

  private func form(_ top: Node.Mapping, in position: SourcePosition) throws(IngotError) -> (Recipe.Form, Node.Mapping.Entry) {
    let present = ["models", "slices", "modules"].compactMap { top[$0] }.filter { !$0.value.isAbsent }
    guard let first = present.first else {
      throw IngotError(
        .recipe, "none of models, slices and modules has an entry, expected exactly one of them",
        hint: "list the models to merge under models, as '- model: PATH'", position: position)
    }
    if present.count > 1 {
      throw IngotError(
        .recipe, "found \(present.map(\.key).joined(separator: " and ")), expected exactly one of models, slices and modules",
        hint: "remove all but one", subject: present[1].key, position: present[1].keyPosition)
    }
    guard let form = Recipe.Form(rawValue: first.key) else {
      throw IngotError(.internalError, "\(first.key) is no form of recipes", subject: first.key, position: first.keyPosition)
    }
    return (form, first)
  }

  mutating func dtype(_ key: String, of top: Node.Mapping) throws(IngotError) -> DType? {
    guard let node = optional(key, of: top), node.scalar?.text != "" else { return nil }
    let found = try text(of: node, subject: key, expected: "float32, bfloat16 or float16")
    let name = found.hasPrefix("torch.") ? String(found.dropFirst(6)) : found
    let short: [String: DType] = [
      "f32": .f32, "fp32": .f32, "float": .f32, "bf16": .bf16, "f16": .f16, "fp16": .f16, "half": .f16,
    ]
    let outputs = DType.allCases.filter(\.isOutput)
    if let dtype = outputs.first(where: { $0.torchName == name }) { return dtype }
    if let dtype = short[name.lowercased()] {
      notices.append(
        Notice(
          .info, "\(excerpt(found)) is read as \(dtype.torchName ?? ""); mergekit takes the long name only", subject: key,
          position: node.position))
      return dtype
    }
    let valid = outputs.compactMap(\.torchName)
    let isKnown = DType.allCases.contains { $0.torchName == name }
    throw IngotError(
      .recipe, "\(key) is \"\(excerpt(found))\", expected " + valid.joined(separator: ", "),
      hint: isKnown
        ? "results are rounded to one of these types only"
        : nearestName(to: name, among: valid).map { "did you mean \($0)?" } ?? "leave \(key) out to keep the type of the base model",
      subject: key, position: node.position)
  }

  private func seed(_ top: Node.Mapping) throws(IngotError) -> UInt64? {
    guard let node = optional("seed", of: top) else { return nil }
    if case .integer(let value)? = node.scalar?.value, let seed = UInt64(exactly: value) { return seed }
    if let seed = node.scalar.flatMap({ UInt64($0.text) }) { return seed }
    throw IngotError(
      .recipe, "seed is \(node.found), expected a whole number from 0 to \(UInt64.max)", subject: "seed", position: node.position)
  }

  private func numerics(_ top: Node.Mapping, _ method: MethodDescriptor) throws(IngotError) -> Recipe.Numerics {
    guard let node = optional("numerics", of: top) else { return .once }
    let found = try text(of: node, subject: "numerics", expected: "once or stepwise")
    guard let numerics = Recipe.Numerics(rawValue: found) else {
      throw IngotError(
        .recipe, "numerics is \"\(excerpt(found))\", expected once or stepwise", subject: "numerics", position: node.position)
    }
    try catalog.require(numerics, of: method, position: node.position)
    return numerics
  }

  private func missing(_ top: Node.Mapping) throws(IngotError) -> Recipe.Missing {
    guard let node = optional("missing", of: top) else { return .error }
    let names = Recipe.Missing.allCases.map(\.rawValue)
    let found = try text(of: node, subject: "missing", expected: names.joined(separator: ", "))
    if let missing = Recipe.Missing(rawValue: found) { return missing }
    throw IngotError(
      .recipe, "missing is \"\(excerpt(found))\", expected " + names.joined(separator: ", "),
      hint: nearestName(to: found, among: names).map { "did you mean \($0)?" }, subject: "missing", position: node.position)
  }

  private func preset(_ top: Node.Mapping) throws(IngotError) -> Recipe.Preset {
    guard let node = optional("preset", of: top) else { return .mergekit }
    let found = try text(of: node, subject: "preset", expected: "mergekit or paper")
    if let preset = Recipe.Preset(rawValue: found) { return preset }
    throw IngotError(
      .recipe, "preset is \"\(excerpt(found))\", expected mergekit or paper", subject: "preset", position: node.position)
  }
}

extension Node {
  /// mergekit's falsehood: an absent value or an empty collection.
  var isAbsent: Bool {
    isNull || sequence.map(\.isEmpty) ?? false || mapping.map(\.entries.isEmpty) ?? false || scalar?.text == ""
  }
}

extension [Notice] {
  /// By position; those of one place keep their order.
  var inTextOrder: [Notice] {
    enumerated().sorted { a, b in
      let (p, q) = (a.element.position, b.element.position)
      return (p?.line ?? 0, p?.column ?? 0, a.offset) < (q?.line ?? 0, q?.column ?? 0, b.offset)
    }.map(\.element)
  }
}
