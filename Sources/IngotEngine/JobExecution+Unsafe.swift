internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// Runs one merge method on one job: rounds of gathering, settling, then the output.
@safe
final class JobExecution<Method: MergeMethod>: JobRun, @unchecked Sendable {
  // SENDABLE: phase state changes only in begin/advance/release, which the scheduler runs alone; items write disjoint blocks or go through locks.
  let method: Method
  let context: JobContext
  let segments: [JobSegment]
  let demands: Demands
  private(set) var phase: Phase<Method.State>
  private var round: RoundRun?
  let output: OutputRun
  let nonfinite: NonfiniteTally
  let masks: MaskStore
  let kept: KeptInputs
  /// The fused output step of each tensor in the output phase.
  private(set) var fused: [FusedMerge?] = []
  private(set) var itemCount = 0
  private(set) var bytesRead = 0

  init(_ method: Method, job: PlannedJob, context: JobContext) throws(IngotError) {
    self.method = method
    self.context = context
    demands = method.demands
    segments = try JobSegment.make(job, plan: context.plan, granularity: demands.granularity, context: context)
    phase = method.begin()
    nonfinite = NonfiniteTally(segments)
    output = try OutputRun(segments, context: context, nonfinite: nonfinite)
    masks = MaskStore(planes: demands.maskPlanes, segments: segments)
    kept = KeptInputs(segments)
  }

  func begin() throws(IngotError) {
    if case .gather = phase {
      masks.allocate(context.memory)
      if isWorthKeeping { kept.allocate(context.memory) }
    }
    try prepare()
  }

  private var isWorthKeeping: Bool {
    segments.contains { $0.inputs.contains { context.sources[$0.source].isCostlyToReread } }
  }

  func release() {
    round?.release(context.memory)
    round = nil
    masks.release(context.memory)
    kept.release(context.memory)
  }

  private func prepare() throws(IngotError) {
    switch phase {
    case .gather(_, let wanted):
      let next = try RoundRun(wanted, segments: segments, context: context)
      round = next
      itemCount = next.itemCount
      let readsAll = wanted.isComplete && !kept.isFilled
      let readsSome = wanted.segments != nil && wanted.sampleStride == 0 && !kept.isFilled
      bytesRead = segments.filter { wanted.reads($0.index) }.reduce(0) {
        $0 + (wanted.readsOnlySides ? $1.sideBytes : readsAll || readsSome ? $1.inputBytes : 0)
      }
    case .emit(let state):
      round = nil
      findFused(state)
      itemCount = output.itemCount
      bytesRead = kept.isFilled ? 0 : segments.reduce(0) { $0 + ($1.isWanted ? $1.inputBytes : 0) }
    }
  }

  /// Looks for fused output steps; those that read keep bits need bits that are there.
  func findFused(_ state: Method.State) {
    fused = segments.map { segment in
      guard segment.tensor.dtype.isOutput, segment.tensor.scaling == nil, let merge = method.fused(state, segment: segment.index) else {
        return nil
      }
      return merge.needsMasks && !masks.arePersistent ? nil : merge
    }
  }

  var itemStretches: [ItemStretch] {
    if case .emit = phase { return output.itemStretches }
    return round?.itemStretches ?? []
  }

  func advance() throws(IngotError) -> Bool {
    let isFirstLook = !nonfinite.isChecked
    switch phase {
    case .gather(let state, let wanted):
      guard let round else { throw IngotError(.internalError, "a round without its statistics") }
      if wanted.isComplete && isFirstLook { try nonfinite.check(segments, context: context) }
      if !wanted.readsOnlySides && wanted.segments == nil { kept.isFilled = kept.isAllocated }
      phase = try method.settle(state, round.statistics())
      round.release(context.memory)
      self.round = nil
      try prepare()
      // A settled phase without items (an empty tensor) must not wait for workers.
      return itemCount == 0 ? try advance() : false
    case .emit(let state):
      if isFirstLook { try nonfinite.check(segments, context: context) }
      try nonfinite.checkOverflows(segments, context: context)
      try output.finishEmpty()
      report(state)
      return true
    }
  }

