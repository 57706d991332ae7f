package import IngotErrors
package import IngotJSON
package import IngotTensors

/// The description of a delta pack: the task vectors of one or more fine-tuned models against one base, compressed. `docs/packs.md` has the layout.
///
/// A pack is one safetensors file. Its `__metadata__` says what it is; the parts of a tensor NAME are stored as KIND/NAME.
package struct DeltaPack: Sendable {
  /// The file in the directory of a pack.
  package static let fileName = "delta_pack.safetensors"
  package static let format = "ingot-delta-pack"
  package static let version = "1"

  package enum Method: String, Sendable, Hashable, CaseIterable {
    /// Sparsified to signs with one magnitude (arXiv 2311.13171).
    case compeft
    /// Signs of the linear weights of attention and MLP blocks, everything else whole (arXiv 2402.10193).
    case bitdelta
    /// One merged vector and a mask of each task (arXiv 2405.07813).
    case tall
    /// One elected vector, a mask and a factor of each task (arXiv 2405.17461).
    case emr
  }

  /// How a tensor's delta is stored.
  package enum Form: String, Sendable, Hashable, CaseIterable {
    /// Rice codes of the non-zero elements, which are all as large: codes and blocks.
    case ternary
    /// A bit for each element, 1 for plus: bits and checks.
    case signs
    /// Values, and for each task a bit for each element, 1 where it has the value: vector, bits and checks.
    case masked
    /// The fine-tuned model's tensor itself: whole.
    case whole
  }

  package enum Part: String, Sendable, Hashable, CaseIterable { case codes, blocks, bits, checks, vector, whole }

  package struct Tensor: Sendable {
    package var name: String
    package var shape: Shape
    package var form: Form
    /// Elements.
    package var count: Int
    package var parts: [Part: CheckpointTensor]

    package var blockCount: Int { (count + RiceCode.blockElements - 1) / RiceCode.blockElements }
    /// The place of its factor among the pack's scales; nil where the scale is the task's.
    package var scaleIndex: Int?
  }

  package let method: Method
  /// What identifies the base: 32 hex digits, of the packed tensors' names, types, shapes and first bytes in it.
  package let baseDigest: String
  /// How the base was called, without a path.
  package let baseName: String
  package let tasks: [String]
  /// The parameters it was made with.
  package let parameters: JSONObject
  package let tensors: [Tensor]
  /// F32: one of the pack (compeft), one of each tensor of signs (bitdelta), one of each task (emr); nil where there is none (tall).
  package let scales: CheckpointTensor?
  /// F64: ‖τ − unpacked τ‖ / ‖τ‖ of each task.
  package let errors: CheckpointTensor

  package static let scalesName = "scales"
  package static let errorsName = "errors"

  package static func partName(_ part: Part, _ name: String) -> String { "\(part.rawValue)/\(name)" }

  /// True for a checkpoint that is one file which says that it is a pack, of any version. A model to which a pack is applied has its own files too.
  package static func isPack(_ checkpoint: Checkpoint) -> Bool {
    guard let file = checkpoint.shards.first, checkpoint.shards.count == 1 else { return false }
    return file.metadata.contains { $0.key == "format" && $0.value == format }
  }

  /// Checks everything that the header tells. Throws `.unsupported` for another version or an unknown method, `.format` for anything that is not
  /// as the layout says: parts that are absent, too many, or of another type or shape.
  package init(_ checkpoint: Checkpoint) throws(IngotError) {
    let reader = PackHeaderReader(checkpoint)
    try reader.requireVersion()
    let methodName = try reader.text("method")
    guard let method = Method(rawValue: methodName) else {
      throw IngotError(
        .unsupported, "the pack's method is \"\(methodName.prefix(60))\", which is unknown here",
        hint: "the methods are \(Method.allCases.map(\.rawValue).joined(separator: ", "))", subject: checkpoint.displayPath)
    }
    self.method = method
    baseDigest = try reader.text("base")
    baseName = try reader.text("base_name")
    tasks = try reader.tasks()
    parameters = try reader.json("parameters").requireObject("parameters", in: checkpoint.displayPath)
    guard tasks.count == 1 || method == .tall || method == .emr else {
      throw reader.malformed("\(tasks.count) tasks in a pack of the method \(methodName), expected 1")
    }
    var finder = PackPartFinder(checkpoint: checkpoint, tasks: tasks.count)
    var tensors: [Tensor] = []
    var signed = 0
    for entry in try reader.entries() {
      var tensor = try finder.tensor(name: entry.name, form: entry.form, shape: entry.shape)
      guard Self.forms(of: method).contains(tensor.form) else {
        throw reader.malformed("\(entry.name) of the form \(entry.form) in a pack of the method \(methodName)")
      }
      if tensor.form == .signs {
        tensor.scaleIndex = signed
        signed += 1
      }
      tensors.append(tensor)
    }
    self.tensors = tensors
    switch method {
    case .compeft: scales = try finder.take(Self.scalesName, .f32, [1])
    case .bitdelta: scales = try finder.take(Self.scalesName, .f32, [signed])
    case .emr: scales = try finder.take(Self.scalesName, .f32, [tasks.count])
    case .tall: scales = nil
    }
    errors = try finder.take(Self.errorsName, .f64, [tasks.count])
    try finder.finish()
  }

  /// The forms that tensors of a method's pack have.
  package static func forms(of method: Method) -> [Form] {
    switch method {
    case .compeft: [.ternary]
    case .bitdelta: [.signs, .whole]
    case .tall, .emr: [.masked]
    }
  }

  /// The parts of a form.
  package static func parts(of form: Form) -> [Part] {
    switch form {
    case .ternary: [.codes, .blocks]
    case .signs: [.bits, .checks]
    case .masked: [.vector, .bits, .checks]
    case .whole: [.whole]
    }
  }

  /// The number of a task by its name, or by its number from 0 on; nil stands for the only one. Throws `.invalidArgument` for a task that is not
  /// there, and for none where there are several.
  package func task(_ name: String?) throws(IngotError) -> Int {
    guard let name else {
      if tasks.count == 1 { return 0 }
      throw IngotError(
        .invalidArgument, "the pack has \(tasks.count) tasks, and none is named", hint: "name one of \(taskList): PACK#TASK, or --task")
    }
    if let place = tasks.firstIndex(of: name) { return place }
    if let number = Int(name), tasks.indices.contains(number) { return number }
    throw IngotError(
      .invalidArgument, "the pack has no task \"\(name.prefix(60))\"",
      hint: "name one of \(taskList), or a number from 0 to \(tasks.count - 1)")
  }

  private var taskList: String { tasks.prefix(8).joined(separator: ", ") + (tasks.count > 8 ? ", …" : "") }
}

