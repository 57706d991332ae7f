internal import Glibc

/// A lock with a condition, for the scheduler: workers wait for work, the calling worker also for the clock.
///
/// pthread primitives, because the standard library's `Mutex` cannot wait. Thread rule: any thread; not reentrant.
@safe
final class Monitor: @unchecked Sendable {
  // SENDABLE: both members are made to be shared between threads.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>

  // SAFETY: both live from init to deinit at fixed addresses and are initialised before use.
  init() {
    unsafe mutex = .allocate(capacity: 1)
    unsafe condition = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    unsafe pthread_cond_init(condition, &attributes)
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  func lock() { unsafe pthread_mutex_lock(mutex) }
  func unlock() { unsafe pthread_mutex_unlock(mutex) }

  /// Waits for a change, at most `milliseconds`. The lock is held on entry and on return.
  func wait(milliseconds: Int) {
    var deadline = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
    deadline.tv_sec += milliseconds / 1000
    deadline.tv_nsec += (milliseconds % 1000) * 1_000_000
    if deadline.tv_nsec >= 1_000_000_000 {
      deadline.tv_sec += 1
      deadline.tv_nsec -= 1_000_000_000
    }
    unsafe pthread_cond_timedwait(condition, mutex, &deadline)
  }

  func wait() { unsafe pthread_cond_wait(condition, mutex) }
  func signalAll() { unsafe pthread_cond_broadcast(condition) }
}
