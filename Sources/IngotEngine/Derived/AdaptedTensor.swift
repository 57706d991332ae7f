package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

/// The values of a tensor as f32, whatever they are stored as.
struct FloatReader: Sendable {
  /// Elements that are read at once.
  private static let chunk = 1 << 13

  private(set) var bytes: any DerivedTensor
  let dtype: DType
  private var kernels = Kernels(.best)

  init(_ bytes: any DerivedTensor, _ dtype: DType) {
    self.bytes = bytes
    self.dtype = dtype
  }

  func bound(to run: SourceBinding) throws(IngotError) -> FloatReader {
    var bound = self
    bound.bytes = try bytes.bound(to: run)
    bound.kernels = run.kernels
    return bound
  }

  /// Fills `output` with the values from element `first` on.
  func load(_ first: Int, into output: Floats) throws(IngotError) {
    let width = dtype.bits / 8
    let scratch = ReadScratch(min(output.count, Self.chunk) * width)
    var done = 0
    while done < output.count {
      let count = min(Self.chunk, output.count - done)
      // SAFETY: the scratch lives to the end of this function.
      try unsafe bytes.read(scratch.bytes(0, count * width), at: (first + done) * width)
      kernels.load(scratch.elements(0, dtype, count), into: output.slice(from: done, count: count))
      done += count
    }
  }

  func values(_ first: Int, _ count: Int) throws(IngotError) -> [Float] {
    let scratch = ReadScratch(count * 4)
    let floats = scratch.floats(0, count)
    try load(first, into: floats)
    let values = (0..<count).map { floats[$0] }
    // The floats borrow from it.
    withExtendedLifetime(scratch) {}
    return values
  }
}

/// Values that workers share: a matrix of f32.
@safe
final class FloatMatrix: @unchecked Sendable {
  // SENDABLE: filled before it is shared, never changed after.
  private let scratch: ReadScratch
  let columns: Int

  init(_ reader: FloatReader, rows: Int, columns: Int) throws(IngotError) {
    let (count, overflow) = rows.multipliedReportingOverflow(by: columns)
    guard !overflow, count < Int.max / 8 else { throw IngotError(.shape, "an adapter of \(rows) × \(columns) values is too large") }
    scratch = ReadScratch(count * 4)
    self.columns = columns
    try reader.load(0, into: scratch.floats(0, count))
  }

  /// A value of the matrix and those behind it. The address must not outlive the matrix.
  func address(row: Int, column: Int) -> UnsafeMutablePointer<Float> {
    let place = min(max(row * columns + column, 0), scratch.count / 4)
    // SAFETY: clipped to the values there are.
    return unsafe scratch.address.assumingMemoryBound(to: Float.self) + place
  }
}

/// A base's tensor with an adapter applied, as f32: W + scale · L R, and for DoRA scaled by row or by column to the magnitude.
///
/// L has a row for each row of W and is read along with it. R (rank × columns) is held for the last few modules of a model: the only memory that grows with
/// the adapter. A sum goes over the rank in order, in f32, element by element, so the result does not depend on ranges.
struct AdaptedTensor: DerivedTensor {
  /// Modules whose R (and norms) are held.
  static let held = 3
  /// Columns for which R is gone through at once, so that it stays in the second-level cache.
  private static let panel = 1024

  struct Magnitude: Sendable {
    var values: FloatReader
    /// True when each column has its magnitude: weights whose rows are the inputs.
    let isByColumn: Bool
    let cache: RecentValues<[Float]>
  }

  private var base: FloatReader
  private var left: FloatReader?
  private var right: FloatReader
  private let rows: Int
  private let columns: Int
  private let rank: Int
  private let scale: Float
  private var magnitude: Magnitude?
  private let cache: RecentValues<FloatMatrix>
  private let number: Int
  private var kernels = Kernels(.best)

