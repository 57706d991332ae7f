package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotTensors

/// What a pack is: for whom, of what, how large and how exact. Reads the header, the factors, the errors and, of ComPEFT, the tables of blocks.
package struct PackSummary: Sendable {
  package struct Task: Sendable {
    package var name: String
    /// ‖τ − unpacked τ‖ / ‖τ‖ when it was packed.
    package var error: Double
    /// Elements that are not masked out or zero; nil where all are there.
    package var kept: Int?
  }

  package let path: String
  package let method: DeltaPack.Method
  package let baseName: String
  package let baseDigest: String
  /// As JSON.
  package let parameters: String
  package let tasks: [Task]
  package let forms: [(form: DeltaPack.Form, tensors: Int, elements: Int)]
  /// Bytes by kind of part, the largest first; scales and errors are one kind.
  package let parts: [(name: String, bytes: Int)]
  /// Of the whole file.
  package let byteCount: Int
  package let elements: Int
  /// Bytes of codes or masks, with their tables, for each task.
  package let codedBytesPerTask: Int
  /// What packing had to say.
  package var notices: [Notice] = []

  /// Throws `.notFound`, and what opening a pack throws.
  package init(path: String) throws(IngotError) {
    let model = try LocalModels.openPack(at: path)
    let reader = try PackReader(model)
    let pack = reader.pack
    self.path = path
    method = pack.method
    baseName = pack.baseName
    baseDigest = pack.baseDigest
    parameters = JSON.text(.object(pack.parameters))
    let errors = try reader.errors()
    let kept = try reader.kept()
    tasks = pack.tasks.enumerated().map { Task(name: $1, error: errors[$0], kept: kept?[$0]) }
    forms = DeltaPack.Form.allCases.compactMap { form in
      let own = pack.tensors.filter { $0.form == form }
      return own.isEmpty ? nil : (form, own.count, own.reduce(0) { $0 + $1.count })
    }
    elements = pack.tensors.reduce(0) { $0 + $1.count }
    var bytes: [String: Int] = [:]
    for tensor in pack.tensors { for (part, stored) in tensor.parts { bytes[part.rawValue, default: 0] += stored.byteCount } }
    bytes["scales and errors"] = (pack.scales?.byteCount ?? 0) + pack.errors.byteCount
    let coded: [DeltaPack.Part] = [.codes, .blocks, .bits, .checks]
    codedBytesPerTask = coded.reduce(0) { $0 + (bytes[$1.rawValue] ?? 0) } / pack.tasks.count
    byteCount = Int(clamping: model.checkpoint.shards.reduce(0) { $0 + $1.size })
    bytes["header"] = byteCount - model.checkpoint.tensors.reduce(0) { $0 + $1.byteCount }
    parts = bytes.filter { $0.value > 0 }.map { (name: $0.key, bytes: $0.value) }.sorted { ($1.bytes, $0.name) < ($0.bytes, $1.name) }
  }

  /// One JSON document with a schema version.
  package var json: String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("path", path)
      document.field("method", method.rawValue)
      document.field("base_name", baseName)
      document.field("base_digest", baseDigest)
      document.field("parameters", json: parameters)
      document.list("tasks") { list in
        for task in tasks {
          list.object { entry in
            entry.field("name", task.name)
            entry.field("relative_error", task.error)
            if let kept = task.kept { entry.field("kept_elements", kept) }
          }
        }
      }
      document.field("elements", elements)
      document.field("bytes", byteCount)
      document.field("coded_bytes_per_task", codedBytesPerTask)
      document.list("forms") { list in
        for form in forms {
          list.object { entry in
            entry.field("form", form.form.rawValue)
            entry.field("tensors", form.tensors)
            entry.field("elements", form.elements)
          }
        }
      }
      document.object("parts") { entry in for part in parts { entry.field(part.name, part.bytes) } }
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
  }
}
