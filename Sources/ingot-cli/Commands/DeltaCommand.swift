import ArgumentParser
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes

/// `ingot delta`: compressed task vectors.
struct DeltaCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "delta",
    abstract: "Pack what fine-tuning changed about a base into a small file, and unpack it.",
    discussion: """
      A pack is a directory with delta_pack.safetensors. In recipes BASE+PACK is the model that was packed, as nearly as the pack has it; \
      BASE+PACK#TASK where the pack has several. docs/packs.md has the methods and the layout.
      """,
    subcommands: [DeltaPackCommand.self, DeltaUnpackCommand.self, DeltaApplyCommand.self, DeltaInspectCommand.self])
}

/// `ingot delta pack`
struct DeltaPackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pack",
    abstract: "Pack the differences of models to their base.",
    discussion: """
      Methods: \(DeltaPack.Method.allCases.map { "\($0.rawValue) (\(parameters(of: $0)))" }.joined(separator: "; ")). PACK appears in one step \
      when everything is written; its bytes depend on the models and the parameters, on nothing else.
      """)

  private static func parameters(of method: DeltaPack.Method) -> String {
    method.descriptor.parameters.map { "\($0.name)=\($0.default.map { "\($0)" } ?? "")" }.joined(separator: ", ")
  }

  @Option(
    name: .shortAndLong, help: ArgumentHelp("How to pack: compeft, bitdelta, tall or emr.", valueName: "name"),
    completion: .list(DeltaPack.Method.allCases.map(\.rawValue)))
  var method: String

  @Option(name: .shortAndLong, help: ArgumentHelp("The model that all came from.", valueName: "model"), completion: .directory)
  var base: String

  @Argument(help: ArgumentHelp("The fine-tuned models: one, of tall and emr also several.", valueName: "model"), completion: .file())
  var models: [String]

  @Option(name: .shortAndLong, help: ArgumentHelp("The directory to make.", valueName: "pack"), completion: .directory)
  var output: String

  @Option(
    name: [.customShort("p"), .long],
    help: ArgumentHelp("Parameter of the method; where models may differ in it, values with commas between them.", valueName: "name=value"))
  var parameter: [String] = []

  @Flag(help: "Replace PACK, in one step once the new one is complete.")
  var force = false

  @Option(help: ArgumentHelp("Wait until the output is on the disk (all) or leave that to the system (none).", valueName: "what"))
  var sync: MergeCommand.Sync = .all

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    var given: [(name: String, value: String)] = []
    for text in parameter {
      guard let sign = text.firstIndex(of: "="), sign != text.startIndex else {
        throw Failure(IngotError(.invalidArgument, "found -p \(text), expected -p NAME=VALUE", hint: "for example -p density=0.2"))
      }
      given.append((String(text[..<sign]), String(text[text.index(after: sign)...])))
    }
    let (method, base, models, output) = (method, base, models, output)
    let plan = try caught { () throws(IngotError) in
      try PackPlan.make(
        method: method, base: base, models: models, parameters: given, provider: LocalModels(environment: modelEnvironment()))
    }
    let engine = try self.engine.make()
    var choice = PackOptions()
    choice.force = force
    choice.sync = sync.storage
    let summary = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.pack(plan, to: output, options: choice, watcher: watcher)
    }
    talk.talk(summary.notices)
    try talk.print(talk.quiet ? "" : summary.text, json: summary.json)
  }
}

/// What the two ways back from a pack share.
struct UnpackArguments: ParsableArguments {
  @Argument(help: ArgumentHelp("The pack: its directory or its file.", valueName: "pack"), completion: .file())
  var pack: String

  @Option(name: .shortAndLong, help: ArgumentHelp("The directory to make.", valueName: "directory"), completion: .directory)
  var output: String

  @Option(help: ArgumentHelp("Which task, by name or by number from 0 on, of a pack with several.", valueName: "task"))
  var task: String?

  @Flag(help: "Replace the directory, in one step once the new one is complete.")
  var force = false

