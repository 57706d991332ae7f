import ArgumentParser
import Glibc
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors

/// What is to be merged: a recipe file, or a method with its models on the command line.
struct RecipeArguments: ParsableArguments {
  @Option(
    name: .shortAndLong,
    help: ArgumentHelp(
      "Merge without a recipe, with this method ('ingot methods' lists them); the arguments are the models.", valueName: "name"),
    completion: .list(MethodRegistry.catalog.methods.map(\.name)))
  var method: String?

  @Option(name: .shortAndLong, help: ArgumentHelp("Base model of a merge without a recipe.", valueName: "model"), completion: .directory)
  var base: String?

  @Option(
    name: [.customShort("p"), .long],
    help: ArgumentHelp(
      "Parameter of a merge without a recipe; numbers with commas between them are a gradient over the layers. May be repeated.",
      valueName: "name=value"))
  var parameter: [String] = []

  @Option(
    help: ArgumentHelp("Element type of a merge without a recipe (mergekit's dtype).", valueName: "type"), completion: .list(outputTypes))
  var dtype: String?

  @Option(help: ArgumentHelp("Element type of the output of a merge without a recipe.", valueName: "type"), completion: .list(outputTypes))
  var outDtype: String?

  @Option(help: ArgumentHelp("Seed of random draws, 0 to 2^64-1. Takes the place of the recipe's. Default: 0.", valueName: "number"))
  var seed: UInt64?

  @Option(
    help: ArgumentHelp(
      "When results are rounded to the tensors' type: once, or stepwise as mergekit does on a CPU. Takes the place of the recipe's. Default: once.",
      valueName: "rule"), completion: .list(Recipe.Numerics.allCases.map(\.rawValue)))
  var numerics: Recipe.Numerics?

  @Option(
    help: ArgumentHelp(
      "What becomes of tensors that some models lack: error, intersection (left out) or union (merged from the models that have them). Takes the place of the recipe's. Default: error.",
      valueName: "rule"), completion: .list(Recipe.Missing.allCases.map(\.rawValue)))
  var missing: Recipe.Missing?

  @Flag(help: "Unknown keys of the recipe are errors instead of warnings.")
  var strict = false

  @Flag(help: "Fetch models that are not on this machine with 'hf download', where hf is on PATH.")
  var download = false

  private static var outputTypes: [String] { DType.allCases.filter(\.isOutput).compactMap(\.torchName) }

  var isQuick: Bool { method != nil }

  /// Reads and checks the recipe: the file `path`, or the quick merge of `models`.
  func load(recipe path: String?, models: [String]) throws -> RecipeText {
    let catalog = MethodRegistry.catalog
    if let method {
      let merge = try quickMerge(method, models)
      let yaml = try caught { () throws(IngotError) in try merge.yaml(catalog: catalog) }
      return try RecipeText(Array(yaml.utf8), origin: "command line", strict: strict)
    }
    try refuseQuickOptions()
    guard let path else {
      throw Failure(
        IngotError(
          .invalidArgument, "no recipe given", hint: "give a recipe file, or a method and models: -m METHOD -b BASE MODEL..."))
    }
    let (text, origin) = try readRecipe(path)
    return try RecipeText(text, origin: origin, strict: strict)
  }

  // MARK: - Quick merges

  private func quickMerge(_ method: String, _ models: [String]) throws -> QuickMerge {
    var parameters: [QuickMerge.Parameter] = []
    for text in parameter {
      guard let sign = text.firstIndex(of: "="), sign != text.startIndex else {
        throw Failure(
          IngotError(.invalidArgument, "found -p \(text), expected -p NAME=VALUE", hint: "for example -p density=0.5"))
      }
      parameters.append(.init(String(text[..<sign]), String(text[text.index(after: sign)...])))
    }
    return QuickMerge(
      method: method, base: base, models: models.map(Self.model), parameters: parameters, dtype: dtype, outDType: outDtype, seed: seed)
  }

  private static func model(_ text: String) -> QuickMerge.Model {
    let (name, weight) = splitWeight(text)
    return .init(name, weight: weight)
  }

  private func refuseQuickOptions() throws {
    let given = [("--base", base != nil), ("--parameter", !parameter.isEmpty), ("--dtype", dtype != nil), ("--out-dtype", outDtype != nil)]
    guard let first = given.first(where: \.1) else { return }
    throw Failure(
      IngotError(
        .invalidArgument, "\(first.0) is for merges without a recipe", hint: "write it into the recipe, or name a method with -m"))
  }
}

extension Recipe.Numerics: ExpressibleByArgument {}

