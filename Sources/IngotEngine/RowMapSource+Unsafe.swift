package import IngotErrors
internal import IngotStorage
package import IngotTensors

/// A stored tensor that rows are taken from.
package struct RowDonor: Sendable {
  /// What the plan's digest knows it by: the model's index and the tensor's name.
  let identity: String
  let source: any ByteSource
  /// First byte in the source.
  let offset: Int
  let dtype: DType
  /// Rows that the tensor has.
  let rows: Int

  package init(identity: String, source: any ByteSource, offset: Int, dtype: DType, rows: Int) {
    self.identity = identity
    self.source = source
    self.offset = offset
    self.dtype = dtype
    self.rows = rows
  }
}

/// Where one row of an assembled tensor comes from.
package struct RowOrigin: Sendable, Hashable {
  /// Index into the donors, or one of the numbers below.
  package let donor: Int32
  /// Row of the donor; for a mean, index into the means.
  package let row: Int32

  package init(donor: Int32, row: Int32) {
    self.donor = donor
    self.row = row
  }

  package static let zero = RowOrigin(donor: -1, row: 0)
  package static func mean(_ index: Int) -> RowOrigin { RowOrigin(donor: -2, row: Int32(truncatingIfNeeded: index)) }
  /// The mean of all rows of tokens.
  package static let padding = RowOrigin(donor: -3, row: 0)
}

