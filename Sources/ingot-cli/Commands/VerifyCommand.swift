import ArgumentParser
import IngotEngine
import IngotErrors

/// `ingot verify`: is a merged directory what was written, and what its recipe gives.
struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read a merged model and compare every tensor with its digest in ingot.json.",
    discussion:
      "With --against a part of the tensors is computed again from the recipe's models and compared byte by byte; seed and rules for rounding and absent tensors are those of ingot.json."
  )

  @Argument(help: ArgumentHelp("A directory that 'ingot merge' wrote.", valueName: "directory"), completion: .directory)
  var directory: String

  @Option(help: ArgumentHelp("Also compute tensors again from this recipe and its models.", valueName: "recipe"), completion: .file())
  var against: String?

  @Option(
    help: ArgumentHelp("How much of the output to compute again, in percent of its bytes; whole tensors. Default: 5.", valueName: "percent")
  )
  var sample: Double?

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    guard sample == nil || against != nil else {
      throw Failure(IngotError(.invalidArgument, "--sample is for --against RECIPE", hint: "every digest is checked in any case"))
    }
    let directory = directory
    let verification = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try Verification(directory: directory, watcher: watcher)
    }
    var recomputed: Recomputation?
    // What is damaged need not be computed again to be known as damaged.
    if let against, verification.differences.isEmpty { recomputed = try recompute(against) }
    try talk.print(words(verification) + (recomputed.map(words) ?? ""), json: verification.json(recomputed: recomputed))
    try caught { () throws(IngotError) in
      try verification.requireIntact()
      try recomputed?.requireSame()
    }
  }

  private func recompute(_ path: String) throws -> Recomputation {
    let (text, origin) = try readRecipe(path)
    let recipe = try RecipeText(text, origin: origin, strict: false)
    let directory = directory
    let record = try caught { () throws(IngotError) in try MergeRecord(directory: directory) }
    var options = PlanOptions()
    options.seed = try caught { () throws(IngotError) in try record.seed() }
    options.numerics = record.numerics
    options.missing = record.missing
    let plan = try recipe.plan(options, environment: modelEnvironment())
    let share = (sample ?? 5) / 100
    let engine = try self.engine.make()
    return try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.recompute(directory, against: plan, share: share, allowsNonfinite: record.allowsNonfinite, watcher: watcher)
    }
  }

  private func words(_ verification: Verification) -> String {
    guard verification.differences.isEmpty else { return lines(of: verification.differences) }
    return talk.quiet
      ? "" : "\(printable(verification.directory)): intact: \(counted(verification.tensors, "tensor")), \(ByteCount(verification.bytes))\n"
  }

  private func words(_ found: Recomputation) -> String {
    guard found.differences.isEmpty else { return lines(of: found.differences) }
    return talk.quiet
      ? ""
      : "\(printable(found.directory)): computed again the same: \(found.tensors) of \(counted(found.allTensors, "tensor")), "
        + "\(ByteCount(found.bytes))\n"
  }
}

/// The first differences, one on a line.
func lines(of differences: [TensorDifference]) -> String {
  let most = 20
  var text = differences.prefix(most).map { "\(printable($0.tensor)): \(printable($0.problem))\n" }.joined()
  if differences.count > most { text += "... and \(differences.count - most) more\n" }
  return text
}
