import ArgumentParser
import IngotEngine
import IngotErrors
import IngotJSON
import IngotTensors

/// `ingot roll`: a merge of models that come one at a time.
struct RollCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "roll",
    abstract: "Merge models one at a time into a state, and make a model of it.",
    usage: """
      ingot roll STATE MODEL... [--method METHOD] [--base BASE] [options]
      ingot roll STATE --finish OUT [--lambda NUMBER] [--dtype TYPE] [options]
      """,
    discussion: """
      STATE is a directory: the running sums, average or task vector in float32, and rolling.json. The first step makes it and needs a \
      method; every further one replaces it in one step, so that a model is either in or not. Models that are in are not needed again.
      """)

  @Argument(help: ArgumentHelp("The state's directory.", valueName: "state"), completion: .directory)
  var state: String

  @Argument(help: ArgumentHelp("Models to add, in order.", valueName: "model"), completion: .directory)
  var models: [String] = []

  @Option(
    name: .shortAndLong,
    help: ArgumentHelp(
      "What is computed: \(RollingMethod.allCases.map(\.rawValue).joined(separator: ", ")). Needed for the first step.", valueName: "name"),
    completion: .list(RollingMethod.allCases.map(\.rawValue)))
  var method: RollingMethod?

  @Option(
    name: .shortAndLong,
    help: ArgumentHelp(
      "Base model of task_arithmetic, magmax, ties, ties_model, ota, opcm and dop. Needed for the first step.", valueName: "model"),
    completion: .directory)
  var base: String?

  @Option(
    help: ArgumentHelp(
      "Factor of the models, for weighted_mean, task_arithmetic, ties, ties_model, fisher and ota. Default: 1.", valueName: "number"))
  var weight: Double?

  @Option(help: ArgumentHelp("Share of the average so far at each step of ema. Default: 0.9.", valueName: "number"))
  var beta: Double?

  @Option(
    help: ArgumentHelp(
      "Of mos, the share of the mean of the models before (0.1); of opcm, that of the singular values whose directions are closed (0.5); of dop, the weight of what is merged already (0.8).",
      valueName: "number"))
  var alpha: Double?

  @Option(help: ArgumentHelp("Share of each task vector that ties, ties_model and ota keep. Default: 1.", valueName: "number"))
  var density: Double?

  @Option(
    help: ArgumentHelp("Side file of the model, for fisher and ota; once for each model, in their order.", valueName: "file"),
    completion: .file())
  var side: [String] = []

  @Flag(help: "Add a model although its files are in the state already.")
  var again = false

  @Option(help: ArgumentHelp("Make a model of the state in this directory.", valueName: "directory"), completion: .directory)
  var finish: String?

  @Option(help: ArgumentHelp("Factor of the merged task vector, with --finish. Default: 1.", valueName: "number"))
  var lambda: Double?

  @Option(
    help: ArgumentHelp(
      "Element type of the model that --finish makes. Default: the base's, or that of the first model.", valueName: "type"),
    completion: .list(DType.allCases.filter(\.isOutput).compactMap(\.torchName)))
  var dtype: String?

  @Flag(help: "With --finish: replace the directory, in one step once the new one is complete.")
  var force = false

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  func validate() throws {
    if finish != nil {
      if !models.isEmpty || method != nil || base != nil || weight != nil || !settings.isEmpty || !side.isEmpty || again {
        throw ValidationError("--finish takes no models and none of their options.")
      }
    } else {
      if models.isEmpty { throw ValidationError("No models given, and no --finish.") }
      if !side.isEmpty, side.count != models.count {
        throw ValidationError("--side is given \(side.count) times, for \(models.count) models.")
      }
      if lambda != nil || dtype != nil || force { throw ValidationError("--lambda, --dtype and --force go with --finish.") }
    }
    if let lambda, !lambda.isFinite { throw ValidationError("--lambda is \(lambda), expected a finite number.") }
  }

  /// The settings of methods that are given, by name.
  private var settings: [String: Double] {
    ["beta": beta, "alpha": alpha, "density": density].compactMapValues(\.self)
  }

  mutating func run() throws {
    let engine = try self.engine.make()
    let provider = LocalModels(environment: modelEnvironment())
    if let finish {
      let (state, lambda, dtype, force) = (state, lambda, dtype, force)
      let rolling = try caught { () throws(IngotError) in
        try RollingPlan.finish(state, to: finish, lambda: lambda, dtype: dtype, models: provider)
      }
      return try perform(rolling, engine) { $0.force = force }
    }
    for (number, model) in models.enumerated() {
      var step = RollingStep(state: state, model: model)
      (step.method, step.base, step.settings, step.weight, step.allowsRepeat) = (method, base, settings, weight, again)
      step.side = side.indices.contains(number) ? side[number] : nil
      let wanted = step
      let rolling = try caught { () throws(IngotError) in try RollingPlan.make(wanted, models: provider) }
      // What an interrupted step left is of no use to this one.
      try perform(rolling, engine) { $0.force = true }
    }
  }

  private func perform(_ rolling: RollingPlan, _ engine: Engine, _ adjust: (inout DirectoryOptions) -> Void) throws {
    var options = DirectoryOptions()
    adjust(&options)
    let chosen = options
    talk.talk(rolling.plan.notices)
    let report = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.merge(rolling, options: chosen, watcher: watcher)
    }
    talk.talk(report.notices)
    try talk.print(talk.quiet ? "" : words(rolling, report), json: document(rolling, report))
  }

  private func words(_ rolling: RollingPlan, _ report: RunReport) -> String {
    "\(printable(rolling.destination)): \(rolling.state.method.rawValue) of \(counted(rolling.state.count, "model")), "
      + "\(counted(rolling.plan.tensors.count, "tensor")), \(duration(report.seconds))\n"
  }

  private func document(_ rolling: RollingPlan, _ report: RunReport) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", documentSchema)
      document.field("output", rolling.destination)
      document.field("method", rolling.state.method.rawValue)
      document.field("models", rolling.state.count)
      document.field("identity", rolling.state.identity)
      document.field("tensors", rolling.plan.tensors.count)
      document.object("run") { report.write(to: &$0) }
    }
    return document.line()
  }
}

extension RollingMethod: ExpressibleByArgument {}