/// A tensor whose rows lie in other tensors: an embedding for another vocabulary, read as if it were stored.
///
/// A row is a row of a donor, zeros, the mean of donors' rows, or (padding) the mean of all rows of tokens. Rows of the tensor's own type are
/// given bit for bit; when another type or a mean is among them, all are given as F32. A mean is summed in f64 in the order of the donors and
/// rounded to f32 once. Nothing but the padding row is kept; a call works in at most 128 KiB. Any worker may read at once.
package final class RowMapSource: ByteSource, @unchecked Sendable {
  // SENDABLE: everything is constant but the padding row, which is made under the lock.
  package let name: String
  package let dtype: DType
  /// Rows, elements of a row.
  package let rows: Int
  package let rowLength: Int
  private let donors: [RowDonor]
  private let origins: [RowOrigin]
  /// Rows of donors, and where each mean's part of them ends.
  private let parts: [RowOrigin]
  private let partEnds: [Int]
  /// Rows of tokens: the padding is their mean.
  private let tokenRows: Int
  private let kernels: Kernels
  private let lock = Monitor()
  private var paddingRow: [Float]?

  /// Elements that a call works on at a time.
  private static let chunk = 8192

  /// - Parameters:
  ///   - dtype: the type that rows are given in: the donors' own when all rows are plain and of it, else F32.
  ///   - means: for each mean the rows that it is made of.
  /// Throws `.internalError` when a row leaves its donor.
  package init(
    name: String, dtype: DType, rowLength: Int, donors: [RowDonor], origins: [RowOrigin], means: [[RowOrigin]], tokenRows: Int
  ) throws(IngotError) {
    self.name = name
    self.dtype = dtype
    self.rowLength = rowLength
    self.donors = donors
    self.origins = origins
    self.tokenRows = tokenRows
    kernels = Kernels(.best)
    rows = origins.count
    parts = means.flatMap(\.self)
    var ends: [Int] = []
    for mean in means { ends.append((ends.last ?? 0) + mean.count) }
    partEnds = ends
    let isPlain = origins.allSatisfy { $0.donor >= -1 } && donors.allSatisfy { $0.dtype == dtype }
    for origin in origins where !Self.isValid(origin, donors: donors, means: means.count) { throw Self.misplaced(name) }
    for part in parts where part.donor < 0 || !Self.isValid(part, donors: donors, means: 0) { throw Self.misplaced(name) }
    guard isPlain || dtype == .f32, dtype.bits % 8 == 0, donors.allSatisfy({ isPlain || $0.dtype.hasArithmetic }),
      (0...rows).contains(tokenRows), !origins.prefix(tokenRows).contains(.padding), !means.contains(where: \.isEmpty)
    else { throw Self.misplaced(name) }
  }

  private init(_ other: RowMapSource, donors: [RowDonor], kernels: Kernels) {
    self.kernels = kernels
    name = other.name
    dtype = other.dtype
    rows = other.rows
    rowLength = other.rowLength
    self.donors = donors
    origins = other.origins
    parts = other.parts
    partEnds = other.partEnds
    tokenRows = other.tokenRows
  }

  private static func isValid(_ origin: RowOrigin, donors: [RowDonor], means: Int) -> Bool {
    switch origin.donor {
    case -1, -3: true
    case -2: origin.row >= 0 && Int(origin.row) < means
    case let donor: donors.indices.contains(Int(donor)) && origin.row >= 0 && Int(origin.row) < donors[Int(donor)].rows
    }
  }

  private static func misplaced(_ name: String) -> IngotError {
    IngotError(.internalError, "an assembled embedding does not fit its donors", subject: name)
  }

  /// The map, and what its donors are derived from.
  package var derivation: String? {
    var words: [UInt8] = []
    words.reserveCapacity(8 * (origins.count + parts.count + partEnds.count))
    func add(_ value: Int) { for shift in 0..<8 { words.append(UInt8(truncatingIfNeeded: value >> (8 * shift))) } }
    for origin in origins + parts { add(Int(origin.donor) << 32 | Int(origin.row)) }
    partEnds.forEach(add)
    let described = donors.map { "\($0.identity) \($0.dtype.rawValue) \($0.rows) \($0.offset) \($0.source.derivation ?? "")" }
      .joined(separator: "\n")
    return "rows \(rows) \(rowLength) \(dtype.rawValue) \(tokenRows) \(Digest128(of: words)) \(Digest128(of: described))"
  }

  package var isComputed: Bool { donors.contains { $0.source.isComputed } }

  package var readsPerElement: Int { donors.reduce(1) { max($0, $1.source.readsPerElement) } }

  package func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource {
    var bound: [RowDonor] = []
    for donor in donors {
      let source = try run.bound(donor.source)
      bound.append(RowDonor(identity: donor.identity, source: source, offset: donor.offset, dtype: donor.dtype, rows: donor.rows))
    }
    return RowMapSource(self, donors: bound, kernels: run.kernels)
  }

  package var isCostlyToReread: Bool { donors.contains { $0.source.isCostlyToReread } }

  package func requireUnchanged() throws(IngotError) {
    for donor in donors { try donor.source.requireUnchanged() }
  }

  /// Passes the hint on for the runs that the range begins with.
  package func willRead(_ range: Range<Int>) {
    let width = dtype.bits / 8
    guard rowLength > 0, range.lowerBound >= 0 else { return }
    var row = range.lowerBound / (rowLength * width)
    let last = min(range.upperBound / (rowLength * width) + 1, rows)
    for _ in 0..<16 where row < last {
      let count = run(from: row, limit: last - row)
      let origin = origins[row]
      if origin.donor >= 0 {
        let donor = donors[Int(origin.donor)]
        let bytes = rowLength * donor.dtype.bits / 8
        let start = donor.offset + Int(origin.row) * bytes
        donor.source.willRead(start..<start + count * bytes)
      }
      row += count
    }
  }

  package func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let width = dtype.bits / 8
    let total = rows * rowLength * width
    guard offset >= 0, offset <= total, destination.count <= total - offset else {
      throw IngotError(.io, "bytes \(offset) to \(offset + destination.count) are beyond the end at \(total)", subject: name)
    }
    var scratch = Scratch()
    var done = 0
    while done < destination.count {
      let element = (offset + done) / width
      let row = element / rowLength
      let column = element % rowLength
      let wanted = (offset + destination.count + width - 1) / width - element
      // A row's rest, or whole rows that follow each other in one donor too.
      let available = run(from: row, limit: (column + wanted + rowLength - 1) / rowLength) * rowLength - column
      let skipped = (offset + done) % width
      let bytes = min(min(wanted, available) * width - skipped, destination.count - done)
      // SAFETY: done + bytes is at most the destination's count.
      let part = unsafe UnsafeMutableRawBufferPointer(rebasing: destination[done..<done + bytes])
      done += try unsafe fill(part, row: row, column: column, skipped: skipped, &scratch)
    }
  }

  /// How many rows from `row` on are consecutive rows of one donor (or all zeros): at least 1, at most `limit`.
  private func run(from row: Int, limit: Int) -> Int {
    let first = origins[row]
    guard first.donor >= -1 else { return 1 }
    var count = 1
    while count < limit, row + count < rows {
      let next = origins[row + count]
      guard next.donor == first.donor, first.donor == -1 || Int(next.row) == Int(first.row) + count else { break }
      count += 1
    }
    return count
  }

  /// Fills `part` with elements of one run from (row, column) on, without the first `skipped` bytes. Returns the bytes filled: at least one.
  private func fill(
    _ part: UnsafeMutableRawBufferPointer, row: Int, column: Int, skipped: Int, _ scratch: inout Scratch
  ) throws(IngotError) -> Int {
    let origin = origins[row]
    if origin == .zero {
      // SAFETY: zero bytes are zero in every type; the part is the caller's.
      unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
      return part.count
    }
    if origin.donor >= 0 {
      let donor = donors[Int(origin.donor)]
      let first = Int(origin.row) * rowLength + column
      if donor.dtype == dtype {
        // SAFETY: the caller owns the part for the call.
        try unsafe donor.source.read(part, at: donor.offset + first * (dtype.bits / 8) + skipped)
        return part.count
      }
      let count = min((skipped + part.count + 3) / 4, Self.chunk)
      try scratch.load(donor, first: first, count: count, kernels)
      return unsafe Self.copy(scratch.values, count: count, skipped: skipped, to: part)
    }
    let count = min(min((skipped + part.count + 3) / 4, Self.chunk), rowLength - column)
    if origin == .padding {
      let padding = try padding()
      return unsafe Self.copy(Array(padding[column..<column + count]), count: count, skipped: skipped, to: part)
    }
    try mean(Int(origin.row), column: column, count: count, &scratch)
    return unsafe Self.copy(scratch.values, count: count, skipped: skipped, to: part)
  }

  private static func copy(_ values: [Float], count: Int, skipped: Int, to part: UnsafeMutableRawBufferPointer) -> Int {
    let bytes = min(count * 4 - skipped, part.count)
    // SAFETY: `values` holds count elements; skipped + bytes is at most their size, bytes at most the part's.
    unsafe values.withUnsafeBytes { source in
      unsafe part.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[skipped..<skipped + bytes]))
    }
    return bytes
  }

  /// Leaves elements of a mean in `scratch.values`.
  private func mean(_ index: Int, column: Int, count: Int, _ scratch: inout Scratch) throws(IngotError) {
    var sums = [Double](repeating: 0, count: count)
    let range = (index == 0 ? 0 : partEnds[index - 1])..<partEnds[index]
    for part in parts[range] {
      try scratch.load(donors[Int(part.donor)], first: Int(part.row) * rowLength + column, count: count, kernels)
      for place in 0..<count { sums[place] += Double(scratch.values[place]) }
    }
    for place in 0..<count { scratch.values[place] = Float(sums[place] / Double(range.count)) }
  }

  /// The mean of the rows of tokens: read once, when the first padding row is.
  private func padding() throws(IngotError) -> [Float] {
    lock.lock()
    defer { lock.unlock() }
    if let paddingRow { return paddingRow }
    var sums = [Double](repeating: 0, count: rowLength)
    var scratch = Scratch()
    var buffer = [Float](repeating: 0, count: Self.chunk)
    for row in 0..<tokenRows {
      var column = 0
      while column < rowLength {
        let count = min(Self.chunk, rowLength - column)
        var failure: IngotError?
        // SAFETY: the buffer holds a chunk of floats and lives for the closure; what is filled is within it.
        unsafe buffer.withUnsafeMutableBytes { bytes in
          do throws(IngotError) {
            var done = 0
            while done < count * 4 {
              let part = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[done..<count * 4])
              done += try unsafe fill(part, row: row, column: column + done / 4, skipped: 0, &scratch)
            }
          } catch { failure = error }
        }
        if let failure { throw failure }
        for place in 0..<count { sums[column + place] += Double(buffer[place]) }
        column += count
      }
    }
    let row = sums.map { tokenRows > 0 ? Float($0 / Double(tokenRows)) : 0 }
    paddingRow = row
    return row
  }
}

