import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods

/// `ingot lora merge`: one adapter out of several.
struct LoRAMergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Merge adapters of one base into a new adapter.",
    usage: "ingot lora merge -m METHOD ADAPTER[=WEIGHT]... -o OUT [options]",
    discussion: "METHOD is one of:\n" + LowRankMethods.all.map { "  \($0.name): \($0.summary)." }.joined(separator: "\n"))

  @Argument(
    help: ArgumentHelp("The adapters, each with =WEIGHT behind it or not. A weight is 1 by default.", valueName: "adapter"),
    completion: .directory)
  var adapters: [String]

  @Option(
    name: .shortAndLong, help: ArgumentHelp("How they are merged.", valueName: "name"), completion: .list(LowRankMethods.all.map(\.name)))
  var method: String

  @OptionGroup(title: "Rank (svd, knots..., orthogonal)") var rank: RankArguments

  @Option(
    help: ArgumentHelp(
      "The share of entries that is kept (ties, dare_..., magnitude_prune: default 0.5; knots_...: 1).", valueName: "share"))
  var density: Double?

  @Option(
    help: ArgumentHelp("How signs are elected: by the sum (total) or by count (frequency). For ties and dare_ties.", valueName: "rule"))
  var majority: LowRankOptions.Majority?

  @Option(help: ArgumentHelp("The share of entries that knots_dare drops at random. Default: 0.1.", valueName: "share"))
  var drop: Double?

  @Option(help: ArgumentHelp("Clusters of lego, which are its result's rank. Default: the largest rank.", valueName: "count"))
  var clusters: Int?

  @Option(
    help: ArgumentHelp(
      "Where lego's clustering begins: random (k-means++ from the seed) or first (the first adapter's units).", valueName: "place"))
  var start: LowRankOptions.Start?

  @Flag(inversion: .prefixedNo, help: "Give lego's centroids the mean norm of their units. Default: yes.")
  var reweight: Bool?

  @Option(help: ArgumentHelp("Seed of random draws, 0 to 2^64-1. Default: 0.", valueName: "number"))
  var seed: UInt64 = 0

  @Option(
    help: ArgumentHelp(
      "What becomes of tensors that adapters have whole (modules_to_save, biases): refuse, average, first or omit.", valueName: "rule"))
  var modulesToSave: AdapterMergeRequest.WholeTensors = .refuse

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank, norm and distance from the exact sum.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    var options = LowRankOptions()
    options.rank = try rank.rule()
    options.density = density
    options.majority = majority
    options.drop = drop
    options.clusters = clusters
    options.start = start
    options.reweight = reweight
    let models = LocalModels(environment: modelEnvironment())
    let named = try weighted(adapters)
    let opened = try caught { () throws(IngotError) in
      var opened: [OpenedAdapter] = []
      for entry in named { opened.append(try models.openAdapter(named: entry.name)) }
      return opened
    }
    var request = AdapterMergeRequest(adapters: opened, weights: named.map(\.weight), method: method)
    request.options = options
    request.seed = seed
    request.wholeTensors = modulesToSave
    request.dtype = try out.elementType()
    let engine = try self.engine.make()
    let (destination, output) = (out.output, out.options)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.merge(request, to: destination, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }
}

extension LowRankOptions.Majority: ExpressibleByArgument {}
extension LowRankOptions.Start: ExpressibleByArgument {}
extension AdapterMergeRequest.WholeTensors: ExpressibleByArgument {}

/// Prints what became of a written adapter.
func print(_ report: AdapterReport, _ talk: OutputArguments, verbose: Bool) throws {
  talk.talk(report.notices)
  try talk.print(talk.quiet ? "" : (verbose ? adapterTable(report) : "") + adapterSummary(report), json: report.json())
}
