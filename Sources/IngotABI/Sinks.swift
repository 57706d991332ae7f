internal import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotStorage
import Synchronization

/// Output files behind the caller's functions.
@safe
final class CallbackSink: OutputSink, @unchecked Sendable {
  // SENDABLE: a copy of the caller's struct that never changes; the header says that write_at is called concurrently. `names` is set
  // before the workers start.
  let finished: Set<Int> = []
  let wantsDigests = false
  private let functions: ingot_sink
  private var names: [CText] = []

  /// Takes the caller's sink over, unless it throws: `release` must be called then.
  init(_ sink: UnsafePointer<ingot_sink>?) throws(IngotError) {
    guard let sink = unsafe sink else { throw nullArgument("sink") }
    unsafe functions = try ingot_sink.copy(of: sink)
    guard unsafe functions.write_at != nil else { throw nullArgument("write_at of ingot_sink") }
  }

  func release() { unsafe functions.release?(functions.user) }

  /// Writes everything a plan has: headers, tensors, then side files.
  func run(_ call: RunCall) throws(IngotError) -> RunReport {
    let plan = call.plan.plan
    names = plan.files.map { CText($0.name) }
    let sideNames = plan.sideFiles.map { CText($0.name) }
    for (name, file) in zip(names, plan.files) { try reserve(name, file.byteCount) }
    for (name, file) in zip(sideNames, plan.sideFiles) { try reserve(name, file.byteCount) }
    for (name, file) in zip(names, plan.files) { try write(file.header, to: name) }
    let report = try call.engine.run(plan, into: self, options: call.options, watcher: call.watcher)
    for (name, file) in zip(sideNames, plan.sideFiles) {
      switch file.content {
      case .bytes(let bytes): try write(bytes, to: name)
      case .copy(let path, let count): try copy(try StoredFile(path), count, to: name)
      }
    }
    try check(unsafe functions.commit?(functions.user) ?? 0, "commit", subject: nil)
    return report
  }

  func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {
    guard names.indices.contains(file) else { throw IngotError(.internalError, "a write into output file \(file) of \(names.count)") }
    try unsafe write(bytes, to: names[file], at: offset)
  }

  func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {}

  private func reserve(_ name: CText, _ bytes: Int) throws(IngotError) {
    // SAFETY: the name lives for the call.
    try check(unsafe functions.reserve?(functions.user, name.pointer, UInt64(bytes)) ?? 0, "reserve of \(bytes) bytes", subject: name)
  }

  /// Copies a file in pieces of 1 MiB. The caller has room for what the plan said: throws `.stale` when the file is no longer of `count` bytes.
  private func copy(_ file: StoredFile, _ count: Int, to name: CText) throws(IngotError) {
    guard file.size == count else {
      throw IngotError(
        .stale, "the file had \(count) bytes when the merge was planned, and has \(file.size) now",
        hint: "do not change the sources between planning and running; plan again", subject: file.path)
    }
    let most = 1 << 20
    for offset in stride(from: 0, to: count, by: most) {
      try write(try file.readBytes(at: offset, count: min(most, count - offset), limit: most), to: name, at: offset)
    }
    try file.checkUnchanged()
  }

  private func write(_ bytes: [UInt8], to name: CText, at offset: Int = 0) throws(IngotError) {
    var failure: IngotError?
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeBytes { buffer in
      do throws(IngotError) { try unsafe write(buffer, to: name, at: offset) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  private func write(_ bytes: UnsafeRawBufferPointer, to name: CText, at offset: Int) throws(IngotError) {
    guard let start = bytes.baseAddress, bytes.count > 0 else { return }
    // SAFETY: bytes and name live for the call; `write_at` was checked in init.
    let answer =
      unsafe functions.write_at?(functions.user, name.pointer, UInt64(offset), start, UInt64(bytes.count))
      ?? Status.internalError.rawValue
    try check(answer, "write_at of \(bytes.count) bytes at \(offset)", subject: name)
  }

  private func check(_ answer: Int32, _ what: String, subject: CText?) throws(IngotError) {
    guard answer != 0 else { return }
    let subject = subject.map { unsafe String(cString: $0.pointer) } ?? "sink"
    throw callbackFailed("the sink's \(what)", answer, subject: subject)
  }
}
