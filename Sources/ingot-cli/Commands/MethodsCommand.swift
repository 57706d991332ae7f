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

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let catalog = MethodRegistry.catalog
    if let name {
      let method = try caught { () throws(IngotError) in try catalog.require(name) }
      return try talk.print(method.help(width: min(Terminal.width(of: STDOUT_FILENO), 120)), json: Self.json([method]))
    }
    try talk.print(table(catalog.methods.map { [$0.name, $0.summary] }), json: Self.json(catalog.methods))
  }

  private static func json(_ methods: [MethodDescriptor]) -> String {
    "{\"schema\": \(documentSchema), \"methods\": [\n  " + methods.map(\.json).joined(separator: ",\n  ") + "\n]}\n"
  }
}
