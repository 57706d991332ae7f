import ArgumentParser
import IngotEngine
import IngotErrors
import IngotJSON
import IngotStorage

/// `ingot lora apply`: adapters into their base, as the merge of a recipe.
struct LoRAApplyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apply",
    abstract: "Write a model with adapters applied to it.",
    discussion: """
      One adapter is the merge of BASE+ADAPTER by passthrough. Several, or one with a weight, are BASE + the sum of weight x (BASE+ADAPTER - BASE) \
      by task_arithmetic. The recipe is kept in OUT (mergekit_config.yml), so that 'ingot reproduce' can check it.
      """)

  @Argument(
    help: ArgumentHelp("The base model, then adapters, each with =WEIGHT behind it or not.", valueName: "argument"), completion: .directory)
  var arguments: [String]

  @Option(name: .shortAndLong, help: ArgumentHelp("The directory to make.", valueName: "directory"), completion: .directory)
  var output: String

  @Option(help: ArgumentHelp("Element type of the output (mergekit's dtype). Default: that of the base.", valueName: "type"))
  var dtype: String?

  @OptionGroup var out: DirectoryArguments

  @Flag(help: "Print the recipe and stop.")
  var printRecipe = false

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "Say what is used and how it went.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let recipe = try recipe()
    let text = try RecipeText(Array(recipe.utf8), origin: "command line", strict: false)
    if printRecipe { return try talk.print(recipe, json: JSON.text(document([("recipe", .string(recipe))])) + "\n") }
    var options = PlanOptions()
    if let shardSize = out.shardSize { options.shardSize = shardSize.bytes }
    let plan = try text.plan(options, environment: modelEnvironment())
    var merge = MergeRun(destination: output, talk: talk, isVerbose: verbose, drawsProgress: !noProgress)
    out.apply(to: &merge.directory)
    try merge.perform(plan, of: text, with: try engine.options())
  }

  /// The recipe, as JSON, which is YAML.
  private func recipe() throws -> String {
    guard let base = arguments.first, arguments.count > 1 else {
      throw Failure(
        IngotError(
          .invalidArgument, "found \(counted(arguments.count, "argument")), expected a base model and adapters",
          hint: "the form is: ingot lora apply BASE ADAPTER... -o OUT"))
    }
    let adapters = try weighted(Array(arguments.dropFirst()))
    var fields: [(String, JSONValue)] = []
    let isPlain = adapters.count == 1 && adapters.allSatisfy { $0.weight == 1 }
    fields.append(("merge_method", .string(isPlain ? "passthrough" : "task_arithmetic")))
    if !isPlain { fields.append(("base_model", .object(["model": Self.location(base)]))) }
    fields.append(
      (
        "models",
        .array(
          adapters.map { adapter in
            let reference: JSONValue = .object(["model": Self.location(base), "lora": Self.location(adapter.name)])
            return isPlain
              ? .object(["model": reference]) : .object(["model": reference, "parameters": .object(["weight": .double(adapter.weight)])])
          })
      ))
    if let dtype { fields.append(("dtype", .string(dtype))) }
    return JSON.text(jsonObject(fields), style: .pretty) + "\n"
  }

  /// What exists is a path, whatever its characters; anything else is a name of the hub, perhaps with a revision.
  private static func location(_ text: String) -> JSONValue { exists(text) ? .object(["path": .string(text)]) : .string(text) }
}
