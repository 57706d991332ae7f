internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// What a matrix job needs, known while planning.
package struct MatrixNeed: Sendable, Hashable {
  /// Bytes for its matrices and LAPACK's workspaces.
  package var bytes: Int
  /// The shorter side.
  var rank: Int

  /// Matrices up to this side run beside each other, with one BLAS thread each.
  static let smallRank = 1024

  init(_ method: any MatrixMethod, _ tensor: PlannedTensor) throws(IngotError) {
    let shape = tensor.shape.dimensions
    rank = shape.min() ?? 0
    let exact = try method.memory(
      tensor.inputs.count, rows: shape.first ?? 0, columns: shape.last ?? 0, isScaled: tensor.scaling != nil,
      held: StreamedOutput.held(columns: shape.last ?? 0))
    bytes = Self.pages(exact)
  }

  /// The most that any tensor of a job over the whole model needs.
  init(_ method: any ModelMatrixMethod, _ tensors: [PlannedTensor]) throws(IngotError) {
    (bytes, rank) = (0, 1)
    if let scaled = tensors.first(where: { $0.scaling != nil }) {
      throw IngotError(
        .unsupported, "aim cannot follow a method that scales the whole model's matrices", hint: "merge first, in a document of its own",
        subject: scaled.name)
    }
    for (index, tensor) in tensors.enumerated() {
      guard method.isMatrix(index) else {
        bytes = max(bytes, MatrixNeed(piece: Blocking.pieceBytes / max(tensor.dtype.bits / 8, 1)).bytes)
        continue
      }
      let shape = tensor.shape.dimensions
      let exact = try method.memory(
        tensor.inputs.count, rows: shape.first ?? 0, columns: shape.last ?? 0, isMatrix: true,
        held: StreamedOutput.held(columns: shape.last ?? 0))
      bytes = max(bytes, Self.pages(exact))
      rank = max(rank, shape.min() ?? 0)
    }
  }

  /// A piece of a tensor that is no matrix: the delta, a task vector, an input and the base.
  init(piece count: Int) {
    rank = 1
    bytes = Self.pages(4 * (count * 4 + 64) + 4096)
  }

  private static func pages(_ bytes: Int) -> Int { bytes > .max - 4096 ? bytes : (bytes + 4095) / 4096 * 4096 }
}

/// The part of the budget that matrix jobs share: cut into equal slots for small ones, or given whole to one large one.
///
/// Thread rule: any worker. A job takes all its memory at once and asks for no more, so waiting ends.
final class MatrixRegion: @unchecked Sendable {
  // SENDABLE: the free slots and the flags change under the monitor.
  private let piece: Arena.Piece
  private let slotBytes: Int
  private let monitor = Monitor()
  private var free: [Int]
  private let slots: Int
  private var isTaken = false
  private var waiting = 0

  /// Bytes that the needs call for: room for the largest, or for one small one for each worker if the budget has that much.
  static func bytes(_ needs: [MatrixNeed], workers: Int, available: Int) -> Int {
    let largest = needs.reduce(0) { max($0, $1.bytes) }
    let small = needs.reduce(0) { $1.rank <= MatrixNeed.smallRank ? max($0, $1.bytes) : $0 }
    let wanted = max(largest, aligned(small) * max(workers, 1))
    return max(largest, min(wanted, available))
  }

  private static func aligned(_ bytes: Int) -> Int { (bytes + 4095) / 4096 * 4096 }

  init(_ piece: Arena.Piece, needs: [MatrixNeed], workers: Int) {
    self.piece = piece
    let small = Self.aligned(needs.reduce(1) { $1.rank <= MatrixNeed.smallRank ? max($0, $1.bytes) : $0 })
    slots = max(1, min(workers, piece.bytes / small))
    slotBytes = piece.bytes / max(slots, 1) / 4096 * 4096
    free = Array((0..<slots).reversed())
  }

  func isSmall(_ need: MatrixNeed) -> Bool { slots > 1 && need.rank <= MatrixNeed.smallRank && need.bytes <= slotBytes }

  /// A slot, or the whole. Waits for it; throws what `stop` says meanwhile.
  func acquire(isSmall: Bool, bytes: Int, stop: () -> IngotError?) throws(IngotError) -> Loan {
    monitor.lock()
    defer { monitor.unlock() }
    if !isSmall { waiting += 1 }
    defer { if !isSmall { waiting -= 1 } }
    while true {
      if let failure = stop() { throw failure }
      if isSmall, !isTaken, waiting == 0, let slot = free.popLast() {
        // SAFETY: slot · slotBytes + slotBytes lies inside the piece.
        return unsafe Loan(address: piece.address + slot * slotBytes, bytes: slotBytes, slot: slot)
      }
      if !isSmall, !isTaken, free.count == slots {
        isTaken = true
        return unsafe Loan(address: piece.address, bytes: piece.bytes, slot: nil)
      }
      monitor.wait(milliseconds: 50)
    }
  }

  func release(_ loan: Loan) {
    monitor.lock()
    if let slot = loan.slot { free.append(slot) } else { isTaken = false }
    monitor.signalAll()
    monitor.unlock()
  }

  /// A part of the region while one job has it.
  @safe
  struct Loan {
    let address: UnsafeMutableRawPointer
    let bytes: Int
    fileprivate let slot: Int?

    fileprivate init(address: UnsafeMutableRawPointer, bytes: Int, slot: Int?) {
      unsafe self.address = unsafe address
      self.bytes = bytes
      self.slot = slot
    }
  }
}