  /// `left` nil stands for a 1 (one row, rank 1). `number` tells the modules of one cache apart.
  init(
    base: FloatReader, left: FloatReader?, right: FloatReader, rows: Int, columns: Int, rank: Int, scale: Float, magnitude: Magnitude?,
    cache: RecentValues<FloatMatrix>, number: Int
  ) {
    self.base = base
    self.left = left
    self.right = right
    self.rows = rows
    self.columns = max(columns, 1)
    self.rank = rank
    self.scale = scale
    self.magnitude = magnitude
    self.cache = cache
    self.number = number
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor {
    var bound = self
    bound.base = try base.bound(to: run)
    bound.left = try left?.bound(to: run)
    bound.right = try right.bound(to: run)
    if let magnitude { bound.magnitude?.values = try magnitude.values.bound(to: run) }
    bound.kernels = run.kernels
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let matrix = try cache.value([number]) { () throws(IngotError) in try FloatMatrix(right, rows: rank, columns: columns) }
    let count = destination.count / 4
    let output = unsafe floats(destination, from: 0, count: count)
    try unscaled(offset / 4, into: output, matrix)
    guard let magnitude else { return }
    let factors = try magnitude.cache.value([number]) { () throws(IngotError) in try self.factors(magnitude, matrix) }
    scaleParts(offset / 4, output, factors, isByColumn: magnitude.isByColumn)
  }

  /// W + scale · L R for the elements from `first` on.
  private func unscaled(_ first: Int, into output: Floats, _ matrix: FloatMatrix) throws(IngotError) {
    guard output.count > 0 else { return }
    try base.load(first, into: output)
    let end = first + output.count
    let firstRow = first / columns
    let lastRow = (end - 1) / columns
    let scratch = ReadScratch(Self.panel * 4)
    let sum = scratch.floats(0, Self.panel)
    let table = RowTable(matrix, rows: rank)
    // A few rows of L at once: many rows are short ones.
    let step = max(1, (1 << 14) / max(rank, 1))
    for top in stride(from: firstRow, through: lastRow, by: step) {
      let bottom = min(top + step, lastRow + 1)
      let weights = try left?.values(top * rank, (bottom - top) * rank) ?? [1]
      for column in stride(from: 0, to: columns, by: Self.panel) {
        let width = min(Self.panel, columns - column)
        for row in top..<bottom {
          let start = max(row * columns + column, first)
          let stop = min(row * columns + column + width, end)
          guard start < stop else { continue }
          let part = stop - start
          let own = Array(weights[(row - top) * rank..<(row - top + 1) * rank])
          table.move(to: start - row * columns)
          kernels.linearCombination(table.rows(count: part), weights: own, into: sum.prefix(part))
          let place = output.slice(from: start - first, count: part)
          kernels.addDelta(sum.prefix(part), scaledBy: scale, to: place, into: place)
        }
      }
    }
    withExtendedLifetime(scratch) {}
  }

  // MARK: DoRA

  /// Elements of one pass over the matrix for its norms.
  private static let passElements = 1 << 16

  /// Magnitude over norm, for each row or column; one pass over the whole matrix.
  private func factors(_ magnitude: Magnitude, _ matrix: FloatMatrix) throws(IngotError) -> [Float] {
    var squares = [Double](repeating: 0, count: magnitude.isByColumn ? columns : rows)
    let scratch = ReadScratch(Self.passElements * 4 + Lanes.width * 8)
    let total = rows * columns
    var first = 0
    while first < total {
      let count = min(Self.passElements, total - first)
      let values = scratch.floats(0, count)
      try unscaled(first, into: values, matrix)
      if magnitude.isByColumn {
        for index in 0..<count {
          let value = Double(values[index])
          squares[(first + index) % columns] += value * value
        }
      } else {
        var index = 0
        while index < count {
          let row = (first + index) / columns
          let part = min((row + 1) * columns - first - index, count - index)
          squares[row] += sumOfSquares(values.slice(from: index, count: part))
          index += part
        }
      }
      first += count
    }
    withExtendedLifetime(scratch) {}
    let wanted = try magnitude.values.values(0, squares.count)
    return zip(wanted, squares).map { $0 / Float($1.squareRoot()) }
  }

  private func sumOfSquares(_ values: Floats) -> Double {
    // SAFETY: 16 lanes that the closure alone uses.
    unsafe withUnsafeTemporaryAllocation(of: Double.self, capacity: Lanes.width) { memory in
      guard let start = memory.baseAddress else { return 0 }
      unsafe start.initialize(repeating: 0, count: Lanes.width)
      kernels.accumulateDot(values, values, into: unsafe Lanes(unsafe: start))
      var sum = 0.0
      for lane in 0..<Lanes.width { sum += unsafe start[lane] }
      return sum
    }
  }

  private func scaleParts(_ first: Int, _ output: Floats, _ factors: [Float], isByColumn: Bool) {
    if isByColumn {
      for index in 0..<output.count { output[index] *= factors[(first + index) % columns] }
      return
    }
    var index = 0
    while index < output.count {
      let row = (first + index) / columns
      let part = output.slice(from: index, count: (row + 1) * columns - first - index)
      kernels.scale(part, by: factors[row], into: part)
      index += part.count
    }
  }
}

/// Pointers to the same columns of all rows of a matrix.
@safe
private final class RowTable {
  private let pointers: UnsafeMutablePointer<UnsafeMutablePointer<Float>>
  private let matrix: FloatMatrix
  private let count: Int

