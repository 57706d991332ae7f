import ArgumentParser
import IngotEngine
import IngotErrors
import IngotTensors

/// The two sides of `ingot diff` differ: exit code 1 and no message, as diff tools do.
struct Differs: Error {}

/// `ingot diff`: how two checkpoints differ.
struct DiffCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "diff",
    abstract: "Compare two checkpoints tensor by tensor, with their configuration and tokenizer.",
    discussion: """
      Reads every byte of both once. With --base, also what each changed about the base, and where they pull in opposite directions. \
      Distances are in units of the last place of the tensors' type, or of the coarser one of two. Exit codes: 0 equal, 1 different, \
      others as everywhere.
      """)

  @Argument(help: ArgumentHelp("The first checkpoint.", valueName: "a"), completion: .file())
  var a: String

  @Argument(help: ArgumentHelp("The second checkpoint.", valueName: "b"), completion: .file())
  var b: String

  @Option(name: .shortAndLong, help: ArgumentHelp("The model that both came from.", valueName: "model"), completion: .directory)
  var base: String?

  @Option(help: ArgumentHelp("What the table is ordered by, largest difference first.", valueName: "figure"))
  var sort: Order = .largest

  enum Order: String, ExpressibleByArgument, CaseIterable {
    case largest, rms, ulps, share, cosine, conflicts, name
    var order: Comparison.Order { Comparison.Order(rawValue: rawValue) ?? .largest }
  }

  @Option(help: ArgumentHelp("Most tensors in the table, 0 for all. Default: 20; all with --json.", valueName: "count"))
  var limit: Int?

  @Flag(help: "Leave configuration and tokenizer files out.")
  var tensorsOnly = false

  @OptionGroup(title: "Resources") var engine: EngineArguments

  @OptionGroup(title: "Talk") var talk: OutputArguments

  @Flag(help: "Draw no progress line on a terminal.")
  var noProgress = false

  mutating func run() throws {
    let options = try engine.options()
    let models = LocalModels(environment: modelEnvironment())
    let (a, b, base) = (a, b, base)
    let found = try caught { () throws(IngotError) in
      (try models.open(named: a), try models.open(named: b), try base.map { (name) throws(IngotError) in try models.open(named: name) })
    }
    let engine = try caught { () throws(IngotError) in try Engine(options) }
    var choice = Comparison.Options()
    choice.tensorsOnly = tensorsOnly
    let comparison = try watched(talk, noProgress: noProgress) { (watcher) throws(IngotError) in
      try engine.compare(found.0, found.1, base: found.2, options: choice, watcher: watcher)
    }
    talk.talk(comparison.notices)
    let most = limit.map { $0 > 0 ? $0 : .max }
    try talk.print(
      talk.quiet ? "" : DiffTable(comparison, order: sort.order, limit: most ?? 20).text,
      json: comparison.json(order: sort.order, limit: most))
    if !comparison.isEqual { throw Differs() }
  }
}

/// A comparison for people.
struct DiffTable {
  private let comparison: Comparison
  private let order: Comparison.Order
  private let limit: Int

  init(_ comparison: Comparison, order: Comparison.Order, limit: Int) {
    self.comparison = comparison
    self.order = order
    self.limit = limit
  }

  var text: String {
    let totals = comparison.totals
    guard !comparison.isEqual else {
      return "equal: \(counted(totals.tensors, "tensor")), \(grouped(totals.elements)) elements\n"
    }
    var text = "A: \(printable(comparison.pathA))\nB: \(printable(comparison.pathB))\n"
    if let base = comparison.pathBase { text += "base: \(printable(base))\n" }
    text +=
      "\(counted(totals.tensors, "tensor")) in both: \(grouped(totals.equal)) equal, \(grouped(totals.tensors - totals.equal)) different\n"
    if totals.differing > 0 {
      text +=
        "\(grouped(totals.differing)) of \(grouped(totals.elements)) elements differ (\(share(totals.differing, of: totals.elements))), "
        + "largest difference \(figure(totals.largest)), RMS \(figure(totals.rms)), at most \(units(totals.ulps))\n"
    }
    if let conflicts = totals.conflicts, let shared = totals.sharedChanges {
      text +=
        "\(grouped(conflicts)) of \(grouped(shared)) elements that both changed went opposite ways (\(share(conflicts, of: shared)))\n"
    }
    text += lone("A", comparison.onlyA) + lone("B", comparison.onlyB)
    return text + tensors + files
  }

