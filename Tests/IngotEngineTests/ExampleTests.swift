import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// The example recipes and the page of methods are what the descriptors say, and the examples run.
@Suite struct ExampleTests {
  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
  static let folder = root.appendingPathComponent("examples/recipes")
  static let files = ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).filter { $0.hasSuffix(".yml") }.sorted()
  static let methods = MethodRegistry.all.map { $0.descriptor }

  static func text(_ file: String) throws -> String { try String(contentsOf: folder.appendingPathComponent(file), encoding: .utf8) }

  /// After a change of a descriptor: scripts/methods-page. The accuracies are docs/digits.md's; a test of the Python package compares them.
  @Test func methodsPageIsWhatTheDescriptorsSay() throws {
    let page = try String(contentsOf: Self.root.appendingPathComponent("docs/methods.md"), encoding: .utf8)
    let found = page.split(separator: "\n").filter { !$0.hasPrefix("* On [digits](digits.md#accuracies)") }
    let expected = MethodRegistry.catalog.markdown.split(separator: "\n")
    let difference = zip(found, expected).first { $0 != $1 }
    #expect(difference == nil && found.count == expected.count, "docs/methods.md is not what scripts/methods-page writes")
  }

  /// After a change of a descriptor: ingot methods NAME --example > examples/recipes/NAME.yml
  @Test(arguments: methods) func exampleIsWhatTheDescriptorSays(_ method: MethodDescriptor) throws {
    #expect(try Self.text(method.name + ".yml") == method.exampleRecipe)
    let recipe = try Recipe(method.exampleRecipe)
    #expect(recipe.method.name == method.name)
    #expect(!recipe.notices.contains { $0.severity == .warning }, "\(recipe.notices)")
  }

  @Test func thereAreExamples() { #expect(Self.files.count >= Self.methods.count) }

  /// Every example, on models of 24 small layers that stand where it names one.
  @Test(arguments: files) func runs(_ file: String) throws {
    let scratch = try Scratch()
    var text = try Self.text(file)
    let recipe = try Recipe(text)
    let sides = Self.sides(of: recipe)
    for (number, name) in recipe.externalModels.map(\.name).enumerated() {
      let tensors = Self.model(number)
      if let scaling = recipe.activationScaling, recipe.models[scaling.side].name == name {
        try scratch.model("models-\(number)", Self.norms)
      } else if let form = sides[name] {
        try scratch.model("models-\(number)", Self.sideTensors(form, of: tensors))
      } else {
        try scratch.model("models-\(number)", tensors, config: languageConfig(layers: 24))
      }
      for end in ["\n", ",", "}", "]"] { text = text.replacingOccurrences(of: name + end, with: "@models-\(number)" + end) }
    }
    let (plan, report) = try scratch.merge(text)
    #expect(!plan.tensors.isEmpty && report.digests.count == plan.tensors.count)
    for tensor in try scratch.tensors().values {
      let isFinite = tensor.values.allSatisfy { $0.isFinite }
      #expect(isFinite && !tensor.values.isEmpty)
    }
  }

  /// One norm for each input channel.
  static let norms = (0..<24).map { TestTensor("model.layers.\($0).mlp", .f32, [8], (1...8).map(Double.init)) }

  /// The references of a recipe that are side inputs, and their form.
  private static func sides(of recipe: Recipe) -> [String: SideInputDescriptor.Form] {
    var forms: [String: SideInputDescriptor.Form] = [:]
    for side in recipe.sides + recipe.slices.flatMap({ $0.sources.flatMap(\.sides) }) {
      for reference in side.references { forms[reference.name] = recipe.method.sideInputs[side.input].form }
    }
    return forms
  }

  /// Side tensors for every weight of a model.
  private static func sideTensors(_ form: SideInputDescriptor.Form, of tensors: [TestTensor]) -> [TestTensor] {
    var random = SplitMix(17)
    func filled(_ name: String, _ shape: [Int], _ value: (Int) -> Double) -> TestTensor {
      TestTensor(name, .f32, shape, (0..<shape.reduce(1, *)).map(value))
    }
    return tensors.compactMap { tensor in
      let module = tensor.name.hasSuffix(".weight") ? String(tensor.name.dropLast(7)) : tensor.name
      switch form {
      case .tensor, .tensorOrSums: return filled(tensor.name, tensor.shape) { _ in 0.1 + abs(random.normal()) }
      case .optionalTensor: return tensor.name.contains("mlp") ? filled(tensor.name, tensor.shape) { Double($0 % 2) } : nil
      case .channels: return tensor.shape.count == 2 ? filled(module, [tensor.shape[1]]) { _ in 0.1 + abs(random.normal()) } : nil
      case .gram, .outputGram, .rows:
        guard tensor.shape.count == 2, !tensor.name.contains("embed"), !tensor.name.contains("head") else { return nil }
        if form == .rows { return filled(module, [2, tensor.shape[1]]) { _ in random.normal() } }
        let n = tensor.shape[form == .gram ? 1 : 0]
        return filled(module, [n, n]) { $0 % (n + 1) == 0 ? 2 : 0.1 }
      }
    }
  }

  /// Equal but for small changes, with the same zeros.
  static func model(_ number: Int) -> [TestTensor] {
    var changes = SplitMix(UInt64(number) + 1)
    var shared = SplitMix(99)
    let tensors = languageModel(layers: 24, value: 0, dtype: .bf16)
    for tensor in tensors {
      for index in 0..<tensor.count {
        let value = shared.normal()
        tensor.set(index, index % 5 == 4 ? 0 : value + 0.05 * changes.normal())
      }
    }
    return tensors
  }
}
