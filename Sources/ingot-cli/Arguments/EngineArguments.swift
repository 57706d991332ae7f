import ArgumentParser
import IngotEngine
import IngotErrors
import IngotTensors

/// Options that say what a run may use. None changes the bytes of the result.
struct EngineArguments: ParsableArguments {
  @Option(help: ArgumentHelp("Worker threads; 0 takes the cores this process may use. Default: INGOT_THREADS, else 0.", valueName: "count"))
  var threads: Int?

  @Option(
    help: ArgumentHelp(
      "Memory for tiles, scratch and kept inputs, for example 64MiB or 2GiB. Default: 256MiB.", valueName: "size"),
    transform: { try parsedSize($0) })
  var memory: ByteCount?

  @Option(
    help: ArgumentHelp(
      "Instruction set of the kernels, by name ('ingot doctor' lists them). Default: INGOT_FORCE_ISA, else the best.", valueName: "name"),
    completion: .list(InstructionSet.compiled.map(\.name)))
  var isa: String?

  @Option(help: ArgumentHelp("Whose threads do the work.", valueName: "kind"))
  var team: TeamKind = .auto

  /// The engine's options: the command line first, then the environment.
  func options() throws -> EngineOptions {
    var options = EngineOptions()
    options.threads = try threads ?? Self.threadsOfEnvironment() ?? 0
    if let memory { options.memoryBudget = memory.bytes }
    options.instructionSet = isa ?? environmentVariable("INGOT_FORCE_ISA").flatMap { $0.isEmpty ? nil : $0 }
    options.team = team.kind
    return options
  }

  /// An engine with these options.
  func make() throws -> Engine {
    let options = try self.options()
    return try caught { () throws(IngotError) in try Engine(options) }
  }

  private static func threadsOfEnvironment() throws -> Int? {
    guard let text = environmentVariable("INGOT_THREADS"), !text.isEmpty else { return nil }
    guard let count = Int(text), count >= 0 else {
      throw Failure(
        IngotError(
          .invalidArgument, "found \"\(text.prefix(40))\", expected a number of threads", hint: "unset it, or set it to 0",
          subject: "INGOT_THREADS"))
    }
    return count
  }
}

enum TeamKind: String, ExpressibleByArgument, CaseIterable {
  case auto, openmp, pthread

  var kind: WorkerTeam.Kind {
    switch self {
    case .auto: .automatic
    case .openmp: .openMP
    case .pthread: .pthread
    }
  }
}

/// A size on the command line; the parser of options puts the option's name before the message.
func parsedSize(_ text: String) throws -> ByteCount {
  do throws(IngotError) {
    return try ByteCount(parsing: text)
  } catch {
    throw ValidationError(error.message + (error.hint.map { " (\($0))" } ?? ""))
  }
}
