import IngotEngine
import IngotErrors
import Testing

@Suite struct ByteCountTests {
  @Test(arguments: [
    ("0", 0), ("1048576", 1 << 20), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("64mib", 64 << 20), ("1.5GiB", 3 << 29),
    ("5GB", 5_000_000_000),
    ("0.1KiB", 102), ("2KB", 2000), ("1.25 TB", 1_250_000_000_000), ("7 bytes", 7), ("1 byte", 1), ("8388607TiB", 8_388_607 << 40),
    ("0.0000000000001TiB", 0), ("1.000000000000999999GiB", 1 << 30),
  ])
  func parses(_ text: String, _ bytes: Int) throws {
    #expect(try ByteCount(parsing: text).bytes == bytes)
  }

  @Test(arguments: [
    "", " ", "MiB", "-1", "+1", "1.2.3", ".5GiB", "5.", "1e9", "64Mi", "12X", "64M", "5B", "0x10", "9223372036854775808", "8388608TiB",
    "99999999999999999999999TiB", "1 MiB extra", "٣MiB",
  ])
  func refuses(_ text: String) {
    let error = #expect(throws: IngotError.self) { try ByteCount(parsing: text) }
    #expect(error?.status == .invalidArgument)
    #expect(error?.message.contains("expected") == true)
  }

  @Test(arguments: [
    ("64M", "MiB"), ("5B", "parameters"), ("3g", "GiB"), ("12X", "64MiB"),
  ])
  func hints(_ text: String, _ part: String) {
    let error = #expect(throws: IngotError.self) { try ByteCount(parsing: text) }
    #expect(error?.hint?.contains(part) == true)
  }

  @Test(arguments: [
    (0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.50 KiB"), (256 << 20, "256 MiB"),
    (15_728_640, "15 MiB"),
    (16_000_000, "15.2 MiB"), (1_000_000_000, "953 MiB"), ((1 << 30) + 1, "1.00 GiB"), (Int.max, "8388607 TiB"), (Int.min, "-8388608 TiB"),
    (-1536, "-1.50 KiB"),
  ])
  func prints(_ bytes: Int, _ text: String) {
    #expect(ByteCount(bytes).description == text)
  }

  /// What is printed can be given back, and is the same number but for what the digits leave out.
  @Test func readsBackWhatItPrints() throws {
    var generator = SplitMix(1)
    for _ in 0..<1000 {
      let bytes = Int(generator.next() >> (1 + generator.next() % 62))
      let back = try ByteCount(parsing: ByteCount(bytes).description)
      #expect(back.bytes <= bytes && Double(bytes - back.bytes) <= Double(bytes) * 0.01, "\(bytes)")
    }
  }

  @Test(arguments: [
    ("5B", 5_000_000_000), ("500M", 500_000_000), ("500m", 500_000_000), ("7k", 7000), ("123", 123), ("0", 0), ("-1", 0), ("-5B", 0),
    ("5GB", 5_000_000_000), ("1MiB", 1 << 20),
  ]) func mergekitSizes(_ text: String, _ bytes: Int) throws {
    #expect(try ByteCount(mergekit: text).bytes == bytes)
  }

  @Test(arguments: ["", "5G", "1.5B", "B", "+5B", "9999999999999999999", "99999999999B", "x"]) func refusesOtherMergekitSizes(
    _ text: String
  ) {
    let error = #expect(throws: IngotError.self) { try ByteCount(mergekit: text) }
    #expect(error?.status == .invalidArgument)
  }
}
