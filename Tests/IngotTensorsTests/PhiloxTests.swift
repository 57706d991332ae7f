import IngotTensors
import Testing

/// The generator against the known answers published with Random123.
@Suite struct PhiloxTests {
  struct KnownAnswer: Sendable {
    let counter: [UInt32]
    let key: [UInt32]
    let words: [UInt32]
  }

  static let knownAnswers = [
    KnownAnswer(counter: [0, 0, 0, 0], key: [0, 0], words: [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    KnownAnswer(
      counter: [.max, .max, .max, .max], key: [.max, .max], words: [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    KnownAnswer(
      counter: [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], key: [0xa409_3822, 0x299f_31d0],
      words: [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
  ]

  @Test(arguments: knownAnswers) func blocksMatchRandom123(_ known: KnownAnswer) {
    let block = Philox.block(
      counter: (known.counter[0], known.counter[1], known.counter[2], known.counter[3]), key: (known.key[0], known.key[1]))
    #expect([block.0, block.1, block.2, block.3] == known.words)
  }

  @Test func wordsAreTakenFromTheBlockOfTheirIndex() {
    // The third vector again, through the seed, stream and index that spell its key and counter.
    let known = Self.knownAnswers[2]
    let seed = UInt64(known.key[1]) << 32 | UInt64(known.key[0])
    let stream = UInt64(known.counter[3]) << 32 | UInt64(known.counter[2])
    let block: UInt64 = 0x05a3_08d3_243f_6a88  // a counter whose index fits 64 bits
    let expected = Philox.block(
      counter: (0x243f_6a88, 0x05a3_08d3, known.counter[2], known.counter[3]), key: (known.key[0], known.key[1]))
    let words = (0..<4).map { Philox.word(seed: seed, stream: stream, index: block * 4 + UInt64($0)) }
    #expect(words == [expected.0, expected.1, expected.2, expected.3])
  }
}
