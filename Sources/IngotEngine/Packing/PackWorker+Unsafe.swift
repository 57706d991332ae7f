internal import IngotCheckpoints
internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// What one task vector and its unscaled reconstruction come to: enough for the factor λ and for ‖τ − λ r‖.
struct PackSums: Sendable {
  /// Σ |τ|, Σ |r|, Σ τ², Σ τ r and Σ r².
  var absolute = 0.0
  var kept = 0.0
  var squares = 0.0
  var products = 0.0
  var keptSquares = 0.0

  static func += (sums: inout PackSums, other: PackSums) {
    sums.absolute += other.absolute
    sums.kept += other.kept
    sums.squares += other.squares
    sums.products += other.products
    sums.keptSquares += other.keptSquares
  }

  /// ‖τ − λ r‖².
  func error(scale: Double) -> Double { max(squares - 2 * scale * products + scale * scale * keptSquares, 0) }
}

/// The Rice code of one block.
struct PackedBlock: Sendable {
  var byteCount: Int
  var count: Int
  var remainderBits: Int
}

/// What one item gave.
struct PackPart: Sendable {
  /// One for each task.
  var sums: [PackSums]
  /// Of ternary tensors.
  var blocks: [PackedBlock] = []
}

/// What all workers of a packing share.
struct PackJob: Sendable {
  let plan: PackPlan
  let kernels: Kernels
  /// Which elements of a ternary pack stay.
  let cut: MagnitudeCut
  let lambdas: [Float]
  /// Nil while the sizes of codes are measured.
  var output: (file: OutputFile, layout: DeltaPackLayout, codeStarts: [[Int]])?
}

/// One worker's memory and arithmetic of a packing. Used by one thread.
@safe
final class PackWorker {
  private static let block = Blocking.blockElements
  private static let tile = Blocking.tileElements
  /// Sums of a task, in lanes.
  private static let laneSets = 5

  private let job: PackJob
  private let tasks: Int
  private let staging: Int
  private let memory: ReadScratch
  private let runs: ReadScratch
  private let lanes: ReadScratch
  private let vector: ReadScratch
  private let rows: UnsafeMutablePointer<UnsafeMutablePointer<Float>>
  private var elements: [RiceCode.Element] = []
  /// The bits of each task in the present block, the highest of a byte first.
  private var bits: [[UInt8]]

  /// Bytes of one worker.
  static func byteCount(_ plan: PackPlan) -> Int {
    let tasks = plan.tasks.count
    return (tasks + 1) * stagingBytes(plan) + (tasks + 3) * tile * 4 + tasks * laneSets * 128 + block * 4 + tasks * block / 8 + block * 6
  }

  private static func stagingBytes(_ plan: PackPlan) -> Int {
    block * plan.tensors.reduce(1) { widest, tensor in tensor.inputs.reduce(widest) { max($0, $1.width) } }
  }

  init(_ job: PackJob) {
    self.job = job
    tasks = job.plan.tasks.count
    staging = Self.stagingBytes(job.plan)
    memory = ReadScratch((tasks + 1) * staging)
    runs = ReadScratch((tasks + 3) * Self.tile * 4)
    lanes = ReadScratch(tasks * Self.laneSets * 128)
    vector = ReadScratch(Self.block * 4)
    bits = Array(repeating: Array(repeating: 0, count: Self.block / 8), count: tasks)
    unsafe rows = .allocate(capacity: max(tasks, 1))
    for task in 0..<tasks {
      // SAFETY: the runs hold tasks + 3 tiles of f32.
      unsafe (rows + task).initialize(to: (runs.address + task * Self.tile * 4).assumingMemoryBound(to: Float.self))
    }
  }

  deinit { unsafe rows.deallocate() }

  // MARK: Memory

  private func delta(_ task: Int, _ count: Int) -> Floats { runs.floats(task * Self.tile * 4, count) }
  private func base(_ count: Int) -> Floats { runs.floats(tasks * Self.tile * 4, count) }
  /// The reconstruction of one task, before it is scaled.
  private func kept(_ count: Int) -> Floats { runs.floats((tasks + 1) * Self.tile * 4, count) }
  private func merged(_ count: Int) -> Floats { runs.floats((tasks + 2) * Self.tile * 4, count) }

  private func lanes(_ task: Int, _ set: Int) -> Lanes {
    // SAFETY: 16 f64 for each of the tasks' sets.
    unsafe Lanes(unsafe: (lanes.address + (task * Self.laneSets + set) * 128).assumingMemoryBound(to: Double.self))
  }

  private func deltas(_ count: Int) -> FloatTable {
    // SAFETY: as many pointers as tasks, each to a tile.
    unsafe FloatTable(unsafe: rows, rows: tasks, count: count)
  }

  // MARK: Items

