import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Synchronization
import Testing

/// Merges into a directory: interrupted, resumed, refused, disturbed.
@Suite struct DirectoryMergeTests {
  static let methods = [
    MethodCase(method: "linear"), MethodCase(method: "slerp"), MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]),
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9], scope: "model"), MethodCase(method: "della", densities: [0.5, 0.3, 0.8]),
  ]

  /// Models base, a, b, c of eight tensors and one without elements in `scratch`, and the case's recipe over them.
  static func arrange(_ item: MethodCase = MethodCase(method: "linear")) throws -> (scratch: Scratch, recipe: String) {
    let scratch = try Scratch()
    var parts = (0..<8).map { ReferenceModels.Part(name: "w\($0)", shape: [211 + $0, 103], dtypes: [.f32, .f32, .f32, .f32]) }
    parts.append(.init(name: "empty", shape: [0, 3], dtypes: [.f32, .f32, .f32, .f32]))
    for (name, tensors) in ReferenceModels(parts, seed: 31).models { try scratch.model(name, tensors, extra: ["tokenizer.json": "{}"]) }
    var recipe = item.recipe.replacingOccurrences(of: "base_model: base", with: "base_model: @base")
    for name in MethodCase.models { recipe = recipe.replacingOccurrences(of: "{model: \(name),", with: "{model: @\(name),") }
    return (scratch, recipe)
  }

  /// A watcher that is called after every work item of one worker, and cancels with 7 when `isEnough` says so.
  static func watcher(_ isEnough: @escaping @Sendable (IngotEngine.Progress) -> Bool) -> Watcher {
    unsafe Watcher(
      listener: { progress in
        // Longer than the interval, so that the next item is told too.
        usleep(1100)
        return isEnough(progress) ? 7 : 0
      }, unsafe: nil, intervalMilliseconds: 1)
  }

  static func engine(threads: Int = 1) throws -> Engine {
    var options = EngineOptions()
    options.threads = threads
    return try Engine(options)
  }

  /// Indices that the journal of a partial output notes as finished.
  static func journalled(_ scratch: Scratch) -> Set<Int> {
    let lines = (scratch.text("OUT.partial/.ingot-journal") ?? "").split(separator: "\n")
    return Set(lines.filter { $0.hasPrefix("tensor ") }.compactMap { Int($0.split(separator: " ")[1]) })
  }

  /// Interrupts a merge half way.
  static func interrupt(_ scratch: Scratch, _ plan: Plan) throws {
    let error = #expect(throws: IngotError.self) {
      try engine().merge(plan, to: scratch("OUT"), options: .quick, watcher: watcher { $0.bytesDone * 2 >= $0.bytesTotal })
    }
    #expect(error?.status == .cancelled && error?.userCode == 7)
    #expect(error?.hint?.contains("resume") == true)
    #expect(!scratch.exists("OUT") && scratch.exists("OUT.partial"))
  }

  // MARK: Resume

  @Test(arguments: methods) func resumeFinishesWhatIsMissing(_ item: MethodCase) throws {
    let (scratch, recipe) = try Self.arrange(item)
    try scratch.merge(recipe, to: "whole")
    let plan = try scratch.plan(recipe)
    try Self.interrupt(scratch, plan)
    let done = Self.journalled(scratch)
    #expect(done.count >= 2 && done.count < plan.tensors.count)
    let counter = FaultInjector()
    var options = DirectoryOptions.quick
    options.resume = true
    options.system = System(faults: counter)
    let report = try Self.engine(threads: 2).merge(plan, to: scratch("OUT"), options: options)
    #expect(scratch.output() == scratch.output("whole"))
    // Nothing that the journal names is written again.
    let kept = done.reduce(0) { $0 + plan.tensors[$1].byteCount }
    #expect(report.resumedTensors == done.count)
    #expect(report.bytesWritten == plan.bytesWritten - kept)
    let record = scratch.read("OUT/ingot.json")?.count ?? 0
    let around = plan.files.reduce(0) { $0 + $1.header.count } + plan.sideFiles.reduce(0) { $0 + $1.byteCount } + record
    #expect(counter.bytes(.write) == report.bytesWritten + around)
    #expect(report.digests.count == plan.tensors.count)
    try Verification(directory: scratch("OUT")).requireIntact()
  }

  /// What the journal says is believed only if the bytes agree.
  @Test func resumeRedoesDamagedTensors() throws {
    let (scratch, recipe) = try Self.arrange()
    try scratch.merge(recipe, to: "whole")
    let plan = try scratch.plan(recipe)
    try Self.interrupt(scratch, plan)
    let done = Self.journalled(scratch)
    let victim = try #require(done.min())
    let file = try #require(FileHandle(forUpdatingAtPath: scratch("OUT.partial/model.safetensors")))
    try file.seek(toOffset: UInt64(plan.tensors[victim].offset + 1000))
    try file.write(contentsOf: Data([1, 2, 3, 4, 5]))
    try file.close()
    var options = DirectoryOptions.quick
    options.resume = true
    let report = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
    #expect(report.resumedTensors == done.count - 1)
    #expect(scratch.output() == scratch.output("whole"))
  }

  /// What is there is hashed before anything is computed; that, too, ends when it is told to.
  @Test func resumeIsCancelledWhileItChecks() throws {
    let (scratch, recipe) = try Self.arrange()
    let plan = try scratch.plan(recipe)
    try Self.interrupt(scratch, plan)
    let done = Self.journalled(scratch)
    let flag = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    defer { unsafe flag.deallocate() }
    unsafe flag.initialize(to: 1)
    let counter = FaultInjector()
    var options = DirectoryOptions.quick
    options.resume = true
    options.system = System(faults: counter)
    let error = #expect(throws: IngotError.self) {
      try Self.engine().merge(plan, to: scratch("OUT"), options: options, watcher: unsafe Watcher(listener: nil, unsafe: flag))
    }
    #expect(error?.status == .cancelled && error?.hint?.contains("--resume") == true)
    #expect(counter.bytes(.read) < plan.tensors[try #require(done.min())].byteCount)
    #expect(Self.journalled(scratch) == done)
  }

  @Test func resumeOfNothingStartsAfresh() throws {
    let (scratch, recipe) = try Self.arrange()
    var options = DirectoryOptions.quick
    options.resume = true
    let (plan, report) = try scratch.merge(recipe, options: options)
    #expect(report.resumedTensors == 0 && report.bytesWritten == plan.bytesWritten)
  }

  @Test func staleResumeIsRefused() throws {
    let (scratch, recipe) = try Self.arrange()
    try Self.interrupt(scratch, try scratch.plan(recipe))
    let before = scratch.files("OUT.partial")
    var options = DirectoryOptions.quick
    options.resume = true
    let changed = recipe.replacingOccurrences(of: "weight: 0.7", with: "weight: 0.6")
    #expect(changed != recipe)
    let plan = #expect(throws: IngotError.self) { try scratch.merge(changed, options: options) }
    #expect(plan?.status == .stale && plan?.message.contains("the plan changed") == true)
    try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 1)], ofItemAtPath: scratch("b/model.safetensors"))
    let sources = #expect(throws: IngotError.self) { try scratch.merge(recipe, options: options) }
    #expect(sources?.status == .stale && sources?.message.contains("source files changed") == true)
    #expect(sources?.hint?.contains("--force") == true)
    #expect(scratch.files("OUT.partial") == before)
    // Neither option: the partial output is in the way, and the error says both ways out.
    let present = #expect(throws: IngotError.self) { try scratch.merge(recipe) }
    #expect(present?.status == .exists && present?.hint?.contains("--resume") == true && present?.hint?.contains("--force") == true)
    options.resume = false
    options.force = true
    try scratch.merge(changed, options: options)
    #expect(scratch.exists("OUT") && !scratch.exists("OUT.partial"))
  }

  // MARK: Destination

  @Test func existingDestination() throws {
    let (scratch, recipe) = try Self.arrange()
    try scratch.write("OUT/config.json", "{}".utf8)
    try scratch.write("OUT/leftover", "x".utf8)
    let error = #expect(throws: IngotError.self) { try scratch.merge(recipe) }
    #expect(error?.status == .exists && error?.hint?.contains("--force") == true)
    #expect(scratch.files("OUT").count == 2 && !scratch.exists("OUT.partial"))
    var options = DirectoryOptions.quick
    options.force = true
    try scratch.merge(recipe, options: options)
    #expect(scratch.exists("OUT/model.safetensors") && !scratch.exists("OUT/leftover"))
    // A directory that is no model is never replaced.
    try scratch.write("home/thesis.txt", "x".utf8)
    let home = #expect(throws: IngotError.self) { try scratch.merge(recipe, to: "home", options: options) }
    #expect(home?.status == .exists)
    #expect(scratch.text("home/thesis.txt") == "x")
    let parent = #expect(throws: IngotError.self) { try scratch.merge(recipe, to: "no/such/OUT") }
    #expect(parent?.status == .output && parent?.hint?.contains("mkdir") == true)
  }

  @Test func destinationThatAppearsMeanwhile() throws {
    let (scratch, recipe) = try Self.arrange()
    let plan = try scratch.plan(recipe)
    let path = scratch("OUT")
    let error = #expect(throws: IngotError.self) {
      try Self.engine().merge(
        plan, to: path, options: .quick,
        watcher: Self.watcher { _ in
          try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
          return false
        })
    }
    #expect(error?.status == .exists)
    #expect(scratch.files("OUT").isEmpty && scratch.exists("OUT.partial"))
    try scratch.remove("OUT")
    var options = DirectoryOptions.quick
    options.resume = true
    #expect(try Self.engine().merge(plan, to: path, options: options).bytesWritten == 0)
  }

  /// Whatever it asks for, a second run leaves the first one's output alone.
  @Test func twoRunsIntoOneDestination() throws {
    let (scratch, recipe) = try Self.arrange()
    try scratch.merge(recipe, to: "whole")
    let plan = try scratch.plan(recipe)
    let path = scratch("OUT")
    let seen = Mutex<[Status]>([])
    _ = try Self.engine().merge(
      plan, to: path, options: .quick,
      watcher: Self.watcher { _ in
        if seen.withLock({ $0.count }) >= 3 { return false }
        for mode in 0..<3 {
          var options = DirectoryOptions.quick
          options.resume = mode == 1
          options.force = mode == 2
          do throws(IngotError) {
            _ = try Engine().merge(plan, to: path, options: options)
            seen.withLock { $0.append(.ok) }
          } catch {
            seen.withLock { $0.append(error.status) }
          }
        }
        return false
      })
    #expect(seen.withLock { $0 } == [.busy, .busy, .busy])
    #expect(scratch.output() == scratch.output("whole"))
  }

  @Test func oneEngineRunsOnePlan() throws {
    let (scratch, recipe) = try Self.arrange()
    let plan = try scratch.plan(recipe)
    let engine = try Self.engine()
    let status = Mutex<Status?>(nil)
    _ = try engine.merge(
      plan, to: scratch("OUT"), options: .quick,
      watcher: Self.watcher { _ in
        do throws(IngotError) {
          _ = try engine.run(plan, into: NullSink())
        } catch {
          status.withLock { $0 = error.status }
        }
        return false
      })
    #expect(status.withLock { $0 } == .busy)
    // And afterwards again.
    #expect(try engine.run(plan, into: NullSink()).bytesWritten == plan.bytesWritten)
  }

  // MARK: Cancelling and limits

  @Test func cancelFlag() throws {
    let (scratch, recipe) = try Self.arrange()
    let plan = try scratch.plan(recipe)
    let flag = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    unsafe flag.initialize(to: 1)
    defer { unsafe flag.deallocate() }
    let watcher = unsafe Watcher(unsafe: flag)
    for threads in [1, 3] {
      var options = DirectoryOptions.quick
      options.resume = threads == 3
      let error = #expect(throws: IngotError.self) {
        try Self.engine(threads: threads).merge(plan, to: scratch("OUT"), options: options, watcher: watcher)
      }
      #expect(error?.status == .cancelled)
      #expect(!scratch.exists("OUT"))
      #expect(Self.journalled(scratch).isEmpty)
    }
    unsafe flag.pointee = 0
    var options = DirectoryOptions.quick
    options.resume = true
    _ = try Self.engine().merge(plan, to: scratch("OUT"), options: options, watcher: watcher)
    #expect(scratch.exists("OUT"))
  }

  @Test func progressGrowsToTheEnd() throws {
    let (scratch, recipe) = try Self.arrange(MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]))
    let seen = Mutex<[IngotEngine.Progress]>([])
    let (plan, _) = try scratch.merge(
      recipe,
      watcher: Self.watcher { progress in
        seen.withLock { $0.append(progress) }
        return false
      })
    let all = seen.withLock { $0 }
    #expect(all.count >= 2)
    for (earlier, later) in zip(all, all.dropFirst()) {
      #expect(earlier.bytesDone <= later.bytesDone && earlier.tensorsDone <= later.tensorsDone)
    }
    #expect(all.allSatisfy { $0.bytesTotal == plan.bytesWritten && $0.tensorsTotal == plan.tensors.count })
    #expect(all.last?.bytesDone == plan.bytesWritten && all.last?.tensorsDone == plan.tensors.count)
  }

  @Test func budgetTooSmall() throws {
    let scratch = try Scratch()
    for name in ["a", "b"] { try scratch.model(name, [TestTensor("w", .f32, [300_000])]) }
    let plan = try scratch.plan("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n")
    var options = EngineOptions()
    options.memoryBudget = 1 << 20
    #expect(plan.leastMemory > options.memoryBudget)
    let error = #expect(throws: IngotError.self) { try Engine(options).merge(plan, to: scratch("OUT"), options: .quick) }
    #expect(error?.status == .memory)
    #expect(error?.message.contains("\(plan.leastMemory)") == true)
    #expect(error?.hint?.contains("--memory") == true)
    #expect(!scratch.exists("OUT") && !scratch.exists("OUT.partial"))
    options.memoryBudget = plan.leastMemory
    options.threads = 3
    #expect(try Engine(options).merge(plan, to: scratch("OUT"), options: .quick).threads == 1)
  }

  @Test func optionsOutOfRange() {
    let cases: [(threads: Int, memory: Int, set: String?, status: Status)] = [
      (-1, 256 << 20, nil, .invalidArgument), (5000, 256 << 20, nil, .invalidArgument), (1, 0, nil, .memory), (1, -5, nil, .memory),
      (1, 256 << 20, "sse9", .invalidArgument),
    ]
    for (threads, memory, set, status) in cases {
      var options = EngineOptions()
      options.threads = threads
      options.memoryBudget = memory
      options.instructionSet = set
      let error = #expect(throws: IngotError.self) { try Engine(options) }
      #expect(error?.status == status)
    }
  }

  /// A flat tensor is cut into blocks, however long it is.
  @Test func longFlatTensorNeedsNoMoreMemory() throws {
    let tensors = ["a", "b"].map { _ in TestTensor("flat", .f32, [48 << 20]) }
    let models = try MemoryModels(["a": [tensors[0]], "b": [tensors[1]]])
    let recipe = try Recipe("{merge_method: linear, models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]}")
    #expect(try Plan.make(recipe, options: PlanOptions(), models: models).leastMemory < 8 << 20)
  }

  // MARK: Writes past the page cache

  /// Tensors of several work items, on a disk if there is one, at offsets that are no multiple of a page.
  static func arrangeLarge() throws -> (scratch: Scratch, recipe: String) {
    let scratch = try Scratch(onDisk: true)
    let shapes = [[1031, 1501], [17], [700_001], [900, 1024]]
    for (number, name) in ["a", "b"].enumerated() {
      let tensors = shapes.enumerated().map { index, shape in
        TestTensor("w\(index)", .f32, shape, (0..<shape.reduce(1, *)).map { Double(($0 &* 7919 &+ number &* 104_729) % 1013) / 1013 })
      }
      try scratch.model(name, tensors)
    }
    return (scratch, "{merge_method: linear, models: [{model: @a, parameters: {weight: 1}}, {model: @b, parameters: {weight: 2}}]}")
  }

  @Test(arguments: [1, 2, 3]) func directWritesGiveTheSameBytes(_ threads: Int) throws {
    let (scratch, recipe) = try Self.arrangeLarge()
    let plan = try scratch.plan(recipe)
    for isDirect in [true, false] {
      var options = DirectoryOptions.quick
      options.isDirect = isDirect
      let report = try Self.engine(threads: threads).merge(plan, to: scratch(isDirect ? "direct" : "cached"), options: options)
      #expect(report.bytesWritten == plan.bytesWritten)
      #expect(report.digests.count == plan.tensors.count)
    }
    #expect(scratch.output("direct") == scratch.output("cached"))
  }

  /// A write that fails on its way to the device ends the run, and the rest can be resumed.
  @Test(arguments: [1, 2, 4, 7], [ENOSPC, EIO]) func failingQueuedWrite(_ number: Int, _ code: Int32) throws {
    let (scratch, recipe) = try Self.arrangeLarge()
    let plan = try scratch.plan(recipe)
    try scratch.merge(recipe, to: "whole")
    let faults = FaultInjector()
    // The header comes first.
    faults.fail(.write, number: 1 + number, with: .error(code))
    var options = DirectoryOptions.quick
    options.system = System(faults: faults)
    let error = #expect(throws: IngotError.self) { try Self.engine(threads: 2).merge(plan, to: scratch("OUT"), options: options) }
    #expect(error?.status == (code == ENOSPC ? .noSpace : .output))
    #expect(!scratch.exists("OUT"))
    options = .quick
    options.resume = true
    _ = try Self.engine(threads: 2).merge(plan, to: scratch("OUT"), options: options)
    #expect(scratch.output() == scratch.output("whole"))
  }

  // MARK: Values that are not finite

  /// A tensor that is refused is not finished: resuming meets it again, and nothing is published.
  @Test(arguments: methods) func refusedTensorsAreNotJournalled(_ item: MethodCase) throws {
    let (scratch, recipe) = try Self.arrange(item)
    let tensors = try scratch.tensors("a")
    let bad = try #require(tensors["w5"])
    bad.set(7, .nan)
    try scratch.model("a", tensors.values.sorted { $0.name < $1.name })
    let plan = try scratch.plan(recipe)
    for resume in [false, true, true] {
      var options = DirectoryOptions.quick
      options.resume = resume
      let error = #expect(throws: IngotError.self) { try Self.engine(threads: 2).merge(plan, to: scratch("OUT"), options: options) }
      #expect(error?.status == .nonFinite && error?.subject == "w5")
      #expect(!scratch.exists("OUT"))
      #expect(!Self.journalled(scratch).contains { plan.tensors[$0].name == "w5" })
    }
    var options = DirectoryOptions.quick
    options.resume = true
    options.run.allowsNonfinite = true
    let report = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
    #expect(report.notices.contains { $0.subject == "w5" })
  }

  // MARK: Sources that change

  /// Reads of files by position, with one hook before each.
  private func plan(_ scratch: Scratch, _ recipe: String, onRead: @escaping @Sendable (Range<Int>) throws(IngotError) -> Void) throws
    -> Plan
  {
    try scratch.plan(recipe, models: TestModels(inner: LocalModels(environment: [:]), onRead: onRead))
  }

  @Test func sourceThatChangesDuringTheRun() throws {
    let (scratch, recipe) = try Self.arrange()
    let path = scratch("b/model.safetensors")
    let isFirst = Mutex(true)
    let plan = try plan(scratch, recipe) { _ in
      if isFirst.withLock({ first in
        defer { first = false }; return first
      }) {
        try? FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 5)], ofItemAtPath: path)
      }
    }
    let error = #expect(throws: IngotError.self) { try Self.engine().merge(plan, to: scratch("OUT"), options: .quick) }
    #expect(error?.status == .stale && error?.subject == path)
    #expect(!scratch.exists("OUT"))
  }

  @Test func sourceThatIsTruncatedWhileItIsRead() throws {
    let (scratch, recipe) = try Self.arrange()
    let path = scratch("b/model.safetensors")
    let reads = Mutex(0)
    let plan = try plan(scratch, recipe) { _ in
      if reads.withLock({
        $0 += 1; return $0
      }) == 6 {
        unsafe truncate(path, 5000)
      }
    }
    let error = #expect(throws: IngotError.self) { try Self.engine(threads: 2).merge(plan, to: scratch("OUT"), options: .quick) }
    #expect(error?.status == .io && error?.subject == path)
    #expect(error?.hint?.contains("do not change the sources") == true)
    #expect(!scratch.exists("OUT"))
  }

  /// Whichever read fails, the run ends with that error, and a resumed one goes on from there.
  @Test func everyReadFailsOnce() throws {
    let (scratch, recipe) = try Self.arrange()
    try scratch.merge(recipe, to: "whole")
    let reads = Mutex(0)
    let failing = Mutex(Int.max)
    let plan = try plan(scratch, recipe) { (_) throws(IngotError) in
      let number = reads.withLock {
        $0 += 1; return $0
      }
      if number == failing.withLock({ $0 }) { throw IngotError(.io, "the medium failed", subject: "test") }
    }
    _ = try Self.engine().run(plan, into: NullSink())
    let total = reads.withLock { $0 }
    #expect(total >= 24)
    for number in 1...total {
      reads.withLock { $0 = 0 }
      failing.withLock { $0 = number }
      let error = #expect(throws: IngotError.self) {
        try Self.engine(threads: 1 + number % 3).merge(plan, to: scratch("OUT"), options: .quick)
      }
      #expect(error?.message == "the medium failed")
      #expect(!scratch.exists("OUT"))
      failing.withLock { $0 = .max }
      var options = DirectoryOptions.quick
      options.resume = true
      _ = try Self.engine().merge(plan, to: scratch("OUT"), options: options)
      #expect(scratch.output() == scratch.output("whole"))
      try scratch.remove("OUT")
    }
  }

  // MARK: Faults of the output

  /// Every call that the output makes fails once: an error and no destination, or a right output. Then a resumed run ends well.
  @Test(arguments: [Fault.error(EIO), .error(ENOSPC), .short(1)]) func everyOutputCallFailsOnce(_ fault: Fault) throws {
    let scratch = try Scratch()
    let parts = (0..<3).map { ReferenceModels.Part(name: "w\($0)", shape: [50 + $0, 11], dtypes: [.f32, .f32, .f32, .f32]) }
    for (name, tensors) in ReferenceModels(parts, seed: 31).models { try scratch.model(name, tensors, extra: ["assets/t.json": "{}"]) }
    let recipe = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"
    try scratch.merge(recipe, to: "whole")
    let expected = scratch.output("whole")
    let plan = try scratch.plan(recipe, shardSize: 0)
    let clean = FaultInjector()
    var options = DirectoryOptions()
    options.system = System(faults: clean)
    let engine = try Self.engine(threads: 2)
    _ = try engine.merge(plan, to: scratch("OUT"), options: options)
    #expect(scratch.output() == expected)
    #expect(clean.total > 30)
    var errors = 0
    for number in 1...clean.total {
      try scratch.remove("OUT")
      let faults = FaultInjector()
      faults.fail(nil, number: number, with: fault)
      options.system = System(faults: faults)
      do throws(IngotError) {
        _ = try engine.merge(plan, to: scratch("OUT"), options: options)
        #expect(scratch.output() == expected, "call \(number): \(faults.fired)")
      } catch {
        errors += 1
        #expect(!scratch.exists("OUT"), "call \(number): \(faults.fired)")
        #expect([.output, .noSpace, .io, .stale].contains(error.status), "call \(number): \(faults.fired): \(error)")
        var again = DirectoryOptions.quick
        again.resume = true
        _ = try engine.merge(plan, to: scratch("OUT"), options: again)
        #expect(scratch.output() == expected, "resumed after call \(number): \(faults.fired)")
      }
    }
    if fault == .error(EIO) { #expect(errors > 15) }
  }
}
