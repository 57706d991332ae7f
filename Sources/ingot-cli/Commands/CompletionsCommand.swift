import ArgumentParser

/// `ingot completions`: the script that a shell loads to complete this command.
struct CompletionsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "completions",
    abstract: "Print the completion script of a shell.",
    discussion: """
      bash: ingot completions bash > ~/.local/share/bash-completion/completions/ingot
      zsh:  ingot completions zsh > DIRECTORY-OF-FPATH/_ingot
      fish: ingot completions fish > ~/.config/fish/completions/ingot.fish
      """)

  enum Shell: String, ExpressibleByArgument, CaseIterable {
    case bash, zsh, fish

    var shell: CompletionShell {
      switch self {
      case .bash: .bash
      case .zsh: .zsh
      case .fish: .fish
      }
    }
  }

  @Argument(help: ArgumentHelp("bash, zsh or fish.", valueName: "shell"))
  var shell: Shell

  mutating func run() throws {
    let script = Ingot.completionScript(for: shell.shell)
    try Console.result(script.hasSuffix("\n") ? script : script + "\n")
  }
}
