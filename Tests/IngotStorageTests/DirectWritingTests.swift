import Foundation
import Glibc
import IngotErrors
import Testing

@testable import IngotStorage

/// Writes past the page cache: the same bytes as through it, from any address and to any offset.
@Suite struct DirectWritingTests {
  /// A file of `size` bytes on a disk, if there is one, and a sink for pieces of it.
  static func output(_ scratch: Scratch, size: Int, isDirect: Bool, _ system: System = .live) throws -> OutputDirectory {
    try OutputDirectory(
      OutputRequest(
        destination: try DestinationPath(scratch("OUT")), files: [PlannedFile(name: "a.safetensors", size: size)],
        identity: JournalTests.identity, sync: .none, isDirect: isDirect, system: system))
  }

  /// Writes `contents` in pieces that end at `cuts`, each from memory whose address is `skew` beyond what its offset asks for.
  static func write(_ contents: [UInt8], cuts: [Int], skew: Int, to file: OutputFile) throws {
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: contents.count + 8192, alignment: 4096)
    defer { unsafe room.deallocate() }
    var start = 0
    for end in cuts + [contents.count] where end > start {
      let place = start % 4096 + skew
      let part = unsafe UnsafeMutableRawBufferPointer(rebasing: room[place..<place + end - start])
      unsafe part.copyBytes(from: contents[start..<end])
      try unsafe file.write(UnsafeRawBufferPointer(part), at: start)
      start = end
    }
  }

  static let contents = pattern(1_500_001)
  static let cuts: [[Int]] = [[], [7], [4096, 8192, 300_000], [70_001, 140_002, 900_003], [65_536, 131_073]]

  @Test(arguments: cuts, [0, 1, 512]) func everyByteArrives(_ cuts: [Int], _ skew: Int) throws {
    let scratch = try Scratch()
    for isDirect in [true, false] {
      let output = try Self.output(scratch, size: Self.contents.count, isDirect: isDirect)
      try Self.write(Self.contents, cuts: cuts, skew: skew, to: try output.file("a.safetensors"))
      #expect(scratch.read("OUT.partial/a.safetensors") == Self.contents)
      #expect(try output.file("a.safetensors").tensorDigest(at: 0, count: Self.contents.count) == TensorDigest.of(Self.contents))
      output.abandon()
      try FileManager.default.removeItem(atPath: scratch("OUT.partial"))
    }
  }

  /// The cache is the way out wherever the other does not work, and an error that is one stays one.
  @Test(arguments: [Fault.error(EINVAL), .error(EOPNOTSUPP), .short(1), .short(5000), .error(EIO), .error(ENOSPC)], 1...3)
  func faults(_ fault: Fault, _ number: Int) throws {
    let scratch = try Scratch()
    let faults = FaultInjector()
    let output = try Self.output(scratch, size: Self.contents.count, isDirect: true, System(faults: faults))
    faults.fail(.write, number: number, with: fault)
    do {
      try Self.write(Self.contents, cuts: [700_000], skew: 0, to: try output.file("a.safetensors"))
      #expect(scratch.read("OUT.partial/a.safetensors") == Self.contents)
    } catch let error as IngotError {
      #expect(error.status == (fault == .error(ENOSPC) ? .noSpace : .output))
      #expect([.error(EIO), .error(ENOSPC), .error(EINVAL), .error(EOPNOTSUPP)].contains(fault))
    }
  }

  @Test func openingThatFailsIsNoError() throws {
    let scratch = try Scratch()
    let plain = FaultInjector()
    try Self.output(scratch, size: 1 << 20, isDirect: false, System(faults: plain)).abandon()
    let opened = plain.count(.open)
    try FileManager.default.removeItem(atPath: scratch("OUT.partial"))
    let faults = FaultInjector()
    faults.fail(.open, number: opened + 1, with: .error(EMFILE))
    let output = try Self.output(scratch, size: 1 << 20, isDirect: true, System(faults: faults))
    #expect(faults.fired.count == 1)
    #expect(!(try output.file("a.safetensors").waitsForDevice))
  }

  @Test func stretches() {
    #expect(DirectWriting.stretch(address: 8192, offset: 4096, count: 1 << 20) == 0..<1 << 20)
    #expect(DirectWriting.stretch(address: 8192 + 100, offset: 4096 + 100, count: 1 << 20) == 3996..<3996 + (1 << 20) - 4096)
    #expect(DirectWriting.stretch(address: 8193, offset: 4096, count: 1 << 20) == nil)
    #expect(DirectWriting.stretch(address: 0, offset: 0, count: DirectWriting.leastBytes - 1) == nil)
    #expect(DirectWriting.stretch(address: 4095, offset: 4095, count: 1) == nil)
  }

  @Test func slowDeviceIsLeftToTheCache() {
    let waiting = DirectWriting(waitsForMedium: true)
    let impatient = DirectWriting(waitsForMedium: false)
    for writing in [waiting, impatient] { writing.note(bytes: 32 << 20, nanoseconds: 1_000_000_000) }
    #expect(waiting.isOn && impatient.isOn)
    for writing in [waiting, impatient] { writing.note(bytes: 32 << 20, nanoseconds: 1_000_000_000) }
    #expect(waiting.isOn && !impatient.isOn)
    let quick = DirectWriting(waitsForMedium: false)
    for _ in 0..<8 { quick.note(bytes: 32 << 20, nanoseconds: 30_000_000) }
    #expect(quick.isOn)
  }
}
