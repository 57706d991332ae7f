import ArgumentParser
import IngotEngine
import IngotErrors
import IngotTensors

/// `ingot lora inspect`: what adapters change.
struct LoRAInspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show the modules of adapters: rank, alpha, scale, and the norm of the change.",
    discussion: """
      Norms and singular values are of scale x B x A, and are computed from the factors; no product of the weight's size is made. With several \
      adapters also how much the inputs that they use have in common, 0 for none.
      """)

  @Argument(help: ArgumentHelp("The adapters.", valueName: "adapter"), completion: .directory)
  var adapters: [String]

  @Flag(help: "Print the singular values of every module's change.")
  var spectrum = false

  @OptionGroup(title: "Talk") var talk: OutputArguments

  mutating func run() throws {
    let models = LocalModels(environment: modelEnvironment())
    let (adapters, spectrum) = (adapters, spectrum)
    let survey = try caught { () throws(IngotError) in try AdapterSurvey(of: adapters, spectrum: spectrum, models: models) }
    for inspection in survey.adapters { talk.talk(inspection.notices) }
    try talk.print(words(survey.adapters, survey.overlaps), json: survey.json())
  }

  private func words(_ found: [AdapterInspection], _ overlaps: [AdapterInspection.Overlap]) -> String {
    var text = found.map(words).joined(separator: "\n")
    for overlap in overlaps {
      text +=
        "\(printable(overlap.first)) and \(printable(overlap.second)): overlap of inputs \(figure(overlap.mean)) on average, "
        + "\(figure(overlap.largest)) at most, over \(counted(overlap.modules, "module"))\n"
    }
    return text
  }

  private func words(_ adapter: AdapterInspection) -> String {
    var text = printable(adapter.path) + "\n"
    var facts = [["base", printable(adapter.base ?? "not named")]]
    facts.append(["modules", grouped(adapter.modules.count)])
    facts.append(["parameters", grouped(adapter.parameters)])
    facts.append(["norm", figure(adapter.norm, digits: 6)])
    if adapter.usesDora { facts.append(["kind", "DoRA: norms are of the change before the magnitudes"]) }
    for tensor in adapter.whole {
      facts.append(["whole", "\(printable(tensor.name)) \(tensor.dtype.safetensorsName) \(tensor.shape)"])
    }
    text += table(facts, indent: 2)
    var rows = [["module", "shape", "rank", "alpha", "scale", "dtype", "norm"]]
    for module in adapter.modules {
      rows.append([
        printable(module.name), "\(module.outputs) x \(module.inputs)", String(module.rank), figure(module.alpha, digits: 6),
        figure(module.scale, digits: 6), module.dtype.safetensorsName, figure(module.norm, digits: 6),
      ])
      if let values = module.spectrum {
        rows.append(["  " + values.map { figure($0) }.joined(separator: " ")])
      }
    }
    return text + table(rows, right: [2, 3, 4, 6])
  }
}
