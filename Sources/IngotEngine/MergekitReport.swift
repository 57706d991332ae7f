internal import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
internal import IngotTensors

/// What would differ if mergekit ran a recipe: bugs of mergekit that it meets, and places where Ingot differs on purpose.
package struct MergekitReport: Sendable {
  package enum Kind: String, Sendable, Hashable {
    /// mergekit fails, or does what nobody wants; Ingot does not.
    case bug
    /// Both are right in their way.
    case difference
  }

  package struct Finding: Sendable {
    /// Also the heading in docs/mergekit.md.
    package var name: String
    package var kind: Kind
    package var mergekit: String
    package var here: String
    /// What of the recipe or the models it is about: keys, tensors, models. May be empty.
    package var subjects: [String]
    /// The document that it is about, by name; nil for that of the output, and for all.
    package var document: String?
  }

  package let findings: [Finding]
  /// False when the models were not looked at: then only what the recipe alone tells is there.
  package let sawModels: Bool

  /// Checks `recipe` against the table. Opens the models when there is a provider, reads headers and configs, and throws what a plan throws.
  package init(_ recipe: Recipe, models provider: (any ModelProvider)?) throws(IngotError) {
    let roots = try Node.loadAll(recipe.text, origin: recipe.origin)
    let stages = try provider.map { (provider) throws(IngotError) in try StageModels(recipe, options: PlanOptions(), models: provider) }
    sawModels = provider != nil
    var findings: [Finding] = []
    for document in recipe.stages + [recipe] {
      // The output's document has lost its name when it is the last of several that have one.
      let root = roots.first { $0.mapping?["name"]?.value.scalar?.text == document.name } ?? roots.last
      guard let root else { continue }
      var context = MergekitContext(recipe: document, root: root)
      if let stages { try context.open(stages) }
      for check in MergekitCheck.all {
        guard let subjects = try check.find(context) else { continue }
        findings.append(
          Finding(
            name: check.name, kind: check.kind, mergekit: check.mergekit, here: check.here, subjects: subjects,
            document: document.name))
      }
    }
    if !recipe.stages.isEmpty { findings.append(Self.severalDocuments(recipe)) }
    self.findings = findings
  }

  private static func severalDocuments(_ recipe: Recipe) -> Finding {
    Finding(
      name: severalDocuments, kind: .difference,
      mergekit: "reads one document with mergekit-yaml; mergekit-multi writes each document's result to disk before the next reads it",
      here: "what one document computes, the next reads on the way where that is possible", subjects: recipe.stages.compactMap(\.name),
      document: nil)
  }

  private static let severalDocuments = "several-documents"

  /// The names of all checks, for the documentation's test.
  package static var checkNames: [(name: String, kind: Kind)] {
    MergekitCheck.all.map { ($0.name, $0.kind) } + [(severalDocuments, .difference)]
  }
}

/// What checks look at.
struct MergekitContext {
  let recipe: Recipe
  /// The recipe as it is written.
  let root: Node
  /// Empty when models were not opened.
  var models: [ProvidedModel] = []
  var outputs: [OutputTensor] = []
  var tokenizer: TokenizerPlan?

  init(recipe: Recipe, root: Node) {
    self.recipe = recipe
    self.root = root
  }

  /// Opens the models, finds the output's tensors and works out its vocabulary.
  mutating func open(_ provider: any ModelProvider) throws(IngotError) {
    models = try provider.models(of: recipe)
    var finder = OutputTensorFinder(recipe: recipe, models: models, missing: recipe.missing)
    outputs = try finder.find()
    guard let request = recipe.tokenizer else { return }
    var planner = TokenizerPlanner(recipe: recipe, request: request, models: Array(models.prefix(recipe.modelCount)))
    tokenizer = try planner.plan()
  }

  /// The model whose config the output gets.
  var donorIndex: Int { recipe.baseModel ?? recipe.slices.first?.sources.first?.model ?? 0 }

