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

  /// After a change of a descriptor: ingot methods --markdown > docs/methods.md
  @Test func methodsPageIsWhatTheDescriptorsSay() throws {
    let page = try String(contentsOf: Self.root.appendingPathComponent("docs/methods.md"), encoding: .utf8)
    let (found, expected) = (page.split(separator: "\n"), MethodRegistry.catalog.markdown.split(separator: "\n"))
    let difference = zip(found, expected).first { $0 != $1 }
    #expect(difference == nil && found.count == expected.count, "docs/methods.md is not what 'ingot methods --markdown' prints")
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
    for (number, name) in recipe.externalModels.map(\.name).enumerated() {
      try scratch.model("models-\(number)", Self.model(number), config: languageConfig(layers: 24))
      text = text.replacingOccurrences(of: name + "\n", with: "@models-\(number)\n").replacingOccurrences(
        of: name + ",", with: "@models-\(number),"
      )
      .replacingOccurrences(of: name + "}", with: "@models-\(number)}")
    }
    let (plan, report) = try scratch.merge(text)
    #expect(!plan.tensors.isEmpty && report.digests.count == plan.tensors.count)
    for tensor in try scratch.tensors().values {
      let isFinite = tensor.values.allSatisfy { $0.isFinite }
      #expect(isFinite && !tensor.values.isEmpty)
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
