import CTeam
import Foundation
import Glibc
import IngotErrors
import Synchronization
import Testing

@testable import IngotEngine

/// Where the build put the companion: beside this test's executable.
private let companion: String? = {
  var path = [CChar](repeating: 0, count: 4096)
  let count = unsafe readlink("/proc/self/exe", &path, path.count)
  guard count > 0 else { return nil }
  let executable = String(decoding: path.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self)
  let beside = (executable as NSString).deletingLastPathComponent + "/libingot-openmp.so"
  return FileManager.default.fileExists(atPath: beside) ? beside : nil
}()

/// The processors that the calling thread may run on, as the kernel prints them.
private func affinity() throws -> String {
  let status = try String(contentsOfFile: "/proc/thread-self/status", encoding: .utf8)
  return try #require(status.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed:") }.map(String.init))
}

/// Counts per worker, from any thread.
private final class Tally: Sendable {
  let counts = Mutex<[Int: Int]>([:])
  let sizes = Mutex<Set<Int>>([])
  func add(_ worker: Int, _ size: Int) {
    counts.withLock { $0[worker, default: 0] += 1 }
    sizes.withLock { _ = $0.insert(size) }
  }
}

/// One at a time: these tests look at their own thread's state and at the process's threads.
@Suite(.serialized) struct WorkerTeamTests {
  static let kinds: [WorkerTeam.Kind] = [.openMP, .pthread]

