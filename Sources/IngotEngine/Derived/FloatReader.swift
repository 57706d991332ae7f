internal import IngotErrors
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
