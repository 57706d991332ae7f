import Glibc
import Synchronization

/// Whether a run's files are written past the page cache (O_DIRECT), shared by all of them. Safe on any thread.
///
/// Such writes take the processor almost nothing and leave the page cache to others: on the machines where this was measured, new pages
/// of the cache cost several times what the merge itself does. But they wait for the device. Where the person does not want to wait for
/// the medium and the device turns out slow, the page cache is the better place, and this switches itself off.
package final class DirectWriting: Sendable {
  /// Offsets, lengths and addresses are multiples of this. Pages are whole then, so that no page is written both ways.
  package static let alignment = 4096
  /// Shorter stretches are not worth a wait for the device.
  package static let leastBytes = 1 << 16
  /// Measured over this much before a device is called slow.
  private static let trialBytes = 64 << 20
  /// Bytes per second of one write at a time below which the page cache is preferred, if nobody asked to wait for the medium.
  private static let leastRate = 400_000_000.0

  private let waitsForMedium: Bool
  private let isRefused = Atomic(false)
  private let bytes = Atomic(0)
  private let nanoseconds = Atomic(0)

  package init(waitsForMedium: Bool) { self.waitsForMedium = waitsForMedium }

  package var isOn: Bool { !isRefused.load(ordering: .relaxed) }

  /// The file system does not have it after all.
  func refuse() { isRefused.store(true, ordering: .relaxed) }

  /// Learns from a write that took so long.
  func note(bytes count: Int, nanoseconds duration: Int) {
    if waitsForMedium { return }
    let moved = bytes.wrappingAdd(count, ordering: .relaxed).newValue
    let taken = nanoseconds.wrappingAdd(duration, ordering: .relaxed).newValue
    if moved >= Self.trialBytes, Double(moved) / Double(max(taken, 1)) * 1e9 < Self.leastRate { refuse() }
  }

  /// The stretch of `count` bytes at `offset` that can be written past the cache from this address; nil when it is too short.
  static func stretch(address: UInt, offset: Int, count: Int) -> Range<Int>? {
    guard (address &- UInt(bitPattern: offset)) % UInt(alignment) == 0 else { return nil }
    let head = (alignment - offset % alignment) % alignment
    guard head < count else { return nil }
    let length = (count - head) / alignment * alignment
    return length < leastBytes ? nil : head..<head + length
  }

  static func now() -> Int {
    var time = timespec()
    // SAFETY: `time` lives for the call, which fills it.
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }
}
