package import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

extension Plan {
  /// The plan as one JSON document with a schema version.
  package func json(adding more: [Notice] = []) -> String {
    var document = JSONDocument()
    write(to: &document, adding: more)
    return document.line()
  }

  /// The same text piece by piece.
  package func writeJSON(_ drain: @escaping ([UInt8]) -> Void) {
    var document = JSONDocument(drain: drain)
    write(to: &document)
    document.finish()
  }

  private func write(to document: inout JSONDocument, adding more: [Notice] = []) {
    document.object { document in
      document.field("schema", 1)
      document.field("digest", digest.description)
      document.field("source_digest", sourceDigest.description)
      document.field("method", recipe.method.name)
      document.field("seed", String(seed))
      document.field("numerics", numerics.rawValue)
      document.field("bytes_read", bytesRead)
      document.field("bytes_written", bytesWritten)
      document.field("output_bytes", outputBytes)
      document.field("least_memory", leastMemory)
      document.list("models") { list in
        for model in models { list.object { model.write(to: &$0) } }
      }
      if let vocabulary { document.object("vocabulary") { write(vocabulary, to: &$0) } }
      writeStages(to: &document)
      document.list("files") { list in
        for file in files {
          list.object { entry in
            entry.field("name", file.name)
            entry.field("bytes", file.byteCount)
          }
        }
      }
      document.list("side_files") { list in
        for file in sideFiles { list.value(file.name) }
      }
      document.list("tensors") { list in
        let work = workNames
        for (index, tensor) in tensors.enumerated() { list.object { write(tensor, work: work[index], to: &$0) } }
      }
      document.list("notices") { list in
        for notice in notices + more { list.object { notice.write(to: &$0) } }
      }
    }
  }

  /// All documents before this one, those first that others read; nothing for a recipe of one document.
  func writeStages(to document: inout JSONDocument) {
    let all = behind.all
    if all.isEmpty { return }
    document.list("stages") { list in
      for stage in all {
        list.object { entry in
          entry.field("name", stage.name)
          entry.field("method", stage.plan.recipe.method.name)
          entry.field("digest", stage.plan.digest.description)
          entry.field("streamed", stage.isStreamed)
          entry.field("tensors", stage.plan.tensors.count)
          entry.field("bytes", stage.plan.bytesWritten)
        }
      }
    }
  }

  private func write(_ tensor: PlannedTensor, work: String, to entry: inout JSONDocument) {
    entry.field("name", tensor.name)
    entry.field("dtype", tensor.dtype.safetensorsName)
    entry.list("shape") { list in
      for extent in tensor.shape.dimensions { list.value(extent) }
    }
    entry.field("work", work)
    entry.field("file", files[tensor.file].name)
    entry.field("offset", tensor.offset)
    entry.field("bytes", tensor.byteCount)
    entry.list("inputs") { list in
      for input in tensor.inputs {
        list.object { entry in
          entry.field("model", modelName(input.model))
          entry.field("name", input.name)
          entry.field("dtype", input.dtype.safetensorsName)
          if let assembled = assembled(input) {
            entry.list("assembled_from") { list in
              for part in assembled { list.value(part) }
            }
          }
        }
      }
    }
    writeSides(of: tensor, to: &entry)
  }

  private func writeSides(of tensor: PlannedTensor, to entry: inout JSONDocument) {
    if !tensor.sides.isEmpty {
      entry.list("sides") { list in
        for side in tensor.sides {
          list.object { entry in
            entry.field("input", side.tensor.input)
            if let model = side.tensor.model { entry.field("of", modelName(tensor.inputs[model].model)) }
            entry.field("part", side.tensor.part.rawValue)
            entry.field("file", modelName(side.source.model))
            entry.field("name", side.source.name)
            entry.field("dtype", side.source.dtype.safetensorsName)
          }
        }
      }
    }
    if let scaling = tensor.scaling { entry.field("aim_omega", scaling.omega) }
  }

