import IngotErrors

extension RecipeParser {
  /// The `models` form: one slice of all layers. The base model is added at the end when it is not listed.
  mutating func wholeModels(
    _ entry: Node.Mapping.Entry, at list: String = "models", base: ModelReference?, method: MethodDescriptor
  ) throws(IngotError) -> Recipe.Slice {
    var sources: [Recipe.Source] = []
    for (number, node) in try elements(of: entry.value, subject: list).enumerated() {
      let place = "\(list)[\(number)]"
      let fields = try fields(of: node, subject: place, hint: "write '- model: PATH'")
      try check(fields, at: place, valid: ["model", "parameters", "side"], explaining: { Self.misplaced($0, of: method) })
      try append(
        try source(fields, at: place, in: node.position, layers: nil, base: base, method: method), to: &sources, at: place)
    }
    if let base, !sources.contains(where: \.isBase) {
      sources.append(
        Recipe.Source(
          model: ordinal(of: base), layers: nil, settings: Settings(parameterCount: method.parameters.count), isBase: true,
          isImplicit: true, position: base.position))
    }
    let slice = Recipe.Slice(
      sources: sources, settings: Settings(parameterCount: method.parameters.count), position: entry.keyPosition)
    try checkCount(of: slice, place: list, for: method)
    return slice
  }

  mutating func slices(
    _ entry: Node.Mapping.Entry, at list: String = "slices", base: ModelReference?, method: MethodDescriptor
  ) throws(IngotError) -> [Recipe.Slice] {
    var slices: [Recipe.Slice] = []
    for (number, node) in try elements(of: entry.value, subject: list).enumerated() {
      let place = "\(list)[\(number)]"
      let fields = try fields(of: node, subject: place, hint: "write '- sources:' and the list of its sources")
      try check(
        fields, at: place, valid: ["sources", "base_model", "parameters"], immaterial: ["residual_weight"],
        explaining: { Self.misplaced($0, of: method) })
      slices.append(try slice(fields, at: place, in: node.position, base: base, method: method))
    }
    return slices
  }

  private mutating func slice(
    _ fields: Node.Mapping, at place: String, in position: SourcePosition, base globalBase: ModelReference?, method: MethodDescriptor
  ) throws(IngotError) -> Recipe.Slice {
    var base = globalBase
    if let node = optional("base_model", of: fields) { base = try reference(node, subject: path(place, "base_model")) }
    let list = try required("sources", of: fields, at: place, in: position)
    var sources: [Recipe.Source] = []
    for (number, node) in try elements(of: list, subject: path(place, "sources")).enumerated() {
      let inner = "\(place).sources[\(number)]"
      let source = try self.fields(of: node, subject: inner, hint: "write '- model: PATH' and 'layer_range: [FIRST, END]'")
      try check(
        source, at: inner, valid: ["model", "layer_range", "parameters", "side"], immaterial: ["residual_weight"],
        explaining: { Self.misplaced($0, of: method) })
      let layers = try layerRange(
        try required("layer_range", of: source, at: inner, in: node.position), subject: path(inner, "layer_range"))
      try append(
        try self.source(source, at: inner, in: node.position, layers: layers, base: base, method: method), to: &sources, at: inner)
      if let first = sources.first?.layers, first.count != layers.count {
        throw IngotError(
          .recipe, "the layer range has \(layers.count) layers, that of the slice's first source \(first.count)",
          hint: "all sources of a slice have the same number of layers", subject: path(inner, "layer_range"),
          position: source["layer_range"]?.value.position)
      }
    }
    guard !sources.isEmpty else {
      throw IngotError(
        .recipe, "the slice has no sources", hint: "list at least one", subject: path(place, "sources"), position: list.position)
    }
    var slice = Recipe.Slice(
      sources: sources, settings: try settings(fields, at: place, of: method, isPerModel: false), position: position)
    if method.base == .required, base == nil { throw missingBase(method, at: position) }
    if sources.count == 1, !method.baseIsInput, slice.base != nil || method.copiesLoneModel {
      slice.isCopied = true
      return slice
    }
    if let base, !method.baseIsInput, slice.base == nil {
      throw IngotError(
        .recipe, "the base model \(excerpt(base.name)) is not among the sources of this slice",
        hint: "add it to the slice with its own layer_range; only in the models form is it added by itself", subject: place,
        position: list.position)
    }
    try checkCount(of: slice, place: path(place, "sources"), for: method)
    return slice
  }

