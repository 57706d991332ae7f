import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods

/// `ingot lora basis`: several adapters as a basis and coefficients.
struct LoRABasisCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "basis",
    abstract: "Write several adapters as one basis with coefficients, from which 'ingot lora restore' makes each of them again.",
    discussion: "Reversible model merging, arXiv 2510.14163. With as many components as adapters less one nothing is lost.")

  @Argument(help: ArgumentHelp("The adapters.", valueName: "adapter"), completion: .directory)
  var adapters: [String]

  @Option(name: [.customShort("p"), .long], help: ArgumentHelp("Directions beside the mean.", valueName: "count"))
  var components: Int

  @Option(
    help: ArgumentHelp(
      "What has coefficients of its own: every row of a factor (position) or every module (module).", valueName: "what"))
  var granularity: ReversibleBasis.Granularity = .position

  @Flag(
    help: "Take factors as they are stored, without balancing them first: for adapters that were trained from one initialisation.")
  var storedFactors = false

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its error.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let models = LocalModels(environment: modelEnvironment())
    let names = adapters
    let opened = try caught { () throws(IngotError) in
      var opened: [OpenedAdapter] = []
      for name in names { opened.append(try models.openAdapter(named: name)) }
      return opened
    }
    var request = AdapterBasisRequest(adapters: opened, components: components)
    request.granularity = granularity
    request.isBalanced = !storedFactors
    request.dtype = try out.elementType()
    let engine = try self.engine.make()
    let (destination, output, wanted) = (out.output, out.options, request)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.basis(of: wanted, to: destination, options: output, watcher: watcher)
    }
    talk.talk(report.notices)
    var text = ""
    if verbose {
      text += table(
        [["module", "components", "error"]] + report.modules.map { [printable($0.name), String($0.components), figure($0.error)] },
        right: [1, 2])
    }
    text +=
      "\(printable(report.output)): \(counted(report.models.count, "model")), \(counted(report.modules.count, "module")), "
      + "\(ByteCount(report.bytes)), \(figure(report.storageRatio)) of the adapters' values; relative error "
      + "\(figure(report.modules.map(\.error).max() ?? 0)) at most\n"
    try talk.print(talk.quiet ? "" : text, json: report.json())
  }
}

/// `ingot lora restore`: one adapter out of a basis.
struct LoRARestoreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore", abstract: "Write one of the adapters that 'ingot lora basis' put into a basis.")

  @Argument(help: ArgumentHelp("The directory of the basis.", valueName: "basis"), completion: .directory)
  var basis: String

  @Argument(help: ArgumentHelp("The adapter: as it was named, or its number from 1.", valueName: "adapter"))
  var adapter: String

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank and norm.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let engine = try self.engine.make()
    let (name, directory, destination, output, dtype) = (adapter, basis, out.output, out.options, try out.elementType())
    let models = LocalModels(environment: modelEnvironment())
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.restore(name, ofBasis: directory, dtype: dtype, to: destination, models: models, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}

extension ReversibleBasis.Granularity: ExpressibleByArgument {}
