internal import IngotCheckpoints
internal import IngotErrors
internal import IngotTensors

/// Scratch of one read, from the heap: at most some 100 KiB.
@safe
final class ReadScratch {
  let address: UnsafeMutableRawPointer
  let count: Int

  init(_ count: Int) {
    self.count = count
    unsafe address = .allocate(byteCount: max(count, 1), alignment: 64)
  }

  deinit { unsafe address.deallocate() }

  /// A part; clipped to the scratch.
  func bytes(_ start: Int, _ length: Int) -> UnsafeMutableRawBufferPointer {
    let begin = min(max(start, 0), count)
    // SAFETY: clipped above; callers keep the scratch alive while they use the part.
    return unsafe UnsafeMutableRawBufferPointer(start: address + begin, count: min(max(length, 0), count - begin))
  }

  func elements(_ start: Int, _ dtype: DType, _ count: Int) -> ElementSlice {
    let part = unsafe bytes(start, count * dtype.bits / 8)
    // SAFETY: the part holds as many elements as are counted.
    return unsafe ElementSlice(unsafe: address + min(start, self.count), dtype: dtype, count: part.count * 8 / dtype.bits)
  }

  func floats(_ start: Int, _ count: Int) -> Floats {
    let part = unsafe bytes(start, count * 4)
    // SAFETY: as above; parts of floats begin at multiples of 64.
    return unsafe Floats(unsafe: (address + min(start, self.count)).assumingMemoryBound(to: Float.self), count: part.count / 4)
  }
}

/// The f32 values of a read's destination.
func floats(_ destination: UnsafeMutableRawBufferPointer, from start: Int, count: Int) -> Floats {
  guard let base = destination.baseAddress, start >= 0, count >= 0, start + count <= destination.count / 4 else { return .empty }
  // SAFETY: the range was checked against the destination.
  return unsafe Floats(unsafe: (base + start * 4).assumingMemoryBound(to: Float.self), count: count)
}

/// FP8 codes times the scales of their blocks, as f32. A read takes at most 112 KiB of scratch.
struct ScaledTensor: DerivedTensor {
  /// Codes, and scales, that are read at once.
  private static let codes = 1 << 15
  private static let scales = 1 << 13

  private var weight: StoredBytes
  private let weightType: DType
  private var scale: StoredBytes
  private let scaleType: DType
  /// Rows of one matrix, and elements of a row.
  private let rows: Int
  private let columns: Int
  private let blockRows: Int
  private let blockColumns: Int
  /// Scales of one matrix, along each axis.
  private let scaleRows: Int
  private let scaleColumns: Int
  private var kernels = Kernels(.best)

  init(_ tensor: Decoding.Tensor, scale: CheckpointTensor, blockRows: Int, blockColumns: Int, of model: ProvidedModel) throws(IngotError) {
    weight = try StoredBytes(tensor.stored, of: model)
    self.scale = try StoredBytes(scale, of: model)
    weightType = tensor.stored.dtype
    scaleType = scale.dtype
    rows = max(tensor.shape.dimensions.dropLast().last ?? 1, 1)
    columns = max(tensor.shape.rowLength, 1)
    self.blockRows = blockRows
    self.blockColumns = blockColumns
    scaleRows = (rows - 1) / blockRows + 1
    scaleColumns = (columns - 1) / blockColumns + 1
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor {
    var bound = self
    bound.weight = try weight.bytes(of: run)
    bound.scale = try scale.bytes(of: run)
    bound.kernels = run.kernels
    return bound
  }

  private func scaleRow(_ row: Int) -> Int { row / rows * scaleRows + row % rows / blockRows }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let scratch = ReadScratch(Self.codes + Self.scales * 8 + 256)
    let count = destination.count / 4
    var element = offset / 4
    var done = 0
    while done < count {
      let (row, column) = (element / columns, element % columns)
      let whole = min((count - done) / columns, Self.codes / columns, Self.scales / scaleColumns)
      let part: Int
      if column == 0, whole > 0 {
        part = whole * columns
        let first = scaleRow(row)
        let scales = try load(first * scaleColumns, (scaleRow(row + whole - 1) - first + 1) * scaleColumns, scratch)
        let codes = try codes(element, part, scratch)
        for index in 0..<whole {
          kernels.loadScaled(
            codes.slice(from: index * columns, count: columns),
            scales: scales.slice(from: (scaleRow(row + index) - first) * scaleColumns, count: scaleColumns), first: 0, block: blockColumns,
            into: unsafe floats(destination, from: done + index * columns, count: columns))
        }
      } else {
        let reach = blockColumns > Self.codes ? Self.codes : min(Self.codes, (Self.scales - 1) * blockColumns)
        part = min(columns - column, count - done, reach)
        let first = column / blockColumns
        let scales = try load(
          scaleRow(row) * scaleColumns + first, (column + part - 1) / blockColumns - first + 1, scratch)
        kernels.loadScaled(
          try codes(element, part, scratch), scales: scales, first: column % blockColumns, block: blockColumns,
          into: unsafe floats(destination, from: done, count: part))
      }
      done += part
      element += part
    }
  }

