internal import CPlatform
internal import Glibc
internal import IngotErrors
internal import Synchronization

/// Looks after a run from the calling thread: tells progress at most every interval, and learns whether to stop.
///
/// Thread rule: `look` on the calling thread only; `stop` from any worker.
@safe
package final class Watcher: @unchecked Sendable {
  // SENDABLE: the cancel flag and `answer` are read and written atomically; `last` is touched by the calling thread only.
  /// Called with the progress; another answer than 0 cancels and is the error's user code.
  package typealias Listener = (Progress) -> Int32

  private let listener: Listener?
  private let flag: UnsafePointer<Int32>?
  private let interval: UInt64
  private var last: UInt64 = 0
  /// What the listener said, written by the calling thread and read by every worker.
  private let answer = Atomic<Int32>(0)

  /// - Parameters: `flag` is read between work items and cancels when not 0; it must outlive the run. `intervalMilliseconds` 0 means 100.
  package init(listener: Listener? = nil, unsafe flag: UnsafePointer<Int32>? = nil, intervalMilliseconds: Int = 100) {
    self.listener = listener
    unsafe self.flag = unsafe flag
    interval = UInt64(max(intervalMilliseconds, 1)) * 1_000_000
  }

  /// Looks after nothing.
  package static var none: Watcher { unsafe Watcher(listener: nil, unsafe: nil) }

  static func now() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  func look(_ progress: @autoclosure () -> Progress, isFinal: Bool = false) {
    guard let listener, answer.load(ordering: .relaxed) == 0 else { return }
    let time = Self.now()
    guard isFinal || time - last >= interval else { return }
    last = time
    answer.store(listener(progress()), ordering: .relaxed)
  }

  /// The error of a cancelled run, or nil.
  var stop: IngotError? {
    // SAFETY: the flag outlives the run by the promise of init.
    if let flag = unsafe flag, unsafe ingot_load_flag(flag) != 0 {
      return IngotError(.cancelled, "the run was cancelled", hint: "run again with --resume to go on where it stopped")
    }
    let answer = answer.load(ordering: .relaxed)
    if answer != 0 {
      return IngotError(
        .cancelled, "the progress callback cancelled the run with \(answer)", hint: "run again with resume to go on where it stopped",
        userCode: answer)
    }
    return nil
  }
}
