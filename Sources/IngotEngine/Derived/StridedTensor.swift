internal import IngotErrors

/// A tensor of a PyTorch file whose elements do not lie in row-major order: a transposed matrix, a slice of columns.
///
/// It is gathered in panels of about 2 MiB of whole rows, along the axis that is densest in the file, so that a transposed matrix costs one read for
/// each column of a panel. The last `panels` of a model are kept: memory beside the budget is 2 MiB times `panels` plus the workers.
@safe
struct StridedTensor: DerivedTensor {
  static let panelBytes = 2 << 20
  static let panels = 4
  /// Gaps up to this are read over.
  private static let nearBytes = 4096
  private static let scratchBytes = 1 << 16

  private var source: any ByteSource
  private let offset: Int
  private let width: Int
  private let shape: [Int]
  private let strides: [Int]
  /// Elements of one step along each axis of the packed result.
  private let steps: [Int]
  private let count: Int
  private let panelLength: Int
  private let cache: RecentValues<[UInt8]>
  private let number: Int

  /// `offset` is where the element (0, …, 0) begins, `width` the bytes of an element, strides are in elements; the caller checked that
  /// all elements lie in the source. `number` tells the tensors of one cache apart.
  init(
    source: any ByteSource, offset: Int, width: Int, shape: [Int], strides: [Int], cache: RecentValues<[UInt8]>, number: Int
  ) throws(IngotError) {
    guard shape.count == strides.count, width > 0 else { throw IngotError(.internalError, "as many strides as axes were expected") }
    self.source = source
    self.offset = offset
    self.width = width
    self.cache = cache
    self.number = number
    let axes = shape.indices.filter { shape[$0] != 1 }
    self.shape = axes.isEmpty ? [1] : axes.map { shape[$0] }
    self.strides = axes.isEmpty ? [1] : axes.map { strides[$0] }
    var steps = [Int](repeating: 1, count: self.shape.count)
    for axis in self.shape.indices.dropLast().reversed() { steps[axis] = steps[axis + 1] * self.shape[axis + 1] }
    self.steps = steps
    count = steps[0] * self.shape[0]
    let row = self.shape.last ?? 1
    let room = max(Self.panelBytes / width, 1)
    panelLength = row == 0 || row > room ? room : room / row * row
  }

  func bound(to run: SourceBinding) throws(IngotError) -> any DerivedTensor { try gather(of: run) }

