import Foundation
import Glibc
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

@testable import IngotEngine

/// Merges whose sources are not in the page cache.
@Suite struct ColdReadTests {
  static let methods = [
    MethodCase(method: "linear"), MethodCase(method: "task_arithmetic", lambda: 0.8), MethodCase(method: "passthrough", scale: 0.3),
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]),
  ]

  /// Models on a disk: large tensors, one of another type, one that a request does not hold whole, small ones.
  static let models = ReferenceModels(
    [
      .init(name: "model.large.weight", shape: [700, 1111], dtypes: [.bf16, .bf16, .bf16, .bf16]),
      .init(name: "model.wide.weight", shape: [3, 50_001], dtypes: [.f32, .f32, .bf16, .f32]),
      .init(name: "model.small.bias", shape: [37], dtypes: [.f16, .f16, .f16, .f16]),
    ], seed: 21
  ).models

  static func arrange() throws -> Scratch {
    let scratch = try Scratch(onDisk: true)
    for (name, tensors) in models { try scratch.model(name, tensors) }
    return scratch
  }

  /// Takes the models out of the page cache. False where they cannot be, as in a file system in memory.
  static func drop(_ scratch: Scratch) throws -> Bool {
    for name in ["base", "a", "b", "c"] {
      let descriptor = unsafe open(scratch(name + "/model.safetensors"), O_RDWR)
      defer { close(descriptor) }
      try #require(fsync(descriptor) == 0 && posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) == 0)
      guard ReadAhead.canReadPastCache(try StoredFile(scratch(name + "/model.safetensors"))) else { return false }
    }
    return true
  }

  static func plan(_ item: MethodCase, _ scratch: Scratch, _ system: System = .live) throws -> Plan {
    try Plan.make(try Recipe(item.recipe), models: DirectoryModels(root: scratch.path, system: system))
  }

  /// Cold files are read past the page cache and warm ones are not, with the same result; what several rounds read goes through it.
  @Test(arguments: methods) func coldAndWarm(_ item: MethodCase) throws {
    let scratch = try Self.arrange()
    let plan = try Self.plan(item, scratch)
    let engine = try DirectoryMergeTests.engine(threads: 2)
    let warm = try engine.run(plan, into: NullSink())
    #expect(warm.bytesReadAhead == 0 && warm.reading == "the page cache")
    let isCold = try Self.drop(scratch)
    let cold = try engine.run(plan, into: NullSink())
    #expect(cold.digests == warm.digests)
    #expect(cold.bytesRead == warm.bytesRead)
    // How much, and whether any, depends on who is quicker: the worker or the disk.
    if cold.bytesReadAhead > 0 { #expect(isCold && item.method != "ties" && cold.reading.hasPrefix("io_uring")) }
    var always = RunOptions()
    always.reads = .always
    let ahead = try engine.run(plan, into: NullSink(), options: always)
    #expect(ahead.digests == warm.digests)
    if isCold && item.method != "ties" { #expect(ahead.bytesReadAhead > 0 && ahead.reading.hasPrefix("io_uring")) }
    // Once more: what was read past the cache is as cold as before; unless the person wants it there.
    _ = try Self.drop(scratch)
    var cached = RunOptions()
    cached.reads = .never
    let filled = try engine.run(plan, into: NullSink(), options: cached)
    #expect(filled.digests == warm.digests && filled.bytesReadAhead == 0)
    #expect(try engine.run(plan, into: NullSink()).bytesReadAhead == 0)
  }

  /// As few slots as there can be, or none: the same bytes.
  @Test(arguments: [1 << 20, 16 << 20, 64 << 20]) func smallBudgets(_ budget: Int) throws {
    let scratch = try Self.arrange()
    let plan = try Self.plan(MethodCase(method: "linear"), scratch)
    let expected = try Engine().run(plan, into: NullSink()).digests
    for threads in [1, 4] {
      var options = EngineOptions()
      options.threads = threads
      options.memoryBudget = max(budget, plan.leastMemory)
      var run = RunOptions()
      run.reads = .always
      let report = try Engine(options).run(plan, into: NullSink(), options: run)
      #expect(report.digests == expected)
      #expect(report.peakMemory <= options.memoryBudget)
    }
  }

  /// Every call that reads under way need is made to fail once: the result is right each time, since reading in the usual way is left.
  @Test(arguments: [Fault.error(EIO), .error(EPERM), .error(ENOMEM), .error(EINTR), .short(0), .short(5000)])
  func everyCallFailsOnce(_ fault: Fault) throws {
    let scratch = try Self.arrange()
    let item = MethodCase(method: "linear")
    let engine = try DirectoryMergeTests.engine(threads: 2)
    let expected = try engine.run(try Self.plan(item, scratch), into: NullSink()).digests
    var run = RunOptions()
    run.reads = .always
    for call in [SystemCall.ring, .submit, .wait, .readAhead] {
      for number in [1, 2, 5] {
        let faults = FaultInjector()
        faults.fail(call, number: number, with: fault)
        let report = try engine.run(try Self.plan(item, scratch, System(faults: faults)), into: NullSink(), options: run)
        #expect(report.digests == expected, "\(call) \(number)")
        if call == .ring, faults.fired.count == 1, fault != .error(EINTR), case .error = fault {
          #expect(report.bytesReadAhead == 0 && report.readAheadRefusal != nil)
        }
      }
    }
  }

  /// Reads that fail under way and again in the usual way are the error that they were before.
  @Test func brokenMedium() throws {
    let scratch = try Self.arrange()
    var run = RunOptions()
    run.reads = .always
    let faults = FaultInjector()
    let plan = try Self.plan(MethodCase(method: "linear"), scratch, System(faults: faults))
    faults.fail(.readAhead, number: 2, with: .error(EIO), repeats: true)
    faults.fail(.read, number: faults.count(.read) + 1, with: .error(EIO), repeats: true)
    let error = #expect(throws: IngotError.self) {
      try DirectoryMergeTests.engine(threads: 2).run(plan, into: NullSink(), options: run)
    }
    #expect(error?.status == .io && error?.subject?.hasSuffix("model.safetensors") == true)
  }

  /// A source that is cut off while it is read is an error, as it is without reads under way.
  @Test func truncatedWhileItIsRead() throws {
    let scratch = try Self.arrange()
    var run = RunOptions()
    run.reads = .always
    let plan = try Self.plan(MethodCase(method: "linear"), scratch)
    let path = scratch("b/model.safetensors")
    #expect(unsafe truncate(path, 500_000) == 0)
    let error = #expect(throws: IngotError.self) {
      try DirectoryMergeTests.engine(threads: 2).run(plan, into: NullSink(), options: run)
    }
    #expect(error?.status == .io && error?.subject == path)
    #expect(error?.hint?.contains("do not change the sources") == true)
  }
}
