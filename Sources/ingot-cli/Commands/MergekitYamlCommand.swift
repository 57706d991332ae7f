import ArgumentParser
import Glibc
import IngotEngine
import IngotErrors

/// `ingot mergekit-yaml`: takes the place of mergekit-yaml in scripts, with all of its options.
struct MergekitYamlCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mergekit-yaml",
    abstract: "Merge with the command line of mergekit-yaml.",
    usage: "ingot mergekit-yaml CONFIG OUT [options of mergekit-yaml]",
    discussion: """
      Options without a meaning here are taken and named. Unlike mergekit, which writes into whatever is there, an OUT that is not empty \
      is replaced only with --force, in one step once the new one is complete. 'ingot check --mergekit CONFIG' says what else differs.
      """)

  @Argument(help: ArgumentHelp("The recipe.", valueName: "config"), completion: .file())
  var config: String

  @Argument(help: ArgumentHelp("The directory to make.", valueName: "out"), completion: .directory)
  var out: String

  @OptionGroup(title: "With an effect") var effective: EffectiveOptions

  @OptionGroup(title: "Taken, without an effect") var inert: InertOptions

  struct EffectiveOptions: ParsableArguments {
    @Option(
      parsing: .unconditional,
      help: ArgumentHelp("Most bytes of tensors in one output file: digits, and K, M or B for 10^3, 10^6, 10^9.", valueName: "size"))
    var outShardSize: String?

    @Option(parsing: .unconditional, help: ArgumentHelp("Seed of random draws; the masks are not mergekit's.", valueName: "number"))
    var randomSeed: String?

    @Option(name: [.customShort("j"), .long], help: ArgumentHelp("Worker threads.", valueName: "count"))
    var numThreads: Int?

    @Option(help: ArgumentHelp("A Hugging Face cache to find models in.", valueName: "directory"), completion: .directory)
    var transformersCache: String?

    @Flag(inversion: .prefixedNo, help: "Copy the tokenizer of the base model.")
    var copyTokenizer = true

    @Flag(inversion: .prefixedNo, help: "Write README.md and mergekit_config.yml.")
    var writeModelCard = true

    @Flag(name: [.customShort("v"), .long], help: "Say what is used and how it went.")
    var verbose: Int

    @Flag(inversion: .prefixedNo, help: "Print no notices, no summary and no progress.")
    var quiet = false

    @Flag(help: "Replace OUT, in one step once the new one is complete.")
    var force = false

    @Flag(help: "Go on with OUT.partial of an interrupted run of the same merge.")
    var resume = false

    @Flag(help: "Print one JSON document on standard output, and failures as one on standard error.")
    var json = false
  }

  mutating func run() throws {
    var talk = OutputArguments()
    talk.json = effective.json
    talk.quiet = effective.quiet
    let (text, origin) = try readRecipe(config)
    let recipe = try RecipeText(text, origin: origin, strict: false)
    talk.talk(inert.notices)
    var environment = modelEnvironment()
    if let cache = effective.transformersCache { environment["HF_HUB_CACHE"] = cache }
    let plan = try recipe.plan(try planOptions(), environment: environment)
    var options = EngineOptions()
    options.threads = effective.numThreads ?? 0
    options.instructionSet = environmentVariable("INGOT_FORCE_ISA").flatMap { $0.isEmpty ? nil : $0 }
    var merge = MergeRun(destination: out, talk: talk, isVerbose: effective.verbose > 0, drawsProgress: true)
    merge.directory.resume = effective.resume
    merge.directory.force = effective.force
    // `mkdir OUT` before a merge is common; only an empty directory goes.
    // SAFETY: the string lives for the call.
    _ = unsafe rmdir(out)
    do {
      try merge.perform(plan, of: recipe, with: options)
    } catch var failure as Failure where failure.error.status == .exists && !effective.force && !effective.resume {
      failure.error.hint =
        "mergekit would write into it and leave what it does not overwrite; --force replaces it in one step once the new one is complete"
      throw failure
    }
  }

  private func planOptions() throws -> PlanOptions {
    var options = PlanOptions()
    if let text = effective.outShardSize {
      options.shardSize = try caught { () throws(IngotError) in
        do throws(IngotError) { return try ByteCount(mergekit: text).bytes } catch {
          var placed = error
          placed.subject = "--out-shard-size"
          throw placed
        }
      }
    }
    if let text = effective.randomSeed {
      guard let seed = UInt64(text) else {
        throw Failure(
          IngotError(
            .invalidArgument, "found \"\(text.prefix(40))\", expected a whole number from 0 to \(UInt64.max)", subject: "--random-seed"))
      }
      options.seed = seed
    }
    options.carriesTokenizer = effective.copyTokenizer
    options.writesModelCard = effective.writeModelCard
    return options
  }
}

