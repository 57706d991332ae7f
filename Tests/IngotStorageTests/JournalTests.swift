import IngotErrors
import Testing

@testable import IngotStorage

struct JournalTests {
  static let identity = RunIdentity(plan: Digest128(of: "plan"), sources: Digest128(of: "sources"))
  static let digest = Digest128(of: "tensor")

  static var text: String {
    Journal.header(identity) + "writer 4711 host\n" + Journal.tensorLine(3, digest) + Journal.tensorLine(0, Digest128(of: "zero"))
  }

  @Test func readsWhatItWrites() {
    let journal = Journal(parsing: Array(Self.text.utf8))
    #expect(journal.identity == Self.identity)
    #expect(journal.writer == "process 4711 on host")
    #expect(journal.finished == [3: Self.digest, 0: Digest128(of: "zero")])
    #expect(journal.completeBytes == Self.text.utf8.count)
    #expect(journal.skippedLines == 0)
  }

  /// Cut anywhere: only whole lines count, and the end of the last one is known.
  @Test func tornAtEveryByte() {
    let bytes = Array(Self.text.utf8)
    for end in 0..<bytes.count {
      let journal = Journal(parsing: Array(bytes[..<end]))
      let lines = bytes[..<end].filter { $0 == UInt8(ascii: "\n") }.count
      #expect(journal.completeBytes == (bytes[..<end].lastIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? 0))
      #expect((journal.identity != nil) == (lines >= 1))
      #expect(journal.finished.count == max(0, lines - 2))
      #expect(journal.skippedLines == 0)
    }
  }

  @Test(arguments: [
    "tensor 5 xyz\n", "tensor -1 \(digest)\n", "tensor 99999999999999999999 \(digest)\n", "tensor 5 \(digest) more\n", "\n",
    "tensor  5 \(digest)\n", "nonsense\n", "\u{0}\u{0}\n",
  ])
  func badLinesAreSkipped(_ line: String) {
    let journal = Journal(parsing: Array((Self.text + line + Journal.tensorLine(9, Self.digest)).utf8))
    #expect(journal.skippedLines == 1)
    #expect(journal.finished[9] == Self.digest)
    #expect(journal.finished.count == 3)
  }

  @Test func bytesThatAreNotTextAreSkipped() {
    let journal = Journal(parsing: Array(Self.text.utf8) + [0xFF, 0xFE, 0x0A])
    #expect(journal.skippedLines == 1)
    #expect(journal.finished.count == 2)
  }

  @Test(arguments: ["", "ingot-journal 2 plan \(digest) sources \(digest)\n", "ingot-journal 1 plan x sources y\n", "tensor 1 \(digest)\n"])
  func unknownHeaderIsStale(_ text: String) {
    let error = failure { () throws(IngotError) in try Journal(parsing: Array(text.utf8)).check(Self.identity, subject: "OUT") }
    #expect(error?.status == .stale)
    #expect(error?.hint?.contains("--force") == true)
  }

  @Test(arguments: [
    (true, false, "the plan changed"), (false, true, "the source files changed"), (true, true, "the plan and the source files"),
  ])
  func staleSaysWhatChanged(_ plan: Bool, _ sources: Bool, _ words: String) {
    let other = RunIdentity(
      plan: plan ? Digest128(of: "other") : Self.identity.plan, sources: sources ? Digest128(of: "other") : Self.identity.sources)
    let error = failure { () throws(IngotError) in try Journal(parsing: Array(Self.text.utf8)).check(other, subject: "OUT") }
    #expect(error?.status == .stale)
    #expect(error?.message.hasPrefix(words) == true)
  }
}