/// `MODEL=WEIGHT` at its last sign, unless that is the path of something that exists as a whole and not without the weight.
func splitWeight(_ text: String) -> (name: String, weight: String?) {
  guard let sign = text.lastIndex(of: "="), sign != text.startIndex else { return (text, nil) }
  let (name, weight) = (String(text[..<sign]), String(text[text.index(after: sign)...]))
  if weight.contains("/") || (exists(text) && !exists(name)) { return (text, nil) }
  return (name, weight)
}

func exists(_ path: String) -> Bool {
  // SAFETY: the string lives for the call.
  unsafe access(path, F_OK) == 0
}

/// A recipe with the text it was read from, for excerpts in messages.
struct RecipeText {
  let bytes: [UInt8]
  let origin: String
  let recipe: Recipe

  init(_ bytes: [UInt8], origin: String, strict: Bool) throws {
    self.bytes = bytes
    self.origin = origin
    do throws(IngotError) {
      recipe = try Recipe.parse(bytes, origin: origin, catalog: MethodRegistry.catalog, strict: strict)
    } catch {
      throw Failure(error, text: bytes, in: origin)
    }
  }

  /// Makes the plan. Opens every model and reads headers, no tensor data. With `download`, models that are missing are fetched first.
  func plan(shardSize: ByteCount?, _ arguments: RecipeArguments) throws -> Plan {
    var options = PlanOptions()
    if let shardSize { options.shardSize = shardSize.bytes }
    options.seed = arguments.seed
    options.numerics = arguments.numerics
    options.missing = arguments.missing
    var fetched: Set<String> = []
    while true {
      do {
        return try plan(options, environment: modelEnvironment())
      } catch let failure as Failure {
        guard arguments.download, let missing = HubDownload(missing: failure.error), let subject = failure.error.subject,
          fetched.insert(subject).inserted
        else { throw failure }
        try caught { () throws(IngotError) in try missing.run() }
      }
    }
  }

  /// - Parameters: `environment` says where models are.
  func plan(_ options: PlanOptions, environment: [String: String]) throws -> Plan {
    do throws(IngotError) {
      return try Plan.make(recipe, options: options, models: LocalModels(environment: environment))
    } catch {
      throw Failure(error, text: bytes, in: origin)
    }
  }

  /// A failure of this recipe's plan or run.
  func failure(_ error: IngotError, resume: String? = nil) -> Failure {
    var failure = Failure(error, text: bytes, in: origin)
    failure.resume = resume
    return failure
  }
}

extension Recipe.Missing: ExpressibleByArgument {}

extension Failure {
  /// With the excerpt only when the position is in that text.
  init(_ error: IngotError, text: [UInt8], in origin: String) {
    self.init(error, text: error.position?.origin == origin ? text : nil)
  }
}

/// Runs an engine call; its error becomes a failure of the command.
func caught<Value>(_ body: () throws(IngotError) -> Value) throws(Failure) -> Value {
  do throws(IngotError) {
    return try body()
  } catch {
    throw Failure(error)
  }
}

/// The variables that say where models are.
func modelEnvironment() -> [String: String] {
  var values: [String: String] = [:]
  for name in ["HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"] { values[name] = environmentVariable(name) }
  return values
}

/// A recipe's bytes and the name that messages give them. `-` is standard input; pipes can be read too, which the engine's files cannot.
func readRecipe(_ path: String) throws -> (text: [UInt8], origin: String) {
  let limit = 16 << 20
  let isStandardInput = path == "-"
  // SAFETY: the string lives for the call.
  let descriptor = isStandardInput ? STDIN_FILENO : unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw unreadable(path, errno) }
  defer { if !isStandardInput { close(descriptor) } }
  var text: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 65_536)
  while true {
    // SAFETY: at most buffer.count bytes are written into the array's storage.
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    if count < 0, errno == EINTR { continue }
    if count < 0 { throw unreadable(path, errno) }
    if count == 0 { break }
    text += buffer.prefix(count)
    guard text.count <= limit else {
      throw Failure(
        IngotError(
          .recipe, "the file has more than \(ByteCount(limit)), expected a recipe", hint: "to look at a checkpoint use ingot inspect",
          subject: path))
    }
  }
  return (text, isStandardInput ? "stdin" : path)
}

private func unreadable(_ path: String, _ code: Int32) -> Failure {
  let reason = systemText(code)
  if code == EISDIR {
    return Failure(
      IngotError(
        .invalidArgument, "found a directory, expected a recipe file", hint: "to merge models without a recipe, name a method with -m",
        subject: path))
  }
  return Failure(
    IngotError(
      code == ENOENT || code == ENOTDIR ? .notFound : .io, "cannot read the recipe: \(reason)", hint: "check the path", subject: path))
}

/// The system's words for an errno.
func systemText(_ code: Int32) -> String {
  // SAFETY: strerror gives a zero-terminated string; the command calls it on one thread only.
  guard let text = unsafe strerror(code) else { return "error \(code)" }
  return unsafe String(cString: text)
}
