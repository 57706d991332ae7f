import IngotErrors
import IngotMethods
import Testing

/// Columns of few bits.
@Suite struct QuantizedColumnTests {
  @Test(arguments: 1...8) func roundsToTheNearest(_ bits: Int) {
    for count in [1, 3, 8, 61] {
      let values = (0..<count).map { Double(($0 * 37 + 5) % 41 - 20) / 16 }
      let (codes, scale) = QuantizedColumn.encode(values, bits: bits)
      #expect(codes.count == (count * bits + 7) / 8 && scale > 0)
      let found = QuantizedColumn.decode(codes[...], bits: bits, scale: scale, count: count)
      let level = bits == 1 ? 1 : Double((1 << (bits - 1)) - 1)
      for (value, decoded) in zip(values, found) {
        if bits == 1 {
          #expect(abs(decoded) == Double(scale) && (decoded > 0) == (value >= 0))
        } else {
          #expect(abs(decoded - value) <= Double(scale) / 2 + 1e-6)
          #expect(abs((decoded / Double(scale)).rounded() - decoded / Double(scale)) < 1e-6 && abs(decoded / Double(scale)) <= level + 1e-6)
        }
      }
      // A slice that does not begin at 0 is read alike.
      let shifted = [7, 7] + codes
      #expect(QuantizedColumn.decode(shifted[2...], bits: bits, scale: scale, count: count) == found)
    }
  }

  @Test func degenerate() {
    for bits in 1...8 {
      let (codes, scale) = QuantizedColumn.encode([0, 0, 0], bits: bits)
      #expect(scale == 0 && QuantizedColumn.decode(codes[...], bits: bits, scale: scale, count: 3) == [0, 0, 0])
      #expect(QuantizedColumn.encode([], bits: bits).codes.isEmpty)
    }
    // Too few bytes, or bits that are none: zeros, no trap.
    #expect(QuantizedColumn.decode([255][...], bits: 4, scale: 1, count: 3) == [0, 0, 0])
    #expect(QuantizedColumn.decode([255][...], bits: 0, scale: 1, count: 2) == [0, 0])
    #expect(QuantizedColumn.encode([.nan, 1], bits: 4).scale.isFinite)
  }

  @Test func groups() throws {
    #expect(try ColumnBits("8:2,4:3,2").bits(rank: 7) == [8, 8, 4, 4, 4, 2, 2])
    #expect(try ColumnBits("8:2,4:3").bits(rank: 7) == [8, 8, 4, 4, 4])
    #expect(try ColumnBits("8:20,4").bits(rank: 3) == [8, 8, 8])
    #expect(try ColumnBits("1").bits(rank: 2) == [1, 1])
    #expect(try ColumnBits("8:20,4:180,2").description == "8:20,4:180,2")
    for text in ["", "9", "0", "8:", "8:0", "8:-1", "2,8:3", "8:3,", "x", "8:3:4", "8:99999999999999999999", "-1"] {
      let error = #expect(throws: IngotError.self) { _ = try ColumnBits(text) }
      #expect(error?.status == .invalidArgument, "\(text)")
    }
  }
}
