import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes

/// `ingot lora pack`: an adapter with few bits.
struct LoRAPackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pack",
    abstract: "Store an adapter with few bits: fewer for singular vectors of smaller values, as modules need.",
    discussion: """
      BITS are groups by descending singular value: 8:20,4:180,2 gives the first 20 columns of both factors 8 bits, the next 180 four, the \
      others two. Without a group for the others they are left out. 'ingot lora unpack' makes an adapter of the pack.
      """)

  @Argument(help: ArgumentHelp("The adapter.", valueName: "adapter"), completion: .directory)
  var adapter: String

  @Option(help: ArgumentHelp("Bits of the columns, for example 8:20,4:180,2.", valueName: "bits"))
  var bits: String

  @Option(
    name: .customLong("rule"),
    help: ArgumentHelp("Bits for modules whose name matches. May be repeated; the first that matches counts.", valueName: "pattern=bits"))
  var rules: [String] = []

  @Option(name: .shortAndLong, help: ArgumentHelp("The pack's directory to make.", valueName: "directory"), completion: .directory)
  var output: String

  @Flag(help: "Replace OUT, in one step once the new one is complete, and discard OUT.partial.")
  var force = false

  @Option(help: ArgumentHelp("Wait until the output is on the disk (all) or leave that to the system (none).", valueName: "what"))
  var sync: MergeCommand.Sync = .all

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank, norm and error.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let (name, text) = (adapter, bits)
    var patterns: [(pattern: TensorPattern, bits: ColumnBits)] = []
    for rule in rules {
      guard let sign = rule.lastIndex(of: "="), sign != rule.startIndex else {
        throw RankArguments.usage("found --rule \(rule.prefix(80)), expected --rule PATTERN=BITS")
      }
      let own = String(rule[rule.index(after: sign)...])
      patterns.append((try pattern(String(rule[..<sign]), of: "--rule"), try caught { () throws(IngotError) in try ColumnBits(own) }))
    }
    var request = try caught { () throws(IngotError) in
      AdapterPackRequest(adapter: try LocalModels(environment: modelEnvironment()).openAdapter(named: name), bits: try ColumnBits(text))
    }
    request.rules = patterns
    let engine = try self.engine.make()
    var options = AdapterOutputOptions()
    options.force = force
    options.sync = sync.storage
    let (destination, chosen, wanted) = (output, options, request)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.pack(wanted, to: destination, options: chosen, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}

/// `ingot lora unpack`: an adapter out of a pack.
struct LoRAUnpackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unpack", abstract: "Write the adapter that 'ingot lora pack' stored, in PEFT's layout.")

  @Argument(help: ArgumentHelp("The directory of the pack.", valueName: "pack"), completion: .directory)
  var pack: String

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank and norm.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let engine = try self.engine.make()
    let (directory, destination, output, dtype) = (pack, out.output, out.options, out.dtype)
    let models = LocalModels(environment: modelEnvironment())
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.unpack(adapter: directory, dtype: dtype, to: destination, models: models, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}
