public import CIngot
internal import Glibc
internal import IngotEngine
internal import IngotErrors
internal import IngotStorage

// MARK: running a plan

@c @implementation public func ingot_plan_run_to_directory(
  _ context: OpaquePointer?, _ plan: OpaquePointer?, _ directory: UnsafePointer<CChar>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?,
  _ error: ingot_error_out?
) -> ingot_status {
  unsafe runPlan(context, plan, report, options, error) { (call) throws(IngotError) in
    let path = try unsafe text(directory, "directory")
    return try call.engine.merge(
      call.plan.plan, to: path, options: DirectoryOptions(flags: call.flags, sync: call.sync), watcher: call.watcher)
  }
}

@c @implementation public func ingot_plan_run_to_sink(
  _ context: OpaquePointer?, _ plan: OpaquePointer?, _ sink: UnsafePointer<ingot_sink>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?,
  _ error: ingot_error_out?
) -> ingot_status {
  unsafe IngotABI.report(to: error) { () throws(IngotError) in
    // First, so that `release` is called whatever else is wrong.
    let output = try unsafe CallbackSink(sink)
    defer { output.release() }
    try unsafe run(context, plan, report, options) { (call) throws(IngotError) in
      try output.run(call)
    }
  }
}

@c @implementation public func ingot_plan_run_to_tensors(
  _ context: OpaquePointer?, _ plan: OpaquePointer?, _ outputs: UnsafePointer<UnsafePointer<ingot_tensor_view>?>?, _ count: UInt64,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?,
  _ error: ingot_error_out?
) -> ingot_status {
  unsafe runPlan(context, plan, report, options, error) { (call) throws(IngotError) in
    let outputs = try unsafe CheckedTensor.all(outputs, count, "outputs")
    try CheckedTensor.requireWritable(outputs, beside: call.plan.inputs)
    let sink = try MemorySink(plan: call.plan.plan, outputs: outputs.map(\.view))
    return try call.engine.run(call.plan.plan, into: sink, options: call.options, watcher: call.watcher)
  }
}

/// One run: what every kind of output needs.
struct RunCall {
  let engine: Engine
  let plan: PlanObject
  let flags: UInt32
  let sync: UInt32
  let watcher: Watcher

  var options: RunOptions { RunOptions(flags: flags) }
}

extension RunOptions {
  /// ingot_run_options.flags
  init(flags: UInt32) {
    self.init()
    allowsNonfinite = flags & UInt32(INGOT_RUN_ALLOW_NONFINITE) != 0
    checksFinite = flags & UInt32(INGOT_RUN_CHECK_FINITE) != 0
    if flags & UInt32(INGOT_RUN_CACHED_READS) != 0 { reads = .never }
  }
}

extension DirectoryOptions {
  /// ingot_run_options.flags and .sync
  init(flags: UInt32, sync: UInt32) throws(IngotError) {
    self.init()
    run = RunOptions(flags: flags)
    resume = flags & UInt32(INGOT_RUN_RESUME) != 0
    force = flags & UInt32(INGOT_RUN_OVERWRITE) != 0
    isDirect = flags & UInt32(INGOT_RUN_CACHED_WRITES) == 0
    self.sync = try synchronisation(sync)
  }
}

/// ingot_run_options.sync
func synchronisation(_ sync: UInt32) throws(IngotError) -> OutputRequest.Sync {
  switch Int(sync) {
  case INGOT_SYNC_ALL: .all
  case INGOT_SYNC_NONE: .none
  default: throw IngotError(.invalidArgument, "sync is \(sync), expected 0 or 1", subject: "sync")
  }
}

private func runPlan(
  _ context: OpaquePointer?, _ plan: OpaquePointer?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?, _ body: (RunCall) throws(IngotError) -> RunReport
) -> ingot_status {
  unsafe IngotABI.report(to: error) { () throws(IngotError) in try unsafe run(context, plan, report, options, body) }
}

private func run(
  _ context: OpaquePointer?, _ plan: OpaquePointer?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ body: (RunCall) throws(IngotError) -> RunReport
) throws(IngotError) {
  // SAFETY: the C contract: NULL or writable.
  unsafe report?.pointee = nil
  let options = try unsafe ingot_run_options.copy(ofOptional: options)
  let plan = try unsafe PlanObject.require(plan, "plan")
  let context = try unsafe ContextObject.require(context, "context")
  let done = try context.exclusively { () throws(IngotError) in
    try unsafe body(RunCall(engine: context.engine, plan: plan, flags: options.flags, sync: options.sync, watcher: Watcher(options)))
  }
  context.tell(done.notices)
  unsafe report?.pointee = ownedCString(done.json)
}

extension Watcher {
  /// Looks after the caller's cancel flag and progress function.
  convenience init(_ options: ingot_run_options) {
    let interval = unsafe options.progress_interval_ms == 0 ? 100 : Int(options.progress_interval_ms)
    guard let function = unsafe options.progress else {
      unsafe self.init(listener: nil, unsafe: options.cancel, intervalMilliseconds: interval)
      return
    }
    let listener = unsafe ProgressListener(function: function, user: options.progress_user, start: monotonicNanoseconds())
    unsafe self.init(listener: { listener.tell($0) }, unsafe: options.cancel, intervalMilliseconds: interval)
  }
}

@safe
private struct ProgressListener {
  let function: ingot_progress_fn
  let user: UnsafeMutableRawPointer?
  let start: UInt64

  func tell(_ progress: Progress) -> Int32 {
    var told = unsafe ingot_progress()
    unsafe told.struct_size = unsafe UInt32(MemoryLayout<ingot_progress>.stride)
    unsafe told.bytes_done = UInt64(clamping: progress.bytesDone)
    unsafe told.bytes_total = UInt64(clamping: progress.bytesTotal)
    unsafe told.tensors_done = UInt64(clamping: progress.tensorsDone)
    unsafe told.tensors_total = UInt64(clamping: progress.tensorsTotal)
    unsafe told.elapsed_ns = monotonicNanoseconds() - start
    let tensor = progress.tensor.map(CText.init)
    unsafe told.tensor = tensor.map { unsafe $0.pointer }
    // SAFETY: the struct and the name live until the function returns, which is as long as the header promises.
    return withExtendedLifetime(tensor) { unsafe function(user, &told) }
  }
}

private func monotonicNanoseconds() -> UInt64 {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
