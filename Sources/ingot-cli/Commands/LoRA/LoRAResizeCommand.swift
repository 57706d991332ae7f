import ArgumentParser
import IngotEngine
import IngotErrors

/// `ingot lora resize`: an adapter at another rank.
struct LoRAResizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resize",
    abstract: "Write an adapter at another rank: the best approximation of each module's change.",
    discussion: "A rank above a module's own leaves its change as it is. Magnitudes of DoRA and whole tensors are carried over.")

  @Argument(help: ArgumentHelp("The adapter.", valueName: "adapter"), completion: .directory)
  var adapter: String

  @OptionGroup(title: "Rank") var rank: RankArguments

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank, norm and error.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    guard let rule = try rank.rule() else { throw RankArguments.usage("no rank given, expected --rank, --energy or --norm-fraction") }
    let name = adapter
    let adapter = try caught { () throws(IngotError) in
      try LocalModels(environment: modelEnvironment()).openAdapter(named: name)
    }
    let engine = try self.engine.make()
    let (destination, output, dtype) = (out.output, out.options, try out.elementType())
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.resize(adapter, rule: rule, dtype: dtype, to: destination, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}