  init(_ matrix: FloatMatrix, rows: Int) {
    self.matrix = matrix
    count = rows
    unsafe pointers = .allocate(capacity: max(rows, 1))
    for row in 0..<rows { unsafe (pointers + row).initialize(to: matrix.address(row: row, column: 0)) }
  }

  deinit { unsafe pointers.deallocate() }

  func move(to column: Int) {
    // SAFETY: one pointer for each row.
    for row in 0..<count { unsafe pointers[row] = matrix.address(row: row, column: column) }
  }

  /// The rows with `width` values each from the present column on, which must be there.
  func rows(count width: Int) -> FloatTable {
    // SAFETY: each row has `columns` values, of which the caller asks for no more than are left.
    unsafe FloatTable(unsafe: pointers, rows: count, count: width)
  }
}

extension ProvidedModel {
  /// The adapter_config.json beside an adapter's weights, and its path.
  func adapterConfig(in files: any ModelFiles) throws(IngotError) -> (config: JSONValue, origin: String) {
    let origin = files.displayPath + "/" + Adapter.configName
    guard let bytes = try files.readWhole(Adapter.configName, limit: Limit.configBytes) else {
      throw IngotError(.notFound, "the adapter has no \(Adapter.configName)", hint: "it lies beside the adapter's weights", subject: path)
    }
    let config = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try config.requireObject(origin, in: origin)
    return (config, origin)
  }

  /// The model with a PEFT adapter applied to it while it is read. `files` are the adapter's, `name` is the reference that named this model.
  ///
  /// Throws `.notFound` without an adapter_config.json, and what `Adapter.init` throws.
  package func applying(_ adapter: ProvidedModel, files: any ModelFiles, name: String) throws(IngotError) -> ProvidedModel {
    let (config, configOrigin) = try adapter.adapterConfig(in: files)
    let readable = try adapter.readable()
    var model = try self.readable()
    let found = try Adapter(
      readable.checkpoint, config: config, base: model.checkpoint, baseName: name, origin: configOrigin,
      compile: Self.namePattern)
    // The adapter's files and what is derived from them come behind the base's, so that every tensor has its place among one model's sources.
    let first = model.sources.count
    let folder = adapter.path.split(separator: "/").last.map(String.init) ?? "adapter"
    var shards = readable.checkpoint.shards
    for index in shards.indices { shards[index].name = folder + "/" + shards[index].name }
    model.sources += readable.sources
    model.checkpoint = try Checkpoint(
      displayPath: model.checkpoint.displayPath, shards: model.checkpoint.shards + shards, tensors: model.checkpoint.tensors,
      config: model.checkpoint.config, notices: model.checkpoint.notices + readable.checkpoint.notices)
    var builder = AdaptedModel(model: model, firstShard: first, settings: JSON.text(config))
    for (number, target) in found.targets.enumerated() { try builder.apply(target, number: number) }
    var result = try builder.finish(notices: found.notices)
    result.adapters.append(ProvidedAdapter(path: adapter.path, isLocal: adapter.isLocal))
    return result
  }
}

extension ProvidedModel {
  /// A test of names from a regular expression, as recipes know them.
  @Sendable
  package static func namePattern(_ expression: String) throws(IngotError) -> @Sendable (String) -> Bool {
    do throws(TensorPattern.Fault) {
      let pattern = try TensorPattern("/\(expression)/")
      return { pattern.matches($0) }
    } catch {
      throw IngotError(.unsupported, error.message)
    }
  }
}

/// Makes the tensors of a model with an adapter.
private struct AdaptedModel {
  private let model: ProvidedModel
  private let firstShard: Int
  private let settings: String
  private var derivation: Derivation
  private let matrices = RecentValues<FloatMatrix>(capacity: AdaptedTensor.held)
  private let factors = RecentValues<[Float]>(capacity: AdaptedTensor.held)
  private let panels = RecentValues<[UInt8]>(capacity: StridedTensor.panels)
  private var largest = 0

