internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// A tensor put together from stretches of other tensors of its model, read range by range: nothing is stored, and what is read are the bytes that the
/// files have.
final class PiecewiseSource: ByteSource {
  let name: String
  /// Names of the tensors it is made of.
  let partNames: [String]
  private let parts: [(source: any ByteSource, offset: Int)]
  private let blocks: [TensorAssembly.Block]
  /// First element of each block.
  private let starts: [Int]
  private let count: Int
  /// Bytes of an element.
  private let width: Int
  /// Bytes of the buffer that a strided read takes while it runs, and the longest step that it reads over rather than around.
  private static let scratchBytes = 1 << 16
  private static let longestStep = 4096

  /// Throws `.internalError` when a part has no source, `.format` when one begins beyond what files can have.
  init(_ tensor: CheckpointTensor, _ assembly: TensorAssembly, sources: [any ByteSource]) throws(IngotError) {
    name = tensor.name
    partNames = assembly.parts.map(\.name)
    var parts: [(source: any ByteSource, offset: Int)] = []
    for part in assembly.parts {
      guard sources.indices.contains(part.shard), let offset = Int(exactly: part.fileOffset) else {
        throw IngotError(.internalError, "a part without a source", subject: part.name)
      }
      parts.append((sources[part.shard], offset))
    }
    self.parts = parts
    blocks = assembly.blocks
    width = tensor.dtype.bits / 8
    var starts: [Int] = []
    var total = 0
    for block in blocks {
      starts.append(total)
      total += block.rows * block.columns
    }
    self.starts = starts
    count = total
  }

  private init(_ other: PiecewiseSource, parts: [(source: any ByteSource, offset: Int)]) {
    name = other.name
    partNames = other.partNames
    self.parts = parts
    blocks = other.blocks
    starts = other.starts
    count = other.count
    width = other.width
  }

  var derivation: String? {
    var text = "assembled \(width)"
    for (name, part) in zip(partNames, parts) { text += "\n+\(name)\(part.source.derivation.map { " " + $0 } ?? "")" }
    for block in blocks {
      text += "\n\(block.rows)"
      for panel in block.panels { text += " \(panel.part):\(panel.columns):\(panel.offset):\(panel.rowStep):\(panel.columnStep)" }
    }
    return text
  }

  var readsPerElement: Int { parts.reduce(1) { max($0, $1.source.readsPerElement) } }

  var isComputed: Bool { parts.contains { $0.source.isComputed } }

  func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource {
    var hasChanged = false
    var bound: [(source: any ByteSource, offset: Int)] = []
    for part in parts {
      let source = try run.bound(part.source)
      hasChanged = hasChanged || source !== part.source
      bound.append((source, part.offset))
    }
    return hasChanged ? PiecewiseSource(self, parts: bound) : self
  }

  var isCostlyToReread: Bool { parts.contains { $0.source.isCostlyToReread } }

  func requireUnchanged() throws(IngotError) {
    var seen: Set<ObjectIdentifier> = []
    for part in parts where seen.insert(ObjectIdentifier(part.source)).inserted { try part.source.requireUnchanged() }
  }

  func address(of range: Range<Int>) -> UnsafeRawPointer? {
    guard range.lowerBound >= 0, range.upperBound <= count * width, let place = place(of: range.lowerBound / width) else { return nil }
    let panel = blocks[place.block].panels[place.panel]
    let part = parts[panel.part]
    let bytes = range.count
    guard panel.columnStep == 1, range.lowerBound % width == 0, bytes <= (panel.columns - place.column) * width else { return nil }
    let first = part.offset + (panel.offset + place.row * panel.rowStep + place.column) * width
    return unsafe part.source.address(of: first..<first + bytes)
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset <= count * width, destination.count <= count * width - offset else {
      throw IngotError(.io, "read of \(destination.count) bytes at \(offset) leaves the tensor's \(count * width) bytes", subject: name)
    }
    guard let target = destination.baseAddress, destination.count > 0 else { return }
    guard offset % width == 0, destination.count % width == 0 else {
      throw IngotError(.internalError, "a read that cuts elements", subject: name)
    }
    var element = offset / width
    let end = element + destination.count / width
    while element < end {
      guard let place = place(of: element) else { return }
      let block = blocks[place.block]
      let panel = block.panels[place.panel]
      // SAFETY: the element lies between those of the destination.
      let at = unsafe target + (element - offset / width) * width
      let columns = min(panel.columns - place.column, end - element)
      let isWholeRow = block.panels.count == 1 && place.column == 0 && columns == panel.columns
      let rows = isWholeRow ? min(block.rows - place.row, (end - element) / columns) : 1
      let run = Run(panel: panel, row: place.row, rows: rows, column: place.column, columns: columns)
      try unsafe read(run, into: at)
      element += rows * columns
    }
  }

