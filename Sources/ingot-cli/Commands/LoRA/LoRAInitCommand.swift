import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes

/// `ingot lora init`: an adapter to be trained beside others without using their inputs.
struct LoRAInitCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "init",
    abstract: "Write an adapter to be trained whose inputs are orthogonal to those of other tasks.",
    discussion: """
      A gets rows of one orthogonal basis for each module, which seed and module decide: those of --task, from 1. With --after they are also \
      orthogonal to what earlier adapters use. B is zero. Adapters that are trained with A fixed so merge by their plain sum: -m cat.
      """)

  @Argument(help: ArgumentHelp("The base model.", valueName: "base"), completion: .directory)
  var base: String

  @Option(name: [.customShort("r"), .long], help: ArgumentHelp("The rank of every module.", valueName: "count"))
  var rank: Int

  @Option(
    help: ArgumentHelp(
      "A module's name or its last part, a glob or /regular expression/, for example q_proj. May be repeated.", valueName: "pattern"))
  var target: [String]

  @Option(help: ArgumentHelp("Which block of the basis, from 1. Default: 1.", valueName: "number"))
  var task: Int = 1

  @Option(help: ArgumentHelp("An adapter whose inputs are left alone. May be repeated.", valueName: "adapter"), completion: .directory)
  var after: [String] = []

  @Option(help: ArgumentHelp("Seed of the basis, 0 to 2^64-1. Default: 0.", valueName: "number"))
  var seed: UInt64 = 0

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let models = LocalModels(environment: modelEnvironment())
    let (base, names, rank) = (base, after, rank)
    var patterns: [TensorPattern] = []
    for text in target { patterns.append(try pattern(text, of: "--target")) }
    let targets = patterns
    var request = try caught { () throws(IngotError) in
      AdapterStartRequest(base: try models.open(named: base), baseName: base, rank: rank, targets: targets)
    }
    let opened = try caught { () throws(IngotError) in
      var opened: [OpenedAdapter] = []
      for name in names { opened.append(try models.openAdapter(named: name)) }
      return opened
    }
    request.after = opened
    request.task = task
    request.seed = seed
    request.dtype = try out.elementType()
    let engine = try self.engine.make()
    let (destination, output, wanted) = (out.output, out.options, request)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.start(wanted, to: destination, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}
