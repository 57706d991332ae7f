import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes

/// `ingot lora extract`: the difference of two models as an adapter.
struct LoRAExtractCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "extract",
    abstract: "Write the difference of a fine-tuned model and its base as an adapter.",
    discussion: """
      Weights of two axes become factors: by random projection where they are large, exactly where they are small or with --exact. Embeddings, \
      heads and norms that differ are stored whole (modules_to_save), unless told otherwise. The error of every module is reported.
      """)

  @Argument(help: ArgumentHelp("The base model.", valueName: "base"), completion: .directory)
  var base: String

  @Argument(help: ArgumentHelp("The fine-tuned model.", valueName: "finetuned"), completion: .directory)
  var tuned: String

  @OptionGroup(title: "Rank") var rank: RankArguments

  @Option(help: ArgumentHelp("The most that a rank becomes with --energy and --norm-fraction. Default: 128.", valueName: "count"))
  var maxRank: Int = 128

  @Option(
    name: .customLong("rule"),
    help: ArgumentHelp(
      "A rule of its own for modules whose name matches: a rank, energy:SHARE, fraction:SHARE, skip or whole. May be repeated; the first that matches counts.",
      valueName: "pattern=rule"))
  var rules: [String] = []

  @Option(
    help: ArgumentHelp("Leave out modules whose name matches this glob or /regular expression/. May be repeated.", valueName: "pattern"))
  var skip: [String] = []

  @Option(help: ArgumentHelp("Take only modules whose name matches. May be repeated.", valueName: "pattern"))
  var only: [String] = []

  @Option(help: ArgumentHelp("Embeddings and heads that differ: whole, lora or skip.", valueName: "rule"))
  var embeddings: ExtractionRequest.Embeddings = .whole

  @Option(help: ArgumentHelp("Norms, biases and other tensors that differ: whole or skip.", valueName: "rule"))
  var others: ExtractionRequest.Others = .whole

  @Flag(help: "Decompose large weights exactly too.")
  var exact = false

  @Option(help: ArgumentHelp("Seed of the random projections, 0 to 2^64-1. Default: 0.", valueName: "number"))
  var seed: UInt64 = 0

  @OptionGroup(title: "Output") var out: AdapterOutputArguments

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "List every module with its rank, norm and error.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    guard let rule = try rank.rule() else { throw RankArguments.usage("no rank given, expected --rank, --energy or --norm-fraction") }
    guard maxRank >= 1 else { throw RankArguments.usage("--max-rank is \(maxRank), expected at least 1") }
    let patterns = try moduleRules()
    let dtype = try out.elementType()
    let engineOptions = try engine.options()
    let models = LocalModels(environment: modelEnvironment())
    let (base, tuned) = (base, tuned)
    var request = try caught { () throws(IngotError) in
      ExtractionRequest(base: try models.open(named: base), tuned: try models.open(named: tuned), baseName: base, rule: rule)
    }
    request.mostRank = maxRank
    request.rules = patterns
    request.embeddings = embeddings
    request.others = others
    request.isExact = exact
    request.seed = seed
    request.dtype = dtype
    let engine = try caught { () throws(IngotError) in try Engine(engineOptions) }
    let (destination, output, chosen) = (out.output, out.options, request)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.extract(chosen, to: destination, options: output, watcher: watcher)
    }
    try print(report, talk, verbose: verbose)
  }

  private func moduleRules() throws(Failure) -> [(pattern: TensorPattern, rule: ExtractionRequest.ModuleRule)] {
    var single: [(pattern: TensorPattern, rule: ExtractionRequest.ModuleRule)] = []
    for text in rules {
      guard let sign = text.lastIndex(of: "="), sign != text.startIndex else {
        throw RankArguments.usage("found --rule \(text.prefix(80)), expected --rule PATTERN=RULE")
      }
      let rule = String(text[text.index(after: sign)...])
      single.append(
        (
          try pattern(String(text[..<sign]), of: "--rule"),
          try RankArguments.checked { () throws(IngotError) in try ExtractionRequest.ModuleRule(rule) }
        ))
    }
    return ExtractionRequest.rules(leavingOut: try patterns(skip, of: "--skip"), single: single, only: try patterns(only, of: "--only"))
  }

  private func patterns(_ texts: [String], of option: String) throws(Failure) -> [TensorPattern] {
    var found: [TensorPattern] = []
    for text in texts { found.append(try pattern(text, of: option)) }
    return found
  }
}

extension ExtractionRequest.Embeddings: ExpressibleByArgument {}
extension ExtractionRequest.Others: ExpressibleByArgument {}
