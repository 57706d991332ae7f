import Foundation
import Glibc
import IngotErrors
import Testing

@testable import IngotStorage

/// Reads that are under way before anybody waits for them: the same bytes as by reading, or nothing.
@Suite struct ReadAheadTests {
  /// A file on a disk, slots of memory for its reads, and whether both work here.
  @safe final class Fixture: @unchecked Sendable {
    // SENDABLE: immutable; what it holds is made for many threads.
    static let contents = pattern(2_500_001)

    let scratch: Scratch
    let file: StoredFile
    let ahead: ReadAhead
    /// False where the file system has no reads past the page cache or the kernel no io_uring: then nothing is read ahead.
    let works: Bool
    private let memory: [UnsafeMutableRawPointer]

    /// - Parameters: `scratch` has the file of an earlier fixture.
    init(slots: [Int] = [6], choice: ReadAhead.Choice = .always, in scratch: Scratch? = nil, _ system: System = .live) throws {
      self.scratch = try scratch ?? Scratch()
      if scratch == nil { try self.scratch.write("a", Self.contents) }
      let file = try StoredFile(self.scratch("a"), system: system)
      self.file = file
      unsafe memory = slots.map { .allocate(byteCount: $0 * ReadAhead.slotBytes, alignment: 4096) }
      let areas = unsafe zip(memory, slots).enumerated().map { node, area in
        unsafe ReadAhead.Area(node: node, memory: area.0, slots: area.1)
      }
      ahead = ReadAhead(areas, choice: choice)
      works = System.live.openDirect(file.descriptor, alignment: 4096) != nil && ReadAhead.refusal() == nil
    }

    static let reason = "no reads past the page cache"
    static let works = (try? Fixture())?.works == true
    /// True where a file can leave the page cache: in memory there is no cold file.
    static let hasColdFiles: Bool = {
      guard works, let fixture = try? Fixture() else { return false }
      fixture.chill()
      return fixture.file.resident(0..<1_000_000) == 0
    }()

    /// Writes the file to the disk and takes it out of the page cache, which keeps a page that somebody looks at just then.
    func chill() {
      let descriptor = unsafe open(scratch("a"), O_RDWR)
      defer { close(descriptor) }
      for _ in 0..<20 where file.resident(0..<2_400_000) != 0 {
        if fsync(descriptor) != 0 || posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) != 0 { return }
        usleep(500)
      }
    }

    deinit {
      ahead.close()
      unsafe memory.forEach { unsafe $0.deallocate() }
    }

    /// Takes a range and compares it with the file; false when there was nothing.
    func takes(_ range: Range<Int>, sourceLocation: SourceLocation = #_sourceLocation) -> Bool {
      guard let held = ahead.take(file, range) else { return false }
      defer { ahead.release(held) }
      guard let address = unsafe held.address(of: range) else {
        Issue.record("what is held does not have the range", sourceLocation: sourceLocation)
        return true
      }
      let isSame = unsafe UnsafeRawBufferPointer(start: address, count: range.count).elementsEqual(Self.contents[range])
      #expect(isSame, "\(range)", sourceLocation: sourceLocation)
      return true
    }

