internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// Bytes of a pointer in a table.
private let pointerBytes = 8

/// The bytes a worker needs for the plan's hungriest job, known before the run.
struct WorkerSizes: Sendable, Hashable {
  /// Raw elements of every input of one staging read.
  var staging = 0
  /// f32 runs: inputs, scratch and output of one tile.
  var floats = 0
  /// Output elements of one staging read.
  var output = 0
  /// Keep bits of one tile, all planes.
  var masks = 0
  /// The most inputs any job has.
  var inputs = 0
  /// f32 values of side tensors that are held whole, and the most side tensors any job has.
  var sides = 0
  var sideCount = 0

  var total: Int { [staging, floats, masks, sides].reduce(outputArea) { $0 + WorkerSizes.pages($1) } }

  /// One output area: a page more than the elements, so that they can begin where the place in the file does within its page.
  var outputArea: Int { WorkerSizes.pages(output) + WorkerSizes.pageBytes }

  static let pageBytes = 4096
  static func pages(_ bytes: Int) -> Int { (bytes + pageBytes - 1) / pageBytes * pageBytes }

  mutating func include(_ tensor: PlannedTensor, _ blocking: Blocking, _ demands: Demands?) {
    var stage = 0
    let streams = tensor.streams
    for input in streams { stage += WorkerSizes.padded(blocking.stagingLength * max(input.dtype.bits / 8, 1)) }
    staging = max(staging, stage)
    inputs = max(inputs, streams.count)
    let whole = tensor.wholeSides
    if !whole.isEmpty { staging = max(staging, WorkerSizes.sideStaging) }
    sides = max(sides, whole.reduce(0) { $0 + WorkerSizes.padded($1.elementCount * 4) })
    sideCount = max(sideCount, tensor.sides.count)
    guard let demands else {
      // A tile of f32, for copies whose values are looked at.
      staging = max(staging, WorkerSizes.padded(Blocking.tileElements * 4))
      output = max(output, Blocking.pieceBytes)
      return
    }
    let width = tensor.dtype.bits / 8
    // A whole work item, so that its digest is taken and its bytes are written at once; items of whole rows reach over their edges.
    let rowLength = blocking.granularity == .row ? blocking.rowLength : 0
    let item = blocking.cover(blocking.item(0, bytesPerElement: width)).count + rowLength
    let isBounded = blocking.granularity != .tensor && rowLength * width <= Blocking.pieceBytes
    output = max(output, max(blocking.stagingLength, isBounded ? item : 0) * width)
    let runs = streams.count + demands.scratchRows + 1
    floats = max(floats, runs * WorkerSizes.padded(blocking.tileLength * 4) + runs * pointerBytes + 64)
    masks = max(masks, demands.maskPlanes * MaskLayout(blocking).bytes(elements: blocking.tileLength))
  }

  /// Bytes of a side tensor that are read at once, when all of it is wanted.
  static let sideStaging = 1 << 16

  /// Bytes of an input of a matrix job that are read at once.
  static let matrixStaging = 1 << 20

  /// A matrix job has its matrices elsewhere; of its worker it needs staging and an output area.
  mutating func includeMatrix() {
    staging = max(staging, WorkerSizes.matrixStaging)
    output = max(output, Blocking.pieceBytes)
  }

  static func padded(_ bytes: Int) -> Int { (bytes + 63) / 64 * 64 + 64 }
}

/// How keep bits of one tensor are laid out in a plane.
struct MaskLayout: Sendable {
  let rowBytes: Int
  let rowLength: Int

  init(_ blocking: Blocking) {
    rowLength = blocking.rowLength
    rowBytes = blocking.granularity == .row ? (blocking.rowLength + 7) / 8 : 0
  }

  func bytes(elements: Int) -> Int {
    rowBytes == 0 ? (elements + 7) / 8 : (elements + rowLength - 1) / rowLength * rowBytes
  }
}

