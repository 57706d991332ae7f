package import IngotErrors
import Synchronization

/// The digest of one tensor's bytes, taken while workers finish its parts in any order.
///
/// It is XXH3-128 over the concatenated XXH3-128 (canonical: 16 bytes, big-endian) of each 1 MiB piece of the bytes, in order; the
/// last piece may be short, and a tensor without bytes has the digest of the empty string. Parts may be added from any thread,
/// each byte once. Whole pieces are hashed on the spot and outside the lock; a piece that two parts share is hashed in order,
/// and a part that comes before its predecessor is copied until then. At most one such piece per worker is open when parts are
/// handed out in order, so give workers parts of whole pieces where you can.
package final class TensorDigest: Sendable {
  /// Bytes in a piece.
  package static let pieceSize = 1 << 20

  /// A piece that is not complete: what was hashed of it from its start, and parts that came too early.
  private final class OpenPiece {
    var stream: StreamingDigest
    var hashed = 0
    var early: [Int: [UInt8]] = [:]

    init() throws(IngotError) { stream = try StreamingDigest() }
  }

  // SENDABLE: made by `init` and reached only through the mutex after that.
  private final class State: @unchecked Sendable {
    var pieces: [Digest128?]
    var missing: Int
    var open: [Int: OpenPiece] = [:]

    init(pieces count: Int) {
      pieces = Array(repeating: nil, count: count)
      missing = count
    }
  }

  package let byteCount: Int
  private let state: Mutex<State>

  /// Throws `.internalError` for a negative count.
  package init(byteCount: Int) throws(IngotError) {
    guard byteCount >= 0 else { throw IngotError(.internalError, "a tensor of \(byteCount) bytes") }
    self.byteCount = byteCount
    let count = byteCount / Self.pieceSize + (byteCount % Self.pieceSize == 0 ? 0 : 1)
    state = Mutex(State(pieces: count))
  }

  /// The digest of bytes that are all there.
  package static func of(_ bytes: UnsafeRawBufferPointer) throws(IngotError) -> Digest128 {
    let digest = try TensorDigest(byteCount: bytes.count)
    // SAFETY: the caller keeps the bytes alive for the call.
    try unsafe digest.add(bytes, at: 0)
    return try digest.finish()
  }

  /// Adds the bytes at `offset` of the tensor. Throws `.internalError` outside the tensor or where bytes came before.
  package func add(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset <= byteCount, bytes.count <= byteCount - offset else {
      throw IngotError(.internalError, "\(bytes.count) bytes at offset \(offset) are outside a tensor of \(byteCount) bytes")
    }
    var done = 0
    while done < bytes.count {
      let position = offset + done
      let piece = position / Self.pieceSize
      let start = position % Self.pieceSize
      let length = min(bytes.count - done, Self.pieceSize - start)
      // SAFETY: done + length <= bytes.count, and the caller keeps the bytes alive for the call.
      let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[done..<done + length])
      if start == 0, length == size(of: piece) {
        let digest = unsafe Digest128(of: part)
        try complete(piece, digest)
      } else {
        try unsafe addPart(part, piece: piece, at: start)
      }
      done += length
    }
  }

  /// The digest. Throws `.internalError` if bytes are missing.
  package func finish() throws(IngotError) -> Digest128 {
    let (pieces, missing) = state.withLock { ($0.pieces, $0.missing) }
    guard missing == 0 else {
      throw IngotError(.internalError, "the digest lacks \(missing) of \(pieces.count) pieces of \(Self.pieceSize) bytes")
    }
    var digest = try StreamingDigest()
    for case let piece? in pieces { digest.add(piece) }
    return digest.value
  }

  private func size(of piece: Int) -> Int { min(Self.pieceSize, byteCount - piece * Self.pieceSize) }

  private func complete(_ piece: Int, _ digest: Digest128) throws(IngotError) {
    let fresh = state.withLock { state in
      guard state.pieces[piece] == nil, state.open[piece] == nil else { return false }
      state.pieces[piece] = digest
      state.missing -= 1
      return true
    }
    if !fresh { throw Self.twice(piece) }
  }

  private func addPart(_ part: UnsafeRawBufferPointer, piece: Int, at start: Int) throws(IngotError) {
    let size = size(of: piece)
    try state.withLock { state throws(IngotError) in
      guard state.pieces[piece] == nil else { throw Self.twice(piece) }
      let open: OpenPiece
      if let known = state.open[piece] {
        open = known
      } else {
        open = try OpenPiece()
        state.open[piece] = open
      }
      guard start >= open.hashed, open.early[start] == nil else { throw Self.twice(piece) }
      if start > open.hashed {
        unsafe open.early[start] = Array(part)
        return
      }
      unsafe open.stream.add(part)
      open.hashed += part.count
      while let next = open.early.removeValue(forKey: open.hashed) {
        open.stream.add(next)
        open.hashed += next.count
      }
      guard open.hashed == size else { return }
      guard open.early.isEmpty else { throw Self.twice(piece) }
      state.open[piece] = nil
      state.pieces[piece] = open.stream.value
      state.missing -= 1
    }
  }

  private static func twice(_ piece: Int) -> IngotError {
    IngotError(.internalError, "bytes of piece \(piece) were added to a digest twice")
  }
}
