import ArgumentParser
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotTensors

/// `ingot inspect`: what a checkpoint is.
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show what a checkpoint holds. Reads headers and config.json only.")

  @Argument(
    help: ArgumentHelp(
      "A model directory, a safetensors file, its index, or org/name[@revision] in the Hugging Face cache.", valueName: "model"),
    completion: .file())
  var model: String

  @Flag(help: "List every tensor.")
  var tensors = false

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let inspection = try caught { () throws(IngotError) in
      try Inspection(of: model, models: LocalModels(environment: modelEnvironment()))
    }
    talk.talk(inspection.notices)
    if talk.json { return try Console.result { inspection.writeJSON($0) } }
    try Console.result(tensors ? list(inspection) : summary(inspection))
  }

  private func summary(_ model: Inspection) -> String {
    let checkpoint = model.checkpoint
    var rows: [[String]] = []
    rows.append([
      "tensors", "\(grouped(checkpoint.tensors.count)) in \(counted(checkpoint.shards.count, "file")), \(ByteCount(model.bytes))",
    ])
    rows.append(["parameters", grouped(model.parameters)])
    for type in model.types {
      rows.append([
        "dtype",
        "\(type.dtype.safetensorsName): \(counted(type.tensors, "tensor")), \(grouped(type.parameters)) parameters, \(ByteCount(type.bytes))",
      ])
    }
    if let layers = model.layers {
      rows.append(["layers", "\(layers.count): \(layers.prefix)0 to \(layers.prefix)\(layers.count - 1)"])
    }
    if let quantisation = model.quantisation { rows.append(["quantised", "\(quantisation.scheme) (\(quantisation.evidence))"]) }
    for fact in model.facts { rows.append(["config", "\(fact.key) = \(fact.value)"]) }
    let counts = model.tensorCounts
    for (index, shard) in checkpoint.shards.enumerated() {
      let size = ByteCount(Int(clamping: shard.size))
      rows.append(["file", "\(shard.name): \(counted(counts[index], "tensor")), \(size)"])
    }
    for entry in checkpoint.shards.first?.metadata ?? [] { rows.append(["metadata", "\(entry.key) = \(entry.value.prefix(200))"]) }
    // A label stands once before the rows it is of.
    var last = ""
    for index in rows.indices {
      let label = rows[index][0]
      if label == last { rows[index][0] = "" }
      last = label
    }
    return printable(model.path) + "\n" + table(rows.map { row in row.map { printable($0) } }, indent: 2)
  }

  private func list(_ model: Inspection) -> String {
    var rows = [["tensor", "dtype", "shape", "bytes", "file"]]
    for tensor in model.checkpoint.tensors {
      rows.append([
        printable(tensor.name), tensor.dtype.safetensorsName, tensor.shape.description, grouped(tensor.byteCount),
        printable(model.fileName(of: tensor)),
      ])
    }
    return table(rows, right: [3])
  }
}