  /// Packs some blocks of a tensor; writes them where the job has an output.
  func pack(_ number: Int, blocks: Range<Int>) throws(IngotError) -> PackPart {
    let tensor = job.plan.tensors[number]
    var part = PackPart(sums: Array(repeating: PackSums(), count: tasks))
    for block in blocks {
      let first = block * Self.block
      let range = first..<min(first + Self.block, tensor.count)
      for task in 0..<tasks { for set in 0..<Self.laneSets { lanes(task, set).clear() } }
      elements.removeAll(keepingCapacity: true)
      try read(tensor, range)
      for start in stride(from: range.lowerBound, to: range.upperBound, by: Self.tile) {
        try tile(tensor, at: start, count: min(Self.tile, range.upperBound - start), of: range)
      }
      for task in 0..<tasks { part.sums[task] += folded(task) }
      if tensor.form == .ternary {
        let size = RiceCode.size(of: elements)
        part.blocks.append(PackedBlock(byteCount: size.byteCount, count: elements.count, remainderBits: size.remainderBits))
      }
      try write(number, tensor, block: block, range, remainderBits: part.blocks.last?.remainderBits ?? 0)
    }
    return part
  }

  private func folded(_ task: Int) -> PackSums {
    PackSums(
      absolute: lanes(task, 0).folded(), kept: lanes(task, 1).folded(), squares: lanes(task, 2).folded(),
      products: lanes(task, 3).folded(), keptSquares: lanes(task, 4).folded())
  }

  private func read(_ tensor: PackedTensorPlan, _ range: Range<Int>) throws(IngotError) {
    for (index, input) in tensor.inputs.enumerated() {
      // SAFETY: a block of the widest type fits the staging of one input.
      try unsafe job.plan.merge.sources[input.source].read(
        memory.bytes(index * staging, range.count * input.width), at: input.offset + range.lowerBound * input.width)
    }
  }

  /// Widens one tile, subtracts the base, and reconstructs.
  private func tile(_ tensor: PackedTensorPlan, at start: Int, count: Int, of range: Range<Int>) throws(IngotError) {
    let kernels = job.kernels
    for (index, input) in tensor.inputs.enumerated() {
      let stored = memory.elements(index * staging, input.dtype, range.count).slice(from: start - range.lowerBound, count: count)
      let run = index == 0 ? base(count) : delta(index - 1, count)
      let bad = kernels.load(stored, into: run)
      guard bad == 0 else {
        throw IngotError(
          .nonFinite, "values that are NaN or infinite in \(index == 0 ? job.plan.baseName : job.plan.tasks[index - 1])",
          hint: "repair the source", subject: tensor.name)
      }
      if index > 0 { kernels.subtract(run, base(count), into: run) }
    }
    switch tensor.form {
    case .ternary: ternary(tensor, at: start, count: count, of: range)
    case .signs: signs(at: start - range.lowerBound, count: count)
    case .whole:
      kernels.scale(delta(0, count), by: 1, into: kept(count))
      add(0, count)
    case .masked:
      if job.plan.method == .tall {
        kernels.linearCombination(deltas(count), weights: [Float](repeating: 1, count: tasks), into: merged(count))
      } else {
        kernels.unify(deltas(count), into: merged(count))
      }
      if tensor.dtype != .f32 { kernels.round(merged(count), to: tensor.dtype) }
      try requireFinite(merged(count), tensor)
      // SAFETY: the vector's run holds a block of f32.
      let place = (start - range.lowerBound) * tensor.dtype.bits / 8
      kernels.store(merged(count), into: unsafe MutableElementSlice(unsafe: vector.address + place, dtype: tensor.dtype, count: count))
      for task in 0..<tasks { mask(task, tensor.dtype, at: start - range.lowerBound, count: count) }
    }
  }

  /// Adds a task's vector and its reconstruction, in `kept`, to the sums.
  private func add(_ task: Int, _ count: Int) {
    let (own, run) = (delta(task, count), kept(count))
    job.kernels.accumulateAbsolute(own, into: lanes(task, 0))
    job.kernels.accumulateAbsolute(run, into: lanes(task, 1))
    job.kernels.accumulateMoments(own, run, xx: lanes(task, 2), xy: lanes(task, 3), yy: lanes(task, 4))
  }

  // MARK: Reconstructions

  /// The signs of what stays.
  private func ternary(_ tensor: PackedTensorPlan, at start: Int, count: Int, of range: Range<Int>) {
    let run = kept(count)
    let index = tensor.jobBase + UInt64(start)
    job.kernels.scale(delta(0, count), by: 1, into: run)
    if job.cut != .everything {
      job.kernels.trim(
        run, firstIndex: index, ties: .hash, threshold: job.cut.threshold, inclusive: index <= job.cut.lastInclusive)
    }
    for place in 0..<count {
      let value = run[place]
      guard value != 0 else {
        // −0 is no sign.
        run[place] = 0
        continue
      }
      elements.append(.init(position: UInt16(truncatingIfNeeded: start - range.lowerBound + place), isNegative: value < 0))
      run[place] = value < 0 ? -1 : 1
    }
    add(0, count)
  }

