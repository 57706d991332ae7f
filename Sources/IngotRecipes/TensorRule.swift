package import IngotErrors
package import IngotTensors

/// One entry of a recipe's `tensors`: what is different for the output tensors it matches. The first rule that matches a tensor holds.
package struct TensorRule: Sendable {
  package var pattern: TensorPattern
  /// Layers of the output, in whatever stack; nil: also tensors outside the layers.
  package var layers: [ClosedRange<Int>]?
  /// Takes the place of the recipe's method.
  package var method: MethodDescriptor?
  /// Of `method`, of passthrough where there is `from`, else of the recipe's method.
  package var settings: Settings
  /// Index into `Recipe.models`: the tensor is copied from that model.
  package var from: Int?
  package var dtype: DType?
  package var position: SourcePosition

  package func matches(_ name: String, layer: Int?) -> Bool {
    if let layers {
      guard let layer, layers.contains(where: { $0.contains(layer) }) else { return false }
    }
    return pattern.matches(name)
  }
}

extension RecipeParser {
  /// The `tensors` of a recipe: rules for single tensors.
  mutating func rules(_ top: Node.Mapping, of method: MethodDescriptor, in slices: [Recipe.Slice]) throws(IngotError) -> [TensorRule] {
    guard let node = optional("tensors", of: top) else { return [] }
    var rules: [TensorRule] = []
    for (number, node) in try elements(of: node, subject: "tensors").enumerated() {
      let place = "tensors[\(number)]"
      let fields = try fields(of: node, subject: place, hint: "write '- match: PATTERN' and below it what is different")
      try check(fields, at: place, valid: ["match", "layers", "method", "merge_method", "parameters", "from", "dtype"])
      rules.append(try rule(fields, at: place, in: node.position, of: method, slices))
    }
    return rules
  }

  private mutating func rule(
    _ fields: Node.Mapping, at place: String, in position: SourcePosition, of recipeMethod: MethodDescriptor, _ slices: [Recipe.Slice]
  ) throws(IngotError) -> TensorRule {
    let pattern = try pattern(try required("match", of: fields, at: place, in: position), subject: path(place, "match"))
    let layers = try optional("layers", of: fields).map { (node) throws(IngotError) in
      try layerRanges(node, subject: path(place, "layers"))
    }
    let from = try optional("from", of: fields).map { (node) throws(IngotError) in try reference(node, subject: path(place, "from")) }
    let methodNode = optional("method", of: fields) ?? optional("merge_method", of: fields)
    var method: MethodDescriptor?
    if let methodNode {
      let name = try text(of: methodNode, subject: path(place, "method"), expected: "the name of a merge method")
      method = try catalog.require(name, position: methodNode.position)
    }
    if let node = fields["from"]?.value, from != nil {
      guard method == nil || method?.name == "passthrough" else {
        throw IngotError(
          .recipe, "the rule has both from and method, expected one of them", hint: "from copies the tensor of one model",
          subject: path(place, "from"), position: node.position)
      }
      method = try catalog.require("passthrough", position: node.position)
    } else if let method, let methodNode {
      try checkArity(of: method, at: methodNode.position, place: place, slices)
      if method.name != recipeMethod.name, let input = method.sideInputs.first(where: \.isRequired) {
        throw IngotError(
          .recipe, "\(method.name) needs the side input \(input.name), which only the recipe's own method has",
          hint: "make \(method.name) the recipe's merge_method and give the other tensors rules", subject: path(place, "method"),
          position: methodNode.position)
      }
    }
    let settings = try settings(fields, at: place, of: method ?? recipeMethod, isPerModel: false)
    let dtype = try dtype("dtype", of: fields)
    if method == nil, from == nil, settings.isEmpty, dtype == nil {
      try ignore("the rule changes nothing: it has no method, parameters, from or dtype", subject: place, position: position)
    }
    return TensorRule(
      pattern: pattern, layers: layers, method: method, settings: settings, from: from.map { ordinal(of: $0) }, dtype: dtype,
      position: position)
  }

  /// A rule's method must be able to work with the inputs of at least one slice.
  private func checkArity(of method: MethodDescriptor, at position: SourcePosition, place: String, _ slices: [Recipe.Slice])
    throws(IngotError)
  {
    if method.base == .required, !slices.contains(where: { $0.base != nil }) { throw missingBase(method, at: position) }
    let counts = slices.map { slice in slice.sources.filter { method.baseIsInput ? !$0.isImplicit : !$0.isBase }.count }
    guard !counts.contains(where: method.models.contains), let count = counts.first else { return }
    throw IngotError(
      .recipe, "found \(count) model\(count == 1 ? "" : "s"), expected \(method.modelsExpectation) for \(method.name)",
      hint: method.name == "passthrough" ? "to copy one model's tensor write 'from: MODEL'" : nil, subject: path(place, "method"),
      position: position)
  }

  private func pattern(_ node: Node, subject: String) throws(IngotError) -> TensorPattern {
    let text = try text(of: node, subject: subject, expected: "a pattern of tensor names")
    do throws(TensorPattern.Fault) {
      return try TensorPattern(text)
    } catch {
      var position = node.position
      // A pattern in quotes begins behind the quote; escapes inside are not counted back.
      if node.scalar?.style == .plain { position.column += error.offset }
      throw IngotError(
        .recipe, "\(error.message), at character \(error.offset + 1) of \"\(excerpt(text))\"",
        hint: "a pattern is a name with *, ? and [ ] in it, or a regular expression between slashes", subject: subject, position: position)
    }
  }

  /// `0-12`, both ends included; `5`; `0-3, 8, 20-`.
  private func layerRanges(_ node: Node, subject: String) throws(IngotError) -> [ClosedRange<Int>] {
    var texts: [String] = []
    for part in node.sequence ?? [node] { texts.append(try text(of: part, subject: subject, expected: "layers such as 0-12")) }
    var ranges: [ClosedRange<Int>] = []
    for piece in texts.flatMap({ $0.split(separator: ",", omittingEmptySubsequences: false) }) {
      let ends = piece.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false).map { $0.filter { $0 != " " } }
      let first = ends.first.flatMap { Int($0) }
      let last = ends.count == 1 ? first : ends.last == "" ? Int.max : ends.last.flatMap { Int($0) }
      guard let first, let last, first >= 0, first <= last else {
        throw IngotError(
          .recipe, "layers is \"\(excerpt(String(piece)))\", expected a layer or FIRST-LAST, both included",
          hint: "write 0-12, or 0-3,8, or 20- for all from 20", subject: subject, position: node.position)
      }
      ranges.append(first...last)
    }
    return ranges
  }
}
