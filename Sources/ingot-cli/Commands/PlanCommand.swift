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

  @Option(
    help: ArgumentHelp("Warn when the disk of this directory, which is not made, lacks the space for the output.", valueName: "directory"),
    completion: .directory)
  var out: String?

  @Option(help: ArgumentHelp("Most tensors in the table. Default: all.", valueName: "count"))
  var rows: Int?

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let text = try recipe.load(operands: arguments, command: "plan")
    let plan = try text.plan(shardSize: shardSize, recipe)
    let space = try spaceNotices(plan, out)
    talk.talk(plan.notices + space)
    try talk.print(printableLines(plan.table(maxRows: rows.map { max(0, $0) })), json: plan.json(adding: space))
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

  @Option(
    help: ArgumentHelp("Warn when the disk of this directory, which is not made, lacks the space for the output.", valueName: "directory"),
    completion: .directory)
  var out: String?

  @Flag(help: "Check the recipe alone; open no model.")
  var recipeOnly = false

  @Flag(help: "Say what would differ if mergekit ran the recipe: bugs of mergekit that it meets, deliberate differences.")
  var mergekit = false

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let text = try recipe.load(operands: arguments, command: "check")
    let plan = recipeOnly ? nil : try text.plan(shardSize: nil, recipe)
    let report = mergekit ? try compared(text) : nil
    let notices = try plan.map { $0.notices + (try spaceNotices($0, out)) } ?? text.recipe.notices
    talk.talk(notices)
    let warnings = notices.count { $0.severity == .warning }
    let models = counted(text.recipe.externalModels.count, "model")
    let tensors = plan.map { ", \(counted($0.tensors.count, "tensor"))" } ?? ""
    let suffix = warnings > 0 ? ", \(counted(warnings, "warning"))" : ""
    let summary = talk.quiet ? "" : "\(printable(text.origin)): ok: \(text.recipe.method.name) of \(models)\(tensors)\(suffix)\n"
    try talk.print(summary + (report.map(words) ?? ""), json: json(text.recipe, plan, notices, report))
  }

  private func compared(_ text: RecipeText) throws -> MergekitReport {
    do throws(IngotError) {
      return try MergekitReport(text.recipe, models: recipeOnly ? nil : LocalModels(environment: modelEnvironment()))
    } catch {
      throw text.failure(error)
    }
  }

  private func words(_ report: MergekitReport) -> String {
    var text = report.findings.isEmpty ? "mergekit: nothing is known to differ\n" : ""
    for finding in report.findings {
      let kind = finding.kind == .bug ? "bug of mergekit" : "difference"
      let place = finding.document.map { "document \(printable($0)): " } ?? ""
      text += "\(place)\(kind): \(finding.name): mergekit \(finding.mergekit); here \(finding.here)\n"
      for subject in finding.subjects.prefix(5) { text += "  \(printable(subject))\n" }
      if finding.subjects.count > 5 { text += "  ... and \(finding.subjects.count - 5) more\n" }
    }
    return text
  }

  private func json(_ recipe: Recipe, _ plan: Plan?, _ notices: [Notice], _ report: MergekitReport?) -> String {
    var fields: [(String, JSONValue)] = [
      ("ok", .bool(true)), ("method", .string(recipe.method.name)), ("models", .int(recipe.externalModels.count)),
      ("tensors", plan.map { .int($0.tensors.count) } ?? .null), ("notices", .array(notices.map(\.json))),
    ]
    if let report { fields.append(("mergekit", .array(report.findings.map(\.json)))) }
    return JSON.text(document(fields)) + "\n"
  }
}

extension MergekitReport.Finding {
  fileprivate var json: JSONValue {
    .object([
      "name": .string(name), "kind": .string(kind.rawValue), "mergekit": .string(mergekit), "ingot": .string(here),
      "subjects": .array(subjects.map { .string($0) }), "document": document.map { .string($0) } ?? .null,
    ])
  }
}

/// The warning about a destination without enough space, if a destination is named.
private func spaceNotices(_ plan: Plan, _ destination: String?) throws -> [Notice] {
  guard let destination else { return [] }
  return try caught { () throws(IngotError) in try plan.spaceNotice(destination: destination).map { [$0] } ?? [] }
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