extension RowMapSource {
  /// What one call works in.
  fileprivate struct Scratch {
    var values: [Float] = []
    private var bytes: [UInt8] = []

    /// Widens `count` elements of a donor, from element `first` on, into `values`.
    mutating func load(_ donor: RowDonor, first: Int, count: Int, _ kernels: Kernels) throws(IngotError) {
      let width = donor.dtype.bits / 8
      if values.count < count { values = [Float](repeating: 0, count: count) }
      if bytes.count < count * width { bytes = [UInt8](repeating: 0, count: count * width) }
      var failure: IngotError?
      // SAFETY: both arrays hold `count` elements and live for the closures.
      unsafe bytes.withUnsafeMutableBytes { raw in
        let stored = unsafe UnsafeMutableRawBufferPointer(rebasing: raw[..<(count * width)])
        do throws(IngotError) { try unsafe donor.source.read(stored, at: donor.offset + first * width) } catch { failure = error }
        guard failure == nil else { return }
        unsafe values.withUnsafeMutableBufferPointer { output in
          guard let base = output.baseAddress, let start = stored.baseAddress else { return }
          unsafe kernels.load(ElementSlice(unsafe: start, dtype: donor.dtype, count: count), into: Floats(unsafe: base, count: count))
        }
      }
      if let failure { throw failure }
    }
  }
}