  private func codes(_ element: Int, _ count: Int, _ scratch: ReadScratch) throws(IngotError) -> ElementSlice {
    // SAFETY: the scratch lives as long as its caller uses the slice.
    try unsafe weight.read(scratch.bytes(0, count), at: element)
    return scratch.elements(0, weightType, count)
  }

  /// `count` scales as f32.
  private func load(_ first: Int, _ count: Int, _ scratch: ReadScratch) throws(IngotError) -> Floats {
    let width = scaleType.bits / 8
    let raw = Self.codes + 64
    let output = scratch.floats(raw + Self.scales * 4 + 64, count)
    // SAFETY: as above.
    try unsafe scale.read(scratch.bytes(raw, count * width), at: first * width)
    let stored = scratch.elements(raw, scaleType, count)
    if scaleType == .f8E8M0 { kernels.loadPowers(stored, into: output) } else { kernels.load(stored, into: output) }
    return output
  }
}

/// gpt-oss's MXFP4 weights as f32, [E, 32 G, O]: the stored order [E, O, G] of blocks is turned while reading. A read takes at most 72 KiB of
/// scratch; panels of blocks are kept as `StridedTensor` says.
struct MXFP4Tensor: DerivedTensor {
  /// Blocks that are read at once.
  private static let blocks = 1 << 12

  private var items: StridedTensor
  private var scales: StridedTensor
  private let columns: Int
  private var kernels = Kernels(.best)

  init(
    _ tensor: Decoding.Tensor, scales: CheckpointTensor, of model: ProvidedModel, cache: RecentValues<[UInt8]>, number: Int
  ) throws(IngotError) {
    let shape = scales.shape.dimensions
    let (experts, outputs, groups) = (shape[0], shape[1], shape[2])
    columns = max(outputs, 1)
    func gather(_ stored: CheckpointTensor, width: Int, number: Int) throws(IngotError) -> StridedTensor {
      let bytes = try StoredBytes(stored, of: model)
      return try StridedTensor(
        source: bytes.source, offset: bytes.offset, width: width, shape: [experts, groups, outputs],
        strides: [outputs * groups, 1, groups], cache: cache, number: number)
    }
    items = try gather(tensor.stored, width: 16, number: 2 * number)
    self.scales = try gather(scales, width: 1, number: 2 * number + 1)
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor {
    var bound = self
    bound.items = try items.gather(of: run)
    bound.scales = try scales.gather(of: run)
    bound.kernels = run.kernels
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let scratch = ReadScratch(Self.blocks * 17 + 64)
    let count = destination.count / 4
    var done = 0
    while done < count {
      let element = offset / 4 + done
      let (row, column) = (element / columns, element % columns)
      let part = min(columns - column, count - done, Self.blocks)
      let first = row / 32 * columns + column
      // SAFETY: the scratch lives to the end of this function.
      try unsafe items.read(scratch.bytes(0, part * 16), at: first * 16)
      try unsafe scales.read(scratch.bytes(Self.blocks * 16, part), at: first)
      kernels.loadMXFP4(
        blocks: scratch.elements(0, .u8, part * 16), index: row % 32, scales: scratch.elements(Self.blocks * 16, .u8, part),
        into: unsafe floats(destination, from: done, count: part))
      done += part
    }
  }
}

extension ProvidedModel {
  /// The model with quantised weights decoded when they are read, and a config that says nothing of the scheme.
  func decoded() throws(IngotError) -> ProvidedModel {
    guard let decoding = try checkpoint.decoding() else { return self }
    let panels = RecentValues<[UInt8]>(capacity: StridedTensor.panels)
    var derivation = Derivation(self, name: "decoded \(decoding.scheme)")
    for (number, tensor) in decoding.tensors.enumerated() {
      let derived: any DerivedTensor
      let description: String
      switch tensor.form {
      case .scaled(let scale, let blockRows, let blockColumns):
        derived = try ScaledTensor(tensor, scale: scale, blockRows: blockRows, blockColumns: blockColumns, of: self)
        description = "\(scale.name) \(blockRows) \(blockColumns)"
      case .mxfp4(let scales):
        derived = try MXFP4Tensor(tensor, scales: scales, of: self, cache: panels, number: number)
        description = scales.name
      }
      try derivation.replace(
        tensor.stored, name: tensor.name, dtype: .f32, shape: tensor.shape, nominal: .bf16, by: derived, description: description)
    }
    for name in decoding.removed { derivation.remove(name) }
    return try derivation.finish(config: checkpoint.config.map(Quantisation.removed), notices: decoding.notices)
  }
}