  private func signs(at first: Int, count: Int) {
    let (own, run) = (delta(0, count), kept(count))
    for place in 0..<count { run[place] = own[place] >= 0 ? 1 : -1 }
    setBits(0, at: first, count) { run[$0] > 0 }
    add(0, count)
  }

  /// What of the common vector, in `merged`, a task has.
  private func mask(_ task: Int, _ dtype: DType, at first: Int, count: Int) {
    let (common, run) = (merged(count), kept(count))
    if job.plan.method == .tall {
      job.kernels.localize(deltas(count), row: task, threshold: job.lambdas[task], into: run)
      // The sum is rounded where it is stored, not where it is compared.
      if dtype != .f32 { for place in 0..<count where run[place] != 0 { run[place] = common[place] } }
    } else {
      job.kernels.keepAgreeing(common, with: delta(task, count), into: run)
    }
    setBits(task, at: first, count) { run[$0] != 0 }
    add(task, count)
  }

  /// `first` is the start of a tile in its block, so a whole byte.
  private func setBits(_ task: Int, at first: Int, _ count: Int, _ isSet: (Int) -> Bool) {
    var place = 0
    while place < count {
      var byte: UInt8 = 0
      for bit in 0..<8 where place + bit < count && isSet(place + bit) { byte |= 0x80 >> UInt8(bit) }
      bits[task][(first + place) / 8] = byte
      place += 8
    }
  }

  private func requireFinite(_ run: Floats, _ tensor: PackedTensorPlan) throws(IngotError) {
    for place in 0..<run.count where !run[place].isFinite {
      throw IngotError(
        .nonFinite, "the common vector is beyond what \(tensor.dtype.safetensorsName) holds", hint: "use vector_dtype=float32",
        subject: tensor.name)
    }
  }

  // MARK: Writing

  private func write(
    _ number: Int, _ tensor: PackedTensorPlan, block: Int, _ range: Range<Int>, remainderBits: Int
  ) throws(IngotError) {
    guard let (file, layout, codeStarts) = job.output else { return }
    func place(_ part: DeltaPack.Part) throws(IngotError) -> Int { try layout.offset(of: DeltaPack.partName(part, tensor.name)) }
    switch tensor.form {
    case .ternary:
      let code = RiceCode.encode(elements, remainderBits: remainderBits)
      guard codeStarts.indices.contains(number), codeStarts[number].indices.contains(block + 1),
        codeStarts[number][block + 1] - codeStarts[number][block] == code.count
      else {
        throw IngotError(.stale, "a model changed while it was packed", hint: "pack again when nothing writes to it", subject: tensor.name)
      }
      try file.write(code, at: try place(.codes) + codeStarts[number][block])
      let row = [UInt32(code.count), UInt32(elements.count) | UInt32(remainderBits) << 24, packCheck(code)]
      try file.write(littleEndian(row), at: try place(.blocks) + 12 * block)
    case .whole:
      let width = tensor.dtype.bits / 8
      // SAFETY: the last input's block, as it was read.
      let bytes = unsafe UnsafeRawBufferPointer(memory.bytes((tensor.inputs.count - 1) * staging, range.count * width))
      try unsafe file.write(bytes, at: try place(.whole) + range.lowerBound * width)
    case .masked, .signs:
      if tensor.form == .masked {
        let width = tensor.dtype.bits / 8
        // SAFETY: the vector's block.
        let bytes = unsafe UnsafeRawBufferPointer(vector.bytes(0, range.count * width))
        try unsafe file.write(bytes, at: try place(.vector) + range.lowerBound * width)
      }
      let row = (tensor.count + 7) / 8
      for task in 0..<(tensor.form == .masked ? tasks : 1) {
        let own = Array(bits[task].prefix((range.count + 7) / 8))
        try file.write(own, at: try place(.bits) + task * row + range.lowerBound / 8)
        try file.write(littleEndian([packCheck(own)]), at: try place(.checks) + 4 * (task * tensor.blockCount + block))
      }
    }
  }
}

/// The check of a block's bits or code: the low 32 bits of XXH3-64.
func packCheck(_ bytes: [UInt8]) -> UInt32 { UInt32(truncatingIfNeeded: xxh3(bytes)) }

/// As a file has them.
func littleEndian<Value: FixedWidthInteger>(_ values: [Value]) -> [UInt8] {
  values.flatMap { value in (0..<Value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * Value($0))) } }
}
