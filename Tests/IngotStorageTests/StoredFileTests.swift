import Foundation
import IngotErrors
import Testing

@testable import IngotStorage

struct StoredFileTests {
  @Test func readsRanges() throws {
    let scratch = try Scratch()
    let bytes = pattern(100_000)
    try scratch.write("a", bytes)
    let file = try StoredFile(scratch("a"))
    #expect(file.size == 100_000)
    #expect(try file.readBytes(at: 0, count: 100_000, limit: 100_000) == bytes)
    #expect(try file.readBytes(at: 777, count: 1234, limit: 2000) == Array(bytes[777..<2011]))
    #expect(try file.readBytes(at: 100_000, count: 0, limit: 0) == [])
    file.advise(.sequential)
    file.advise(.willNeed, offset: 10, count: 100)
    try file.checkUnchanged()
    #expect(try StoredFile.readAll(scratch("a"), limit: 100_000) == bytes)
  }

  @Test func namesWhatIsWrong() throws {
    let scratch = try Scratch()
    try scratch.write("a", pattern(100))
    let file = try StoredFile(scratch("a"))
    let short = failure { () throws(IngotError) in _ = try file.readBytes(at: 90, count: 20, limit: 100) }
    #expect(short?.status == .io)
    #expect(short?.message == "found 10 bytes at offset 90, expected 20")
    #expect(short?.subject == scratch("a"))
    #expect(short?.hint?.contains("truncated") == true)
    #expect(failure { () throws(IngotError) in _ = try file.readBytes(at: -1, count: 1, limit: 100) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try file.readBytes(at: .max, count: 1, limit: 100) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try file.readBytes(at: 0, count: 101, limit: 100) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try file.readBytes(at: 0, count: -1, limit: 100) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try StoredFile.readAll(scratch("a"), limit: 99) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try StoredFile(scratch("none")) }?.status == .notFound)
    #expect(failure { () throws(IngotError) in _ = try StoredFile(scratch("a/b")) }?.status == .notFound)
    #expect(failure { () throws(IngotError) in _ = try StoredFile(scratch.path) }?.status == .io)
    #expect(failure { () throws(IngotError) in _ = try StoredFile("/dev/null") }?.message.contains("regular file") == true)
    #expect(failure { () throws(IngotError) in _ = try StoredFile(scratch("a\0b")) }?.status == .io)
  }

  /// Opening a FIFO that nobody writes to must not wait for a writer.
  @Test func fifoIsRefused() throws {
    let scratch = try Scratch()
    #expect(unsafe mkfifo(scratch("fifo"), 0o600) == 0)
    #expect(failure { () throws(IngotError) in _ = try StoredFile(scratch("fifo")) }?.message.contains("regular file") == true)
  }

  @Test func shrinkingFileIsAnErrorNotADeath() throws {
    let scratch = try Scratch()
    try scratch.write("a", pattern(100_000))
    let file = try StoredFile(scratch("a"))
    #expect(unsafe truncate(scratch("a"), 50_000) == 0)
    let error = failure { () throws(IngotError) in _ = try file.readBytes(at: 40_000, count: 20_000, limit: 100_000) }
    #expect(error?.status == .io)
    #expect(error?.message == "found 10000 bytes at offset 40000, expected 20000")
    #expect(error?.hint?.contains("100000 bytes long when it was opened") == true)
    #expect(failure { () throws(IngotError) in try file.checkUnchanged() }?.status == .stale)
  }

  @Test func touchedFileIsNoticed() throws {
    let scratch = try Scratch()
    try scratch.write("a", pattern(10))
    let file = try StoredFile(scratch("a"))
    try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 1_000_000)], ofItemAtPath: scratch("a"))
    #expect(failure { () throws(IngotError) in try file.checkUnchanged() }?.status == .stale)
    #expect(try StoredFile(scratch("a")).modified == 1_000_000_000_000_000)
  }

  @Test(arguments: [Fault.short(1), .short(7), .error(EINTR)]) func transfersAreFinished(_ fault: Fault) throws {
    let scratch = try Scratch()
    let bytes = pattern(50)
    try scratch.write("a", bytes)
    let faults = FaultInjector()
    faults.fail(.read, number: 1, with: fault)
    faults.fail(.read, number: 2, with: fault)
    let file = try StoredFile(scratch("a"), system: System(faults: faults))
    #expect(try file.readBytes(at: 0, count: 50, limit: 50) == bytes)
    #expect(faults.fired.count == 2)
    #expect(faults.bytes(.read) == 50)
  }

  @Test(arguments: [(SystemCall.open, EMFILE, Status.io), (.open, EACCES, .io), (.status, EIO, .io), (.read, EIO, .io)])
  func systemErrorsAreNamed(_ call: SystemCall, _ code: Int32, _ status: Status) throws {
    let scratch = try Scratch()
    try scratch.write("a", pattern(50))
    let faults = FaultInjector()
    faults.fail(call, number: 1, with: .error(code))
    let error = failure { () throws(IngotError) in
      _ = try StoredFile(scratch("a"), system: System(faults: faults)).readBytes(at: 0, count: 50, limit: 50)
    }
    #expect(error?.status == status)
    #expect(error?.subject == scratch("a"))
    #expect(error.map { unsafe $0.message.contains(String(cString: strerror(code))) } == true)
  }

  @Test func listsDirectories() throws {
    let scratch = try Scratch()
    for i in 0..<500 { try scratch.write("d/file-\(String(repeating: "x", count: i % 200))-\(i)", pattern(i)) }
    try FileManager.default.createSymbolicLink(atPath: scratch("d/link"), withDestinationPath: "file--0")
    try FileManager.default.createSymbolicLink(atPath: scratch("d/zdangling"), withDestinationPath: "nowhere")
    try FileManager.default.createDirectory(atPath: scratch("d/sub"), withIntermediateDirectories: false)
    var raw = Array(scratch("d/").utf8CString.dropLast())
    raw += [CChar(bitPattern: 0xFF), 0]
    let fd = unsafe creat(raw, 0o600)
    #expect(fd >= 0)
    close(fd)
    let listing = try DirectoryListing(scratch("d"))
    #expect(listing.entries.count == 503)
    #expect(listing.unreadableNames == 1)
    #expect(listing.entries.map(\.name) == listing.entries.map(\.name).sorted())
    #expect(listing["link"]?.status.kind == .file)
    #expect(listing["zdangling"]?.status.kind == .link)
    #expect(listing["sub"]?.status.kind == .directory)
    #expect(listing["file-\(String(repeating: "x", count: 123))-123"]?.status.size == 123)
    #expect(failure { () throws(IngotError) in _ = try DirectoryListing(scratch("none")) }?.status == .notFound)
    #expect(failure { () throws(IngotError) in _ = try DirectoryListing(scratch("d/link")) }?.status == .notFound)
    #expect(try fileStatus(scratch("none")) == nil)
    #expect(try fileStatus(scratch("d"))?.kind == .directory)
  }
}
