import Foundation
import IngotErrors
import Synchronization
import Testing

@testable import IngotStorage

struct OutputDirectoryTests {
  static let identity = JournalTests.identity

  /// Two shards, one in a folder, and a side file.
  static func request(
    _ destination: String, resume: Bool = false, force: Bool = false, sync: OutputRequest.Sync = .none, identity: RunIdentity = identity,
    markers: [String] = ["config.json"], system: System = .live
  ) throws(IngotError) -> OutputRequest {
    OutputRequest(
      destination: try DestinationPath(destination),
      files: [PlannedFile(name: "a.safetensors", size: 3000), PlannedFile(name: "sub/b.safetensors", size: 2_000_000)],
      identity: identity, resume: resume, force: force, sync: sync, replaceableMarkers: markers, system: system)
  }

  static let first = Array(pattern(3000))
  static let second = Array(pattern(2_000_000).reversed())

  /// Writes everything that `output` does not say is finished and right; returns the tensors written.
  static func fill(_ output: OutputDirectory) throws(IngotError) -> [Int] {
    var written: [Int] = []
    for (index, name, bytes) in [(0, "a.safetensors", first), (1, "sub/b.safetensors", second)] {
      let file = try output.file(name)
      let digest = try TensorDigest.of(bytes)
      if let known = output.finished[index], try file.tensorDigest(at: 0, count: bytes.count) == known { continue }
      let half = bytes.count / 2
      try file.write(Array(bytes[half...]), at: half)
      try file.write(Array(bytes[..<half]), at: 0)
      file.startWriteBack(at: 0, count: bytes.count)
      try output.record(tensor: index, digest: digest)
      written.append(index)
    }
    try output.writeSmallFile("config.json", Array("{}".utf8))
    try output.writeSmallFile("1_Pooling/config.json", Array("{\"a\": 1}".utf8))
    return written
  }

  static let tree = ["1_Pooling", "1_Pooling/config.json", "a.safetensors", "config.json", "sub", "sub/b.safetensors"]

  static func expectComplete(_ scratch: Scratch, _ name: String, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(scratch.tree(name) == tree, sourceLocation: sourceLocation)
    #expect(scratch.read(name + "/a.safetensors") == first, sourceLocation: sourceLocation)
    #expect(scratch.read(name + "/sub/b.safetensors") == second, sourceLocation: sourceLocation)
    #expect(scratch.read(name + "/config.json") == Array("{}".utf8), sourceLocation: sourceLocation)
  }

