internal import IngotErrors

/// Hands out numbered items of work that is no plan, and keeps what each gave in the order of their numbers, so that what is put together from the
/// parts does not depend on who did what. Thread rule: `work` on every worker of one team; `finish` after that.
final class ItemRun<Part: Sendable>: @unchecked Sendable {
  // SENDABLE: everything mutable is under the monitor.
  private let monitor = Monitor()
  private let watcher: Watcher
  private let action: String
  private var next = 0
  private var parts: [Part?]
  private var failure: IngotError?
  private var progress: Progress

  /// - Parameters: `action` is what a cancelled run was: "the packing".
  init(count: Int, bytes: Int, action: String, watcher: Watcher) {
    parts = Array(repeating: nil, count: count)
    progress = Progress(bytesDone: 0, bytesTotal: bytes, tensorsDone: 0, tensorsTotal: 0, tensor: nil)
    self.action = action
    self.watcher = watcher
  }

  /// Runs items until none is left, one failed or the run is cancelled. `body` gives an item's part and the bytes it read.
  func work(isCaller: Bool, _ body: (Int) throws(IngotError) -> (part: Part, bytes: Int)) {
    while let item = claim(isCaller: isCaller) {
      do throws(IngotError) {
        let done = try body(item)
        monitor.lock()
        parts[item] = done.part
        progress.bytesDone += done.bytes
        monitor.unlock()
      } catch {
        monitor.lock()
        if failure == nil { failure = error }
        monitor.unlock()
      }
    }
  }

  private func claim(isCaller: Bool) -> Int? {
    if isCaller {
      monitor.lock()
      let now = progress
      monitor.unlock()
      watcher.look(now)
    }
    monitor.lock()
    defer { monitor.unlock() }
    if failure == nil, let stop = watcher.stop {
      failure = IngotError(.cancelled, "\(action) was cancelled", userCode: stop.userCode)
    }
    guard failure == nil, next < parts.count else { return nil }
    defer { next += 1 }
    return next
  }

  /// All parts, when the team has stopped. Throws what stopped it.
  func finish() throws(IngotError) -> [Part] {
    if let failure { throw failure }
    watcher.look(progress, isFinal: true)
    let all = parts.compactMap(\.self)
    guard all.count == parts.count else { throw IngotError(.internalError, "\(action) left items undone") }
    return all
  }
}
