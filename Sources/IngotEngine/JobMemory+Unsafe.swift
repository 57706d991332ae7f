internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// The arena as running jobs see it: shared, so behind a lock.
final class JobMemory: @unchecked Sendable {
  // SENDABLE: the arena is reached only with the lock held.
  private let arena: Arena
  private let lock = Monitor()

  init(_ arena: Arena) { self.arena = arena }

  func allocate(_ bytes: Int) -> Arena.Piece? {
    lock.lock()
    defer { lock.unlock() }
    return arena.allocate(bytes)
  }

  /// A piece of the wanted size if at most `share` of what is free, else of as many whole `unit`s as that share holds; nil below one unit.
  func allocate(upTo bytes: Int, unit: Int, share: Double) -> Arena.Piece? {
    lock.lock()
    defer { lock.unlock() }
    let most = Int(Double(arena.largestPiece) * share) / 4096 * 4096
    let size = min(bytes, most)
    return size < unit ? nil : arena.allocate(size)
  }

  /// Bytes of that share of the largest free piece.
  func room(share: Double) -> Int {
    lock.lock()
    defer { lock.unlock() }
    return Int(Double(arena.largestPiece) * share)
  }

  func release(_ piece: Arena.Piece?) {
    guard let piece else { return }
    lock.lock()
    defer { lock.unlock() }
    arena.release(piece)
  }

  var peak: Int {
    lock.lock()
    defer { lock.unlock() }
    return arena.peak
  }
}

/// Selection keys collected by all workers: each fills a stretch of its own and hands it over when the tile is done.
@safe
final class SharedKeyPool: @unchecked Sendable {
  // SENDABLE: the position moves under the lock and every stretch belongs to the worker that reserved it.
  private let base: UnsafeMutablePointer<UInt64>
  private let capacity: Int
  private var position = 0
  private var hasOverflowed = false
  private let lock = Monitor()

  init(base: UnsafeMutablePointer<UInt64>, capacity: Int) {
    unsafe self.base = unsafe base
    self.capacity = capacity
  }

  /// Appends `count` keys. When they do not fit the pool is marked incomplete.
  func append(_ keys: UnsafePointer<UInt64>, count: Int, overflowed: Bool) {
    if count == 0 && !overflowed { return }
    lock.lock()
    let start = position
    let fits = start + count <= capacity
    if fits { position += count }
    if !fits || overflowed { hasOverflowed = true }
    lock.unlock()
    // SAFETY: the stretch start ..< start + count lies in the pool and was reserved under the lock.
    if fits { unsafe (base + start).update(from: keys, count: count) }
  }

  var pool: KeyPool { unsafe KeyPool(unsafe: base, count: position, overflowed: hasOverflowed) }
}
