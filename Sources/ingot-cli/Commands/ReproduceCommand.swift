import ArgumentParser
import IngotEngine
import IngotErrors

/// `ingot reproduce`: does a merge give the same tensors again.
struct ReproduceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reproduce",
    abstract: "Run a merge again from its ingot.json, write nothing, and compare every tensor's digest.",
    discussion: "Recipe, seed and sources are those that the record names. A source that is gone or has changed is an error.")

  @Argument(help: ArgumentHelp("A directory that 'ingot merge' wrote.", valueName: "directory"), completion: .directory)
  var directory: String

  @Option(
    name: .customLong("model"),
    help: ArgumentHelp("Where a model of the recipe is now, if it was moved. May be repeated.", valueName: "name=path"))
  var models: [String] = []

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let places = try places()
    let engine = try self.engine.make()
    let directory = directory
    let found = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.reproduce(directory, places: places, watcher: watcher)
    }
    talk.talk(found.notices)
    try talk.print(words(found), json: found.json())
    try caught { () throws(IngotError) in try found.requireSame() }
  }

  /// The last sign divides: a name may be a path that has one.
  private func places() throws -> [String: String] {
    var places: [String: String] = [:]
    for text in models {
      guard let sign = text.lastIndex(of: "="), sign != text.startIndex, text.index(after: sign) != text.endIndex else {
        throw Failure(
          IngotError(.invalidArgument, "found --model \(text), expected --model NAME=PATH", hint: "NAME is the model's name in the recipe"))
      }
      places[String(text[..<sign])] = String(text[text.index(after: sign)...])
    }
    return places
  }

  private func words(_ found: Reproduction) -> String {
    guard found.differences.isEmpty else { return lines(of: found.differences) }
    return talk.quiet
      ? ""
      : "\(printable(found.directory)): reproduced: \(counted(found.tensors, "tensor")), \(ByteCount(found.bytes)), "
        + "\(duration(found.run.seconds))\n"
  }
}