  private func report(_ state: Method.State) {
    context.report.add(method.findings(state), tensor: segments.first?.tensor.name ?? "", of: context.plan)
  }

  /// Says what the statistics found, for a job whose output is computed range by range and so never ends.
  func reportSettled() {
    if case .emit(let state) = phase { report(state) }
  }

  func process(item: Int, worker: Worker) throws(IngotError) {
    switch phase {
    case .gather(let state, let wanted): try gather(state, wanted, item: item, worker: worker)
    case .emit(let state): try emit(state, item: item, worker: worker)
    }
  }

  /// Tells the sources what will be read soon: the item that the worker takes up next, as far as one can know, and at the start of a phase
  /// this one too. Workers read far apart in one file, which the system's own read-ahead does not follow. What is read once (`isOnce`) may be
  /// read past the page cache; what another round reads again should be there.
  func announce(
    _ item: Int, _ worker: Worker, onlySides: Bool = false, isOnce: Bool = false, _ range: (Int) -> (segment: Int, elements: Range<Int>)
  ) {
    if kept.isFilled { return }
    let ahead = isOnce ? context.ahead : nil
    let distance = context.workerCount * context.roundsAhead(isOnce: isOnce)
    if item < context.workerCount {
      for first in stride(from: item, to: min(distance, itemCount), by: context.workerCount) {
        announce(range(first), worker, onlySides: onlySides, ahead)
      }
    }
    let next = item + distance
    if next < itemCount { announce(range(next), worker, onlySides: onlySides, ahead) }
  }

  private func announce(_ range: (segment: Int, elements: Range<Int>), _ worker: Worker, onlySides: Bool, _ ahead: ReadAhead?) {
    if range.elements.isEmpty { return }
    let segment = segments[range.segment]
    for input in segment.inputs.dropFirst(onlySides ? segment.modelCount : 0) {
      let first = input.offset + range.elements.lowerBound * input.width
      let bytes = first..<first + range.elements.count * input.width
      if let ahead {
        context.sources[input.source].willReadOnce(
          bytes, step: segment.blocking.stagingLength * input.width, node: worker.node, ahead)
      } else {
        context.sources[input.source].willRead(bytes)
      }
    }
  }

  // MARK: Gathering

  private func gather(_ state: Method.State, _ wanted: Round, item: Int, worker: Worker) throws(IngotError) {
    guard let round else { return }
    announce(item, worker, onlySides: wanted.readsOnlySides) { number in
      let part = round.item(number)
      let blocking = segments[part.segment].blocking
      guard let first = part.blocks.first, let last = part.blocks.last else { return (part.segment, 0..<0) }
      return (part.segment, blocking.block(first).lowerBound..<blocking.block(last).upperBound)
    }
    let part = round.item(item)
    let segment = segments[part.segment]
    let statistic = round.statistic(worker.index)
    try loadSides(segment, worker)
    if wanted.sampleStride > 0 {
      try sample(state, wanted, segment: segment, blocks: part.blocks, worker: worker)
      // The round that reads everything counts them.
      worker.forgetNonfinite()
      return
    }
    for block in part.blocks {
      let range = segment.blocking.block(block)
      round.clearLanes(worker.index)
      try gatherTiles(
        state, range, statistic, segment: segment, worker: worker, use: wanted.readsOnlySides ? .bypass : .fill,
        onlySides: wanted.readsOnlySides)
      round.fold(block: segment.firstBlock + block, worker: worker.index)
    }
    // What this round leaves out is read by another, which then counts everything.
    if wanted.isComplete { nonfinite.collect(worker, segment: segment.index) } else { worker.forgetNonfinite() }
  }

