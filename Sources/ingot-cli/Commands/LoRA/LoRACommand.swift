import ArgumentParser
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors

/// `ingot lora`: PEFT adapters as inputs and outputs.
struct LoRACommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lora",
    abstract: "Look at, apply, merge, extract, resize and pack LoRA adapters in PEFT's layout.",
    discussion: """
      An adapter is a directory with adapter_config.json and adapter_model.safetensors (or .bin), its weight file, or org/name[@revision] in \
      the local Hugging Face cache. What is written has the same layout, and scale 1: lora_alpha is the rank.
      """,
    subcommands: [
      LoRAInspectCommand.self, LoRAApplyCommand.self, LoRAMergeCommand.self, LoRAExtractCommand.self, LoRAResizeCommand.self,
      LoRABasisCommand.self, LoRARestoreCommand.self, LoRAPackCommand.self, LoRAUnpackCommand.self, LoRAInitCommand.self,
    ])
}

/// Where an adapter is written and how.
struct AdapterOutputArguments: ParsableArguments {
  @Option(name: .shortAndLong, help: ArgumentHelp("The adapter's directory to make.", valueName: "directory"), completion: .directory)
  var output: String

  @Option(
    help: ArgumentHelp("Element type of the output: float32, float16 or bfloat16. Default: that of the first adapter.", valueName: "type"),
    completion: .list(["float32", "float16", "bfloat16"]))
  var dtype: String?

  @Flag(help: "Replace OUT, in one step once the new one is complete, and discard OUT.partial.")
  var force = false

  @Option(help: ArgumentHelp("Wait until the output is on the disk (all) or leave that to the system (none).", valueName: "what"))
  var sync: MergeCommand.Sync = .all

  var options: AdapterOutputOptions {
    var options = AdapterOutputOptions()
    options.force = force
    options.sync = sync.storage
    return options
  }

  func elementType() throws(Failure) -> DType? {
    guard let dtype else { return nil }
    guard let found = DType.allCases.first(where: { $0.torchName == dtype }), found.isOutput else {
      throw Failure(
        IngotError(
          .invalidArgument, "found --dtype \(dtype.prefix(40)), expected float32, float16 or bfloat16", subject: "--dtype"))
    }
    return found
  }
}

/// How many singular triplets are kept: one of three rules.
struct RankArguments: ParsableArguments {
  @Option(name: [.customShort("r"), .long], help: ArgumentHelp("The rank of every module.", valueName: "count"))
  var rank: Int?

  @Option(
    help: ArgumentHelp(
      "The least rank that keeps this share of the sum of the squared singular values, for example 0.95.", valueName: "share"))
  var energy: Double?

  @Option(
    help: ArgumentHelp(
      "The least rank whose remainder has a spectral norm of at most this share of the whole's, for example 0.1.", valueName: "share"))
  var normFraction: Double?

  /// Nil when none is given.
  func rule() throws(Failure) -> RankRule? {
    try Self.checked { () throws(IngotError) in
      try RankRule.chosen(
        rank: rank, energy: energy, normFraction: normFraction,
        names: .init(rank: "--rank", energy: "--energy", normFraction: "--norm-fraction"))
    }
  }

  /// A mistake in what was given, with where to read what may be.
  static func checked<Result>(_ body: () throws(IngotError) -> Result) throws(Failure) -> Result {
    do throws(IngotError) {
      return try body()
    } catch {
      throw usage(error.message)
    }
  }

  static func usage(_ message: String) -> Failure {
    Failure(IngotError(.invalidArgument, message, hint: "see 'ingot lora --help'"))
  }
}

/// A glob or regular expression of an option.
func pattern(_ text: String, of option: String) throws(Failure) -> TensorPattern {
  do throws(TensorPattern.Fault) {
    return try TensorPattern(text)
  } catch {
    throw Failure(IngotError(.invalidArgument, "\(option) \(text.prefix(80)): \(error.message)", subject: option))
  }
}

/// `ADAPTER=WEIGHT` arguments.
func weighted(_ arguments: [String]) throws(Failure) -> [(name: String, weight: Double)] {
  var result: [(name: String, weight: Double)] = []
  for text in arguments {
    let (name, words) = splitWeight(text)
    guard let words else {
      result.append((name, 1))
      continue
    }
    guard let weight = Double(words), weight.isFinite else {
      throw Failure(
        IngotError(
          .invalidArgument, "found the weight \"\(words.prefix(40))\" after \(name), expected a number", hint: "for example LORA=0.5",
          subject: text))
    }
    result.append((name, weight))
  }
  return result
}

/// What a command that writes an adapter says of it.
func adapterSummary(_ report: AdapterReport) -> String {
  let errors = report.modules.compactMap(\.error)
  let ranks = Set(report.modules.map(\.rank)).sorted()
  let rankText = ranks.count == 1 ? "rank \(ranks[0])" : "ranks \(ranks.first ?? 0) to \(ranks.last ?? 0)"
  var text =
    "\(printable(report.output)): \(counted(report.modules.count, "module")) of \(rankText), \(ByteCount(report.bytes)), "
    + duration(report.seconds)
  if let largest = errors.max() {
    let mean = errors.reduce(0, +) / Double(errors.count)
    text += "; relative error \(figure(mean)) on average, \(figure(largest)) at most"
  }
  return text + "\n"
}

/// The modules of a written adapter as a table.
func adapterTable(_ report: AdapterReport) -> String {
  var rows = [["module", "shape", "rank", "norm", "error"]]
  for module in report.modules {
    rows.append([
      printable(module.name), "\(module.outputs) x \(module.inputs)", String(module.rank), figure(module.norm),
      module.error.map { figure($0) } ?? "-",
    ])
  }
  return table(rows, right: [2, 3, 4])
}
