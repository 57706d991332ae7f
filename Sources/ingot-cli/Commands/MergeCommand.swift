import ArgumentParser
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotStorage
import IngotTensors

/// `ingot merge`: the whole way from a recipe to a model directory.
struct MergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Merge models into a new model directory.",
    usage: """
      ingot merge RECIPE OUT [options]
      ingot merge -m METHOD [-b BASE] MODEL[=WEIGHT]... [-p NAME=VALUE]... -o OUT [options]
      """,
    discussion: """
      OUT appears in one step when everything is written; until then the output is OUT.partial. An interrupted merge goes on with \
      --resume. The bytes of the result depend on the recipe, the models and the seed, on nothing else.
      """)

  enum Sink: String, ExpressibleByArgument, CaseIterable { case directory, null }

  enum Sync: String, ExpressibleByArgument, CaseIterable {
    case all, none

    var storage: OutputRequest.Sync { self == .all ? .all : .none }
  }

  @Argument(help: ArgumentHelp("RECIPE and OUT, or the models of a merge without a recipe.", valueName: "argument"), completion: .file())
  var arguments: [String] = []

  @Option(name: .shortAndLong, help: ArgumentHelp("The directory to make.", valueName: "directory"), completion: .directory)
  var output: String?

  @OptionGroup(title: "Recipe") var recipe: RecipeArguments

  @Flag(help: "Print the recipe of a merge given on the command line, and stop.")
  var printRecipe = false

  @OptionGroup var out: DirectoryArguments

  @Flag(help: "Write through the page cache, so that what reads the output next finds it in memory.")
  var cachedWrites = false

  @Flag(help: "Read cold files through the page cache too, so that what reads them next finds them in memory.")
  var cachedReads = false

  @Option(help: ArgumentHelp("Where the result goes: a directory, or null to compute and discard.", valueName: "where"))
  var sink: Sink = .directory

  @Flag(help: "Carry NaN and infinity through instead of failing.")
  var allowNonfinite = false

  @Flag(help: "Look for NaN and infinity also in tensors that are copied unchanged.")
  var checkFinite = false

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "Say what is used and how it went.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let (path, models, destination) = try operands()
    let text = try recipe.load(recipe: path, models: models)
    if printRecipe {
      talk.talk(text.recipe.notices)
      return try talk.print(
        String(decoding: text.bytes, as: UTF8.self),
        json: JSON.text(document([("recipe", .string(String(decoding: text.bytes, as: UTF8.self)))])) + "\n")
    }
    let plan = try text.plan(shardSize: out.shardSize, recipe)
    var merge = MergeRun(destination: destination, talk: talk, isVerbose: verbose, drawsProgress: !noProgress)
    out.apply(to: &merge.directory)
    merge.directory.isDirect = !cachedWrites
    if cachedReads { merge.directory.run.reads = .never }
    merge.directory.run.allowsNonfinite = allowNonfinite
    merge.directory.run.checksFinite = checkFinite
    try merge.perform(plan, of: text, with: try engine.options())
  }

  // MARK: - Operands

  /// The recipe's path, or the models of a quick merge, and the directory to make.
  private func operands() throws -> (recipe: String?, models: [String], destination: String?) {
    var rest = arguments
    var destination = output
    if !recipe.isQuick, rest.count == 2 {
      guard destination == nil else { throw usage("the destination is given twice: \(rest[1]) and --output") }
      destination = rest.removeLast()
    }
    if !recipe.isQuick, rest.count > 1 {
      throw usage(
        "found \(rest.count) arguments, expected RECIPE OUT", hint: "to merge models without a recipe, name a method with -m")
    }
    if sink == .null, destination != nil {
      throw usage("--sink null writes nothing, and a destination is given", hint: "remove one of them")
    }
    if sink == .directory, destination == nil, !printRecipe {
      let hint = recipe.isQuick ? "add -o OUT" : "the form is: ingot merge RECIPE OUT"
      // Without a recipe either, the message about the recipe is the better one.
      if recipe.isQuick || !rest.isEmpty { throw usage("no destination given", hint: hint) }
    }
    return recipe.isQuick ? (nil, rest, destination) : (rest.first, [], destination)
  }

  private func usage(_ message: String, hint: String = "see 'ingot merge --help'") -> Failure {
    Failure(IngotError(.invalidArgument, message, hint: hint))
  }
}
