import ArgumentParser
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes

/// `ingot plan`: what a merge would do.
struct PlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan",
    abstract: "Show what a merge would do, tensor by tensor, without doing it.",
    usage: """
      ingot plan RECIPE [options]
      ingot plan -m METHOD [-b BASE] MODEL[=WEIGHT]... [-p NAME=VALUE]... [options]
      """,
    discussion: "Reads the headers of all models, no weights. Fails where the merge would fail before it starts.")

  @Argument(help: ArgumentHelp("RECIPE, or the models of a merge without a recipe.", valueName: "argument"), completion: .file())
  var arguments: [String] = []

  @OptionGroup(title: "Recipe") var recipe: RecipeArguments

  @Option(
    help: ArgumentHelp("Most bytes of tensors in one output file, for example 2GiB; 0 writes one file. Default: 5GB.", valueName: "size"),
    transform: { try parsedSize($0) })
  var shardSize: ByteCount?

  @Option(help: ArgumentHelp("Most tensors in the table. Default: all.", valueName: "count"))
  var rows: Int?

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let text = try recipe.load(operands: arguments, command: "plan")
    let plan = try text.plan(shardSize: shardSize, seed: recipe.seed)
    talk.talk(plan.notices)
    try talk.print(printableLines(plan.table(maxRows: rows.map { max(0, $0) })), json: plan.json())
  }
}

/// `ingot check`: is the recipe right, and do the models go together.
struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Check a recipe and the headers of its models.",
    usage: """
      ingot check RECIPE [options]
      ingot check -m METHOD [-b BASE] MODEL[=WEIGHT]... [-p NAME=VALUE]... [options]
      """)

  @Argument(help: ArgumentHelp("RECIPE, or the models of a merge without a recipe.", valueName: "argument"), completion: .file())
  var arguments: [String] = []

  @OptionGroup(title: "Recipe") var recipe: RecipeArguments

  @Flag(help: "Check the recipe alone; open no model.")
  var recipeOnly = false

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let text = try recipe.load(operands: arguments, command: "check")
    let plan = recipeOnly ? nil : try text.plan(shardSize: nil, seed: recipe.seed)
    let notices = plan?.notices ?? text.recipe.notices
    talk.talk(notices)
    let warnings = notices.count { $0.severity == .warning }
    let models = counted(text.recipe.models.count, "model")
    let tensors = plan.map { ", \(counted($0.tensors.count, "tensor"))" } ?? ""
    let suffix = warnings > 0 ? ", \(counted(warnings, "warning"))" : ""
    try talk.print(
      talk.quiet ? "" : "\(printable(text.origin)): ok: \(text.recipe.method.name) of \(models)\(tensors)\(suffix)\n",
      json: JSON.text(
        document([
          ("ok", .bool(true)), ("method", .string(text.recipe.method.name)), ("models", .int(text.recipe.models.count)),
          ("tensors", plan.map { .int($0.tensors.count) } ?? .null), ("notices", .array(notices.map(\.json))),
        ])) + "\n")
  }
}

extension RecipeArguments {
  /// The recipe of a command without a destination.
  func load(operands: [String], command: String) throws -> RecipeText {
    if !isQuick, operands.count > 1 {
      throw Failure(
        IngotError(
          .invalidArgument, "found \(operands.count) arguments, expected a recipe",
          hint: "to use models without a recipe, name a method with -m; see 'ingot \(command) --help'"))
    }
    return try load(recipe: operands.first, models: isQuick ? operands : [])
  }
}
