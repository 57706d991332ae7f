internal import Glibc
package import IngotErrors

/// The memory budget as one reserved region: tiles, scratch, statistics, masks, key pools and kept inputs are cut from it and reused.
///
/// Pages cost memory when first touched and stay for reuse, because first touches are slow (about 1 GB/s). Thread rule: calls are serialised by
/// the owner (the scheduler's lock); the memory handed out belongs to whoever asked.
@safe
package final class Arena {
  // SENDABLE: not Sendable; reached only under the scheduler's lock.
  private let base: UnsafeMutableRawPointer
  package let capacity: Int
  private var free: [(offset: Int, bytes: Int)]
  private var used = 0
  /// The most bytes that were ever in use at once.
  package private(set) var peak = 0

  private static let alignment = 4096

  /// Reserves `capacity` bytes of address space. Throws `.memory` when the system refuses.
  package init(capacity: Int) throws(IngotError) {
    let refusal = IngotError(.memory, "the system refused \(capacity) bytes of address space", hint: "lower the memory budget")
    let (padded, overflow) = max(capacity, Self.alignment).addingReportingOverflow(Self.alignment - 1)
    guard !overflow else { throw refusal }
    let bytes = padded / Self.alignment * Self.alignment
    let region = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let region = unsafe region, unsafe region != MAP_FAILED else { throw refusal }
    unsafe base = region
    self.capacity = bytes
    free = [(0, bytes)]
    // Huge pages make the first touch of tile buffers cheaper; a refusal is harmless.
    _ = unsafe madvise(region, bytes, MADV_HUGEPAGE)
  }

  deinit { _ = unsafe munmap(base, capacity) }

  package var available: Int { capacity - used }

  /// The largest piece that can be had at once.
  package var largestPiece: Int { free.map(\.bytes).max() ?? 0 }

  /// Cuts a piece aligned to 4 KiB, or nil when no free stretch is long enough.
  package func allocate(_ bytes: Int) -> Piece? {
    let (padded, overflow) = max(bytes, 1).addingReportingOverflow(Self.alignment - 1)
    guard !overflow else { return nil }
    let size = padded / Self.alignment * Self.alignment
    guard let index = free.firstIndex(where: { $0.bytes >= size }) else { return nil }
    let offset = free[index].offset
    if free[index].bytes == size {
      free.remove(at: index)
    } else {
      free[index] = (offset + size, free[index].bytes - size)
    }
    used += size
    peak = max(peak, used)
    // SAFETY: offset + size lies inside the region by construction of the free list.
    return unsafe Piece(address: base + offset, bytes: size, offset: offset)
  }

  package func release(_ piece: Piece) {
    used -= piece.bytes
    let index = free.firstIndex { $0.offset > piece.offset } ?? free.count
    free.insert((piece.offset, piece.bytes), at: index)
    if index + 1 < free.count, free[index].offset + free[index].bytes == free[index + 1].offset {
      free[index].bytes += free[index + 1].bytes
      free.remove(at: index + 1)
    }
    if index > 0, free[index - 1].offset + free[index - 1].bytes == free[index].offset {
      free[index - 1].bytes += free[index].bytes
      free.remove(at: index)
    }
  }

  /// A cut of the arena.
  @safe
  package struct Piece: @unchecked Sendable {
    // SENDABLE: an address and a size; who may touch the bytes is the scheduler's business.
    let address: UnsafeMutableRawPointer
    package let bytes: Int
    fileprivate let offset: Int

    fileprivate init(address: UnsafeMutableRawPointer, bytes: Int, offset: Int) {
      unsafe self.address = unsafe address
      self.bytes = bytes
      self.offset = offset
    }
  }
}
