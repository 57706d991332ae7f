import ArgumentParser
import IngotEngine

/// How a merge writes its directory.
struct DirectoryArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp("Most bytes of tensors in one output file, for example 2GiB; 0 writes one file. Default: 5GB.", valueName: "size"),
    transform: { try parsedSize($0) })
  var shardSize: ByteCount?

  @Flag(help: "Go on with OUT.partial of an interrupted run of the same merge.")
  var resume = false

  @Flag(help: "Replace OUT, in one step once the new one is complete, and discard OUT.partial.")
  var force = false

  @Option(help: ArgumentHelp("Wait until the output is on the disk (all) or leave that to the system (none).", valueName: "what"))
  var sync: MergeCommand.Sync = .all

  /// The options of a run that has these.
  func apply(to options: inout DirectoryOptions) {
    options.resume = resume
    options.force = force
    options.sync = sync.storage
  }
}
