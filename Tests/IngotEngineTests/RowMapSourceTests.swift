import Dispatch
import Foundation
import IngotEngine
import IngotErrors
import IngotTensors
import Testing

@Suite struct RowMapSourceTests {
  /// Two tensors of 40 and 30 rows, and every kind of row.
  private struct Case {
    let width: Int
    let donors: [TestTensor]
    let origins: [RowOrigin]
    let means: [[RowOrigin]]
    let tokenRows: Int

    init(width: Int, dtypes: (DType, DType), plain: Bool) {
      self.width = width
      var random = SystemRandomNumberGenerator()
      donors = [(40, dtypes.0), (30, dtypes.1)].enumerated().map { index, made in
        TestTensor(
          "d\(index)", made.1, [made.0, width], (0..<made.0 * width).map { _ in Double(Int.random(in: -512...512, using: &random)) / 64 })
      }
      var origins = (0..<20).map { RowOrigin(donor: 0, row: Int32($0)) }
      if !plain { origins += [.zero, .mean(0), RowOrigin(donor: 1, row: 29), RowOrigin(donor: 1, row: 0), RowOrigin(donor: 1, row: 1)] }
      origins += [.zero, .zero, RowOrigin(donor: 0, row: 39), RowOrigin(donor: 0, row: 21), RowOrigin(donor: 0, row: 22)]
      if !plain { origins += [.mean(1)] }
      tokenRows = origins.count
      if !plain { origins += [.padding, .padding] }
      self.origins = origins
      means = plain ? [] : [[RowOrigin(donor: 0, row: 3), RowOrigin(donor: 1, row: 4)], [RowOrigin(donor: 1, row: 7)]]
    }

    func source(_ dtype: DType) throws -> RowMapSource {
      try RowMapSource(
        name: "rows", dtype: dtype, rowLength: width,
        donors: donors.map {
          RowDonor(identity: $0.name, source: OwnedBytes([1, 2, 3] + $0.data), offset: 3, dtype: $0.dtype, rows: $0.shape[0])
        }, origins: origins, means: means, tokenRows: tokenRows)
    }

    /// Row by row in f64.
    func expected() -> [Float] {
      var rows: [[Double]] = []
      func row(_ origin: RowOrigin) -> [Double] {
        (0..<width).map { donors[Int(origin.donor)].value(Int(origin.row) * width + $0) }
      }
      for origin in origins {
        if origin == .padding {
          rows.append((0..<width).map { column in rows.prefix(tokenRows).reduce(0) { $0 + Double(Float($1[column])) } / Double(tokenRows) })
        } else if origin == .zero {
          rows.append([Double](repeating: 0, count: width))
        } else if let index = means.indices.first(where: { origin == .mean($0) }) {
          let parts = means[index].map(row)
          rows.append((0..<width).map { column in parts.reduce(0) { $0 + $1[column] } / Double(parts.count) })
        } else {
          rows.append(row(origin))
        }
      }
      return rows.flatMap { $0.map { Float($0) } }
    }
  }

  @Test(arguments: [1, 3, 64, 9000]) func rowsAreWhereTheMapSays(width: Int) throws {
    let made = Case(width: width, dtypes: (.bf16, .f32), plain: false)
    let source = try made.source(.f32)
    #expect(source.rows == made.origins.count)
    let bytes = try read(source, 0..<made.origins.count * width * 4)
    let found = unsafe bytes.withUnsafeBytes { unsafe Array($0.bindMemory(to: Float.self)) }
    #expect(found == made.expected())
  }

  @Test func plainRowsKeepTheirTypeAndBits() throws {
    for dtype in [DType.bf16, .f16, .f32, .f64, .f8E4M3] {
      let made = Case(width: 5, dtypes: (dtype, dtype), plain: true)
      let source = try made.source(dtype)
      let row = 5 * dtype.bits / 8
      let bytes = try read(source, 0..<made.origins.count * row)
      for (place, origin) in made.origins.enumerated() {
        let stored =
          origin == .zero
          ? [UInt8](repeating: 0, count: row) : Array(made.donors[0].data[Int(origin.row) * row..<(Int(origin.row) + 1) * row])
        #expect(Array(bytes[place * row..<(place + 1) * row]) == stored)
      }
    }
  }