  private mutating func source(
    _ fields: Node.Mapping, at place: String, in position: SourcePosition, layers: Range<Int>?, base: ModelReference?,
    method: MethodDescriptor
  ) throws(IngotError) -> Recipe.Source {
    let model = try reference(try required("model", of: fields, at: place, in: position), subject: path(place, "model"))
    let settings = try settings(fields, at: place, of: method, isPerModel: true)
    return Recipe.Source(
      model: ordinal(of: model), layers: layers, settings: settings, isBase: model.identity == base?.identity, isImplicit: false,
      sides: try sides(fields, at: place, of: method, isPerModel: true), position: position)
  }

  /// mergekit takes a model that is listed twice once, with the settings of the first; so do we, and say so.
  private mutating func append(_ source: Recipe.Source, to sources: inout [Recipe.Source], at place: String) throws(IngotError) {
    guard let earlier = sources.first(where: { $0.model == source.model }) else {
      sources.append(source)
      return
    }
    let name = excerpt(models[source.model].name)
    if earlier.layers == source.layers {
      try ignore("the model \(name) is already listed at line \(earlier.position.line)", subject: place, position: source.position)
    } else if source.isBase {
      throw IngotError(
        .recipe, "the base model \(name) is twice in one slice, with different layers", hint: "keep one of the two", subject: place,
        position: source.position)
    } else {
      notices.append(
        Notice(
          .info, "the model \(name) is twice in one slice, with different layers; both are inputs (mergekit takes only the last)",
          subject: place, position: source.position))
      sources.append(source)
    }
  }

  private func layerRange(_ node: Node, subject: String) throws(IngotError) -> Range<Int> {
    var bounds: [Int] = []
    for bound in node.sequence ?? [] {
      switch bound.scalar?.value {
      case .integer(let value)?: bounds.append(value)
      case .float(let value)?: if let whole = Int(exactly: value) { bounds.append(whole) }
      case .string(let text)?: if let whole = Int(text) { bounds.append(whole) }
      case .boolean?, .null?, nil: break
      }
    }
    guard node.sequence?.count == 2, let first = bounds.first, let end = bounds.last, bounds.count == 2 else {
      throw IngotError(
        .recipe, "layer_range is \(node.found), expected two whole numbers", hint: "write [FIRST, END]; END is not included",
        subject: subject, position: node.position)
    }
    guard first >= 0, first < end else {
      throw IngotError(
        .recipe, "layer_range is [\(first), \(end)], expected 0 ≤ FIRST < END", hint: "END is not included: [0, 1] is the first layer",
        subject: subject, position: node.position)
    }
    return first..<end
  }

  private func checkCount(of slice: Recipe.Slice, place: String, for method: MethodDescriptor) throws(IngotError) {
    let inputs = slice.sources.filter { method.baseIsInput || !$0.isBase }.count
    guard !method.models.contains(inputs) else { return }
    var found = "\(inputs) model\(inputs == 1 ? "" : "s")"
    var hint: String?
    if method.baseIsInput, slice.sources.contains(where: \.isImplicit) {
      found += ", base_model among them"
      hint = "remove base_model: for \(method.name) it is one more input"
    }
    throw IngotError(
      .recipe, "found \(found), expected \(method.modelsExpectation) for \(method.name)", hint: hint, subject: place,
      position: slice.position)
  }

  func missingBase(_ method: MethodDescriptor, at position: SourcePosition) -> IngotError {
    IngotError(
      .recipe, "base_model is missing; \(method.name) merges differences to a base model", hint: "add a line 'base_model: PATH'",
      subject: "base_model", position: position)
  }