  @Test(arguments: OutputRequest.Sync.allCases, ["OUT", "OUT/", "OUT///"]) func publishes(_ sync: OutputRequest.Sync, _ name: String) throws
  {
    let scratch = try Scratch()
    let request = try Self.request(scratch(name), sync: sync)
    let space = try request.check()
    #expect(space.needed == 2_003_000)
    #expect(scratch.tree("") == [])
    let output = try OutputDirectory(request)
    #expect(scratch.exists("OUT.partial") && !scratch.exists("OUT"))
    #expect(scratch.read("OUT.partial/a.safetensors")?.count == 3000)
    #expect(try Self.fill(output) == [0, 1])
    #expect(try output.commit() == [])
    Self.expectComplete(scratch, "OUT")
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path) == ["OUT"])
    #expect(failure { () throws(IngotError) in _ = try output.commit() }?.status == .internalError)
  }

  /// Files of any size are copied with little memory: a piece at a time.
  @Test func copiesFilesInPieces() throws {
    let scratch = try Scratch()
    let bytes = pattern((5 << 20) / 2 + 17)
    try scratch.write("tokenizer.json", bytes)
    let faults = FaultInjector()
    let source = try StoredFile(scratch("tokenizer.json"), system: System(faults: faults))
    let before = faults.count(.read)
    let output = try OutputDirectory(try Self.request(scratch("OUT")))
    _ = try Self.fill(output)
    try output.copyFile("tokenizer.json", from: source)
    #expect(faults.count(.read) - before == 3)
    try scratch.write("empty", [])
    try output.copyFile("empty.json", from: try StoredFile(scratch("empty")))
    _ = try output.commit()
    #expect(scratch.read("OUT/tokenizer.json") == bytes)
    #expect(scratch.read("OUT/empty.json") == [])
  }

  @Test func copiesOfAChangedFileAreStale() throws {
    let scratch = try Scratch()
    try scratch.write("side.json", pattern(100))
    let source = try StoredFile(scratch("side.json"))
    // In place: the opened file itself.
    let handle = try #require(FileHandle(forWritingAtPath: scratch("side.json")))
    try handle.seekToEnd()
    try handle.write(contentsOf: Data([1]))
    try handle.close()
    let output = try OutputDirectory(try Self.request(scratch("OUT")))
    #expect(failure { () throws(IngotError) in try output.copyFile("side.json", from: source) }?.status == .stale)
  }

  @Test func relativeDestination() throws {
    let here = FileManager.default.currentDirectoryPath
    let name = "ingot-relative-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: here + "/" + name) }
    let output = try OutputDirectory(try Self.request(name))
    _ = try Self.fill(output)
    _ = try output.commit()
    #expect(FileManager.default.fileExists(atPath: here + "/" + name + "/config.json"))
  }

  @Test(arguments: ["", "/", ".", "..", "a/..", "a/.", "./", "a\0b", "///"]) func badDestinations(_ text: String) {
    #expect(failure { () throws(IngotError) in _ = try DestinationPath(text) }?.status == .invalidArgument)
  }

  @Test func destinationParts() throws {
    for (text, path, parent, name) in [("a", "a", ".", "a"), ("/a/", "/a", "/", "a"), ("../x/y//", "../x/y", "../x", "y")] {
      let destination = try DestinationPath(text)
      #expect(destination.path == path && destination.parent == parent && destination.name == name)
      #expect(destination.partialPath == path + ".partial")
    }
  }

  @Test(arguments: ["../a", "/a", "a//b", "", "a/../b", ".ingot-journal", "a\0", "./a", String(repeating: "n", count: 300)])
  func badFileNames(_ name: String) throws {
    let scratch = try Scratch()
    var request = try Self.request(scratch("OUT"))
    request.files = [PlannedFile(name: name, size: 1)]
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(request) }?.status == .invalidArgument)
    request.files = []
    let output = try OutputDirectory(request)
    #expect(failure { () throws(IngotError) in try output.writeSmallFile(name, [1]) }?.status == .invalidArgument)
  }

  @Test func badSizes() throws {
    let scratch = try Scratch()
    for files in [
      [PlannedFile(name: "a", size: -1)], [PlannedFile(name: "a", size: .max), PlannedFile(name: "b", size: 1)],
      [PlannedFile(name: "a", size: 1), PlannedFile(name: "a", size: 1)],
    ] {
      var request = try Self.request(scratch("OUT"))
      request.files = files
      #expect(failure { () throws(IngotError) in try request.check() }?.status == .invalidArgument)
    }
  }

  @Test func existingDestinationStopsBeforeAnythingIsWritten() throws {
    let scratch = try Scratch()
    try scratch.write("OUT/config.json", [1])
    let error = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("OUT"))) }
    #expect(error?.status == .exists)
    #expect(error?.hint?.contains("--force") == true)
    #expect(!scratch.exists("OUT.partial"))
    #expect(failure { () throws(IngotError) in try Self.request(scratch("OUT")).check() } == error)
  }

  @Test func forceReplacesOnlyWhatLooksLikeAModel() throws {
    let scratch = try Scratch()
    try scratch.write("home/letters.txt", [1])
    let error = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("home"), force: true)) }
    #expect(error?.status == .exists)
    #expect(scratch.tree("") == ["home", "home/letters.txt"])
    try scratch.write("file", [1])
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("file"), force: true)) }?.status == .exists)
    try FileManager.default.createSymbolicLink(atPath: scratch("link"), withDestinationPath: "home")
    let link = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("link"), force: true)) }
    #expect(link?.status == .exists && link?.message.contains("symbolic link") == true)
  }

  /// The old tree goes, what its links point to stays.
  @Test(arguments: [false, true]) func forceExchanges(_ canExchange: Bool) throws {
    let scratch = try Scratch()
    try scratch.write("precious/keep.txt", [7])
    try scratch.write("OUT/config.json", [1])
    try scratch.write("OUT/deep/er/old.bin", [2])
    try FileManager.default.createSymbolicLink(atPath: scratch("OUT/deep/link"), withDestinationPath: scratch("precious"))
    let faults = FaultInjector()
    // The second rename is the exchange: the first moves the journal.
    if !canExchange { faults.fail(.rename, number: 2, with: .error(EINVAL)) }
    let output = try OutputDirectory(try Self.request(scratch("OUT"), force: true, system: System(faults: faults)))
    #expect(scratch.read("OUT/config.json") == [1])
    _ = try Self.fill(output)
    #expect(try output.commit() == [])
    #expect(faults.fired.count == (canExchange ? 0 : 1))
    Self.expectComplete(scratch, "OUT")
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).sorted() == ["OUT", "precious"])
    #expect(scratch.read("precious/keep.txt") == [7])
  }

  /// Another run publishes between the first look at the destination and the lock: this one leaves nothing behind.
  @Test func destinationPublishedBeforeTheLock() throws {
    let scratch = try Scratch()
    let other = try OutputDirectory(try Self.request(scratch("OUT")))
    _ = try Self.fill(other)
    let faults = FaultInjector()
    let failed = Mutex(false)
    faults.interpose(.makeDirectory, number: 1) { do { _ = try other.commit() } catch { failed.withLock { $0 = true } } }
    let request = try Self.request(scratch("OUT"), system: System(faults: faults))
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(request) }?.status == .exists)
    #expect(!failed.withLock { $0 })
    Self.expectComplete(scratch, "OUT")
    #expect(scratch.topLevel == ["OUT"])
  }

  @Test func destinationThatAppearsMeanwhile() throws {
    let scratch = try Scratch()
    let output = try OutputDirectory(try Self.request(scratch("OUT")))
    _ = try Self.fill(output)
    try scratch.write("OUT/config.json", [1])
    #expect(failure { () throws(IngotError) in _ = try output.commit() }?.status == .exists)
    output.abandon()
    #expect(scratch.tree("OUT") == ["config.json"])
    // Nothing is lost: moved away, the run is resumed without writing a tensor.
    try FileManager.default.removeItem(atPath: scratch("OUT"))
    let again = try OutputDirectory(try Self.request(scratch("OUT"), resume: true))
    #expect(try Self.fill(again) == [])
    _ = try again.commit()
    Self.expectComplete(scratch, "OUT")
  }

  @Test func partialOutputNamesBothFlags() throws {
    let scratch = try Scratch()
    try OutputDirectory(try Self.request(scratch("OUT"))).abandon()
    let error = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("OUT"))) }
    #expect(error?.status == .exists)
    #expect(error?.hint?.contains("--resume") == true && error?.hint?.contains("--force") == true)
    #expect(failure { () throws(IngotError) in try Self.request(scratch("OUT")).check() } == error)
    try Self.request(scratch("OUT"), resume: true).check()
  }

  @Test(arguments: [(false, false), (true, false), (false, true)]) func secondRunIsBusy(_ resume: Bool, _ force: Bool) throws {
    let scratch = try Scratch()
    let output = try OutputDirectory(try Self.request(scratch("OUT")))
    let request = try Self.request(scratch("OUT"), resume: resume, force: force)
    for error in [
      failure { () throws(IngotError) in _ = try OutputDirectory(request) }, failure { () throws(IngotError) in try request.check() },
    ] {
      #expect(error?.status == .busy)
      #expect(error?.message.contains("process \(ProcessInfo.processInfo.processIdentifier) on ") == true)
    }
    // The first is not disturbed, and its lock ends with it.
    _ = try Self.fill(output)
    _ = try output.commit()
    Self.expectComplete(scratch, "OUT")
  }

  /// Another process, not only another descriptor, holds the lock.
  @Test func lockOfAnotherProcess() throws {
    let scratch = try Scratch()
    try OutputDirectory(try Self.request(scratch("OUT"))).abandon()
    let holder = Process()
    holder.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
    holder.arguments = ["-x", scratch("OUT.partial/.ingot-journal"), "sh", "-c", "echo held; read line"]
    let (input, printed) = (Pipe(), Pipe())
    holder.standardInput = input
    holder.standardOutput = printed
    try holder.run()
    #expect(printed.fileHandleForReading.readData(ofLength: 5) == Data("held\n".utf8))
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("OUT"), resume: true)) }?.status == .busy)
    input.fileHandleForWriting.closeFile()
    holder.waitUntilExit()
    _ = try OutputDirectory(try Self.request(scratch("OUT"), resume: true))
  }

  @Test func resumeGoesOn() throws {
    let scratch = try Scratch()
    do {
      let output = try OutputDirectory(try Self.request(scratch("OUT")))
      try output.file("a.safetensors").write(Self.first, at: 0)
      try output.record(tensor: 0, digest: try TensorDigest.of(Self.first))
      output.abandon()
    }
    // Killed in the middle of a line, beside a file that does not belong.
    let handle = try #require(FileHandle(forWritingAtPath: scratch("OUT.partial/.ingot-journal")))
    try handle.seekToEnd()
    try handle.write(contentsOf: Data("tensor 1 0123".utf8))
    try handle.close()
    try scratch.write("OUT.partial/stray.bin", [1])
    let faults = FaultInjector()
    let output = try OutputDirectory(try Self.request(scratch("OUT"), resume: true, system: System(faults: faults)))
    #expect(output.finished == [0: try TensorDigest.of(Self.first)])
    #expect(try Self.fill(output) == [1])
    // Only the second tensor and the two small files were written.
    #expect(faults.bytes(.write) == 2_000_000 + 10)
    output.abandon()
    let journal = Journal(parsing: try #require(scratch.read("OUT.partial/.ingot-journal")))
    #expect(journal.finished.count == 2 && journal.skippedLines == 0)
    let last = try OutputDirectory(try Self.request(scratch("OUT"), resume: true))
    #expect(try Self.fill(last) == [])
    _ = try last.commit()
    Self.expectComplete(scratch, "OUT")
  }

  /// The journal is not believed: bytes that changed under it, or a digest that did, mean the tensor is made again.
  @Test(arguments: [0, 1, 2]) func tamperedPartialIsRedone(_ kind: Int) throws {
    let scratch = try Scratch()
    do {
      let output = try OutputDirectory(try Self.request(scratch("OUT")))
      _ = try Self.fill(output)
      output.abandon()
    }
    switch kind {
    case 0:
      let handle = try #require(FileHandle(forWritingAtPath: scratch("OUT.partial/sub/b.safetensors")))
      try handle.seek(toOffset: 1_999_999)
      try handle.write(contentsOf: Data([Self.second[1_999_999] ^ 1]))
      try handle.close()
    case 1:
      let text = String(decoding: try #require(scratch.read("OUT.partial/.ingot-journal")), as: UTF8.self)
      let digest = try TensorDigest.of(Self.second)
      try scratch.write("OUT.partial/.ingot-journal", Array(text.replacingOccurrences(of: "\(digest)", with: "\(Digest128(of: "x"))").utf8))
    default: try FileManager.default.removeItem(atPath: scratch("OUT.partial/sub/b.safetensors"))
    }
    let output = try OutputDirectory(try Self.request(scratch("OUT"), resume: true))
    #expect(try Self.fill(output) == [1])
    _ = try output.commit()
    Self.expectComplete(scratch, "OUT")
  }

  @Test func resumeOfAnotherRunIsStale() throws {
    let scratch = try Scratch()
    try OutputDirectory(try Self.request(scratch("OUT"))).abandon()
    let other = RunIdentity(plan: Self.identity.plan, sources: Digest128(of: "changed"))
    let request = try Self.request(scratch("OUT"), resume: true, identity: other)
    let error = failure { () throws(IngotError) in _ = try OutputDirectory(request) }
    #expect(error?.status == .stale)
    #expect(error?.message.hasPrefix("the source files changed") == true)
    #expect(failure { () throws(IngotError) in try request.check() } == error)
    // Both flags: resume if possible, else start afresh.
    let output = try OutputDirectory(try Self.request(scratch("OUT"), resume: true, force: true, identity: other))
    #expect(output.finished.isEmpty)
  }

  @Test func resumeOfAForeignDirectoryIsStale() throws {
    let scratch = try Scratch()
    try scratch.write("OUT.partial/mine.txt", [1])
    let error = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("OUT"), resume: true)) }
    #expect(error?.status == .stale)
    #expect(scratch.tree("OUT.partial") == ["mine.txt"])
    let output = try OutputDirectory(try Self.request(scratch("OUT"), force: true))
    _ = try Self.fill(output)
    _ = try output.commit()
    Self.expectComplete(scratch, "OUT")
  }

  /// A kill between moving the journal away and the rename.
  @Test func journalLeftBesideIsFound() throws {
    let scratch = try Scratch()
    do {
      let output = try OutputDirectory(try Self.request(scratch("OUT")))
      _ = try Self.fill(output)
      output.abandon()
    }
    try FileManager.default.moveItem(atPath: scratch("OUT.partial/.ingot-journal"), toPath: scratch("OUT.partial.journal"))
    try Self.request(scratch("OUT"), resume: true).check()
    let output = try OutputDirectory(try Self.request(scratch("OUT"), resume: true))
    #expect(try Self.fill(output) == [])
    _ = try output.commit()
    Self.expectComplete(scratch, "OUT")
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path) == ["OUT"])
  }

  @Test func unusableParents() throws {
    let scratch = try Scratch()
    let missing = failure { () throws(IngotError) in try Self.request(scratch("no/such/OUT")).check() }
    #expect(missing?.status == .output && missing?.hint == "mkdir -p '\(scratch("no/such"))'")
    try scratch.write("file", [1])
    #expect(failure { () throws(IngotError) in try Self.request(scratch("file/OUT")).check() }?.status == .output)
    // A file system that nobody can write to, root included.
    let readOnly = failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request("/proc/OUT")) }
    #expect(readOnly?.status == .output || readOnly?.status == .noSpace)
    #expect(readOnly?.subject?.hasPrefix("/proc") == true)
  }

  @Test func partialThatIsNoDirectory() throws {
    let scratch = try Scratch()
    try FileManager.default.createSymbolicLink(atPath: scratch("OUT.partial"), withDestinationPath: scratch.path)
    for (resume, force) in [(false, false), (true, false), (false, true)] {
      let request = try Self.request(scratch("OUT"), resume: resume, force: force)
      #expect(failure { () throws(IngotError) in _ = try OutputDirectory(request) }?.status == .exists)
    }
  }

  @Test func linkInsidePartialIsNotWrittenThrough() throws {
    let scratch = try Scratch()
    try OutputDirectory(try Self.request(scratch("OUT"))).abandon()
    try scratch.write("precious", [7])
    try FileManager.default.removeItem(atPath: scratch("OUT.partial/a.safetensors"))
    try FileManager.default.createSymbolicLink(atPath: scratch("OUT.partial/a.safetensors"), withDestinationPath: scratch("precious"))
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(try Self.request(scratch("OUT"), resume: true)) }?.status == .output)
    #expect(scratch.read("precious") == [7])
  }

  @Test func tooLittleSpaceIsPredicted() throws {
    let scratch = try Scratch()
    var request = try Self.request(scratch("OUT"))
    request.files[0].size = 1 << 60
    let error = failure { () throws(IngotError) in try request.check() }
    #expect(error?.status == .noSpace)
    #expect(error?.message.contains("1.00 EiB (\((1 << 60) + 2_000_000) bytes)") == true)
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(request) }?.status == .noSpace)
    #expect(scratch.tree("") == [])
  }

  @Test func rangesOutsideAFile() throws {
    let scratch = try Scratch()
    let output = try OutputDirectory(try Self.request(scratch("OUT")))
    let file = try output.file("a.safetensors")
    for (offset, count) in [(2999, 2), (-1, 1), (3001, 0), (Int.max, 1)] {
      #expect(
        failure { () throws(IngotError) in try file.write([UInt8](repeating: 0, count: count), at: offset) }?.status == .internalError)
    }
    #expect(failure { () throws(IngotError) in _ = try file.tensorDigest(at: 2000, count: 1001) }?.status == .internalError)
    #expect(failure { () throws(IngotError) in _ = try file.tensorDigest(at: 0, count: 10, isCancelled: { true }) }?.status == .cancelled)
    #expect(failure { () throws(IngotError) in _ = try output.file("none") }?.status == .internalError)
  }

  @Test(arguments: [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.50 KiB (1536 bytes)"), (Int.max, "7.99 EiB (\(Int.max) bytes)")])
  func byteCounts(_ count: Int, _ text: String) { #expect(describeBytes(count) == text) }
}
