package import IngotErrors

/// A side input of a merge method: tensors besides the models' own that it is told of each tensor, such as a diagonal Fisher matrix.
///
/// Side inputs are read from files with the names of the weights, given under `side` in a recipe.
package struct SideInputDescriptor: Sendable, Hashable {
  /// What a side tensor looks like, and what it is called.
  package enum Form: String, Sendable, Hashable, CaseIterable {
    /// One value for each element: the name and the shape of the weight. Every merged tensor has one.
    case tensor
    /// As `tensor`, but only some of the merged tensors have one.
    case optionalTensor = "optional_tensor"
    /// As `tensor`, or for a matrix its row sums and column sums, `NAME.row_sums` and `NAME.column_sums`, of which rank-one values are made.
    case tensorOrSums = "tensor_or_sums"
    /// One value for each input channel, which is a column: the name of the module, that is the weight's without `.weight`. Weights whose module
    /// is not in the file have none.
    case channels
    /// The n × n Gram matrix of the inputs of an m × n weight, whole or as its packed upper triangle of n (n + 1) / 2 values; named as `channels`. Of a
    /// weight that is stored as n × m it has `.transposed` behind its name.
    case gram
    /// The m × m Gram matrix of the gradients at the outputs of an m × n weight, in the same two layouts and named alike.
    case outputGram = "output_gram"
    /// One row or more of n values for an m × n weight; named as `channels`.
    case rows

    /// True when side tensors are called as modules: a weight's name without `.weight`.
    package var isOfModules: Bool {
      switch self {
      case .channels, .gram, .outputGram, .rows: true
      case .tensor, .tensorOrSums, .optionalTensor: false
      }
    }

    /// For help.
    var words: String {
      switch self {
      case .tensor: "of each tensor's shape"
      case .optionalTensor: "of the tensor's shape, for some tensors"
      case .tensorOrSums: "of each tensor's shape, or row and column sums"
      case .channels: "one value for each input channel"
      case .gram: "a Gram matrix of each module's inputs"
      case .outputGram: "a Gram matrix of the gradients at each module's outputs"
      case .rows: "rows of each module's inputs"
      }
    }
  }

  /// The key under `side`, lower case with underscores.
  package var name: String
  /// One sentence without its full stop.
  package var summary: String
  package var form: Form
  package var isRequired: Bool
  /// True: each model has its own, given beside it; false: one for the merge, given at the top of the recipe.
  package var isPerModel: Bool
  /// True: a list of files is taken as well as one.
  package var isList: Bool

  package init(
    _ name: String, _ form: Form, _ summary: String, isRequired: Bool = true, isPerModel: Bool = true, isList: Bool = false
  ) {
    self.name = name
    self.form = form
    self.summary = summary
    self.isRequired = isRequired
    self.isPerModel = isPerModel
    self.isList = isList
  }
}

extension Recipe {
  /// The files of one side input, as one place of a recipe names them.
  package struct Side: Sendable {
    /// Index into the method's `sideInputs`.
    package var input: Int
    /// At least one; exactly one where the input is no list.
    package var references: [ModelReference]
    /// Indices into `Recipe.models`, one for each reference.
    package internal(set) var models: [Int] = []
    package var position: SourcePosition
  }

  /// Activation-informed merging (`aim`), a last step behind any method: out = base + f · (merged − base), with a factor f for each input channel.
  /// Source: Activation-Informed Merging of Large Language Models, arXiv 2502.02421.
  package struct ActivationScaling: Sendable {
    /// How much of the difference to the base is left in the most active channel, 0 to 1.
    package var omega: Double
    /// Where the activation norms are, and what the difference is taken to; index into `Recipe.models`.
    package var side: Int
    package var base: Int
    package var position: SourcePosition

    package static let defaultOmega = 0.4
    /// The kind of side file that it reads.
    package static let sideInput = SideInputDescriptor(
      "activation_norm", .channels, "mean norm of each input channel over calibration data", isPerModel: false)
  }
}

extension RecipeParser {
  /// The `side` of a mapping: of the recipe, or of a model.
  mutating func sides(
    _ fields: Node.Mapping, at place: String, of method: MethodDescriptor, isPerModel: Bool
  ) throws(IngotError) -> [Recipe.Side] {
    guard let entry = fields["side"], !entry.value.isAbsent else { return [] }
    let place = path(place, "side")
    guard !method.sideInputs.isEmpty else {
      throw IngotError(
        .recipe, "\(method.name) takes no side inputs", hint: "remove side; aim, where that is meant, stands at the top of the recipe",
        subject: place, position: entry.keyPosition)
    }
    let mapping = try self.fields(of: entry.value, subject: place, hint: "write each side input as 'name: PATH' on its own line")
    var sides: [Recipe.Side] = []
    for part in mapping.entries {
      let subject = path(place, part.key)
      guard let index = method.sideInputs.firstIndex(where: { $0.name == part.key }) else {
        let names = method.sideInputs.map(\.name)
        throw IngotError(
          .recipe, "\(method.name) has no side input '\(excerpt(part.key))'",
          hint: nearestName(to: part.key, among: names).map { "did you mean \($0)?" } ?? "it takes \(names.joined(separator: ", "))",
          subject: subject, position: part.keyPosition)
      }
      let input = method.sideInputs[index]
      guard input.isPerModel == isPerModel else {
        throw IngotError(
          .recipe, input.isPerModel ? "\(input.name) differs by model" : "\(input.name) is one for the whole merge",
          hint: input.isPerModel ? "write it under side of the model that it was taken of" : "write it under side at the top of the recipe",
          subject: subject, position: part.keyPosition)
      }
      let references = try sideReferences(part.value, of: input, subject: subject)
      sides.append(Recipe.Side(input: index, references: references, position: part.value.position))
    }
    return sides
  }

