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

  @Option(
    help: ArgumentHelp("Most bytes of tensors in one output file, for example 2GiB; 0 writes one file. Default: 5GB.", valueName: "size"),
    transform: { try parsedSize($0) })
  var shardSize: ByteCount?

  @Flag(help: "Go on with OUT.partial of an interrupted run of the same merge.")
  var resume = false

  @Flag(help: "Replace OUT, in one step once the new one is complete, and discard OUT.partial.")
  var force = false

  @Option(help: ArgumentHelp("Wait until the output is on the disk (all) or leave that to the system (none).", valueName: "what"))
  var sync: Sync = .all

  @Option(help: ArgumentHelp("Where the result goes: a directory, or null to compute and discard.", valueName: "where"))
  var sink: Sink = .directory

  @Flag(help: "Carry NaN and infinity through instead of failing.")
  var allowNonfinite = false

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
    let options = try engine.options()
    let plan = try text.plan(shardSize: shardSize, seed: recipe.seed)
    talk.talk(plan.notices)
    Interruption.handleSignals()
    let engine = try caught { () throws(IngotError) in try Engine(options) }
    if verbose, !talk.json { Console.talk(facts(engine, options)) }
    let report = try run(plan, of: text, on: engine, to: destination)
    talk.talk(report.notices)
    if verbose, !talk.json { Console.talk(effort(report, options)) }
    try talk.print(talk.quiet ? "" : summary(plan, report, destination), json: result(plan, report, destination))
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

  // MARK: - Running

  private func run(_ plan: Plan, of text: RecipeText, on engine: Engine, to destination: String?) throws -> RunReport {
    var runOptions = RunOptions()
    runOptions.allowsNonfinite = allowNonfinite
    let terminal = Terminal.standardError
    let line = terminal.isInteractive && !noProgress && !talk.quiet && !talk.json ? ProgressLine(on: terminal) : nil
    let listener: Watcher.Listener? = line.map { line in
      { progress in
        line.show(progress)
        return 0
      }
    }
    // SAFETY: the flag lives as long as the process.
    let watcher = unsafe Watcher(listener: listener, unsafe: UnsafePointer(Interruption.shared.flag), intervalMilliseconds: 100)
    defer { line?.clear() }
    do throws(IngotError) {
      guard let destination else { return try engine.run(plan, into: NullSink(), options: runOptions, watcher: watcher) }
      var options = DirectoryOptions()
      options.resume = resume
      options.force = force
      options.sync = sync.storage
      options.run = runOptions
      return try engine.merge(plan, to: destination, options: options, watcher: watcher)
    } catch {
      line?.clear()
      throw failure(error, of: text, destination: destination)
    }
  }

  /// A cancelled run and a full disk leave something to go on with: the command that does.
  private func failure(_ error: IngotError, of text: RecipeText, destination: String?) -> Failure {
    var error = error
    guard [.cancelled, .noSpace, .output].contains(error.status), let destination,
      (try? fileStatus(ResumeCommand.partial(of: destination)))?.kind == .directory
    else { return text.failure(error) }
    if error.status == .cancelled { error.hint = nil }
    return text.failure(error, resume: ResumeCommand.line(CommandLine.arguments))
  }

  // MARK: - Words

  private func facts(_ engine: Engine, _ options: EngineOptions) -> String {
    "\(engine.teamDescription); instruction set \(engine.instructionSet); memory budget \(ByteCount(options.memoryBudget))\n"
  }

  private func effort(_ report: RunReport, _ options: EngineOptions) -> String {
    var parts = [
      "read \(ByteCount(report.bytesRead)), wrote \(ByteCount(report.bytesWritten)) in \(duration(report.seconds))",
      "\(counted(report.threads, "worker"))", "\(ByteCount(report.peakMemory)) of the memory budget used",
    ]
    if report.resumedTensors > 0 { parts.append("\(counted(report.resumedTensors, "tensor")) kept from an earlier run") }
    return parts.joined(separator: "; ") + "\n"
  }

  private func summary(_ plan: Plan, _ report: RunReport, _ destination: String?) -> String {
    let bytes = ByteCount(plan.tensors.reduce(0) { $0 + $1.byteCount })
    return
      "\(printable(destination ?? "null")): \(counted(plan.tensors.count, "tensor")), \(bytes) in \(counted(plan.files.count, "file")), "
      + "\(duration(report.seconds))\n"
  }

  private func result(_ plan: Plan, _ report: RunReport, _ destination: String?) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", documentSchema)
      document.field("output", destination)
      document.field("plan_digest", plan.digest.description)
      document.field("tensors", plan.tensors.count)
      document.list("files") { list in
        for file in plan.files + plan.sideFiles.map({ WeightFile(name: $0.name, header: [], byteCount: $0.byteCount) }) {
          list.object { entry in
            entry.field("name", file.name)
            entry.field("bytes", file.byteCount)
          }
        }
      }
      document.object("run") { report.write(to: &$0) }
      document.field("notices", json: JSON.text(.array((plan.notices + report.notices).map(\.json))))
    }
    return document.line()
  }
}

/// The command line that goes on where this one stopped.
enum ResumeCommand {
  /// Where the engine keeps an unfinished output.
  static func partial(of destination: String) -> String {
    var path = destination[...]
    while path.count > 1, path.hasSuffix("/") { path = path.dropLast() }
    return path + ".partial"
  }

  /// `arguments` with `--resume` after `merge`, quoted for a shell.
  static func line(_ arguments: [String]) -> String {
    var words = arguments
    if !words.contains("--resume"), let place = words.dropFirst().firstIndex(of: "merge") { words.insert("--resume", at: place + 1) }
    return words.map(quoted).joined(separator: " ")
  }

  private static func quoted(_ word: String) -> String {
    let plain = word.utf8.allSatisfy { byte in
      (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5A) || (byte >= 0x61 && byte <= 0x7A) || "-_./=,:@%+".utf8.contains(byte)
    }
    if plain, !word.isEmpty { return word }
    return "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
  }
}