    func requests(_ range: Range<Int>, step: Int? = nil, node: Int = 0) -> ReadAhead.Answer {
      ahead.request(file, range, step: step ?? range.count, node: node)
    }
  }

  @Test(arguments: [0..<1, 0..<4096, 1..<70_000, 4095..<4097, 777_777..<1_777_777, 2_499_000..<2_500_001, 2_498_560..<2_500_001])
  func anyRange(_ range: Range<Int>) throws {
    let fixture = try Fixture()
    #expect(fixture.requests(range) == (fixture.works ? .underWay : .left(range)))
    #expect(fixture.takes(range) == fixture.works)
    // Once only.
    #expect(!fixture.takes(range))
  }

  /// A long range is cut where a reader's pieces end, so that none lies in two slots.
  @Test func longRangesAreCutAtSteps() throws {
    let fixture = try Fixture()
    let range = 12_345..<12_345 + 2_000_000
    let step = 262_144
    #expect(fixture.requests(range, step: step) == (fixture.works ? .underWay : .left(range)))
    for start in stride(from: range.lowerBound, to: range.upperBound, by: 4 * step) {
      let first = start..<min(start + step, range.upperBound)
      guard let held = fixture.ahead.take(fixture.file, first) else {
        #expect(!fixture.works)
        continue
      }
      #expect(held.range == start..<min(start + 4 * step, range.upperBound))
      #expect(unsafe held.address(of: first.lowerBound + 5..<first.lowerBound + 6) != nil)
      #expect(unsafe held.address(of: held.range.lowerBound..<held.range.upperBound + 1) == nil)
      fixture.ahead.release(held)
    }
    #expect(fixture.requests(range, step: ReadAhead.requestBytes + 1) == .left(range))
    #expect(fixture.requests(5..<5, step: 4) == .left(5..<5))
  }

  /// What finds no slot is left to the reader, and a slot that is given back serves again.
  @Test(.machine(Fixture.reason) { Fixture.works }) func slotsAreFinite() throws {
    let fixture = try Fixture(slots: [1, 1])
    #expect(fixture.requests(0..<100, node: 1) == .underWay)
    #expect(fixture.requests(1000..<1100, node: 1) == .underWay)
    #expect(fixture.requests(2000..<2100) == .left(2000..<2100))
    #expect(fixture.takes(1000..<1100))
    #expect(fixture.requests(2000..<2100) == .underWay)
    #expect(fixture.takes(2000..<2100) && fixture.takes(0..<100))
    // Two requests of one range are two.
    #expect(fixture.requests(0..<100) == .underWay && fixture.requests(0..<100) == .underWay)
    #expect(fixture.takes(0..<100) && fixture.takes(10..<50) && !fixture.takes(0..<100))
  }

  /// What nobody takes makes room for others after a while.
  @Test(.machine(Fixture.reason) { Fixture.works }) func forgottenRequestsMakeRoom() throws {
    let fixture = try Fixture(slots: [2])
    #expect(fixture.requests(0..<100) == .underWay)
    var isAgain = false
    for _ in 0..<40 {
      #expect(fixture.requests(5000..<6000) == .underWay || isAgain)
      isAgain = !fixture.takes(5000..<6000)
      usleep(100)
    }
    #expect(!fixture.takes(0..<100))
  }

  @Test func manyThreads() throws {
    let fixture = try Fixture(slots: [3, 3])
    let size = 20_001
    let works = fixture.works
    let ranges = (0..<120).map { $0 * size..<($0 + 1) * size }
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      for index in stride(from: thread, to: ranges.count, by: 4) {
        let answer = fixture.requests(ranges[index], node: thread % 2)
        let found = fixture.takes(ranges[index])
        #expect(found == (answer == .underWay))
        #expect(works || !found)
      }
    }
  }

  /// The page cache first: what lies there is not requested, what does not is, and reading so leaves it as it is.
  @Test(.machine(Fixture.reason) { Fixture.hasColdFiles }) func onlyColdRanges() throws {
    let fixture = try Fixture(choice: .whenCold)
    #expect(fixture.file.resident(0..<2_400_000) ?? .max >= 2_400_000)
    #expect(fixture.requests(0..<1_000_000) == .present)
    #expect(fixture.requests(0..<1000) == .left(0..<1000))
    fixture.chill()
    #expect(fixture.file.resident(0..<1_000_000) == 0)
    #expect(fixture.requests(1001..<1_000_000) == .underWay)
    #expect(fixture.takes(1001..<1_000_000))
    #expect(fixture.file.resident(0..<1_000_000) == 0)
    _ = try fixture.file.readBytes(at: 0, count: 2_000_000, limit: 2_000_000)
    #expect(fixture.requests(1001..<1_000_000) == .present)
    let never = try Fixture(choice: .never)
    #expect(never.requests(0..<1_000_000) == .left(0..<1_000_000))
  }

  /// Without io_uring nothing is requested, and why is known.
  @Test(arguments: [EPERM, ENOSYS, ENOMEM]) func refusedByTheKernel(_ code: Int32) throws {
    let faults = FaultInjector()
    faults.fail(.ring, number: 1, with: .error(code))
    let fixture = try Fixture(System(faults: faults))
    for _ in 0..<3 { #expect(fixture.requests(0..<100_000) == .left(0..<100_000)) }
    #expect(!fixture.takes(0..<100_000))
    #expect(faults.count(.ring) <= 1)
    let words = unsafe String(cString: strerror(code))
    if fixture.works { #expect(fixture.ahead.refusal == words) }
    #expect(ReadAhead.refusal(System(faults: faults)) == ReadAhead.refusal())
  }

  /// Whatever one call answers, bytes that are taken are right, nothing hangs, and the rest is left to the reader.
  @Test(
    arguments: [SystemCall.open, .status, .ring, .submit, .wait, .readAhead, .resident],
    [Fault.error(EIO), .error(EINTR), .error(ENOMEM), .error(EINVAL), .error(EAGAIN), .short(0), .short(1), .short(5000)])
  func faults(_ call: SystemCall, _ fault: Fault) throws {
    let scratch = try Scratch()
    try scratch.write("a", Fixture.contents)
    for number in 1...5 {
      let faults = FaultInjector()
      let fixture = try Fixture(in: scratch, System(faults: faults))
      // The file itself is open by now.
      faults.fail(call, number: faults.count(call) + number, with: fault)
      var taken = 0
      for start in stride(from: 1, to: 2_400_000, by: 300_001) {
        let range = start..<start + 300_000
        if fixture.requests(range) == .underWay, fixture.takes(range) { taken += 1 }
      }
      #expect(taken <= 8)
      if fault == .error(EINTR), fixture.works, call != .readAhead { #expect(taken == 8, "\(call) \(number)") }
    }
  }

  /// A file that shrinks under a read gives nothing; reading it says why.
  @Test func shrunkFile() throws {
    let fixture = try Fixture()
    #expect(unsafe truncate(fixture.scratch("a"), 1_000_000) == 0)
    _ = fixture.requests(900_000..<1_100_000)
    #expect(!fixture.takes(900_000..<1_100_000))
    #expect(failure { () throws(IngotError) in _ = try fixture.file.readBytes(at: 900_000, count: 200_000, limit: 200_000) }?.status == .io)
    _ = fixture.requests(900_000..<1_000_000)
    #expect(fixture.takes(900_000..<1_000_000) == fixture.works)
  }

  /// The end of a run does not wait for takers, and leaves no descriptor behind.
  @Test func closesWithReadsUnderWay() throws {
    func descriptors() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").filter { isOwn($0) }.count }
    func isOwn(_ name: String) -> Bool {
      let target = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/" + name)) ?? ""
      return target.hasSuffix("/a-of-this-test") || target.hasSuffix("a-of-this-test (deleted)")
    }
    let fixture = try Fixture()
    try fixture.scratch.write("a-of-this-test", Fixture.contents)
    let before = try descriptors()
    do {
      let file = try StoredFile(fixture.scratch("a-of-this-test"))
      for number in 0..<6 { _ = fixture.ahead.request(file, number * 400_000..<(number + 1) * 400_000, step: 400_000, node: 0) }
      fixture.ahead.close()
      #expect(fixture.ahead.take(file, 0..<1000) == nil)
      #expect(fixture.ahead.request(file, 0..<1000, step: 1000, node: 0) == .left(0..<1000))
    }
    #expect(try descriptors() == before)
  }
}