  /// What to say about a parameter that stands outside `parameters`.
  private static func misplaced(_ key: String, of method: MethodDescriptor) -> String? {
    method.parameter(key) == nil ? nil : "has no effect in this place; it belongs under parameters"
  }

  /// A model: a text, or mergekit's mapping `{model: TEXT or {path, revision}, lora: the same or a list of them, override_architecture}`.
  mutating func reference(_ node: Node, subject: String) throws(IngotError) -> ModelReference {
    guard let fields = node.mapping else {
      return ModelReference(.text(try plainPath(node, subject: subject)), position: node.position)
    }
    try check(fields, at: subject, valid: ["model", "lora", "override_architecture"])
    let model = try required("model", of: fields, at: subject, in: node.position)
    let location = try location(model, subject: path(subject, "model"), takesTask: false)
    var adapters: [ModelReference.Location] = []
    if let node = optional("lora", of: fields) {
      adapters = try self.adapters(node, subject: path(subject, "lora"))
      for part in [location] + adapters {
        guard case .text(let text) = part, text.utf8.contains(UInt8(ascii: "+")) else { continue }
        throw IngotError(
          .recipe, "found \"\(excerpt(text))\" beside lora, expected one place for adapters",
          hint: "name the adapters under lora alone, several as a list", subject: subject, position: node.position)
      }
    }
    var architecture: String?
    if let node = optional("override_architecture", of: fields) {
      architecture = try text(of: node, subject: path(subject, "override_architecture"), expected: "an architecture")
      notices.append(
        Notice(
          .info, "override_architecture is known to mergekit and changes nothing here: tensor names come from the checkpoints",
          subject: path(subject, "override_architecture"), position: node.position))
    }
    return ModelReference(location, adapters: adapters, overrideArchitecture: architecture, position: node.position)
  }

  /// The adapters and packs under `lora`: one, or a list of one or more.
  private mutating func adapters(_ node: Node, subject: String) throws(IngotError) -> [ModelReference.Location] {
    guard let nodes = node.sequence else { return [try location(node, subject: subject, takesTask: true)] }
    guard !nodes.isEmpty else {
      throw IngotError(
        .recipe, "lora is \(node.found), expected an adapter or a list of them", hint: "leave lora out for the model alone",
        subject: subject, position: node.position)
    }
    var adapters: [ModelReference.Location] = []
    for (number, node) in nodes.enumerated() {
      adapters.append(try location(node, subject: "\(subject)[\(number)]", takesTask: true))
    }
    return adapters
  }

  private func plainPath(_ node: Node, subject: String) throws(IngotError) -> String {
    let text = try text(of: node, subject: subject, expected: "a model: a directory, a file or org/name")
    guard !text.isEmpty, !text.utf8.contains(0) else {
      throw IngotError(
        .recipe, text.isEmpty ? "the model is an empty text" : "the model has a NUL character in it",
        hint: "name a directory, a file or org/name",
        subject: subject, position: node.position)
    }
    return text
  }

  /// A text, or `{path, revision}`; of a pack with several tasks `{path, revision, task}`.
  mutating func location(_ node: Node, subject: String, takesTask: Bool = false) throws(IngotError) -> ModelReference.Location {
    guard let parts = node.mapping else { return .text(try plainPath(node, subject: subject)) }
    try check(parts, at: subject, valid: ["path", "revision"] + (takesTask ? ["task"] : []))
    let pathNode = try required("path", of: parts, at: subject, in: node.position)
    let revision = try optional("revision", of: parts).map { (node) throws(IngotError) in
      try self.text(of: node, subject: path(subject, "revision"), expected: "a revision")
    }
    let task = try optional("task", of: parts).map { (node) throws(IngotError) in
      try self.text(of: node, subject: path(subject, "task"), expected: "a task of the pack, by name or number")
    }
    return .fields(path: try plainPath(pathNode, subject: path(subject, "path")), revision: revision, task: takesTask ? task : nil)
  }
}
