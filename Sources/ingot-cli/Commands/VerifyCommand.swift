import ArgumentParser
import IngotEngine
import IngotErrors

/// `ingot verify`: is a merged directory what was written.
struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read a merged model and compare every tensor with its digest in ingot.json.")

  @Argument(help: ArgumentHelp("A directory that 'ingot merge' wrote.", valueName: "directory"), completion: .directory)
  var directory: String

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let directory = directory
    let verification = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try Verification(directory: directory, watcher: watcher)
    }
    try talk.print(words(verification), json: verification.json())
    try caught { () throws(IngotError) in try verification.requireIntact() }
  }

  private func words(_ verification: Verification) -> String {
    let differences = verification.differences
    guard differences.isEmpty else {
      let most = 20
      var text = differences.prefix(most).map { "\(printable($0.tensor)): \(printable($0.problem))\n" }.joined()
      if differences.count > most { text += "... and \(differences.count - most) more\n" }
      return text
    }
    return talk.quiet
      ? "" : "\(printable(verification.directory)): intact: \(counted(verification.tensors, "tensor")), \(ByteCount(verification.bytes))\n"
  }
}
