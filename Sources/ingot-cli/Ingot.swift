import ArgumentParser
import IngotEngine

/// The command.
struct Ingot: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ingot",
    abstract: "Merge neural-network checkpoints.",
    discussion: """
      A recipe is a file in mergekit's YAML (or the same as JSON). Models are directories, safetensors files, or org/name[@revision] in \
      the local Hugging Face cache.

      Exit codes: 0 done; 1 the run failed, or 'ingot diff' found a difference; 2 usage or recipe; 3 an input is absent, unreadable or not valid; 4 not enough disk or \
      memory; 5 the destination exists; 130 interrupted.
      """,
    version: "ingot \(Version.text)",
    groupedSubcommands: [
      CommandGroup(
        name: "Merging",
        subcommands: [
          MergeCommand.self, PlanCommand.self, CheckCommand.self, RollCommand.self, LoRACommand.self, MergekitYamlCommand.self,
        ]),
      CommandGroup(
        name: "Looking",
        subcommands: [
          InspectCommand.self, DiffCommand.self, VerifyCommand.self, ReproduceCommand.self, MethodsCommand.self, SchemaCommand.self,
          DoctorCommand.self,
        ]),
      CommandGroup(name: "Packing", subcommands: [DeltaCommand.self]),
      CommandGroup(name: "Setting up", subcommands: [CompletionsCommand.self]),
    ])
}