  /// The adapter's shards begin at `firstShard` of the model's.
  init(model: ProvidedModel, firstShard: Int, settings: String) {
    self.model = model
    self.firstShard = firstShard
    self.settings = settings
    derivation = Derivation(model, name: "with the adapter applied")
  }

  /// A tensor of the adapter among the model's sources.
  private func own(_ tensor: CheckpointTensor) -> CheckpointTensor {
    var moved = tensor
    moved.shard += firstShard
    return moved
  }

  private func reader(_ tensor: CheckpointTensor) throws(IngotError) -> FloatReader {
    FloatReader(try StoredBytes(tensor, of: model), tensor.dtype)
  }

  /// A matrix of the adapter with its axes exchanged.
  private func turned(_ tensor: CheckpointTensor, number: Int) throws(IngotError) -> FloatReader {
    let bytes = try StoredBytes(own(tensor), of: model)
    let shape = tensor.shape.dimensions
    let gather = try StridedTensor(
      source: bytes.source, offset: bytes.offset, width: tensor.dtype.bits / 8, shape: [shape[1], shape[0]], strides: [1, shape[1]],
      cache: panels, number: number)
    return FloatReader(gather, tensor.dtype)
  }

  mutating func apply(_ target: Adapter.Target, number: Int) throws(IngotError) {
    let nominal = target.base.nominalDType ?? target.base.dtype.defaultOutput
    let base = target.replacement.map(own) ?? target.base
    let derived: any DerivedTensor
    switch target.change {
    case .replacement:
      var replacement = base
      replacement.name = target.base.name
      if replacement.dtype.hasArithmetic { replacement.nominalDType = nominal }
      derivation.substitute(replacement)
      return
    case .shift(let shift, let scale):
      let count = try target.base.shape.elementCount()
      derived = AdaptedTensor(
        base: try reader(base), left: nil, right: try reader(own(shift)), rows: 1, columns: count, rank: 1, scale: scale, magnitude: nil,
        cache: matrices, number: number)
    case .lowRank(let update):
      // A convolution's weight is a matrix whose rows are its outputs.
      let rows = max(target.base.shape.dimensions.first ?? 1, 1)
      let shape = [rows, try target.base.shape.elementCount() / rows]
      let left = update.isTurned ? try turned(update.a, number: 2 * number) : try reader(own(update.b))
      let right = update.isTurned ? try turned(update.b, number: 2 * number + 1) : try reader(own(update.a))
      let magnitude = try update.magnitude.map { (tensor) throws(IngotError) in
        AdaptedTensor.Magnitude(values: try reader(own(tensor)), isByColumn: update.isTurned, cache: factors)
      }
      largest = max(largest, update.rank * shape[1] * 4 + (magnitude == nil ? 0 : shape[update.isTurned ? 1 : 0] * 4))
      derived = AdaptedTensor(
        base: try reader(base), left: left, right: right, rows: shape[0], columns: shape[1], rank: update.rank, scale: update.scale,
        magnitude: magnitude, cache: matrices, number: number)
    }
    try derivation.replace(
      target.base, dtype: .f32, shape: target.base.shape, nominal: nominal, by: derived,
      description: target.replacement?.name ?? "")
  }

  func finish(notices: [Notice]) throws(IngotError) -> ProvidedModel {
    var notices = notices
    if largest > 0 {
      notices.append(
        Notice(
          .info,
          "applying the adapter takes up to \(AdaptedTensor.held * largest + StridedTensor.panels * StridedTensor.panelBytes) bytes beside the memory budget",
          subject: model.checkpoint.displayPath))
    }
    return try derivation.finish(settings: settings, isCostlyToReread: true, notices: notices)
  }
}
