import IngotEngine
import IngotErrors
import IngotJSON
import IngotStorage

/// A planned merge, run and told about: what `ingot merge` and `ingot mergekit-yaml` share.
struct MergeRun {
  /// Nil: compute and discard.
  var destination: String?
  var directory = DirectoryOptions()
  var talk: OutputArguments
  var isVerbose: Bool
  var drawsProgress: Bool

  init(destination: String?, talk: OutputArguments, isVerbose: Bool, drawsProgress: Bool) {
    self.destination = destination
    self.talk = talk
    self.isVerbose = isVerbose
    self.drawsProgress = drawsProgress
  }

  /// Runs the plan and prints what came of it.
  func perform(_ plan: Plan, of text: RecipeText, with options: EngineOptions) throws {
    talk.talk(plan.notices)
    Interruption.handleSignals()
    let engine = try caught { () throws(IngotError) in try Engine(options) }
    if isVerbose, !talk.json { Console.talk(facts(engine, options)) }
    let report = try run(plan, of: text, on: engine)
    talk.talk(report.notices)
    if isVerbose, !talk.json { Console.talk(effort(report, options)) }
    try talk.print(talk.quiet ? "" : summary(plan, report), json: result(plan, report))
  }

  private func run(_ plan: Plan, of text: RecipeText, on engine: Engine) throws(Failure) -> RunReport {
    do throws(IngotError) {
      return try withWatcher(talk, drawsProgress: drawsProgress) { (watcher) throws(IngotError) in
        guard let destination else { return try engine.run(plan, into: NullSink(), options: directory.run, watcher: watcher) }
        return try engine.merge(plan, to: destination, options: directory, watcher: watcher)
      }
    } catch {
      throw failure(error, of: text)
    }
  }

  /// A cancelled run and a full disk leave something to go on with: the command that does.
  private func failure(_ error: IngotError, of text: RecipeText) -> Failure {
    var error = error
    guard [.cancelled, .noSpace, .output].contains(error.status), let destination,
      (try? fileStatus(ResumeCommand.partial(of: destination)))?.kind == .directory
    else { return text.failure(error) }
    if error.status == .cancelled { error.hint = nil }
    return text.failure(error, resume: ResumeCommand.line(CommandLine.arguments))
  }

  // MARK: - Words

  private func facts(_ engine: Engine, _ options: EngineOptions) -> String {
    "\(engine.teamDescription); instruction set \(engine.instructionSet); memory budget \(ByteCount(options.memoryBudget))\n"
  }

  private func effort(_ report: RunReport, _ options: EngineOptions) -> String {
    var parts = [
      "read \(ByteCount(report.bytesRead)), wrote \(ByteCount(report.bytesWritten)) in \(duration(report.seconds))",
      "\(counted(report.threads, "worker"))", "\(ByteCount(report.peakMemory)) of the memory budget used",
    ]
    if report.bytesReadAhead > 0 || report.readAheadRefusal != nil {
      parts.append("\(ByteCount(report.bytesReadAhead)) read past the page cache\(report.readAheadRefusal.map { " (\($0))" } ?? "")")
    }
    for node in report.nodes {
      parts.append(
        "memory node \(node.node): \(counted(node.workers, "worker")), \(counted(node.items, "item")), \(node.stolen) of them stolen, "
          + "\(ByteCount(node.bytes)) of tiles, \(ByteCount(node.bytesElsewhere)) of them elsewhere")
    }
    if report.resumedTensors > 0 { parts.append("\(counted(report.resumedTensors, "tensor")) kept from an earlier run") }
    return parts.joined(separator: "; ") + "\n"
  }

  private func summary(_ plan: Plan, _ report: RunReport) -> String {
    let bytes = ByteCount(plan.tensors.reduce(0) { $0 + $1.byteCount })
    return
      "\(printable(destination ?? "null")): \(counted(plan.tensors.count, "tensor")), \(bytes) in \(counted(plan.files.count, "file")), "
      + "\(duration(report.seconds))\n"
  }

  private func result(_ plan: Plan, _ report: RunReport) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", documentSchema)
      document.field("output", destination)
      document.field("plan_digest", plan.digest.description)
      document.field("tensors", plan.tensors.count)
      document.list("files") { list in
        for file in plan.files + plan.sideFiles.map({ WeightFile(name: $0.name, header: [], byteCount: $0.byteCount) }) {
          list.object { entry in
            entry.field("name", file.name)
            entry.field("bytes", file.byteCount)
          }
        }
      }
      document.object("run") { report.write(to: &$0) }
      document.field("notices", json: JSON.text(.array((plan.notices + report.notices).map(\.json))))
    }
    return document.line()
  }
}

/// The command line that goes on where this one stopped.
enum ResumeCommand {
  /// Where the engine keeps an unfinished output.
  static func partial(of destination: String) -> String {
    var path = destination[...]
    while path.count > 1, path.hasSuffix("/") { path = path.dropLast() }
    return path + ".partial"
  }

  /// `arguments` with `--resume` after the command, quoted for a shell.
  static func line(_ arguments: [String]) -> String {
    var words = arguments
    if !words.contains("--resume"), let place = words.dropFirst().firstIndex(where: { $0 == "merge" || $0 == "mergekit-yaml" }) {
      words.insert("--resume", at: place + 1)
    }
    return words.map(quoted).joined(separator: " ")
  }

  private static func quoted(_ word: String) -> String {
    let plain = word.utf8.allSatisfy { byte in
      (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5A) || (byte >= 0x61 && byte <= 0x7A) || "-_./=,:@%+".utf8.contains(byte)
    }
    if plain, !word.isEmpty { return word }
    return "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
  }
}
