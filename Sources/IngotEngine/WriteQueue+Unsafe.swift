internal import CPlatform
internal import IngotErrors

/// Output on its way to a slow place: a few threads wait for the device while the workers go on computing.
///
/// The bytes of a request stay where they are, in the output area of a worker, until they are written; `claim` waits for that. Thread rule:
/// `claim` and `submit` by any worker, `close` by one thread when no worker submits any more.
@safe
final class WriteQueue: @unchecked Sendable {
  // SENDABLE: everything that changes is under the monitor, except `threads`, which belongs to whoever makes and closes the queue.
  @safe struct Request {
    let bytes: UnsafeRawBufferPointer
    let file: Int
    let offset: Int
    let output: OutputRun
    let segment: Int
    let slot: Int
  }

  /// Writes that devices like to have under way.
  private static let threadCount = 2

  private let sink: any OutputSink
  private let monitor = Monitor()
  /// A ring: as many places as there are slots, since a slot has one request at a time.
  private var ring: [Request?]
  private var first = 0
  private var count = 0
  private var isBusy: [Bool]
  private var failure: IngotError?
  private var isClosing = false
  private var threads: [OpaquePointer] = unsafe []

  /// Nil when no thread can be had: the workers then write themselves.
  init?(sink: any OutputSink, slots: Int) {
    self.sink = sink
    ring = Array(repeating: nil, count: slots)
    isBusy = Array(repeating: false, count: slots)
    for _ in 0..<min(Self.threadCount, slots) {
      // SAFETY: the queue outlives its threads: close() joins them, and whoever made the queue calls it.
      let context = unsafe Unmanaged.passUnretained(self).toOpaque()
      let thread = unsafe ingot_thread_start({ unsafe WriteQueue.run($0) }, context)
      if let thread = unsafe thread { unsafe threads.append(thread) }
    }
    if unsafe threads.isEmpty { return nil }
  }

  private static func run(_ context: UnsafeMutableRawPointer?) {
    guard let context = unsafe context else { return }
    // SAFETY: the context is the queue, which lives until its threads have been joined.
    unsafe Unmanaged<WriteQueue>.fromOpaque(context).takeUnretainedValue().serve()
  }

  /// Waits until the bytes of `slot` may be overwritten. Throws what writing failed with.
  func claim(_ slot: Int) throws(IngotError) {
    monitor.lock()
    defer { monitor.unlock() }
    while isBusy[slot] && failure == nil { monitor.wait() }
    if let failure { throw failure }
  }

  /// Hands over a request whose slot was claimed.
  func submit(_ request: Request) {
    monitor.lock()
    isBusy[request.slot] = true
    ring[(first + count) % ring.count] = request
    count += 1
    monitor.signalAll()
    monitor.unlock()
  }

  /// Waits until everything is written and ends the threads. Returns the first failure. May be called twice.
  func close() -> IngotError? {
    monitor.lock()
    isClosing = true
    monitor.signalAll()
    monitor.unlock()
    // SAFETY: each thread is joined once.
    unsafe threads.forEach { unsafe ingot_thread_join($0) }
    unsafe threads = []
    return failure
  }

  private func serve() {
    monitor.lock()
    while true {
      while count == 0 && !isClosing { monitor.wait() }
      guard count > 0, let request = ring[first] else { break }
      ring[first] = nil
      first = (first + 1) % ring.count
      count -= 1
      let hasFailed = failure != nil
      monitor.unlock()
      var problem: IngotError?
      // After a failure nothing more is finished: what is left is only let go.
      if !hasFailed {
        do throws(IngotError) {
          // SAFETY: the worker leaves the bytes alone until the slot is free again.
          try unsafe sink.write(request.bytes, file: request.file, at: request.offset)
          try unsafe request.output.written(request.bytes.count, segment: request.segment)
        } catch {
          problem = error
        }
      }
      monitor.lock()
      if failure == nil { failure = problem }
      isBusy[request.slot] = false
      monitor.signalAll()
    }
    monitor.unlock()
  }
}