/// Reads the metadata of a pack.
private struct PackHeaderReader {
  private let origin: String
  private var values: [String: String] = [:]

  init(_ checkpoint: Checkpoint) {
    origin = checkpoint.displayPath
    for entry in checkpoint.shards.flatMap(\.metadata) { values[entry.key] = entry.value }
  }

  func malformed(_ found: String) -> IngotError {
    IngotError(.format, "the pack is not valid: found \(found)", hint: "copy or make it again", subject: origin)
  }

  func requireVersion() throws(IngotError) {
    guard values["format"] == DeltaPack.format else {
      throw IngotError(
        .format, "not a delta pack: the file's metadata has no format \(DeltaPack.format)", hint: "packs are made with 'ingot delta pack'",
        subject: origin)
    }
    let version = try text("version")
    guard version == DeltaPack.version else {
      throw IngotError(
        .unsupported, "the pack has the version \"\(version.prefix(60))\", expected \(DeltaPack.version)", hint: "use a newer ingot",
        subject: origin)
    }
  }

  func text(_ key: String) throws(IngotError) -> String {
    guard let value = values[key] else { throw malformed("no \"\(key)\" in the metadata") }
    return value
  }

  func json(_ key: String) throws(IngotError) -> JSONValue { try JSON.parse(try text(key), origin: "\(origin): \(key)") }