/// One worker's own memory. Only its worker touches it while the team runs.
@safe
final class Worker: @unchecked Sendable {
  // SENDABLE: one worker, one thread at a time; counters are read after the team has stopped.
  let index: Int
  /// The memory node that it belongs to.
  let node: Int
  private let staging: UnsafeMutableRawPointer
  private let floats: UnsafeMutableRawPointer
  /// The areas that output is computed in, used in turn: while one is being written the next is filled.
  private var areas: [UnsafeMutableRawPointer]
  private var area = 0
  /// The ordinal of the first of this worker's areas among those of all workers.
  private let firstSlot: Int
  var outputSlot: Int { firstSlot + area }
  var outputBytes: Int { sizes.output }
  let masks: UnsafeMutablePointer<UInt8>
  private let sizes: WorkerSizes
  /// Where each input's elements of the present read begin.
  let elements: UnsafeMutablePointer<UnsafeRawPointer>
  private let inputSlices: UnsafeMutablePointer<ElementSlice>
  private let sideValues: UnsafeMutablePointer<Float>
  private let sideRuns: UnsafeMutablePointer<Floats>
  /// The plan's tensor whose side tensors the worker holds whole.
  var sideOwner: Int?
  /// Non-finite values seen per input during the present item.
  let nonfinite: UnsafeMutablePointer<Int>
  /// Bytes of input that were decoded to f32.
  private var terms: [MergeTerm] = []
  private let lanes: UnsafeMutablePointer<Double>
  /// For sums inside a tile.
  var accumulator: Lanes { unsafe Lanes(unsafe: lanes) }
  var decodedBytes = 0
  var bytesRead = 0
  /// Of those, how many were read ahead past the page cache.
  var bytesReadAhead = 0
  var bytesWritten = 0
  /// What was read ahead of each input, and of which source of the plan.
  private var held: [(source: Int, read: ReadAhead.Held)?]

  /// - Parameters: `areas` are further output areas of `sizes.outputArea` bytes, the same number for every worker.
  init(
    index: Int, node: Int = 0, sizes: WorkerSizes, memory: UnsafeMutableRawPointer, areas more: [UnsafeMutableRawPointer] = unsafe []
  ) {
    self.index = index
    self.node = node
    held = Array(repeating: nil, count: max(sizes.inputs, 1))
    self.sizes = sizes
    unsafe staging = memory
    unsafe floats = memory + WorkerSizes.pages(sizes.staging)
    let output = unsafe floats + WorkerSizes.pages(sizes.floats)
    unsafe masks = (output + sizes.outputArea).assumingMemoryBound(to: UInt8.self)
    unsafe sideValues = (output + sizes.outputArea + WorkerSizes.pages(sizes.masks)).assumingMemoryBound(to: Float.self)
    unsafe sideRuns = .allocate(capacity: max(sizes.sideCount, 1))
    unsafe sideRuns.initialize(repeating: .empty, count: max(sizes.sideCount, 1))
    unsafe areas = [output] + more
    firstSlot = unsafe index * areas.count
    unsafe lanes = .allocate(capacity: Lanes.width)
    unsafe lanes.initialize(repeating: 0, count: Lanes.width)
    unsafe elements = .allocate(capacity: max(sizes.inputs, 1))
    unsafe nonfinite = .allocate(capacity: max(sizes.inputs, 1))
    unsafe inputSlices = .allocate(capacity: max(sizes.inputs, 1))
    unsafe inputSlices.initialize(repeating: ElementSlice(unsafe: memory, dtype: .f32, count: 0), count: max(sizes.inputs, 1))
    unsafe elements.initialize(repeating: UnsafeRawPointer(memory), count: max(sizes.inputs, 1))
    unsafe nonfinite.initialize(repeating: 0, count: max(sizes.inputs, 1))
  }

  deinit {
    unsafe lanes.deallocate()
    unsafe elements.deallocate()
    unsafe nonfinite.deallocate()
    unsafe inputSlices.deallocate()
    unsafe sideRuns.deallocate()
  }

  /// `count` elements of each input of the present read, from `distance` elements behind its start on.
  func slices(_ inputs: [InputAccess], distance: Int, count: Int) -> UnsafePointer<ElementSlice> {
    for index in inputs.indices {
      // SAFETY: elements[index] is valid for the whole read, of which this is a part.
      unsafe inputSlices[index] = ElementSlice(
        unsafe: elements[index] + distance * inputs[index].width, dtype: inputs[index].dtype, count: count)
    }
    return unsafe UnsafePointer(inputSlices)
  }

  /// Where `range` of a source lies if it was read ahead; until the end of the item or another range of the input.
  func held(_ range: Range<Int>, of source: any ByteSource, number: Int, input: Int, _ ahead: ReadAhead) -> UnsafeRawPointer? {
    if let (owner, read) = held[input] {
      if owner == number, let address = unsafe read.address(of: range) {
        count(ahead: range.count)
        return unsafe address
      }
      held[input] = nil
      ahead.release(read)
    }
    guard let read = source.take(range, ahead) else { return nil }
    held[input] = (number, read)
    count(ahead: range.count)
    return unsafe read.address(of: range)
  }

  func count(ahead bytes: Int) {
    bytesRead += bytes
    bytesReadAhead += bytes
  }

  /// Gives back what was read ahead, at the end of an item.
  func releaseHeld(_ ahead: ReadAhead?) {
    guard let ahead else { return }
    for input in held.indices {
      guard let (_, read) = held[input] else { continue }
      held[input] = nil
      ahead.release(read)
    }
  }