  @Test func anyRangeFromAnyThreadGivesTheSameBytes() throws {
    let made = Case(width: 37, dtypes: (.f16, .bf16), plain: false)
    let count = made.origins.count * 37 * 4
    let whole = try read(try made.source(.f32), 0..<count)
    // A source of its own: its padding row is made by whichever thread comes first.
    let shared = try made.source(.f32)
    let wrong = Counter()
    DispatchQueue.concurrentPerform(iterations: 400) { _ in
      let start = Int.random(in: 0...count)
      let end = Int.random(in: start...count)
      if (try? read(shared, start..<end)) != Array(whole[start..<end]) { wrong.increment() }
    }
    #expect(wrong.value == 0)
  }

  @Test func readsBeyondTheEndAreErrors() throws {
    let source = try Case(width: 4, dtypes: (.f32, .f32), plain: true).source(.f32)
    let end = source.rows * 16
    #expect(try read(source, end..<end).isEmpty)
    #expect(throws: IngotError.self) { try read(source, end - 1..<end + 1) }
    #expect(throws: IngotError.self) { try read(source, -1..<3) }
  }

  @Test func mapsThatDoNotFitAreRefused() throws {
    let donor = RowDonor(identity: "d", source: OwnedBytes([UInt8](repeating: 0, count: 64)), offset: 0, dtype: .f32, rows: 4)
    func make(_ origins: [RowOrigin], means: [[RowOrigin]] = [], dtype: DType = .f32, tokenRows: Int = 1) throws {
      _ = try RowMapSource(name: "x", dtype: dtype, rowLength: 4, donors: [donor], origins: origins, means: means, tokenRows: tokenRows)
    }
    try make([RowOrigin(donor: 0, row: 3)])
    for origin in [
      RowOrigin(donor: 0, row: 4), .init(donor: 0, row: -1), .init(donor: 1, row: 0), .mean(0), .padding, .init(donor: -4, row: 0),
    ] {
      #expect(throws: IngotError.self) { try make([origin]) }
    }
    #expect(throws: IngotError.self) { try make([.mean(0)], means: [[]]) }
    #expect(throws: IngotError.self) { try make([.mean(0)], means: [[.zero]]) }
    #expect(throws: IngotError.self) { try make([.zero], dtype: .bf16) }
    #expect(throws: IngotError.self) { try make([.zero], tokenRows: 2) }
  }

  @Test func identityFollowsTheMap() throws {
    func identity(_ row: Int32, _ name: String = "d", mean: Int32 = 0) throws -> String? {
      let donor = RowDonor(identity: name, source: OwnedBytes([UInt8](repeating: 0, count: 64)), offset: 0, dtype: .f32, rows: 4)
      return try RowMapSource(
        name: "x", dtype: .f32, rowLength: 4, donors: [donor], origins: [RowOrigin(donor: 0, row: row), .mean(0)],
        means: [[RowOrigin(donor: 0, row: mean)]], tokenRows: 2
      ).derivation
    }
    #expect(try identity(1) == identity(1))
    #expect(try identity(1) != identity(2))
    #expect(try identity(1) != identity(1, "e"))
    #expect(try identity(1) != identity(1, mean: 3))
  }

  private func read(_ source: RowMapSource, _ range: Range<Int>) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0xA5, count: range.count)
    try unsafe bytes.withUnsafeMutableBytes { try unsafe source.read($0, at: range.lowerBound) }
    return bytes
  }
}

/// Bytes in an array.
private final class OwnedBytes: ByteSource {
  let name = "bytes"
  private let bytes: [UInt8]

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset + destination.count <= bytes.count else { throw IngotError(.io, "beyond the end", subject: name) }
    for place in 0..<destination.count { unsafe destination[place] = bytes[offset + place] }
  }
}

/// Counts from any thread.
private final class Counter: @unchecked Sendable {
  // SENDABLE: the count changes under the lock.
  private let lock = NSLock()
  private var count = 0

  func increment() { lock.withLock { count += 1 } }
  var value: Int { lock.withLock { count } }
}