/// Options of mergekit that change nothing here, each with the reason. Nil, false or 0 is what mergekit has without them, but for `safeSerialization`.
struct InertOptions: ParsableArguments {
  @Flag(inversion: .prefixedNo, help: "Tensors that do not go together are an error in any case.")
  var allowCrimes = false
  @Option(help: ArgumentHelp("No merged copy of an adapter is written.", valueName: "directory"))
  var loraMergeCache: String?
  @Option(help: ArgumentHelp("Arithmetic is float32.", valueName: "type"))
  var loraMergeDtype: String?
  @Flag(inversion: .prefixedNo, help: "Merging happens on the processor.")
  var cuda = false
  @Option(help: ArgumentHelp("Merging happens on the processor.", valueName: "name"))
  var device: String?
  @Flag(inversion: .prefixedNo, help: "Memory is bounded in any case.")
  var lowCpuMemory = false
  @Flag(inversion: .prefixedNo, help: "Merging happens on the processor.")
  var readToGpu = false
  @Flag(inversion: .prefixedNo, help: "Merging happens on the processor.")
  var multiGpu = false
  @Flag(help: "Merging happens on the processor.")
  var gpuRich = false
  @Flag(inversion: .prefixedNo, help: "Tensors that share memory are written one by one in any case.")
  var cloneTensors = false
  @Flag(inversion: .prefixedNo, help: "No code of models is run.")
  var trustRemoteCode = false
  @Flag(inversion: .prefixedNo, help: "Weights are read piece by piece in any case.")
  var lazyUnpickle = false
  @Flag(inversion: .prefixedNo, help: "Workers write while others compute in any case.")
  var asyncWrite = false
  @Option(help: ArgumentHelp("Every worker writes.", valueName: "count"))
  var writeThreads: Int?
  @Flag(inversion: .prefixedNo, help: "Safetensors is the only format that is written.")
  var safeSerialization = true

  /// One notice for each option that was given.
  var notices: [Notice] {
    let processor = "merging happens on the processor"
    let given: [(Bool, String, String)] = [
      (allowCrimes, "--allow-crimes", "tensors are matched by name and shape, whatever the architecture is called"),
      (loraMergeCache != nil, "--lora-merge-cache", "no merged copy of an adapter is written"),
      (loraMergeDtype != nil, "--lora-merge-dtype", "arithmetic is float32"),
      (cuda, "--cuda", processor), (device != nil && device != "cpu", "--device", processor),
      (lowCpuMemory, "--low-cpu-memory", "memory is bounded in any case"), (readToGpu, "--read-to-gpu", processor),
      (multiGpu, "--multi-gpu", processor), (gpuRich, "--gpu-rich", processor),
      (cloneTensors, "--clone-tensors", "tensors that share memory are written one by one in any case"),
      (trustRemoteCode, "--trust-remote-code", "no code of models is run"),
      (lazyUnpickle, "--lazy-unpickle", "weights are read piece by piece in any case"),
      (asyncWrite, "--async-write", "workers write while others compute in any case"),
      (writeThreads != nil, "--write-threads", "every worker writes"),
      (!safeSerialization, "--no-safe-serialization", "weights are written as safetensors"),
    ]
    return given.filter(\.0).map { Notice(.info, "\($0.1) has no effect: \($0.2)") }
  }
}