  /// Gathers the tiles of one read: straight from storage where the round has such a form, else widened.
  private func gatherTiles(
    _ state: Method.State, _ range: Range<Int>, _ statistic: BlockStatistic, segment: JobSegment, worker: Worker, use: KeptUse,
    onlySides: Bool = false
  ) throws(IngotError) {
    guard let round else { return }
    try read(range, segment: segment, worker: worker, use: use, onlySides: onlySides)
    var isStored = !onlySides
    var bad = 0
    var start = range.lowerBound
    while isStored && start < range.upperBound {
      let count = min(segment.blocking.tileLength, range.upperBound - start)
      let tile = unsafe StoredTile(
        unsafe: worker.slices(segment.inputs, distance: start - range.lowerBound, count: count), inputs: segment.modelCount,
        segment: segment.index, firstIndex: UInt64(start), jobIndex: segment.jobBase + UInt64(start), count: count,
        kernels: context.kernels,
        masks: masks.planes(segment, start: start, worker: worker))
      round.takingTurns(worker.index) {
        if let found = method.gatherStored(state, tile, statistic) { bad += found } else { isStored = false }
      }
      round.flushKeys(worker.index)
      start += count
    }
    if isStored {
      for input in segment.inputs { worker.decodedBytes += range.count * input.width }
      if bad > 0 { countNonfinite(range.count, segment: segment, worker: worker) }
      return
    }
    try widen(range, segment: segment, worker: worker, onlySides: onlySides) { (tile, _) throws(IngotError) in
      round.takingTurns(worker.index) { method.gather(state, tile, statistic) }
      round.flushKeys(worker.index)
    }
  }

  /// Gathers from short runs only. Where inputs are kept the whole blocks are read, since a later round needs them anyway.
  private func sample(
    _ state: Method.State, _ wanted: Round, segment: JobSegment, blocks: Range<Int>, worker: Worker
  ) throws(IngotError) {
    guard let round, let first = blocks.first else { return }
    let all = segment.blocking.block(first).lowerBound..<segment.blocking.block(blocks.upperBound - 1).upperBound
    if kept.isAllocated && !kept.isFilled {
      for block in blocks {
        for index in segment.inputs.indices {
          _ = try unsafe kept.elements(
            segment.blocking.block(block), input: index, of: segment, use: .fill, context: context, worker: worker)
        }
      }
    }
    let statistic = round.statistic(worker.index)
    let length = Blocking.tileElements
    for tile in all.lowerBound / length...(all.upperBound - 1) / length where tile % wanted.sampleStride == 0 {
      let room = max(min(length, segment.blocking.count - tile * length) - Round.sampleRun, 0) / 16
      // Any fixed spread over the tile will do; a multiplicative hash keeps runs out of step with rows.
      let start = tile * length + Int((UInt64(tile) &* 0x9e37_79b9_7f4a_7c15) >> 40) % (room + 1) * 16
      guard all.contains(start) else { continue }
      let range = start..<min(start + Round.sampleRun, segment.blocking.count)
      try gatherTiles(state, range, statistic, segment: segment, worker: worker, use: kept.isAllocated ? .present : .bypass)
    }
  }

  // MARK: Side tensors

  /// Reads the side tensors of `segment` that are held whole, unless the worker has them already. Throws `.nonFinite` like a merge of them would.
  func loadSides(_ segment: JobSegment, _ worker: Worker) throws(IngotError) {
    guard segment.hasWholeSides, worker.sideOwner != segment.planned else { return }
    worker.sideOwner = nil
    for (index, side) in segment.sides.enumerated() {
      guard case .whole(let access, let offset, let count) = side.place else { continue }
      let values = worker.wholeSide(at: offset, count: count)
      let bad = try load(access, count: count, into: values, worker)
      if bad > 0 && !context.allowsNonfinite {
        throw IngotError(
          .nonFinite, "side tensor \(side.name) of \(context.plan.modelName(side.model)): \(bad) values are NaN or infinite",
          hint: "repair the file, or carry them through with --allow-nonfinite", subject: side.name)
      }
      if let scaling = segment.tensor.scaling, scaling.norms == index {
        ActivationFactors.make(values, omega: scaling.omega)
      } else {
        method.prepare(side: index, segment: segment.index, values)
      }
    }
    worker.sideOwner = segment.planned
  }