  @Option(
    help: ArgumentHelp("Most bytes of tensors in one output file, for example 2GiB; 0 writes one file. Default: 5GB.", valueName: "size"),
    transform: { try parsedSize($0) })
  var shardSize: ByteCount?

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(name: .shortAndLong, help: "Say what is used and how it went.")
  var verbose = false

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  func run(_ merge: PackMerge) throws {
    var options = PlanOptions()
    if let shardSize { options.shardSize = shardSize.bytes }
    let text = try RecipeText(JSON.bytes(merge.recipe), origin: "command line", strict: true)
    let plan = try caught { [options] () throws(IngotError) in try merge.plan(options) }
    var run = MergeRun(destination: output, talk: talk, isVerbose: verbose, drawsProgress: !noProgress)
    run.directory.force = force
    try run.perform(plan, of: text, with: try engine.options())
  }
}

/// `ingot delta unpack`
struct DeltaUnpackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unpack", abstract: "Write the differences that a pack has, as float32 tensors.")

  @OptionGroup var arguments: UnpackArguments

  @Option(
    name: .shortAndLong, help: ArgumentHelp("The base; needed where the pack has tensors whole.", valueName: "model"),
    completion: .directory)
  var base: String?

  mutating func run() throws {
    let (base, arguments) = (base, arguments)
    try arguments.run(
      try caught { () throws(IngotError) in
        try PackMerge.unpacking(
          arguments.pack, task: arguments.task, base: base, models: LocalModels(environment: modelEnvironment()))
      })
  }
}

/// `ingot delta apply`
struct DeltaApplyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apply", abstract: "Write the model that a pack and its base make.",
    discussion: "A merge of BASE+PACK[#TASK] and nothing else; with --scale, task arithmetic with that weight.")

  @OptionGroup var arguments: UnpackArguments

  @Option(name: .shortAndLong, help: ArgumentHelp("The model that the pack was made with.", valueName: "model"), completion: .directory)
  var base: String

  @Option(help: ArgumentHelp("What the differences are multiplied by. Default: 1.", valueName: "number"))
  var scale: Double?

  mutating func run() throws {
    let (base, scale, arguments) = (base, scale, arguments)
    try arguments.run(
      try caught { () throws(IngotError) in
        try PackMerge.applying(
          arguments.pack, task: arguments.task, scale: scale ?? 1, base: base, models: LocalModels(environment: modelEnvironment()))
      })
  }
}

/// `ingot delta inspect`
struct DeltaInspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "Show what a pack holds: base, tasks, sizes and errors.")

  @Argument(help: ArgumentHelp("The pack: its directory or its file.", valueName: "pack"), completion: .file())
  var pack: String

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let pack = pack
    let summary = try caught { () throws(IngotError) in try PackSummary(path: pack) }
    try talk.print(summary.text, json: summary.json)
  }
}

extension PackSummary {
  /// For people.
  var text: String {
    var rows: [[String]] = []
    rows.append(["method", "\(method.descriptor.title) (\(method.rawValue)) \(parameters)"])
    rows.append(["base", "\(baseName) (\(baseDigest))"])
    for form in forms {
      rows.append(["tensors", "\(form.form.rawValue): \(counted(form.tensors, "tensor")), \(grouped(form.elements)) elements"])
    }
    for task in tasks {
      let kept = task.kept.map { ", \(grouped($0)) elements kept" } ?? ""
      rows.append(["task", "\(task.name): relative error \(figure(task.error, digits: 4))\(kept)"])
    }
    let share = elements > 0 ? 8 * Double(codedBytesPerTask) / Double(elements) : 0
    rows.append(["size", "\(ByteCount(byteCount)); codes and masks \(figure(share, digits: 4)) bits an element and task"])
    for part in parts { rows.append(["", "\(part.name): \(ByteCount(part.bytes))"]) }
    return printable(path) + "\n" + table(rows.map { row in row.map { printable($0) } }, indent: 2)
  }
}
