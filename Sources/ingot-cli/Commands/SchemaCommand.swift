import ArgumentParser
import IngotJSON
import IngotMethods
import IngotRecipes

/// `ingot schema`: the recipe language for editors and validators.
struct SchemaCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "schema",
    abstract: "Print the JSON Schema of recipes, with every method's parameters.",
    discussion: "For editors that complete and check YAML, and for programs that write recipes. 'ingot check' knows more.")

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    try Console.result(JSON.text(MethodRegistry.catalog.recipeSchema, style: .pretty) + "\n")
  }
}