  @Test func companionWasBuilt() { #expect(companion != nil) }

  @Test(arguments: kinds, [1, 2, 3, 8]) func everyWorkerRunsOnce(_ kind: WorkerTeam.Kind, _ threads: Int) throws {
    let team = try WorkerTeam(threads: threads, kind: kind, companionPath: companion)
    #expect(team.size == threads)
    #expect(team.kind == (threads == 1 ? .pthread : kind), "\(team.explanation)")
    let tally = Tally()
    for _ in 0..<50 { try team.run { worker, size in tally.add(worker, size) } }
    #expect(tally.counts.withLock { $0 } == Dictionary(uniqueKeysWithValues: (0..<threads).map { ($0, 50) }))
    #expect(tally.sizes.withLock { $0 } == [threads])
  }

  /// The library finds the companion without being told where.
  @Test func companionIsFoundBesideTheLibrary() throws {
    let team = try WorkerTeam(threads: 2)
    #expect(team.kind == .openMP)
    #expect(team.explanation.contains("libingot-openmp.so"))
  }

  @Test func missingCompanion() throws {
    let team = try WorkerTeam(threads: 2, companionPath: "/nonexistent/libingot-openmp.so")
    #expect(team.kind == .pthread)
    #expect(team.explanation.contains("/nonexistent/libingot-openmp.so"))
    do throws(IngotError) {
      _ = try WorkerTeam(threads: 2, kind: .openMP, companionPath: "/nonexistent/libingot-openmp.so")
      Issue.record("no error")
    } catch {
      #expect(error.status == .unsupported && error.hint != nil)
    }
  }

  @Test func fileThatIsNoLibrary() throws {
    let path = NSTemporaryDirectory() + "/ingot-\(UUID().uuidString).so"
    try Data("not a library".utf8).write(to: URL(fileURLWithPath: path))
    defer { try? FileManager.default.removeItem(atPath: path) }
    let team = try WorkerTeam(threads: 2, companionPath: path)
    #expect(team.kind == .pthread)
    #expect(team.explanation.contains("does not load"))
  }

  @Test(arguments: [-1, 4097, Int.max, Int.min]) func impossibleCounts(_ threads: Int) {
    do throws(IngotError) {
      _ = try WorkerTeam(threads: threads)
      Issue.record("no error")
    } catch {
      #expect(error.status == .invalidArgument)
    }
  }

  /// Workers really are different threads, and the caller is worker 0.
  @Test(arguments: kinds) func callerIsWorkerZero(_ kind: WorkerTeam.Kind) throws {
    let team = try WorkerTeam(threads: 3, kind: kind, companionPath: companion)
    let threads = Mutex<[Int: UInt]>([:])
    try team.run { worker, _ in
      let thread = UInt(pthread_self())
      threads.withLock { $0[worker] = thread }
    }
    let seen = threads.withLock { $0 }
    #expect(seen[0] == UInt(pthread_self()))
    #expect(Set(seen.values).count == 3)
  }

  /// A host that flushes subnormals and rounds up: inside, the standard state on every worker; outside, the host's own.
  @Test(arguments: kinds) func floatingPointState(_ kind: WorkerTeam.Kind) throws {
    let standard: UInt64
    let odd: UInt64
    #if arch(x86_64)
      // FTZ, DAZ, round up; the x87 too.
      (standard, odd) = (0x037F_0000_1F80, 0x0B7F_0000_0000 | 0x1F80 | 0x8000 | 0x0040 | 0x4000)
    #else
      (standard, odd) = (0, 1 << 24 | 1 << 22)  // FZ, round up
    #endif
    let team = try WorkerTeam(threads: 4, kind: kind, companionPath: companion)
    let found = Mutex<[UInt64]>([])
    let before = ingot_fp_control()
    ingot_fp_set_control(odd)
    defer { ingot_fp_set_control(before) }
    let tiny = Mutex<[Float]>([])
    try team.run { worker, _ in
      let control = ingot_fp_control() & ~0x3F
      // Smaller than any normal Float: 0 where subnormals are flushed. One third rounds down in round-to-nearest.
      let product = Float.leastNormalMagnitude * Float(worker + 1) / Float(worker + 4)
      found.withLock { $0.append(control) }
      tiny.withLock { $0.append(product) }
    }
    #expect(ingot_fp_control() & ~0x3F == odd)
    ingot_fp_set_control(before)
    #expect(found.withLock { $0 } == [UInt64](repeating: standard, count: 4))
    #expect(tiny.withLock { $0.allSatisfy { $0 > 0 } })
    // The team's own threads have the standard state between runs, too.
    found.withLock { $0 = [] }
    try team.run { _, _ in found.withLock { $0.append(ingot_fp_control() & ~0x3F) } }
    #expect(found.withLock { $0 } == [UInt64](repeating: standard, count: 4))
  }

  @Test(arguments: kinds) func runInsideARunIsBusy(_ kind: WorkerTeam.Kind) throws {
    let team = try WorkerTeam(threads: 2, kind: kind, companionPath: companion)
    let statuses = Mutex<[Status]>([])
    try team.run { _, _ in
      do throws(IngotError) { try team.run { _, _ in } } catch { statuses.withLock { $0.append(error.status) } }
    }
    #expect(statuses.withLock { $0 } == [.busy, .busy])
    try team.run { _, _ in }
  }

  /// A second team inside a body: no OpenMP inside a parallel region, own threads instead, and the work is done.
  @Test(arguments: kinds) func teamInsideATeam(_ kind: WorkerTeam.Kind) throws {
    let outer = try WorkerTeam(threads: 2, kind: kind, companionPath: companion)
    let before = try WorkerTeam(threads: 2, companionPath: companion)
    let tally = Tally()
    let kinds = Mutex<[WorkerTeam.Kind]>([])
    try outer.run { worker, _ in
      guard worker == 0 else { return }
      do throws(IngotError) {
        let inner = try WorkerTeam(threads: 2, companionPath: companion)
        kinds.withLock { $0.append(inner.kind) }
        try inner.run { worker, size in tally.add(worker, size) }
        // Made outside, where OpenMP was possible.
        try before.run { worker, size in tally.add(worker, size) }
      } catch {
        Issue.record("\(error)")
      }
    }
    #expect(kinds.withLock { $0 } == [kind == .openMP ? .pthread : .openMP])
    #expect(tally.counts.withLock { $0 } == [0: 2, 1: 2])
  }

  @Test(arguments: kinds) func callersAffinityIsKept(_ kind: WorkerTeam.Kind) throws {
    let before = try affinity()
    do {
      let team = try WorkerTeam(threads: 4, kind: kind, companionPath: companion, topology: try Topology(synthetic: "numa:2 core:2 pu:1"))
      for _ in 0..<10 { try team.run { _, _ in } }
      #expect(try affinity() == before)
    }
    #expect(try affinity() == before)
  }

  @Test func ownThreadsAreJoined() throws {
    func ownThreads() throws -> Int {
      try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").filter {
        (try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)) == "ingot-worker\n"
      }.count
    }
    do {
      let team = try WorkerTeam(threads: 5, kind: .pthread)
      try team.run { _, _ in }
      #expect(try ownThreads() == 4)
    }
    #expect(try ownThreads() == 0)
  }

  @Test(arguments: kinds) func thousandTeams(_ kind: WorkerTeam.Kind) throws {
    let tally = Tally()
    for _ in 0..<1000 {
      let team = try WorkerTeam(threads: 3, kind: kind, companionPath: companion)
      try team.run { worker, size in tally.add(worker, size) }
    }
    #expect(tally.counts.withLock { $0 } == [0: 1000, 1: 1000, 2: 1000])
  }

  /// A child after fork() has none of the threads: it runs on new ones of its own, for a team of either kind and for a new one,
  /// and never waits for the old. Its exit status tells.
  @Test(arguments: kinds) func childAfterFork(_ kind: WorkerTeam.Kind) throws {
    // Swift hides fork; the child below makes only C calls.
    typealias Fork = @convention(c) () -> Int32
    let fork = unsafe unsafeBitCast(try #require(unsafe dlsym(nil, "fork")), to: Fork.self)
    var team: OpaquePointer?
    try #require(unsafe ingot_team_create(3, kind.rawValue, companion, &team, nil, 0) == Int32(INGOT_TEAM_OK))
    defer { unsafe ingot_team_destroy(team) }
    let mark: ingot_team_body = { user, worker, size in
      unsafe user?.storeBytes(of: UInt8(truncatingIfNeeded: size), toByteOffset: Int(worker), as: UInt8.self)
    }
    let marks = UnsafeMutableRawPointer.allocate(byteCount: 3, alignment: 1)
    defer { unsafe marks.deallocate() }
    unsafe marks.initializeMemory(as: UInt8.self, repeating: 0, count: 3)
    #expect(unsafe ingot_team_run(team, mark, marks) == 0)
    let child = fork()
    if child == 0 {
      alarm(20)
      unsafe marks.initializeMemory(as: UInt8.self, repeating: 0, count: 3)
      if unsafe ingot_team_run(team, mark, marks) != 0 { _exit(1) }
      for i in 0..<3 where unsafe marks.load(fromByteOffset: i, as: UInt8.self) != 3 { _exit(2) }
      if unsafe Int(ingot_team_kind(team)) != INGOT_TEAM_PTHREAD { _exit(3) }
      unsafe ingot_team_destroy(team)
      var fresh: OpaquePointer?
      if unsafe ingot_team_create(2, 0, nil, &fresh, nil, 0) != 0 { _exit(4) }
      if unsafe ingot_team_run(fresh, mark, marks) != 0 { _exit(5) }
      unsafe ingot_team_destroy(fresh)
      _exit(0)
    }
    var status: Int32 = -1
    #expect(unsafe waitpid(child, &status, 0) == child)
    #expect(status == 0)
    #expect(unsafe ingot_team_run(team, mark, marks) == 0)
  }

  @Test func emptyArguments() {
    #expect(unsafe ingot_team_run(nil, { _, _, _ in }, nil) == Int32(INGOT_TEAM_INVALID))
    #expect(ingot_team_create(2, 0, nil, nil, nil, 0) == Int32(INGOT_TEAM_INVALID))
    ingot_team_destroy(nil)
    ingot_team_place(nil, nil)
    #expect(ingot_team_size(nil) == 0)
    ingot_node_free(nil, 0)
    #expect(unsafe ingot_node_alloc(nil, 0, 0) == nil)
    #expect(unsafe ingot_node_alloc(nil, .max, 0) == nil)
  }
}
