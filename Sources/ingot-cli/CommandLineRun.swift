import ArgumentParser
import IngotErrors

/// Parses and runs the command line; gives the exit code of the process.
func runCommandLine() -> Int32 {
  Console.requireStandardDescriptors()
  Interruption.ignoreBrokenPipes()
  do {
    var command = try Ingot.parseAsRoot()
    try command.run()
    return Status.ok.exitCode
  } catch let failure as Failure {
    return report(failure)
  } catch let error as IngotError {
    return report(Failure(error))
  } catch let failure as OutputFailure {
    return report(failure)
  } catch is Differs {
    return 1
  } catch {
    return reportParsing(error)
  }
}

/// Prints a failure where the command line says, and gives its exit code.
private func report(_ failure: Failure) -> Int32 {
  Console.talk(wantsJSON ? failure.json : failure.text(on: .standardError))
  return failure.error.status.exitCode
}

private func report(_ failure: OutputFailure) -> Int32 {
  switch failure {
  case .brokenPipe: Status.ok.exitCode
  case .system(let code): report(Failure(IngotError(.output, "cannot write the result: \(systemText(code))", subject: "standard output")))
  }
}

/// What the parser of arguments threw: a request for help, a version or completions, or a mistake.
private func reportParsing(_ error: any Error) -> Int32 {
  let text = Ingot.fullMessage(for: error)
  if Ingot.exitCode(for: error).isSuccess {
    do throws(OutputFailure) {
      try Console.result(text.hasSuffix("\n") ? text : text + "\n")
    } catch {
      return report(error)
    }
    return Status.ok.exitCode
  }
  if let unknown = unknownCommand() { return report(unknown) }
  // The last line of the parser's message names the help of the command that was meant.
  let help = text.split(separator: "'").first { $0.hasPrefix("ingot") && $0.hasSuffix("--help") } ?? "ingot --help"
  let message = Ingot.message(for: error).split(separator: "\n").joined(separator: " ")
  let sentence = message.prefix(1).lowercased() + message.dropFirst()
  return report(Failure(IngotError(.invalidArgument, sentence, hint: "see '\(help)'")))
}

/// The failure for a first argument that should be a command and is none.
private func unknownCommand() -> Failure? {
  guard let word = CommandLine.arguments.dropFirst().first, !word.hasPrefix("-") else { return nil }
  let names = Ingot.configuration.groupedSubcommands.flatMap { $0.subcommands }.compactMap { $0.configuration.commandName } + ["help"]
  guard !names.contains(word) else { return nil }
  let near = nearestName(to: word, among: names)
  return Failure(
    IngotError(
      .invalidArgument, "unknown command \"\(word.prefix(60))\"",
      hint: near.map { "did you mean 'ingot \($0)'?" } ?? "the commands are \(names.joined(separator: ", "))"))
}

/// True when failures are to be JSON; looked up here because a mistake in the arguments leaves no parsed command to ask.
private var wantsJSON: Bool {
  CommandLine.arguments.dropFirst().prefix { $0 != "--" }.contains("--json")
}
