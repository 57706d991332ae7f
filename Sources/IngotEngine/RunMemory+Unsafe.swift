internal import IngotErrors
internal import IngotMethods
internal import IngotStorage

/// The memory that the workers of one run have each for themselves, cut from the engine's: tiles, further output areas, and slots for what is
/// read ahead. With several memory nodes each lies on its worker's node.
struct RunMemory {
  struct Placed {
    var piece: Arena.Piece
    var node: Int
  }

  let layout: NodeLayout
  /// A worker's own piece and its further output areas; all workers have as many.
  private(set) var workers: [(piece: Arena.Piece, areas: [Arena.Piece])]
  private(set) var slots: [Placed] = []
  private let topology: Topology?

  /// - Parameters: `placement` is the team's, `pieces` one for each worker.
  init(_ pieces: [Arena.Piece], placement: Placement?) {
    layout = NodeLayout(placement, workers: pieces.count)
    topology = layout.nodeCount > 1 ? placement?.topology : nil
    workers = pieces.map { ($0, []) }
    for index in workers.indices { bind(workers[index].piece, layout.nodes[index]) }
  }

  var workerCount: Int { workers.count }

  /// All output areas, of which each worker has as many.
  var areaCount: Int { workers.reduce(workers.count) { $0 + $1.areas.count } }

  private func bind(_ piece: Arena.Piece, _ node: Int) {
    // The piece is its worker's alone.
    unsafe topology?.bind(piece.address, bytes: piece.bytes, node: node)
  }

  /// Output areas beside the one that each worker has: as many for each, as long as they take little of the budget.
  mutating func addAreas(of bytes: Int, from arena: Arena) {
    for _ in 0..<2 where !workers.isEmpty && arena.available / 8 >= bytes * workers.count {
      let next = workers.compactMap { _ in arena.allocate(bytes) }
      guard next.count == workers.count else {
        for piece in next { arena.release(piece) }
        break
      }
      for (index, piece) in next.enumerated() {
        bind(piece, layout.nodes[index])
        workers[index].areas.append(piece)
      }
    }
  }

  /// Slots for reads of cold files, if the plan has files that are read once and the budget has room: enough for the items that workers have and
  /// for those of the next two rounds.
  mutating func addSlots(for plan: Plan, sources: [any ByteSource], choice: ReadAhead.Choice, from arena: Arena) {
    guard choice != .never, sources.contains(where: { $0 is FileSource }), plan.jobs.contains(where: \.readsOnce) else { return }
    let wanted = workers.count * max(plan.workerSizes.inputs, 1) * 3
    let count = min(wanted, arena.available / 8 / ReadAhead.slotBytes)
    for (node, own) in layout.counts.enumerated() where own > 0 {
      let share = count * own / max(workers.count, 1)
      guard share > 0, let piece = arena.allocate(share * ReadAhead.slotBytes) else { continue }
      bind(piece, node)
      slots.append(Placed(piece: piece, node: node))
    }
  }

  /// The reads that the slots are for; nil when there are none.
  func readAhead(_ choice: ReadAhead.Choice) -> ReadAhead? {
    if slots.isEmpty { return nil }
    return ReadAhead(
      slots.map { slot in
        // SAFETY: the piece holds this many slots, and is used for nothing else.
        unsafe ReadAhead.Area(node: slot.node, memory: slot.piece.address, slots: slot.piece.bytes / ReadAhead.slotBytes)
      }, choice: choice)
  }

  private var all: [Placed] {
    zip(workers, layout.nodes).flatMap { worker, node in ([worker.piece] + worker.areas).map { Placed(piece: $0, node: node) } } + slots
  }

  /// Where the memory lies, added to what the nodes' workers did.
  func report(_ reports: [NodeReport]) -> [NodeReport] {
    guard let topology, reports.count == layout.nodeCount else { return reports }
    var reports = reports
    for placed in all {
      // The pages are only looked at.
      let found = unsafe topology.touched(placed.piece.address, bytes: placed.piece.bytes, node: placed.node)
      reports[placed.node].bytes += found.bytes
      reports[placed.node].bytesElsewhere += found.elsewhere
    }
    return reports
  }

  func release(_ memory: JobMemory) {
    for placed in all {
      unsafe topology?.unbind(placed.piece.address, bytes: placed.piece.bytes)
      memory.release(placed.piece)
    }
  }
}

extension PlannedJob {
  /// True when its inputs are read once, block by block: copies, and methods without statistics.
  var readsOnce: Bool {
    func isPlain<Method: MergeMethod>(_ method: Method) -> Bool {
      if case .emit = method.begin() { return true }
      return false
    }
    switch work {
    case .copy: return true
    case .merge(let method):
      if let matrix = method as? any MatrixMethod, matrix.isMatrix { return false }
      return !(method is any ModelMatrixMethod) && isPlain(method)
    }
  }
}
