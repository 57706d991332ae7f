import Foundation
import IngotErrors
import Testing

@testable import IngotStorage

/// Every system call of a small run is made to fail once: each run must end in an error or in a right output.
struct FaultTests {
  enum Scene: String, CaseIterable, Sendable { case fresh, replacing, resuming }

  static func request(_ scratch: Scratch, _ scene: Scene, resume: Bool, _ system: System) throws(IngotError) -> OutputRequest {
    OutputRequest(
      destination: try DestinationPath(scratch("OUT")),
      files: [PlannedFile(name: "a.safetensors", size: 3000), PlannedFile(name: "sub/b.safetensors", size: 5000)],
      identity: JournalTests.identity, resume: resume, force: scene == .replacing, sync: .all, replaceableMarkers: ["config.json"],
      system: system)
  }

  static let contents = [("a.safetensors", pattern(3000)), ("sub/b.safetensors", Array(pattern(5000).reversed()))]

  static func run(_ scratch: Scratch, _ scene: Scene, resume: Bool, _ system: System) throws(IngotError) -> [Notice] {
    let output = try OutputDirectory(try request(scratch, scene, resume: resume, system))
    for (index, (name, bytes)) in contents.enumerated() {
      let file = try output.file(name)
      let digest = try TensorDigest.of(bytes)
      if let known = output.finished[index], try file.tensorDigest(at: 0, count: bytes.count) == known { continue }
      try file.write(bytes, at: 0)
      file.startWriteBack(at: 0, count: bytes.count)
      try output.record(tensor: index, digest: digest)
    }
    try output.writeSmallFile("config.json", Array("{}".utf8))
    return try output.commit()
  }

  /// What the scene finds on the disk.
  static func arrange(_ scene: Scene) throws -> Scratch {
    // Hundreds of runs that sync: in memory where there is such a place.
    let scratch = try FileManager.default.isWritableFile(atPath: "/dev/shm") ? Scratch("/dev/shm") : Scratch()
    switch scene {
    case .fresh: break
    case .replacing: try scratch.write("OUT/config.json", Array("old".utf8))
    case .resuming:
      let output = try OutputDirectory(try request(scratch, scene, resume: false, .live))
      try output.file("a.safetensors").write(contents[0].1, at: 0)
      try output.record(tensor: 0, digest: try TensorDigest.of(contents[0].1))
      output.abandon()
    }
    return scratch
  }

  static func isComplete(_ scratch: Scratch) -> Bool {
    scratch.tree("OUT") == ["a.safetensors", "config.json", "sub", "sub/b.safetensors"]
      && contents.allSatisfy { scratch.read("OUT/" + $0.0) == $0.1 } && scratch.read("OUT/config.json") == Array("{}".utf8)
  }

  /// What was there before the run.
  static func isUntouched(_ scratch: Scratch, _ scene: Scene) -> Bool {
    scene == .replacing
      ? scratch.tree("OUT") == ["config.json"] && scratch.read("OUT/config.json") == Array("old".utf8) : !scratch.exists("OUT")
  }