  private func write(_ vocabulary: PlannedVocabulary, to entry: inout JSONDocument) {
    entry.field("source", vocabulary.source)
    entry.field("tokens", vocabulary.tokens)
    entry.field("added", vocabulary.added)
    entry.field("removed", vocabulary.removed)
    entry.field("rows", vocabulary.rows)
    entry.list("models") { list in
      for part in vocabulary.models {
        list.object { entry in
          entry.field("model", modelName(part.model))
          entry.field("shared", part.shared)
        }
      }
    }
  }

  /// The tensors that an input is put together from, where its model stores it in another layout.
  private func assembled(_ input: PlannedInput) -> [String]? {
    guard sources.indices.contains(input.source) else { return nil }
    return (sources[input.source] as? PiecewiseSource)?.partNames
  }

  /// What is done for each tensor: `copy`, or the method's name.
  private var workNames: [String] {
    var names = [String](repeating: "copy", count: tensors.count)
    for job in jobs {
      if case .merge(let method) = job.work {
        for index in job.tensors { names[index] = type(of: method).descriptor.name }
      }
    }
    return names
  }

  /// The plan as a table for people: one line per tensor, at most `maxRows` of them, then the totals.
  package func table(maxRows: Int? = nil) -> String {
    let work = workNames
    let shown = maxRows.map { min($0, tensors.count) } ?? tensors.count
    var rows: [[String]] = [["tensor", "shape", "dtype", "work", "from", "file"]]
    for (index, tensor) in tensors.prefix(shown).enumerated() {
      var from = tensor.inputs.map { input in
        Self.shortName(modelName(input.model)) + (assembled(input).map { " (from \($0.count))" } ?? "")
      }.joined(separator: " + ")
      let sides = tensor.sides.map { "\($0.tensor.input) \(Self.shortName(modelName($0.source.model)))" }
      if !sides.isEmpty { from += "; " + sides.joined(separator: ", ") }
      rows.append([
        tensor.name, tensor.shape.description, tensor.dtype.safetensorsName, work[index], from, files[tensor.file].name,
      ])
    }
    var widths = [Int](repeating: 0, count: 6)
    for row in rows { for (column, cell) in row.enumerated() { widths[column] = max(widths[column], cell.count) } }
    var text = ""
    for row in rows {
      var line = ""
      for (column, cell) in row.enumerated() {
        line += cell
        if column + 1 < row.count { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
      }
      text += line + "\n"
    }
    if shown < tensors.count { text += "… and \(tensors.count - shown) more tensors\n" }
    for stage in behind.all {
      let way = stage.isStreamed ? "computed as it is read" : "stored first, \(byteText(stage.plan.outputBytes))"
      text += "\ndocument \(stage.name): \(stage.plan.recipe.method.name), \(stage.plan.tensors.count) tensors, \(way)"
    }
    text += "\n\(tensors.count) tensors, \(files.count) weight files, \(sideFiles.count) other files\n"
    if let vocabulary {
      let removed = vocabulary.removed > 0 ? ", \(vocabulary.removed) left out" : ""
      text +=
        "vocabulary (\(Self.shortName(vocabulary.source))): \(vocabulary.tokens) tokens, \(vocabulary.added) of them added\(removed); \(vocabulary.rows) rows\n"
      for part in vocabulary.models { text += "  \(part.shared) of the tokens are in \(modelName(part.model))\n" }
    }
    text += "reads \(byteText(bytesRead)), writes \(byteText(outputBytes)), needs at least \(byteText(leastMemory)) of memory\n"
    text += "digest \(digest)\n"
    return text
  }

  private static func shortName(_ name: String) -> String {
    let trimmed = name.hasSuffix("/") ? String(name.dropLast()) : name
    return trimmed.split(separator: "/").last.map(String.init) ?? name
  }
}

/// Bytes with a binary unit: `1.5 GiB`.
package func byteText(_ bytes: Int) -> String {
  let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
  var value = Double(bytes)
  var unit = 0
  while value >= 1024, unit + 1 < units.count {
    value /= 1024
    unit += 1
  }
  if unit == 0 { return "\(bytes) B" }
  let tenths = Int((value * 10).rounded())
  return "\(tenths / 10).\(tenths % 10) \(units[unit])"
}