  /// What the recipe says of its method's parameters, place by place.
  private var places: [Settings] {
    [recipe.settings] + recipe.modules.map(\.settings) + recipe.slices.flatMap { [$0.settings] + $0.sources.map(\.settings) }
      + recipe.rules.filter { $0.method == nil }.map(\.settings)
  }

  /// True when some place of the recipe gives a switch the value false.
  func turnsOff(_ name: String) -> Bool {
    guard let index = recipe.method.parameters.firstIndex(where: { $0.name == name }) else { return false }
    return places.contains { settings in
      guard case .constant(let value)? = settings[index]?.setting else { return false }
      return value == .boolean(false) || value.number == 0
    }
  }

  var method: String { recipe.method.name }

  /// Every number that the recipe gives a parameter in any place, or its default where it gives none.
  func numbers(_ name: String) -> [Double] {
    guard let index = recipe.method.parameters.firstIndex(where: { $0.name == name }) else { return [] }
    var numbers: [Double] = []
    func add(_ settings: Settings) {
      switch settings[index]?.setting {
      case .constant(let value)?: numbers += [value.number].compactMap(\.self)
      case .gradient(let values)?: numbers += values
      case .conditional(let conditions)?:
        for condition in conditions {
          switch condition.value {
          case .constant(let value): numbers += [value.number].compactMap(\.self)
          case .gradient(let values): numbers += values
          }
        }
      case nil: break
      }
    }
    places.forEach(add)
    return numbers.isEmpty ? [recipe.defaultValue(of: recipe.method.parameters[index])?.number].compactMap(\.self) : numbers
  }

  /// True when tensors of 16 bits are merged and saved as they come out: those of another `out_dtype` are cast to it.
  var mergesSixteenBits: Bool {
    if recipe.outDType != nil { return false }
    if let dtype = recipe.dtype { return dtype != .f32 }
    return outputs.contains { $0.inputs.contains { [.bf16, .f16].contains($0.tensor.dtype) } }
  }

  /// Tokens of the output that the recipe does not name, and that no model has whose embeddings are merged.
  var absentTokens: [String] {
    guard let tokenizer else { return [] }
    var absent: Set<Int> = []
    for output in outputs {
      guard let shape = output.inputs.first?.tensor.shape, TensorNames.vocabularyAxis(output.name, shape) != nil else { continue }
      let members = Set(output.inputs.map(\.model) + [recipe.baseModel].compactMap(\.self)).filter(tokenizer.vocabularies.indices.contains)
      for token in tokenizer.vocabulary.tokens where tokenizer.requests[token.id] == nil {
        if members.allSatisfy({ tokenizer.vocabularies[$0][token.text] == nil }) { absent.insert(token.id) }
      }
    }
    return tokenizer.vocabulary.tokens.filter { absent.contains($0.id) }.map(\.text)
  }

  /// True when some task vector is thinned out.
  var dropsElements: Bool { numbers("density").contains { $0 < 1 } }

  /// The names of the output tensors for which `body` is true of the element count, the shape and the numbers of one model beside the base.
  func tensors(
    where body: (_ count: Int, _ shape: Shape, _ number: (String) -> Double?) -> Bool
  ) throws(IngotError) -> [String] {
    var names: [String] = []
    for output in outputs {
      let slice = recipe.slices[output.slice]
      guard let base = output.inputs.first(where: { $0.source == slice.base && slice.base != nil }) ?? output.inputs.first else { continue }
      let shape = base.tensor.shape
      let count = try shape.elementCount()
      for input in output.inputs where input.source != base.source && input.tensor.dtype.hasArithmetic {
        guard let source = input.source else { continue }
        var values: [String: Double] = [:]
        for parameter in recipe.method.parameters where parameter.isPerModel {
          values[parameter.name] = try recipe.value(
            of: parameter.name, outputName: output.name, inputName: input.tensor.name, source: source, slice: output.slice,
            at: output.position
          )?.number
        }
        if body(count, shape, { values[$0] }) {
          names.append(output.name)
          break
        }
      }
    }
    return names
  }
}
