import ArgumentParser
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotLinearAlgebra
import IngotStorage
import IngotTensors

/// `ingot doctor`: what this machine offers and what a merge would use.
struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Show what this machine offers and what a merge would use.",
    discussion: "Takes the options of a merge, so that their effect can be seen.")

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  /// One line of the answer.
  private struct Finding {
    var label: String
    var key: String
    var value: JSONValue
    var words: String

    init(_ label: String, _ key: String, _ words: String, _ value: JSONValue? = nil) {
      self.label = label
      self.key = key
      self.words = words
      self.value = value ?? .string(words)
    }
  }

  mutating func run() throws {
    let options = try engine.options()
    let engine = try caught { () throws(IngotError) in try Engine(options) }
    // A team like the engine's, to ask what it is.
    let team = try caught { () throws(IngotError) in try WorkerTeam(threads: options.threads, kind: options.team) }
    let findings = program() + processor(engine) + workers(team) + linearAlgebra() + memory(options) + files() + models()
    try talk.print(
      table(findings.map { [$0.label, printable($0.words)] }),
      json: JSON.text(document(findings.map { ($0.key, $0.value) }), style: .pretty) + "\n")
  }

  private func program() -> [Finding] {
    let system = Machine.system()
    return [
      Finding("ingot", "version", Version.text),
      Finding("system", "system", "\(system.name), \(system.libc)"),
    ]
  }

  private func processor(_ engine: Engine) -> [Finding] {
    let available = InstructionSet.available.map(\.name)
    let others = InstructionSet.compiled.map(\.name).filter { !available.contains($0) }
    let rest = others.isEmpty ? "" : "; built but not run here: \(others.joined(separator: ", "))"
    return [
      Finding("processor", "processor", Machine.processorName() ?? "unknown", JSONValue.text(Machine.processorName())),
      Finding(
        "instruction sets", "instruction_sets", "\(available.joined(separator: ", "))\(rest)", .array(available.map { .string($0) })),
      Finding("used", "instruction_set", engine.instructionSet.name),
    ]
  }

  private func workers(_ team: WorkerTeam) -> [Finding] {
    var findings: [Finding] = []
    do throws(IngotError) {
      let topology = try Topology()
      let nodes = (0..<topology.nodeCount).map { topology.osIndex(ofNode: $0) }
      findings.append(Finding("cores", "cores", "\(topology.coreCount) that this process may use", .int(topology.coreCount)))
      findings.append(
        Finding(
          "threads by default", "default_threads",
          topology.defaultThreads < topology.coreCount ? "\(topology.defaultThreads) (CPU quota)" : "\(topology.defaultThreads)",
          .int(topology.defaultThreads)))
      findings.append(
        Finding(
          "memory nodes", "numa_nodes", counted(nodes.count, "node") + (topology.mayBind ? ", workers are bound to them" : ""),
          .int(nodes.count)))
    } catch {
      findings.append(Finding("memory nodes", "numa_nodes", "\(error.message); one thread by default", .null))
    }
    findings.append(Finding("threads", "threads", "\(team.size)", .int(team.size)))
    let kind = team.kind == .openMP ? "openmp" : "pthread"
    findings.append(
      Finding(
        "team", "team", "\(kind): \(team.explanation)", .object(["kind": .string(kind), "reason": .string(team.explanation)])))
    return findings
  }

  /// What matrix methods would run on. Loads OpenBLAS, as they do.
  private func linearAlgebra() -> [Finding] {
    do throws(IngotError) {
      let library = try LinearAlgebra.load().library
      let hint = LinearAlgebra.coreHint.map { "; \($0)" } ?? ""
      return [
        Finding(
          "matrix methods", "blas", "OpenBLAS with kernels for \(library.core)\(hint)",
          .object(["core": .string(library.core), "configuration": .string(library.configuration)]))
      ]
    } catch {
      return [Finding("matrix methods", "blas", "not available: \(error.message)\(error.hint.map { "; \($0)" } ?? "")", .null)]
    }
  }

  private func memory(_ options: EngineOptions) -> [Finding] {
    var findings: [Finding] = []
    let memory = Machine.memory()
    if let total = memory.total { findings.append(Finding("memory", "memory_bytes", "\(ByteCount(total))", .int(total))) }
    if let available = memory.available {
      findings.append(Finding("available", "available_memory_bytes", "\(ByteCount(available))", .int(available)))
    }
    if let limit = memory.limit {
      findings.append(Finding("limit of the control group", "memory_limit_bytes", "\(ByteCount(limit))", .int(limit)))
    }
    let budget = options.memoryBudget
    let ceiling = [memory.available, memory.limit].compactMap(\.self).min()
    let advice = ceiling.map { budget > $0 } == true ? " (more than there is: lower --memory)" : ""
    findings.append(Finding("budget of a merge", "memory_budget_bytes", "\(ByteCount(budget))\(advice)", .int(budget)))
    return findings
  }

  private func files() -> [Finding] {
    let refusal = ReadAhead.refusal()
    return [
      Finding(
        "cold files", "io_uring",
        refusal.map { "read through the page cache: io_uring: \($0)" } ?? "read by io_uring, past the page cache where the file system can",
        .object(["available": .bool(refusal == nil), "reason": JSONValue.text(refusal)]))
    ]
  }

  private func models() -> [Finding] {
    let environment = modelEnvironment()
    // The cache's root is where any hub name would be looked up.
    let place = ModelReference.Part(path: "org/name").hubDirectory { environment[$0] }
    guard let root = place?.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") else {
      return [Finding("Hugging Face cache", "hub_cache", "unknown: HOME, HF_HOME and HF_HUB_CACHE are not set", .null)]
    }
    let names = (try? DirectoryListing(root))?.entries.filter { $0.name.hasPrefix("models--") }.count
    let words = names.map { "\(root): \(counted($0, "model"))" } ?? "\(root): not there"
    return [
      Finding(
        "Hugging Face cache", "hub_cache", words,
        .object(["path": .string(root), "models": names.map { .int($0) } ?? .null]))
    ]
  }
}