  private mutating func sideReferences(
    _ node: Node, of input: SideInputDescriptor, subject: String
  ) throws(IngotError) -> [ModelReference] {
    guard let nodes = node.sequence else { return [try sideReference(node, subject: subject)] }
    guard input.isList, !nodes.isEmpty else {
      throw IngotError(
        .recipe, "\(input.name) is \(node.found), expected \(input.isList ? "one file or more" : "one file")",
        hint: "name a safetensors file, or a directory of them with their index", subject: subject, position: node.position)
    }
    var references: [ModelReference] = []
    for (number, node) in nodes.enumerated() { references.append(try sideReference(node, subject: "\(subject)[\(number)]")) }
    return references
  }

  /// A text or `{path, revision}`: no adapter is applied to a side file.
  private mutating func sideReference(_ node: Node, subject: String) throws(IngotError) -> ModelReference {
    if node.mapping != nil { return ModelReference(try location(node, subject: subject), position: node.position) }
    return try reference(node, subject: subject)
  }

  /// The `aim` of a recipe, and what its files are; their places among the models come later.
  mutating func activationScaling(
    _ top: Node.Mapping, base: ModelReference?
  ) throws(IngotError) -> (scaling: Recipe.ActivationScaling, side: ModelReference, base: ModelReference)? {
    guard let entry = top["aim"], !entry.value.isNull else { return nil }
    let fields = try fields(of: entry.value, subject: "aim", hint: "write 'side: PATH' and 'omega: 0.4' below it")
    try check(fields, at: "aim", valid: ["side", "omega", "base_model"])
    let side = try sideReference(try required("side", of: fields, at: "aim", in: entry.keyPosition), subject: "aim.side")
    var own: ModelReference?
    if let node = optional("base_model", of: fields) { own = try reference(node, subject: "aim.base_model") }
    guard let base = own ?? base else {
      throw IngotError(
        .recipe, "aim takes differences to a base model, and the recipe names none", hint: "add 'base_model: PATH' under aim",
        subject: "aim", position: entry.keyPosition)
    }
    var omega = Recipe.ActivationScaling.defaultOmega
    if let node = optional("omega", of: fields) {
      let parameter = ParameterDescriptor("omega", .number(.fraction), "", default: .number(omega))
      let value: ParameterValue =
        switch node.scalar?.value {
        case .integer(let whole)?: .number(Double(whole))
        case .float(let number)?: .number(number)
        default: .text(node.scalar?.text ?? node.found)
        }
      omega = try parameter.checked(value, subject: "aim.omega", position: node.position).number ?? omega
    }
    return (.init(omega: omega, side: 0, base: 0, position: entry.keyPosition), side, base)
  }

  /// Every required side input must be given for every input that needs it.
  func checkRequiredSides(
    _ slices: [Recipe.Slice], _ sides: [Recipe.Side], of method: MethodDescriptor, at entry: Node.Mapping.Entry
  ) throws(IngotError) {
    for (index, input) in method.sideInputs.enumerated() where input.isRequired {
      guard input.isPerModel else {
        if sides.contains(where: { $0.input == index }) { continue }
        throw IngotError(
          .recipe, "\(method.name) needs the side input \(input.name) (\(input.summary))",
          hint: "add 'side: {\(input.name): PATH}' at the top of the recipe", subject: "side.\(input.name)", position: entry.keyPosition)
      }
      for source in slices.flatMap(\.sources) where method.baseIsInput || !source.isBase {
        if source.sides.contains(where: { $0.input == index }) { continue }
        let name = excerpt(models[source.model].name)
        throw IngotError(
          .recipe, "the \(source.isBase ? "base model" : "model") \(name) has no side input \(input.name) (\(input.summary))",
          hint: source.isImplicit
            ? "list it with a side of its own, or remove base_model" : "add 'side: {\(input.name): PATH}' beside it",
          subject: "side.\(input.name)", position: source.position)
      }
    }
    for source in slices.flatMap(\.sources) where source.isBase && !method.baseIsInput {
      guard let side = source.sides.first else { continue }
      throw IngotError(
        .recipe, "the base model \(excerpt(models[source.model].name)) has a side input, which \(method.name) does not use",
        hint: "remove it", subject: "side", position: side.position)
    }
  }

  /// Gives side files their places behind all models.
  mutating func place(_ sides: inout [Recipe.Side]) {
    for index in sides.indices { sides[index].models = sides[index].references.map { ordinal(of: $0) } }
  }
}