  /// The next output area, from the byte on that lies in its page as `offset` does in the file's. Waits until it has been written.
  func nextOutput(at offset: Int, _ writes: WriteQueue?) throws(IngotError) -> UnsafeMutableRawPointer {
    if let writes {
      area = unsafe (area + 1) % areas.count
      try writes.claim(outputSlot)
    }
    return unsafe areas[area] + offset % WorkerSizes.pageBytes
  }

  var hasNonfinite: Bool {
    // SAFETY: one counter for each input.
    (0..<sizes.inputs).contains { unsafe nonfinite[$0] != 0 }
  }

  func forgetNonfinite() {
    // SAFETY: one counter for each input.
    for input in 0..<sizes.inputs { unsafe nonfinite[input] = 0 }
  }

  /// Room for `length` elements of input `input`, given the job's dtypes.
  func stagingAddress(input: Int, inputs: [InputAccess], stagingLength: Int) -> UnsafeMutableRawPointer {
    var offset = 0
    for other in 0..<input { offset += WorkerSizes.padded(stagingLength * inputs[other].width) }
    return unsafe staging + offset
  }

  /// Runs a fused merge on the elements of the present read from `distance` on. Returns how many inputs' values are not finite.
  func merge(
    _ merge: FusedMerge, hasBase: Bool, inputs: [InputAccess], distance: Int, count: Int, firstIndex: UInt64, masks: MaskPlanes?,
    elementIndex: UInt64, kernels: Kernels, into output: MutableElementSlice
  ) -> Int {
    func slice(_ input: Int) -> ElementSlice {
      // SAFETY: elements[input] is valid for the whole read, of which this is a part.
      unsafe ElementSlice(unsafe: elements[input] + distance * inputs[input].width, dtype: inputs[input].dtype, count: count)
    }
    terms.removeAll(keepingCapacity: true)
    for index in merge.terms.indices {
      let term = merge.terms[index]
      let bits = term.mask.flatMap { plane in masks?.bits(plane: plane, firstIndex: elementIndex, count: count) }
      let cut = term.cut
      let least = cut == .everything ? 0 : cut.threshold + (firstIndex <= cut.lastInclusive ? 0 : 1)
      terms.append(
        MergeTerm(slice(index + (hasBase ? 1 : 0)), weight: term.weight, threshold: least, mask: bits, maskScale: term.maskScale))
    }
    switch merge.form {
    case .linear(let divisor): return kernels.mergeLinear(terms, divisor: divisor, into: output)
    case .deltas(let combination, let scale):
      return kernels.mergeDeltas(
        base: slice(0), terms, combination, scale: scale, firstIndex: firstIndex, ties: merge.ties, into: output)
    }
  }

  /// The place of a side tensor that is held whole.
  func wholeSide(at offset: Int, count: Int) -> Floats {
    // SAFETY: the area holds the whole side tensors of the plan's hungriest tensor.
    unsafe Floats(unsafe: sideValues + offset, count: count)
  }

  /// Room to read a part of a side tensor into; it is part of the staging area, so no read may be present.
  var wholeStaging: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(start: staging, count: sizes.staging) }

  var sideStaging: UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(start: staging, count: min(sizes.staging, WorkerSizes.sideStaging))
  }

  /// The side tensors of a tile whose rows are `rows`, the models' first.
  func sides(_ sides: [SideAccess], rows: FloatTable, modelCount: Int) -> SideTensors {
    for (index, side) in sides.enumerated() {
      // SAFETY: there are as many runs as any tensor of the plan has side tensors.
      switch side.place {
      case .stream(let row): unsafe sideRuns[index] = rows[row]
      case .whole(_, let offset, let count): unsafe sideRuns[index] = wholeSide(at: offset, count: count)
      }
    }
    return unsafe SideTensors(unsafe: sideRuns, count: sides.count, streamed: rows.dropFirst(modelCount))
  }

  /// Tables over the f32 runs of a tile of `length` elements: inputs, scratch, output.
  func runs(
    inputs: Int, scratch: Int, tileLength: Int, count: Int
  ) -> (inputs: FloatTable, scratch: FloatTable, joinedScratch: Floats, output: Floats) {
    let total = inputs + scratch + 1
    let table = unsafe floats.assumingMemoryBound(to: UnsafeMutablePointer<Float>.self)
    let first = unsafe floats + (total * pointerBytes + 63) / 64 * 64
    let stride = WorkerSizes.padded(tileLength * 4)
    for run in 0..<total { unsafe table[run] = (first + run * stride).assumingMemoryBound(to: Float.self) }
    // The scratch runs follow each other.
    let joinedCount = scratch * stride / 4
    return unsafe (
      FloatTable(unsafe: table, rows: inputs, count: count), FloatTable(unsafe: table + inputs, rows: scratch, count: count),
      Floats(unsafe: table[inputs], count: joinedCount), Floats(unsafe: table[inputs + scratch], count: count)
    )
  }
}