  func tasks() throws(IngotError) -> [String] {
    var tasks: [String] = []
    for value in try json("tasks").requireArray("tasks", in: origin) { tasks.append(try value.requireString("tasks", in: origin)) }
    guard !tasks.isEmpty, Set(tasks).count == tasks.count else { throw malformed("\(tasks.count) tasks, expected at least one, each once") }
    return tasks
  }

  /// `[NAME, FORM, [EXTENT, …]]` of every tensor.
  func entries() throws(IngotError) -> [(name: String, form: String, shape: Shape)] {
    var entries: [(name: String, form: String, shape: Shape)] = []
    for value in try json("tensors").requireArray("tensors", in: origin) {
      let fields = try value.requireArray("tensors", in: origin)
      guard fields.count == 3 else { throw malformed("an entry of \(fields.count) fields among its tensors, expected 3") }
      var extents: [Int] = []
      for extent in try fields[2].requireArray("tensors", in: origin) { extents.append(try extent.requireInt("tensors", in: origin)) }
      entries.append(
        (try fields[0].requireString("tensors", in: origin), try fields[1].requireString("tensors", in: origin), Shape(extents)))
    }
    return entries
  }
}

/// Finds the parts of a pack's tensors and checks that each is what the layout says.
private struct PackPartFinder {
  let checkpoint: Checkpoint
  let tasks: Int
  private var names: Set<String> = []
  private var taken = 0

  init(checkpoint: Checkpoint, tasks: Int) {
    self.checkpoint = checkpoint
    self.tasks = tasks
  }

  private func malformed(_ found: String, _ subject: String) -> IngotError {
    IngotError(.format, "the pack is not valid: found \(found)", hint: "copy or make it again", subject: subject)
  }

  /// A part of the given type (nil: any that can be merged) and shape (nil for an extent that the content decides).
  mutating func take(_ name: String, _ dtype: DType?, _ shape: [Int?]) throws(IngotError) -> CheckpointTensor {
    guard let found = checkpoint[name] else { throw malformed("no \(name)", checkpoint.displayPath) }
    let isAsWide = found.shape.rank == shape.count && zip(found.shape.dimensions, shape).allSatisfy { $1 == nil || $0 == $1 }
    let isOfType = dtype.map { $0 == found.dtype } ?? found.dtype.hasArithmetic
    guard isAsWide, isOfType, found.strides == nil else {
      let expected = shape.map { $0.map(String.init) ?? "any" }.joined(separator: ", ")
      throw malformed(
        "\(found.dtype.safetensorsName) \(found.shape), expected \(dtype?.safetensorsName ?? "numbers") [\(expected)]", name)
    }
    taken += 1
    return found
  }

  mutating func tensor(name: String, form: String, shape: Shape) throws(IngotError) -> DeltaPack.Tensor {
    guard names.insert(name).inserted else { throw malformed("two tensors of this name", name) }
    guard let kind = DeltaPack.Form(rawValue: form) else { throw malformed("the form \"\(form.prefix(60))\"", name) }
    guard let count = try? shape.elementCount(), count < Int.max - RiceCode.blockElements else {
      throw malformed("the shape \(shape), expected one of a tensor", name)
    }
    var tensor = DeltaPack.Tensor(name: name, shape: shape, form: kind, count: count, parts: [:])
    let (bytes, blocks) = (tensor.count / 8 + (tensor.count % 8 == 0 ? 0 : 1), tensor.blockCount)
    for part in DeltaPack.parts(of: kind) {
      let stored = DeltaPack.partName(part, name)
      let masks = kind == .masked ? tasks : 1
      tensor.parts[part] =
        switch part {
        case .codes: try take(stored, .u8, [nil])
        case .blocks: try take(stored, .u32, [blocks, 3])
        case .bits: try take(stored, .u8, [masks, bytes])
        case .checks: try take(stored, .u32, [masks, blocks])
        case .vector, .whole: try take(stored, nil, shape.dimensions)
        }
    }
    return tensor
  }

  /// Throws when the file has more than was asked for.
  func finish() throws(IngotError) {
    guard taken != checkpoint.tensors.count else { return }
    throw malformed("\(checkpoint.tensors.count) stored tensors, expected \(taken)", checkpoint.displayPath)
  }
}