  private struct Place {
    var block: Int
    var row: Int
    var panel: Int
    /// Within the panel.
    var column: Int
  }

  /// Rows of one panel that follow one another in the destination; several only where they are whole.
  private struct Run {
    var panel: TensorAssembly.Panel
    var row: Int
    var rows: Int
    var column: Int
    var columns: Int
  }

  private func place(of element: Int) -> Place? {
    var low = 0
    var high = starts.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if starts[middle] <= element { low = middle } else { high = middle }
    }
    guard blocks.indices.contains(low) else { return nil }
    let block = blocks[low]
    let (row, rest) = (element - starts[low]).quotientAndRemainder(dividingBy: max(block.columns, 1))
    var column = rest
    for (index, panel) in block.panels.enumerated() {
      if column < panel.columns { return Place(block: low, row: row, panel: index, column: column) }
      column -= panel.columns
    }
    return nil
  }

  /// SAFETY: `target` holds the run's elements.
  private func read(_ run: Run, into target: UnsafeMutableRawPointer) throws(IngotError) {
    let panel = run.panel
    let part = parts[panel.part]
    if panel.columnStep == 1 {
      for row in 0..<run.rows {
        let first = panel.offset + (run.row + row) * panel.rowStep + run.column
        let bytes = run.columns * width
        try unsafe part.source.read(
          UnsafeMutableRawBufferPointer(start: target + row * bytes, count: bytes), at: part.offset + first * width)
      }
      return
    }
    // Columns lie apart. Where rows lie side by side a stretch of them is read at once, and short steps are read over.
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.scratchBytes, alignment: 64)
    defer { unsafe scratch.deallocate() }
    let height = panel.rowStep == 1 ? min(run.rows, Self.scratchBytes / width) : 1
    let step = panel.columnStep * width
    let stretch = step <= Self.longestStep ? max(1, (Self.scratchBytes - height * width) / step + 1) : 1
    for row in stride(from: 0, to: run.rows, by: height) {
      let rows = min(height, run.rows - row)
      for column in stride(from: 0, to: run.columns, by: stretch) {
        let columns = min(stretch, run.columns - column)
        let first = panel.offset + (run.row + row) * panel.rowStep + (run.column + column) * panel.columnStep
        let bytes = (columns - 1) * step + rows * width
        try unsafe part.source.read(UnsafeMutableRawBufferPointer(rebasing: scratch[..<bytes]), at: part.offset + first * width)
        for inner in 0..<columns {
          for line in 0..<rows {
            // SAFETY: both lie inside the run and the stretch just read.
            unsafe scatter(
              scratch.baseAddress, inner * step + line * width, into: target + ((row + line) * run.columns + column + inner) * width)
          }
        }
      }
    }
  }

  @inline(__always)
  private func scatter(_ base: UnsafeMutableRawPointer?, _ offset: Int, into target: UnsafeMutableRawPointer) {
    guard let base = unsafe base else { return }
    unsafe target.copyMemory(from: base + offset, byteCount: width)
  }
}

extension ProvidedModel {
  /// The model with its tensors under the names and in the layout of `donor`, as virtual tensors where files hold them otherwise.
  func matched(to donor: DonorLayout) throws(IngotError) -> ProvidedModel {
    guard let tensors = try LayoutMatch.tensors(of: checkpoint, as: donor) else { return self }
    var matched = self
    var described: [CheckpointTensor] = []
    for tensor in tensors {
      var description = tensor.description
      if let assembly = tensor.assembly {
        matched.sources.append(try PiecewiseSource(description, assembly, sources: sources))
        description.shard = matched.sources.count - 1
        description.fileOffset = 0
      }
      described.append(description)
    }
    matched.checkpoint = try Checkpoint(
      displayPath: checkpoint.displayPath, shards: checkpoint.shards, tensors: described, config: checkpoint.config,
      notices: checkpoint.notices)
    return matched
  }
}

extension Recipe {
  /// The models with every other one in the layout of the one whose names the output has.
  func inDonorsLayout(_ models: [ProvidedModel]) throws(IngotError) -> [ProvidedModel] {
    let lead = namesModel
    guard models.indices.contains(lead) else { return models }
    let donor = DonorLayout(models[lead].checkpoint)
    if donor.isEmpty { return models }
    var matched: [ProvidedModel] = []
    for (index, model) in models.enumerated() {
      do throws(IngotError) {
        // Side tensors are called as those of their own model.
        let isModel = index < modelCount || index == activationScaling?.base
        matched.append(index == lead || !isModel ? model : try model.matched(to: donor))
      } catch { throw error.at(self.models[index].position) }
    }
    return matched
  }
}