  @Test(arguments: Scene.allCases, [Fault.error(EIO), .error(ENOSPC), .error(EINVAL), .error(EMFILE), .error(EINTR), .short(0), .short(1)])
  func everyCallFailsOnce(_ scene: Scene, _ fault: Fault) throws {
    let clean = FaultInjector()
    do {
      let scratch = try Self.arrange(scene)
      #expect(try Self.run(scratch, scene, resume: scene == .resuming, System(faults: clean)) == [])
      #expect(Self.isComplete(scratch))
    }
    let calls = clean.total
    #expect(calls > 30)
    var errors = 0
    for number in 1...calls {
      let scratch = try Self.arrange(scene)
      let faults = FaultInjector()
      faults.fail(nil, number: number, with: fault)
      do throws(IngotError) {
        let notices = try Self.run(scratch, scene, resume: scene == .resuming, System(faults: faults))
        #expect(Self.isComplete(scratch), "\(scene), call \(number): \(faults.fired)")
        // What is left behind is said.
        let beside = scratch.topLevel.count - 1
        #expect(beside <= notices.count, "\(scene), call \(number): \(faults.fired)")
      } catch {
        errors += 1
        #expect(Self.isUntouched(scratch, scene), "\(scene), call \(number): \(faults.fired): \(error)")
        #expect([.output, .noSpace, .io, .stale].contains(error.status), "\(scene), call \(number): \(faults.fired): \(error)")
        #expect(error.subject != nil)
        // The next run goes on and ends well.
        _ = try Self.run(scratch, scene, resume: true, .live)
        #expect(Self.isComplete(scratch), "\(scene), resumed after call \(number): \(faults.fired)")
      }
      #expect(faults.fired.count == 1)
    }
    // Interrupted calls and short transfers are finished; every other fault is an error somewhere.
    if fault == .error(EINTR) { #expect(errors == 0) }
    if fault == .error(EIO) { #expect(errors > 20) }
  }

  /// A full medium that stays full: an error, and no growing heap of retries.
  @Test(arguments: [SystemCall.write, .append, .allocate, .sync, .rename, .makeDirectory]) func callThatAlwaysFails(_ call: SystemCall)
    throws
  {
    let scratch = try Scratch()
    let faults = FaultInjector()
    faults.fail(call, number: 1, with: .error(EDQUOT), repeats: true)
    let error = failure { () throws(IngotError) in _ = try Self.run(scratch, .fresh, resume: false, System(faults: faults)) }
    #expect(error?.status == .noSpace)
    #expect(faults.count(call) < 10)
    #expect(!scratch.exists("OUT"))
  }

  @Test(arguments: [(EACCES, Status.output), (EROFS, .output), (EDQUOT, .noSpace), (ENOSPC, .noSpace), (EIO, .output)])
  func writeErrors(_ code: Int32, _ status: Status) throws {
    let scratch = try Scratch()
    let faults = FaultInjector()
    faults.fail(.write, number: 1, with: .error(code))
    #expect(failure { () throws(IngotError) in _ = try Self.run(scratch, .fresh, resume: false, System(faults: faults)) }?.status == status)
  }

  @Test(arguments: [ENOLCK, EOPNOTSUPP]) func fileSystemWithoutLocks(_ code: Int32) throws {
    let scratch = try Scratch()
    let faults = FaultInjector()
    faults.fail(.lock, number: 1, with: .error(code))
    let output = try OutputDirectory(try Self.request(scratch, .fresh, resume: false, System(faults: faults)))
    #expect(output.notices.count == 1)
    #expect(output.notices.first?.message.contains("no locks") == true)
  }

  @Test(arguments: [EOPNOTSUPP, ENOSYS]) func fileSystemWithoutReservation(_ code: Int32) throws {
    let scratch = try Scratch()
    let faults = FaultInjector()
    faults.fail(.allocate, number: 1, with: .error(code), repeats: true)
    _ = try Self.run(scratch, .fresh, resume: false, System(faults: faults))
    #expect(Self.isComplete(scratch))
  }

  /// A file system of one megabyte.
  @Test(
    .machine("mounting a file system wants root") {
      shell("d=$(mktemp -d) && mount -t tmpfs none $d && umount -l $d && rmdir $d") == 0
    })
  func realFullMedium() throws {
    let scratch = try Scratch()
    try #require(shell("mount -t tmpfs -o size=1m none '\(scratch.path)'") == 0)
    defer { _ = shell("umount -l '\(scratch.path)'") }
    func request(_ size: Int, resume: Bool = false) throws(IngotError) -> OutputRequest {
      OutputRequest(
        destination: try DestinationPath(scratch("OUT")), files: [PlannedFile(name: "a", size: size)], identity: JournalTests.identity,
        resume: resume)
    }
    #expect(failure { () throws(IngotError) in _ = try OutputDirectory(try request(2_000_000)) }?.status == .noSpace)
    #expect(!scratch.exists("OUT.partial"))
    // It fits when the run starts; then something else takes the rest.
    let output = try OutputDirectory(try request(500_000))
    let hog = failure { () throws(IngotError) in
      for i in 0..<100 { try output.writeSmallFile("hog-\(i)", pattern(20_000)) }
    }
    #expect(hog?.status == .noSpace)
    #expect(hog?.hint?.contains("--resume") == true)
    // What was reserved is still there to write to.
    try output.file("a").write(pattern(500_000), at: 0)
    output.abandon()
    // The stray files are gone when it is resumed, and their space is free again.
    let again = try OutputDirectory(try request(500_000, resume: true))
    try again.writeSmallFile("config.json", pattern(200_000))
    _ = try again.commit()
    #expect(scratch.tree("OUT") == ["a", "config.json"])
  }
}