  private func lone(_ side: String, _ tensors: [Comparison.Lone]) -> String {
    guard !tensors.isEmpty else { return "" }
    let shown = tensors.prefix(limit)
    let lines = shown.map { "  \(printable($0.name)) \($0.dtype.safetensorsName) \($0.shape)\n" }.joined()
    return "only in \(side): \(counted(tensors.count, "tensor"))\n" + lines + more(tensors.count - shown.count, "tensors")
  }

  private var tensors: String {
    let different = comparison.sorted(by: order).filter { !$0.isEqual }
    guard !different.isEmpty else { return "" }
    let hasBase = comparison.pathBase != nil
    var rows = [["tensor", "type", "largest", "RMS", "ulps", "differ", "cosine", "|B|/|A|"] + (hasBase ? ["conflicts"] : [])]
    for tensor in different.prefix(limit) {
      let values = tensor.values
      var row = [
        printable(tensor.name), types(tensor), values.map { figure($0.largest) } ?? "", values.map { figure($0.rms) } ?? "",
        values.map { grouped(Int(clamping: $0.ulps)) } ?? "", tensor.differing.map { share($0, of: tensor.elements) } ?? "",
        values?.cosine.map { figure($0, digits: 7) } ?? "", values?.normRatio.map { figure($0, digits: 6) } ?? "",
      ]
      if hasBase { row.append(tensor.taskVectors.map { share($0.signs.opposite, of: $0.signs.both) } ?? "") }
      rows.append(row)
    }
    return "\n" + table(rows, right: [2, 3, 4, 5, 6, 7, 8]) + more(different.count - (rows.count - 1), "tensors; see --limit")
  }

  private func types(_ tensor: Comparison.Tensor) -> String {
    if tensor.shapeA != tensor.shapeB {
      return "\(tensor.dtypeA.safetensorsName) \(tensor.shapeA) / \(tensor.dtypeB.safetensorsName) \(tensor.shapeB)"
    }
    if tensor.dtypeA != tensor.dtypeB { return "\(tensor.dtypeA.safetensorsName) / \(tensor.dtypeB.safetensorsName)" }
    let values = tensor.values
    return tensor.dtypeA.safetensorsName + ((values?.nonfiniteA ?? 0) + (values?.nonfiniteB ?? 0) > 0 ? " with NaN or infinity" : "")
  }

  private var files: String {
    var text = comparison.files.isEmpty ? "" : "\n"
    for file in comparison.files {
      switch file.kind {
      case .onlyA: text += "\(printable(file.name)): only in A\n"
      case .onlyB: text += "\(printable(file.name)): only in B\n"
      case .changed:
        text += "\(printable(file.name)): differs\n"
        for change in file.changes.prefix(limit) {
          switch (change.a, change.b) {
          case (let a?, let b?): text += "  \(printable(change.key)): \(printable(a)) -> \(printable(b))\n"
          case (let a?, nil): text += "  \(printable(change.key)): \(printable(a)), only in A\n"
          case (nil, let b): text += "  \(printable(change.key)): \(printable(b ?? "")), only in B\n"
          }
        }
        text += more(file.changes.count - limit, "keys")
      }
    }
    return text
  }

  private func more(_ count: Int, _ noun: String) -> String { count > 0 ? "  ... and \(grouped(count)) more \(noun)\n" : "" }

  private func share(_ part: Int, of whole: Int) -> String { figure(whole > 0 ? 100 * Double(part) / Double(whole) : 0, digits: 3) + "%" }

  private func units(_ ulps: UInt64) -> String { "\(grouped(Int(clamping: ulps))) ulp\(ulps == 1 ? "" : "s")" }
}
