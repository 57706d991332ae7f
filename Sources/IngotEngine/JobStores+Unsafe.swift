internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// Keep bits of a running job: one plane per model over all its tensors when the budget has room, else a tile's worth per worker.
@safe
final class MaskStore: @unchecked Sendable {
  // SENDABLE: allocated before and released after the phases; tiles address disjoint bytes.
  private let count: Int
  private let layouts: [MaskLayout]
  private let offsets: [Int]
  private let planeBytes: Int
  private var piece: Arena.Piece?

  init(planes: Int, segments: [JobSegment]) {
    count = planes
    layouts = segments.map { MaskLayout($0.blocking) }
    var offsets: [Int] = []
    var total = 0
    for (segment, layout) in zip(segments, layouts) {
      offsets.append(total)
      total += layout.bytes(elements: segment.blocking.count)
    }
    self.offsets = offsets
    planeBytes = total
  }

  func allocate(_ memory: JobMemory) {
    let bytes = count * planeBytes
    // A job that keeps its masks must leave room for the next one.
    if bytes > 0 { piece = memory.allocate(upTo: bytes, unit: bytes, share: 0.6) }
  }

  func release(_ memory: JobMemory) {
    memory.release(piece)
    piece = nil
  }

  /// True when bits drawn in a round are there in the next.
  var arePersistent: Bool { piece != nil }

  func planes(_ segment: JobSegment, start: Int, worker: Worker) -> MaskPlanes {
    let layout = layouts[segment.index]
    if let piece {
      // SAFETY: the piece holds every plane of every tensor of the job, at these offsets.
      let base = unsafe piece.address.assumingMemoryBound(to: UInt8.self) + offsets[segment.index]
      return unsafe MaskPlanes(
        unsafe: base, planeBytes: planeBytes, rowBytes: layout.rowBytes, rowLength: layout.rowLength, origin: 0, arePersistent: true)
    }
    return unsafe MaskPlanes(
      unsafe: worker.masks, planeBytes: layout.bytes(elements: segment.blocking.tileLength), rowBytes: layout.rowBytes,
      rowLength: layout.rowLength, origin: UInt64(start), arePersistent: false)
  }
}

/// What a read may do with inputs that are kept.
enum KeptUse {
  /// Reads past them.
  case bypass
  /// Reads into their place.
  case fill
  /// They are there already.
  case present
}

/// Inputs that stay in memory between the rounds of a job, when the budget has room for all of them.
@safe
final class KeptInputs: @unchecked Sendable {
  // SENDABLE: filled by disjoint block reads in one round, read in later ones; the flag changes between phases only.
  private let offsets: [[Int]]
  private let total: Int
  private var piece: Arena.Piece?
  /// True when a round has read everything.
  var isFilled = false

  init(_ segments: [JobSegment]) {
    var offsets: [[Int]] = []
    var total = 0
    for segment in segments {
      var own: [Int] = []
      for input in segment.inputs {
        own.append(total)
        total += WorkerSizes.padded(segment.blocking.count * input.width)
      }
      offsets.append(own)
    }
    self.offsets = offsets
    self.total = total
  }

  var isAllocated: Bool { piece != nil }

  func allocate(_ memory: JobMemory) {
    if total > 0 { piece = memory.allocate(upTo: total, unit: total, share: 0.7) }
  }

  func release(_ memory: JobMemory) {
    memory.release(piece)
    piece = nil
    isFilled = false
  }

  /// Where the elements `range` of one input lie: in the source's own memory, kept from an earlier round, or read just now.
  func elements(
    _ range: Range<Int>, input: Int, of segment: JobSegment, use: KeptUse, context: JobContext, worker: Worker
  ) throws(IngotError) -> UnsafeRawPointer {
    let access = segment.inputs[input]
    let width = access.width
    let first = access.offset + range.lowerBound * width
    let bytes = range.count * width
    let source = context.sources[access.source]
    if let address = unsafe source.address(of: first..<first + bytes) { return unsafe address }
    if !isFilled, use == .bypass, let ahead = context.ahead,
      let address = unsafe worker.held(first..<first + bytes, of: source, number: access.source, input: input, ahead)
    {
      return unsafe address
    }
    var target = unsafe worker.stagingAddress(input: input, inputs: segment.inputs, stagingLength: segment.blocking.stagingLength)
    if let piece, isFilled || use != .bypass {
      unsafe target = piece.address + offsets[segment.index][input] + range.lowerBound * width
      if isFilled || use == .present { return UnsafeRawPointer(target) }
    }
    try unsafe source.read(UnsafeMutableRawBufferPointer(start: target, count: bytes), at: first)
    if !source.isComputed { worker.bytesRead += bytes }
    return UnsafeRawPointer(target)
  }
}
