import IngotCheckpoints
import IngotErrors
import Testing

@Suite("Rice codes")
struct RiceCodeTests {
  /// Positions of about `share` of a block.
  private func elements(length: Int, share: Double, seed: UInt64) -> [RiceCode.Element] {
    var state = seed
    func next() -> UInt64 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return state >> 33
    }
    return (0..<length).compactMap { position in
      let draw = next()
      return Double(draw % 100_000) < share * 100_000
        ? RiceCode.Element(position: UInt16(position), isNegative: next() & 1 == 1) : nil
    }
  }

  @Test(
    "what is encoded is decoded, in the bytes that were promised",
    arguments: [0, 1, 2, 7, 8, 9, 1000, 65_535, 65_536], [0, 0.0002, 0.01, 0.2, 0.7, 1])
  func roundTrip(_ length: Int, _ share: Double) throws {
    let wanted = elements(length: length, share: share, seed: UInt64(length) + 1)
    let size = RiceCode.size(of: wanted)
    let code = RiceCode.encode(wanted, remainderBits: size.remainderBits)
    #expect(code.count == size.byteCount)
    #expect(code.count <= RiceCode.mostBytes(count: wanted.count, length: length, remainderBits: size.remainderBits))
    let found = try RiceCode.decode(code, count: wanted.count, remainderBits: size.remainderBits, length: length)
    #expect(found == wanted)
    // No other number of remainder bits is shorter.
    for bits in [0, 3, 15] {
      let other = RiceCode.encode(wanted, remainderBits: bits)
      #expect(other.count >= code.count)
      #expect(try RiceCode.decode(other, count: wanted.count, remainderBits: bits, length: length) == wanted)
    }
  }

  @Test("the bits of the documented layout")
  func layout() {
    let elements = [(0, false), (3, true), (9, false)].map { RiceCode.Element(position: UInt16($0.0), isNegative: $0.1) }
    // Gaps 0, 2 and 5 with two remainder bits, from the lowest bit on: 0 00 | 0 01 | 10 10, then the signs 0 1 0.
    #expect(RiceCode.encode(elements, remainderBits: 2) == [0b0110_0000, 0b0000_1001])
  }

  @Test("a code that is cut, too long, or of something else is an error")
  func malformed() throws {
    let wanted = elements(length: 1000, share: 0.2, seed: 5)
    let size = RiceCode.size(of: wanted)
    let code = RiceCode.encode(wanted, remainderBits: size.remainderBits)
    func refuses(_ bytes: [UInt8], count: Int, bits: Int, length: Int) {
      let error = #expect(throws: IngotError.self) {
        try RiceCode.decode(bytes, count: count, remainderBits: bits, length: length)
      }
      #expect(error?.status == .format)
    }
    refuses(Array(code.dropLast()), count: wanted.count, bits: size.remainderBits, length: 1000)
    refuses(code + [0], count: wanted.count, bits: size.remainderBits, length: 1000)
    refuses(code, count: wanted.count - 8, bits: size.remainderBits, length: 1000)
    refuses(code, count: wanted.count, bits: size.remainderBits, length: 900)
    refuses([], count: 1, bits: 0, length: 8)
    refuses([0xff, 0xff], count: 1, bits: 0, length: 8)
    for (count, bits, length) in [(-1, 0, 8), (9, 0, 8), (1, -1, 8), (1, 16, 8), (1, 64, 8), (1, 0, -1), (1, 0, 65_537), (1, 0, .max)] {
      refuses([0], count: count, bits: bits, length: length)
    }
  }

  @Test("random bytes give elements of the block or an error")
  func randomBytes() {
    var state: UInt64 = 9
    func next(_ bound: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % bound
    }
    var decoded = 0
    for _ in 0..<20_000 {
      let bytes = (0..<next(12)).map { _ in UInt8(next(256)) }
      let length = next(200)
      let count = next(length + 1) % 12
      guard let found = try? RiceCode.decode(bytes, count: count, remainderBits: next(16), length: length) else { continue }
      decoded += 1
      #expect(found.count == count && found.allSatisfy { Int($0.position) < length })
      #expect(zip(found, found.dropFirst()).allSatisfy { $0.position < $1.position })
    }
    #expect(decoded > 100)
  }
}
