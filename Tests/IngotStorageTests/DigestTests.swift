import CPlatform
import IngotErrors
import Testing

@testable import IngotStorage

struct DigestTests {
  /// From the Python package xxhash 4.1.0 (xxHash 0.8.4): xxh3_128_hexdigest and xxh3_64_hexdigest of `pattern(n)`.
  static let oneShot: [(Int, String, String)] = [
    (0, "99aa06d3014798d86001c324468d497f", "2d06800538d394c2"), (1, "a6cd5e9392000f6ac44bdff4074eecdb", "c44bdff4074eecdb"),
    (3, "4af3603b5bd30dfe3698b80191e625f9", "3698b80191e625f9"), (16, "8d0b1cd2088b9620843f49fff931d541", "f9fbd0260ba978df"),
    (17, "340f6f9202ad1131a378e80882221151", "c56f339d36cc73d7"), (128, "9ac3a2d505dc8bbaffb5b9abed8b314d", "31ccf8dec850d035"),
    (129, "4f3f783d604d0184c83022477e6bf25a", "c72af4c6ac4dea94"), (240, "550b8ce07c44bc98c018ce69a32b5a7c", "e315d53d5129eede"),
    (241, "8e7e1f2fe4156df918773c512b008a63", "18773c512b008a63"), (1000, "5b9a536290e85d630dc54da2182285f1", "0dc54da2182285f1"),
    (65536, "fb24369bce00a66c4337fbce6c5dd9ed", "4337fbce6c5dd9ed"),
    (1 << 20, "6f9c6cb486a848907b185274974b1fd6", "7b185274974b1fd6"),
  ]

  /// From the same package: xxh3_128 of the joined xxh3_128_digest of each 1 MiB.
  static let tensors: [(Int, String)] = [
    (0, "99aa06d3014798d86001c324468d497f"), (1, "de68429b8afe28ce97cda390d38d6d2b"),
    ((1 << 20) - 1, "30b39ea1ed95a6463150fbdaf210a5b6"), (1 << 20, "39befd3613acee755ef67eae4790ea93"),
    ((1 << 20) + 1, "ef8c3cbdd052ae6e2ccfa6f79d5a30a5"), (3 * (1 << 20) + 12345, "9be2a1e40a7eadb0f1867be945d61936"),
  ]

  @Test(arguments: oneShot) func matchesPython(_ count: Int, _ hex128: String, _ hex64: String) throws {
    let bytes = pattern(count)
    #expect(Digest128(of: bytes).description == hex128)
    #expect(xxh3(bytes) == UInt64(hex64, radix: 16))
    #expect(Digest128(hex: hex128) == Digest128(of: bytes))
    var stream = try StreamingDigest()
    for start in stride(from: 0, to: count, by: 777) { stream.add(Array(bytes[start..<min(count, start + 777)])) }
    let streamed = stream.value
    #expect(streamed.description == hex128)
  }

  @Test(
    arguments: [
      (0, 0, "00000000000000000000000000000000"), (0x0a, 0x9f, "000000000000000a000000000000009f"),
      (0xfedc_ba98_7654_3210, 0x0123_4567_89ab_cdef, "fedcba98765432100123456789abcdef"), (.max, .max, "ffffffffffffffffffffffffffffffff"),
    ] as [(UInt64, UInt64, String)])
  func hexDigits(_ high: UInt64, _ low: UInt64, _ hex: String) {
    let digest = Digest128(high: high, low: low)
    #expect(digest.description == hex)
    #expect(Digest128(hex: hex) == digest)
  }

  @Test(arguments: tensors) func tensorDigestMatchesPython(_ count: Int, _ hex: String) throws {
    let digest = try TensorDigest.of(pattern(count))
    #expect(digest.description == hex)
  }

  /// Parts of every kind of length, in order, reversed and shuffled, give the digest of the whole.
  @Test(arguments: [1 << 20, 1 << 19, 700_001, 1_500_000, 3_000_000, 65_537], [0, 1, 2]) func anyOrder(_ part: Int, _ order: Int) throws {
    let count = 3 * (1 << 20) + 12345
    let bytes = pattern(count)
    let digest = try TensorDigest(byteCount: count)
    var starts = Array(stride(from: 0, to: count, by: part))
    if order == 1 { starts.reverse() }
    if order == 2 {
      var seed: UInt64 = 42
      for i in starts.indices.reversed() where i > 0 {
        seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        starts.swapAt(i, Int(seed >> 33) % (i + 1))
      }
    }
    for start in starts {
      try digest.add(bytes[start..<min(count, start + part)], at: start)
    }
    #expect(try digest.finish().description == "9be2a1e40a7eadb0f1867be945d61936")
  }

  @Test func partsFromSeveralThreads() async throws {
    let count = 5 * (1 << 20) + 99
    let bytes = pattern(count)
    let expected = try TensorDigest.of(bytes)
    let digest = try TensorDigest(byteCount: count)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for start in stride(from: 0, to: count, by: 300_007) {
        group.addTask {
          try digest.add(bytes[start..<min(count, start + 300_007)], at: start)
        }
      }
      try await group.waitForAll()
    }
    #expect(try digest.finish() == expected)
  }

  @Test func misuseIsAnError() throws {
    let digest = try TensorDigest(byteCount: 2 << 20)
    let piece = pattern(1 << 20)
    try digest.add(piece, at: 0)
    func add(_ bytes: [UInt8], _ offset: Int) throws(IngotError) {
      try digest.add(bytes, at: offset)
    }
    #expect(failure { () throws(IngotError) in _ = try digest.finish() }?.status == .internalError)
    #expect(failure { () throws(IngotError) in try add(piece, 0) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in try add([1, 2], 5) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in try add(piece, (1 << 20) + 1) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in try add([1], -1) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in try add([1], .max) }?.status == .internalError)
    try add([1, 2, 3], 1 << 20)
    #expect(failure { () throws(IngotError) in try add([1], (1 << 20) + 1) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in _ = try TensorDigest(byteCount: -1) }?.status == .internalError)
  }

  @Test(arguments: ["", "12", String(repeating: "g", count: 32), String(repeating: "A", count: 32), String(repeating: "é", count: 16)])
  func badHex(_ text: String) { #expect(Digest128(hex: text) == nil) }

  @Test func flagIsSeenAndSet() {
    var flag: Int32 = 0
    // SAFETY: a local variable, for the call.
    unsafe ingot_store_flag(&flag, 7)
    #expect(unsafe ingot_load_flag(&flag) == 7)
  }
}