  /// The same elements as one run reads them.
  func gather(of run: SourceBinding) throws(IngotError) -> StridedTensor {
    var bound = self
    bound.source = try run.bound(source)
    return bound
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at start: Int) throws(IngotError) {
    var element = start / width
    var done = 0
    while done < destination.count {
      let panel = element / panelLength
      let first = panel * panelLength
      let length = min(panelLength, count - first)
      let bytes = try cache.value([number, panel]) { () throws(IngotError) in try gather(first, length) }
      let skip = (element - first) * width
      let part = min(bytes.count - skip, destination.count - done)
      guard part > 0 else { throw IngotError(.internalError, "a read beyond a strided tensor", subject: source.name) }
      // SAFETY: the part lies in both, and the array lives for the closure.
      unsafe bytes.withUnsafeBytes { from in
        unsafe UnsafeMutableRawBufferPointer(rebasing: destination[done..<done + part])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: from[skip..<skip + part]))
      }
      done += part
      element += part / width
    }
  }

  /// `length` elements from `first` on, packed.
  private func gather(_ first: Int, _ length: Int) throws(IngotError) -> [UInt8] {
    var panel = [UInt8](repeating: 0, count: length * width)
    var scratch = [UInt8](repeating: 0, count: Self.scratchBytes)
    var failure: IngotError?
    // SAFETY: both arrays' storage is the closures' own.
    unsafe panel.withUnsafeMutableBytes { panel in
      unsafe scratch.withUnsafeMutableBytes { scratch in
        do throws(IngotError) {
          var done = 0
          while done < length {
            done += try unsafe box(at: first + done, atMost: length - done, into: panel, from: done, scratch)
          }
        } catch {
          failure = error
        }
      }
    }
    if let failure { throw failure }
    return panel
  }

  /// Gathers the largest box of whole sub-arrays that begins at `element`; gives its number of elements.
  private func box(
    at element: Int, atMost limit: Int, into panel: UnsafeMutableRawBufferPointer, from place: Int, _ scratch: UnsafeMutableRawBufferPointer
  ) throws(IngotError) -> Int {
    let axis = shape.indices.first { element % steps[$0] == 0 && steps[$0] <= limit } ?? shape.count - 1
    var start = 0
    for index in 0...axis { start += element / steps[index] % shape[index] * strides[index] }
    let extent = min(shape[axis] - element / steps[axis] % shape[axis], limit / steps[axis])
    var extents = Array(shape[axis...])
    extents[0] = extent
    let gaps = Array(strides[axis...])
    let jumps = Array(steps[axis...])
    // The axis along which the file is densest.
    let along = extents.indices.filter { extents[$0] > 1 }.min { gaps[$0] < gaps[$1] } ?? extents.count - 1
    var index = [Int](repeating: 0, count: extents.count)
    while true {
      var from = start
      var to = place
      for other in extents.indices {
        from += index[other] * gaps[other]
        to += index[other] * jumps[other]
      }
      try unsafe run(extents[along], from: from, gap: gaps[along], into: panel, at: to, jump: jumps[along], scratch)
      var other = extents.count - 1
      while other >= 0 {
        if other != along {
          index[other] += 1
          if index[other] < extents[other] { break }
          index[other] = 0
        }
        other -= 1
      }
      if other < 0 { return extent * steps[axis] }
    }
  }

  /// Reads `count` elements with gaps and puts them down with jumps.
  private func run(
    _ count: Int, from: Int, gap: Int, into panel: UnsafeMutableRawBufferPointer, at place: Int, jump: Int,
    _ scratch: UnsafeMutableRawBufferPointer
  ) throws(IngotError) {
    if gap == 1 && jump == 1 {
      let target = unsafe UnsafeMutableRawBufferPointer(rebasing: panel[place * width..<(place + count) * width])
      return try unsafe source.read(target, at: offset + from * width)
    }
    let isNear = gap <= Self.nearBytes / width
    let step = isNear ? max((scratch.count / width - 1) / max(gap, 1) + 1, 1) : 1
    var done = 0
    while done < count {
      let part = min(step, count - done)
      let span = ((part - 1) * gap + 1) * width
      // SAFETY: span <= scratch.count by the choice of step.
      try unsafe source.read(
        UnsafeMutableRawBufferPointer(rebasing: scratch[..<span]), at: offset + (from + done * gap) * width)
      unsafe scatter(part, scratch, gap: gap, panel, at: place + done * jump, jump: jump)
      done += part
    }
  }

  private func scatter(
    _ count: Int, _ scratch: UnsafeMutableRawBufferPointer, gap: Int, _ panel: UnsafeMutableRawBufferPointer, at place: Int, jump: Int
  ) {
    guard let from = scratch.baseAddress, let base = panel.baseAddress else { return }
    let to = unsafe base + place * width
    // SAFETY: every element lies in the box, which lies in the panel.
    switch width {
    case 2:
      for index in 0..<count {
        let value = unsafe from.loadUnaligned(fromByteOffset: index * gap * 2, as: UInt16.self)
        unsafe to.storeBytes(of: value, toByteOffset: index * jump * 2, as: UInt16.self)
      }
    case 4:
      for index in 0..<count {
        let value = unsafe from.loadUnaligned(fromByteOffset: index * gap * 4, as: UInt32.self)
        unsafe to.storeBytes(of: value, toByteOffset: index * jump * 4, as: UInt32.self)
      }
    default:
      for index in 0..<count {
        unsafe (to + index * jump * width).copyMemory(from: from + index * gap * width, byteCount: width)
      }
    }
  }
}
