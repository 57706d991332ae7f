internal import Glibc
internal import Synchronization

/// Reads past the page cache that are under way before anybody waits for them, into memory that is used again and again.
///
/// Somebody says early what will be read (`request`); whoever needs it takes it, waits for it if need be, and gives the memory back. So
/// the device is busy while the processor is, and bytes that are read once neither push others out of the page cache nor pay for pages of
/// it. Whatever goes wrong, from a kernel without io_uring to a read that ends early, `take` gives nothing and the caller reads as if
/// nothing had been requested: errors show there, in the usual words.
///
/// Thread rule: any thread; `close` when nobody requests or takes any more.
@safe
package final class ReadAhead: @unchecked Sendable {
  // SENDABLE: everything that changes is under `state`; a slot's bytes belong to the kernel until its result is there, then to who took it.

  /// When files are read so.
  package enum Choice: Sendable, CaseIterable {
    /// What is not in the page cache.
    case whenCold
    case never
    /// Everything that is announced, however small: for tests.
    case always
  }

  /// Memory for the slots of one memory node.
  @safe package struct Area: @unchecked Sendable {
    // SENDABLE: an address and numbers.
    let node: Int
    let memory: UnsafeMutableRawPointer
    let slots: Int

    /// - Parameters: `memory` has `slots` times `ReadAhead.slotBytes` bytes and begins at a page.
    package init(node: Int, memory: UnsafeMutableRawPointer, slots: Int) {
      self.node = node
      unsafe self.memory = unsafe memory
      self.slots = slots
    }
  }

  /// What was read of a file, until it is released.
  @safe package struct Held: @unchecked Sendable {
    // SENDABLE: an address and numbers; the bytes do not change while it is held.
    package let range: Range<Int>
    fileprivate let slot: Int
    fileprivate let first: UnsafeRawPointer

    /// Where a part of it lies; nil for other bytes of the file.
    package func address(of part: Range<Int>) -> UnsafeRawPointer? {
      guard part.lowerBound >= range.lowerBound, part.upperBound <= range.upperBound else { return nil }
      return unsafe first + (part.lowerBound - range.lowerBound)
    }
  }

  /// Offsets, lengths and addresses are multiples of this.
  private static let alignment = 4096
  /// The most bytes of one request: a work item of most plans, with the rest of a row or two.
  package static let requestBytes = (1 << 20) + (1 << 17)
  package static let slotBytes = requestBytes + 2 * alignment
  /// Less is not worth it.
  private static let leastBytes = 1 << 16
  /// Files that are open a second time, at most: descriptors are scarce in some processes.
  private static let mostFiles = 16

  private enum Phase { case free, underWay, ready, failed }

  @safe private struct Slot: @unchecked Sendable {
    // SENDABLE: an address and plain values; copies leave the lock only to be looked at.
    let node: Int
    let memory: UnsafeMutableRawPointer
    var phase = Phase.free
    var isTaken = false
    var file: StoredFile?
    /// Keeps the file open while the kernel reads.
    var descriptor: Descriptor?
    /// What was asked for; whole pages around it are read.
    var range = 0..<0
    var filled = 0
    var age = 0

    init(_ node: Int, _ memory: UnsafeMutableRawPointer) {
      self.node = node
      unsafe self.memory = unsafe memory
    }

    var start: Int { range.lowerBound / ReadAhead.alignment * ReadAhead.alignment }
    var isIdle: Bool { phase != .underWay && !isTaken }
  }

  private struct Opened {
    let file: StoredFile
    /// Nil for a file that cannot be read so.
    var descriptor: Descriptor?
    var lastUse: Int
  }

  private struct State {
    var slots: [Slot] = []
    var ring: ReadRing?
    var refusal: String?
    var files: [Opened] = []
    var requests = 0
    var underWay = 0
  }

  private let state = Mutex(State())
  /// Held while waiting for results, which one thread does for all.
  private let reaping = Mutex(())
  private let choice: Choice
  private let areas: [Area]
  private let isRefused = Atomic(false)
  /// Requests that were not taken yet, so that a run that requests nothing looks for nothing.
  private let outstanding = Atomic(0)

  package init(_ areas: [Area], choice: Choice) {
    self.choice = choice
    self.areas = areas
    state.withLock { state in
      for area in areas {
        for slot in 0..<area.slots {
          // SAFETY: the area holds this many slots.
          unsafe state.slots.append(Slot(area.node, area.memory + slot * Self.slotBytes))
        }
      }
    }
  }

  /// Why this process cannot have reads under way; nil when it can.
  package static func refusal(_ system: System = .live) -> String? {
    do throws(SystemError) { _ = try ReadRing(entries: 1, system: system) } catch { return error.text }
    return nil
  }

  /// Whether such reads of a file can work here at all.
  package static func canReadPastCache(_ file: StoredFile) -> Bool {
    file.system.openDirect(file.descriptor, alignment: alignment) != nil && refusal(file.system) == nil
  }

  /// Why nothing was read ahead though it was asked for; nil when it was, or when nobody asked.
  package var refusal: String? { state.withLock { $0.refusal } }

  // MARK: Asking

  package enum Answer: Sendable, Hashable {
    /// All of it is under way.
    case underWay
    /// It is in the page cache, where reading finds it.
    case present
    /// This much at its end is not: the reader should announce it in another way.
    case left(Range<Int>)
  }

  /// True when what is requested is read so wherever it lies.
  package var takesEverything: Bool { choice == .always }

  /// Starts reading a range that will be read once, in pieces of whole `step`s (as the reader takes them), unless it is in the page cache.
  package func request(_ file: StoredFile, _ range: Range<Int>, step: Int, node: Int) -> Answer {
    guard choice != .never, !isRefused.load(ordering: .relaxed), !range.isEmpty, step > 0, step <= Self.requestBytes else {
      return .left(range)
    }
    if choice == .whenCold {
      guard range.count >= Self.leastBytes, let resident = file.resident(range) else { return .left(range) }
      if resident * 2 >= range.count { return .present }
    }
    let most = Self.requestBytes / step * step
    for start in stride(from: range.lowerBound, to: range.upperBound, by: most) {
      let piece = start..<min(start + most, range.upperBound)
      if !begin(file, piece, node: node) { return .left(start..<range.upperBound) }
    }
    return .underWay
  }

  private func begin(_ file: StoredFile, _ range: Range<Int>, node: Int) -> Bool {
    state.withLock { state in
      state.requests += 1
      // Another thread may have been refused since this one looked.
      guard state.refusal == nil, let index = freeSlot(node, in: &state), let descriptor = descriptor(of: file, in: &state),
        let ring = ring(file.system, in: &state)
      else {
        return false
      }
      if state.slots[index].phase != .free { outstanding.subtract(1, ordering: .relaxed) }
      state.slots[index].phase = .underWay
      state.slots[index].file = file
      state.slots[index].descriptor = descriptor
      state.slots[index].range = range
      state.slots[index].age = state.requests
      let start = state.slots[index].start
      let count = (range.upperBound - start + Self.alignment - 1) / Self.alignment * Self.alignment
      do throws(SystemError) {
        // SAFETY: a slot has room for the most bytes of a request and a page on either side, and nobody touches it before the result is there.
        let buffer = unsafe UnsafeMutableRawBufferPointer(start: state.slots[index].memory, count: count)
        try unsafe ring.read(descriptor, into: buffer, at: start, tag: index)
        state.underWay += 1
        outstanding.add(1, ordering: .relaxed)
        return true
      } catch {
        // It may still be in the queue, so the slot is used no more, and no other read is queued.
        state.slots[index].isTaken = true
        state.slots[index].phase = .failed
        refuse(error.text, in: &state)
        return false
      }
    }
  }

  /// A slot of this node, else of any; what was requested long ago and never taken makes room.
  private func freeSlot(_ node: Int, in state: inout State) -> Int? {
    var found: Int?
    for (index, slot) in state.slots.enumerated() {
      let isForgotten = slot.isIdle && state.requests - slot.age > 4 * state.slots.count
      guard slot.phase == .free || isForgotten else { continue }
      if slot.node == node { return index }
      found = found ?? index
    }
    return found
  }

  private func descriptor(of file: StoredFile, in state: inout State) -> Descriptor? {
    if let known = state.files.firstIndex(where: { $0.file === file }) {
      state.files[known].lastUse = state.requests
      return state.files[known].descriptor
    }
    let opened = Opened(
      file: file, descriptor: file.system.openDirect(file.descriptor, alignment: Self.alignment), lastUse: state.requests)
    let oldest = state.files.indices.min { state.files[$0].lastUse < state.files[$1].lastUse }
    if state.files.count >= Self.mostFiles, let oldest { state.files[oldest] = opened } else { state.files.append(opened) }
    return opened.descriptor
  }

  private func ring(_ system: System, in state: inout State) -> ReadRing? {
    if let ring = state.ring { return ring }
    do throws(SystemError) {
      let made = try ReadRing(entries: state.slots.count, system: system)
      state.ring = made
      share(withChildren: false)
      return made
    } catch {
      refuse(error.text, in: &state)
      return nil
    }
  }

  /// A process that is forked off while the kernel reads into private pages could take some of them with it (open(2)), so it gets none.
  private func share(withChildren isShared: Bool) {
    for area in areas {
      // SAFETY: the area is whole pages that live as long as self; neither advice changes what is in them. A refusal is harmless to the rest.
      _ = unsafe madvise(area.memory, area.slots * Self.slotBytes, isShared ? MADV_DOFORK : MADV_DONTFORK)
    }
  }

  private func refuse(_ why: String, in state: inout State) {
    state.refusal = state.refusal ?? why
    isRefused.store(true, ordering: .relaxed)
  }

  // MARK: Taking

  /// The bytes of a request that holds all of `range`; waits until they are there. Nil where none was made or it did not work out: read them.
  package func take(_ file: StoredFile, _ range: Range<Int>) -> Held? {
    guard outstanding.load(ordering: .relaxed) > 0 else { return nil }
    let index = state.withLock { state -> Int? in
      let found = state.slots.indices.first { index in
        let slot = state.slots[index]
        return slot.file === file && !slot.isTaken && slot.phase != .free && slot.range.lowerBound <= range.lowerBound
          && slot.range.upperBound >= range.upperBound
      }
      if let found { state.slots[found].isTaken = true }
      return found
    }
    guard let index else { return nil }
    outstanding.subtract(1, ordering: .relaxed)
    while true {
      let slot = state.withLock { $0.slots[index] }
      if slot.phase == .underWay {
        if reap(for: index) { continue }
        // Nobody can wait any more. The kernel may still write there, so the slot stays taken.
        return nil
      }
      let held = unsafe Held(range: slot.range, slot: index, first: UnsafeRawPointer(slot.memory) + (slot.range.lowerBound - slot.start))
      // Shorter than asked for: the file ends there, or a fault. Reading again tells.
      if slot.phase == .ready && slot.start + slot.filled >= slot.range.upperBound { return held }
      release(held)
      return nil
    }
  }

  /// The memory may be used for another request.
  package func release(_ held: Held) {
    state.withLock { state in
      guard state.slots.indices.contains(held.slot) else { return }
      state.slots[held.slot].phase = .free
      state.slots[held.slot].isTaken = false
      state.slots[held.slot].file = nil
      state.slots[held.slot].descriptor = nil
    }
  }

  /// Waits for results unless that of `index` is there meanwhile. False when waiting fails.
  private func reap(for index: Int) -> Bool {
    reaping.withLock { _ in
      let ring = state.withLock { $0.slots[index].phase == .underWay ? $0.ring : nil }
      guard let ring else { return true }
      do throws(SystemError) {
        try ring.wait()
      } catch {
        state.withLock { refuse(error.text, in: &$0) }
        return false
      }
      collect(ring)
      return true
    }
  }

  /// Takes over the results that are there. The caller holds `reaping`.
  private func collect(_ ring: ReadRing) {
    while let (index, result) = ring.next() {
      state.withLock { state in
        guard state.slots.indices.contains(index) else { return }
        state.underWay -= 1
        state.slots[index].phase = result >= 0 ? .ready : .failed
        state.slots[index].filled = max(result, 0)
        // A file system that opens so and then wants another alignment.
        if [EINVAL, EOPNOTSUPP].contains(Int32(clamping: -result)) {
          for place in state.files.indices where state.files[place].file === state.slots[index].file { state.files[place].descriptor = nil }
        }
      }
    }
  }

  /// Waits until the kernel leaves the memory alone, and gives everything else back.
  package func close() {
    isRefused.store(true, ordering: .relaxed)
    reaping.withLock { _ in
      guard let ring = state.withLock({ $0.ring }) else { return }
      while state.withLock({ $0.underWay }) > 0 {
        // Without the call results arrive too, only later.
        if !ring.waitForCertain() { usleep(1000) }
        collect(ring)
      }
      share(withChildren: true)
    }
    state.withLock { state in
      state.ring = nil
      state.files = []
      state.slots = []
    }
    outstanding.store(0, ordering: .relaxed)
  }
}

extension StoredFile {
  /// How many bytes of a range, of its first megabytes if it is long, are in the page cache; nil where the system does not tell.
  func resident(_ range: Range<Int>) -> Int? { system.resident(descriptor, range) }
}
