import ArgumentParser
import Glibc
import IngotErrors
import IngotMethods
import IngotRecipes

/// `ingot methods`: the merge methods and their parameters.
struct MethodsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "methods",
    abstract: "List the merge methods, or describe one.")

  @Argument(
    help: ArgumentHelp("A method to describe.", valueName: "name"), completion: .list(MethodRegistry.catalog.methods.map(\.name)))
  var name: String?

  @Flag(help: "Print the page of all methods in Markdown, as docs/methods.md has it beside measured figures.") var markdown = false

  @Flag(help: "Print a recipe for the named method.") var example = false

  @OptionGroup(title: "Talk") var talk: OutputArguments

  func validate() throws {
    if markdown, name != nil || example || talk.json {
      throw ValidationError("--markdown prints the page of all methods: it stands alone.")
    }
    if example, name == nil || talk.json { throw ValidationError("--example takes the name of a method, and no --json.") }
  }

  mutating func run() throws {
    let catalog = MethodRegistry.catalog
    if markdown { return try Console.result(catalog.markdown) }
    if let name {
      let method = try caught { () throws(IngotError) in try catalog.require(name) }
      if example { return try Console.result(method.exampleRecipe) }
      return try talk.print(method.help(width: min(Terminal.width(of: STDOUT_FILENO), 120)), json: Self.json([method]))
    }
    try talk.print(table(catalog.methods.map { [$0.name, $0.summary] }), json: Self.json(catalog.methods))
  }

  private static func json(_ methods: [MethodDescriptor]) -> String {
    "{\"schema\": \(documentSchema), \"methods\": [\n  " + methods.map(\.json).joined(separator: ",\n  ") + "\n]}\n"
  }
}