  /// Returns how many values are not finite.
  private func load(_ access: InputAccess, count: Int, into values: Floats, _ worker: Worker) throws(IngotError) -> Int {
    let source = context.sources[access.source]
    let staging = unsafe worker.sideStaging
    let step = staging.count / access.width
    var bad = 0
    for start in stride(from: 0, to: count, by: max(step, 1)) {
      let part = min(step, count - start)
      let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: staging[..<(part * access.width)])
      try unsafe source.read(bytes, at: access.offset + start * access.width)
      if !source.isComputed { worker.bytesRead += bytes.count }
      guard let address = bytes.baseAddress else { continue }
      // SAFETY: the elements were just read there.
      let slice = unsafe ElementSlice(unsafe: UnsafeRawPointer(address), dtype: access.dtype, count: part)
      bad += context.kernels.load(slice, into: values.slice(from: start, count: part))
    }
    worker.decodedBytes += count * access.width
    return bad
  }

  /// Which inputs of the present read hold values that are NaN or infinite; rare, so read again.
  func countNonfinite(_ count: Int, segment: JobSegment, worker: Worker) {
    let length = Blocking.tileElements
    for index in segment.inputs.indices {
      let access = segment.inputs[index]
      var start = 0
      while start < count {
        let part = min(min(length, segment.blocking.tileLength), count - start)
        let runs = worker.runs(
          inputs: segment.inputs.count, scratch: demands.scratchRows, tileLength: segment.blocking.tileLength, count: part)
        // SAFETY: elements[index] is valid for the whole read.
        let slice = unsafe ElementSlice(unsafe: worker.elements[index] + start * access.width, dtype: access.dtype, count: part)
        unsafe worker.nonfinite[index] += context.kernels.load(slice, into: runs.inputs[index])
        start += part
      }
    }
  }

  /// Reads `range` of every input, widens it tile by tile and hands the tiles to `body`.
  func forEachTile(
    _ range: Range<Int>, segment: JobSegment, worker: Worker, use: KeptUse,
    _ body: (Tile, Floats) throws(IngotError) -> Void
  ) throws(IngotError) {
    try read(range, segment: segment, worker: worker, use: use)
    try widen(range, segment: segment, worker: worker, body)
  }

  /// Makes the elements `range` of every input the worker's present read.
  private func read(
    _ range: Range<Int>, segment: JobSegment, worker: Worker, use: KeptUse, onlySides: Bool = false
  ) throws(IngotError) {
    for index in segment.inputs.indices where !onlySides || index >= segment.modelCount {
      unsafe worker.elements[index] = try kept.elements(
        range, input: index, of: segment, use: use, context: context, worker: worker)
    }
  }

  /// Widens the present read tile by tile and hands the tiles to `body`.
  private func widen(
    _ range: Range<Int>, segment: JobSegment, worker: Worker, onlySides: Bool = false, _ body: (Tile, Floats) throws(IngotError) -> Void
  ) throws(IngotError) {
    let inputs = segment.inputs
    let length = segment.blocking.tileLength
    var start = range.lowerBound
    while start < range.upperBound {
      let count = min(length, range.upperBound - start)
      let runs = worker.runs(inputs: inputs.count, scratch: demands.scratchRows, tileLength: length, count: count)
      for index in inputs.indices where !onlySides || index >= segment.modelCount {
        let width = inputs[index].width
        // SAFETY: elements[index] is valid for the whole range.
        let slice = unsafe ElementSlice(
          unsafe: worker.elements[index] + (start - range.lowerBound) * width, dtype: inputs[index].dtype, count: count)
        let bad = context.kernels.load(slice, into: runs.inputs[index])
        unsafe worker.nonfinite[index] += bad
        worker.decodedBytes += count * width
      }
      let tile = Tile(
        inputs: runs.inputs.first(segment.modelCount),
        sides: segment.sides.isEmpty ? nil : worker.sides(segment.sides, rows: runs.inputs, modelCount: segment.modelCount),
        scratch: runs.scratch, joinedScratch: runs.joinedScratch, segment: segment.index, firstIndex: UInt64(start),
        jobIndex: segment.jobBase + UInt64(start), count: count, rowLength: segment.blocking.rowLength, kernels: context.kernels,
        masks: masks.planes(segment, start: start, worker: worker), accumulator: worker.accumulator)
      try body(tile, runs.output)
      start += count
    }
  }
}
