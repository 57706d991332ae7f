internal import CPlatform
internal import Glibc

/// io_uring as `System` reaches it: a queue of reads that the kernel works on meanwhile.
///
/// Thread rule: `read` by one thread at a time, `wait` and `next` by one at a time; the two may be different.
@safe
final class ReadRing: @unchecked Sendable {
  // SENDABLE: the two ends of the ring are apart; who uses one at a time is the owner's business.
  private let ring: OpaquePointer
  private let system: System

  /// Throws ENOSYS, EPERM or ENOMEM where the kernel, a filter of system calls or a limit refuses.
  init(entries: Int, system: System) throws(SystemError) {
    var made: OpaquePointer?
    // SAFETY: `made` lives for the call, which sets it when it answers 0.
    _ = try system.perform(.ring) { unsafe ingot_ring_create(UInt32(clamping: entries), &made) }
    guard let ring = unsafe made else { throw SystemError(call: .ring, code: 0) }
    unsafe self.ring = ring
    self.system = system
  }

  // SAFETY: the last use of the ring.
  deinit { unsafe ingot_ring_destroy(ring) }

  /// Starts a read, whose result comes with `tag`. What a failure leaves in the queue goes out with the next read: nothing may follow one.
  func read(_ file: Descriptor, into buffer: UnsafeMutableRawBufferPointer, at offset: Int, tag: Int) throws(SystemError) {
    // SAFETY: the owner leaves the buffer alone until the result is there.
    let queued = unsafe ingot_ring_queue_read(
      ring, file.number, buffer.baseAddress, buffer.count, UInt64(truncatingIfNeeded: offset), UInt64(truncatingIfNeeded: tag))
    guard queued == 0 else { throw SystemError(call: .submit, code: Int32(truncatingIfNeeded: -queued)) }
    let taken = try system.perform(.submit) { unsafe ingot_ring_submit(ring) }
    if taken != 1 { throw SystemError(call: .submit, code: EAGAIN) }
  }

  /// Waits until a result is there.
  func wait() throws(SystemError) { _ = try system.perform(.wait) { unsafe ingot_ring_wait(ring) } }

  /// The same past faults: at the end every read must have ended.
  func waitForCertain() -> Bool { unsafe ingot_ring_wait(ring) >= 0 }

  /// A result that is there: the bytes read, or the negated errno.
  func next() -> (tag: Int, result: Int)? {
    var tag: UInt64 = 0
    var result: Int64 = 0
    // SAFETY: both live for the call.
    guard unsafe ingot_ring_next(ring, &tag, &result) != 0 else { return nil }
    return (Int(truncatingIfNeeded: tag), system.result(ofReadAhead: Int(result)))
  }
}

extension System {
  /// What a read that was under way gave, or what a fault makes of it.
  fileprivate func result(ofReadAhead found: Int) -> Int {
    var result = found
    switch faults?.next(.readAhead) {
    case .error(let code)?: result = -Int(code)
    case .short(let most)?: result = min(found, most)
    case nil: break
    }
    if result > 0 { faults?.moved(.readAhead, bytes: result) }
    return result
  }

  /// How many bytes of a range are in the page cache; nil where the system does not tell.
  func resident(_ file: Descriptor, _ range: Range<Int>) -> Int? {
    let found = try? perform(.resident) {
      ingot_sys_resident(file.number, UInt64(truncatingIfNeeded: range.lowerBound), UInt64(truncatingIfNeeded: range.count))
    }
    return found.map { Int(clamping: $0) }
  }

  /// The same file for reads past the page cache; nil where they do not work in whole pages of `alignment`.
  func openDirect(_ file: Descriptor, alignment: Int) -> Descriptor? {
    guard let least = directAlignment(file), alignment % least == 0,
      let number = try? perform(.open, { ingot_sys_open_direct(file.number) })
    else { return nil }
    return Descriptor(number: Int32(truncatingIfNeeded: number), system: self)
  }
}
