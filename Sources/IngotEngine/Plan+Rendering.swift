internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

extension Plan {
  /// The plan as one JSON document with a schema version.
  package func json() -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("digest", digest.description)
      document.field("source_digest", sourceDigest.description)
      document.field("method", recipe.method.name)
      document.field("seed", String(seed))
      document.field("bytes_read", bytesRead)
      document.field("bytes_written", bytesWritten)
      document.field("output_bytes", outputBytes)
      document.field("least_memory", leastMemory)
      document.list("models") { list in
        for model in models { list.object { model.write(to: &$0) } }
      }
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
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
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
        }
      }
    }
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
      let from = tensor.inputs.map { Self.shortName(modelName($0.model)) }.joined(separator: " + ")
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
    text += "\n\(tensors.count) tensors, \(files.count) weight files, \(sideFiles.count) other files\n"
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
