internal import IngotErrors
internal import IngotTensors

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
