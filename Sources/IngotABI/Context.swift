public import CIngot
internal import Glibc
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotTensors
import Synchronization

// MARK: context

@c @implementation public func ingot_context_create(
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ options: UnsafePointer<ingot_context_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let options = try unsafe ingot_context_options.copy(ofOptional: options)
    unsafe out.pointee = try unsafe ContextObject(options).makeHandle()
  }
}

@c @implementation public func ingot_context_json(_ context: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ContextObject.find(context)?.json.pointer
}

@c @implementation public func ingot_context_destroy(_ context: OpaquePointer?) { unsafe ContextObject.destroy(context) }

/// The `out` parameter, emptied.
func output<Pointee>(_ out: UnsafeMutablePointer<Pointee?>?, _ parameter: String = "out") throws(IngotError) -> UnsafeMutablePointer<
  Pointee?
> {
  guard let out = unsafe out else { throw nullArgument(parameter) }
  // SAFETY: the C contract: writable.
  unsafe out.pointee = nil
  return unsafe out
}

/// An engine that serves one call at a time, and the caller's log.
final class ContextObject: HandleObject {
  static let kind = HandleKind.context
  static let typeName = "ingot_context"

  let engine: Engine
  let json: CText
  private let log: Log?
  private let isBusy = Atomic(false)

  init(_ options: ingot_context_options) throws(IngotError) {
    guard unsafe options.reserved == 0 else {
      throw IngotError(.unsupported, unsafe "reserved is \(options.reserved), expected 0", subject: "ingot_context_options")
    }
    log = unsafe try Log(options)
    engine = try unsafe Engine(EngineOptions(options))
    let blas = Engine.linearAlgebra
    json = CText(
      JSON.text(
        .object([
          "threads": .int(engine.threads), "team": .string(engine.teamDescription), "isa": .string(engine.instructionSet.name),
          "memory_budget_bytes": .int(engine.options.memoryBudget), "blas_core": blas.core.map { .string($0) } ?? .null,
          "blas_hint": blas.hint.map { .string($0) } ?? .null,
        ])))
  }

  /// Runs one call; a second one meanwhile, from another thread or from inside a callback, throws `.busy`.
  func exclusively<Result>(_ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
    guard isBusy.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged else {
      throw IngotError(
        .busy, "another call is running on this context", hint: "use one context for each thread; callbacks cannot use theirs")
    }
    defer { isBusy.store(false, ordering: .releasing) }
    return try body()
  }

  func tell(_ notices: [Notice]) {
    for notice in notices { log?.tell(notice) }
  }
}

/// The caller's log function.
@safe
private struct Log: @unchecked Sendable {
  // SENDABLE: called on the thread of a call of the context, which serves one at a time.
  let function: ingot_log_fn
  let user: UnsafeMutableRawPointer?
  let level: Int32

  init?(_ options: ingot_context_options) throws(IngotError) {
    guard unsafe (Int32(INGOT_LOG_DEFAULT)...Int32(INGOT_LOG_INFO)).contains(options.log_level) else {
      throw IngotError(.invalidArgument, unsafe "log_level is \(options.log_level), expected 0 to \(INGOT_LOG_INFO)", subject: "log_level")
    }
    guard let function = unsafe options.log else { return nil }
    unsafe self.function = function
    unsafe user = options.log_user
    level = unsafe options.log_level == 0 ? Int32(INGOT_LOG_INFO) : options.log_level
  }

  func tell(_ notice: Notice) {
    let severity = Int32(notice.severity == .warning ? INGOT_LOG_WARNING : INGOT_LOG_INFO)
    guard severity <= level else { return }
    var fields = JSONObject()
    fields["subject"] = notice.subject.map { .string($0) }
    fields["origin"] = notice.position.map { .string($0.origin) }
    fields["line"] = notice.position.map { .int($0.line) }
    fields["column"] = notice.position.map { .int($0.column) }
    let message = CText(notice.message)
    let json = CText(JSON.text(.object(fields)))
    // SAFETY: both texts live until the call returns, which is as long as the header promises.
    unsafe function(user, severity, message.pointer, json.pointer)
    withExtendedLifetime((message, json)) {}
  }
}

extension EngineOptions {
  /// The options; where they are silent, INGOT_THREADS and INGOT_FORCE_ISA.
  init(_ options: ingot_context_options) throws(IngotError) {
    self.init()
    threads = unsafe Int(options.threads)
    if threads == 0, let text = environment("INGOT_THREADS") {
      guard let count = Int(text), count >= 0 else {
        throw IngotError(.invalidArgument, "INGOT_THREADS is \"\(text)\", expected a whole number from 0 on", subject: "INGOT_THREADS")
      }
      threads = count
    }
    instructionSet = try unsafe optionalText(options.isa, "isa") ?? environment("INGOT_FORCE_ISA")
    if unsafe options.memory_budget_bytes > 0 { memoryBudget = unsafe try count(options.memory_budget_bytes, "memory_budget_bytes") }
    guard let kind = unsafe WorkerTeam.Kind(rawValue: options.team) else {
      throw unsafe IngotError(.invalidArgument, "team is \(options.team), expected 0, 1 or 2", subject: "team")
    }
    team = kind
  }
}

/// A variable of the process's environment; nil when it is not set or empty.
func environment(_ name: String) -> String? {
  // SAFETY: the C library's text is copied at once. A host that calls setenv on another thread meanwhile breaks getenv everywhere.
  guard let value = unsafe getenv(name), unsafe value.pointee != 0 else { return nil }
  return unsafe String(cString: value)
}

/// Where local models are looked for.
func modelEnvironment() -> [String: String] {
  var found: [String: String] = [:]
  for name in ["HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"] { found[name] = environment(name) }
  return found
}
