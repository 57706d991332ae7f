internal import IngotCheckpoints
internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// Computes the modules of an adapter on the workers of one team and writes them in the order of the file.
///
/// Ranks show only when a module is done, so bytes are appended: a worker that is done waits for its turn. There is never more than one finished
/// module for each worker in memory. Thread rule: `work` on every worker; `finish` after that.
final class AdapterRun: @unchecked Sendable {
  // SENDABLE: everything mutable is under the monitor, or belongs to the worker whose turn it is to write.
  /// One thing to write: a module's factors and bias, or a tensor that is read.
  private enum Step {
    case module(Int)
    case tensor(AdapterLayout.Role)
  }

  /// A tensor that lies in the file.
  struct Written: Sendable {
    var name: String
    var offset: Int
    var byteCount: Int
    var digest: Digest128
  }

  private let job: any AdapterJob
  private let file: OutputFile
  private let algebra: LinearAlgebra
  private let kernels: Kernels
  private let watcher: Watcher
  private let steps: [Step]
  private let monitor = Monitor()
  private var claimed = 0
  private var turn = 0
  private var failure: IngotError?
  private var end: Int
  private var written: [Written] = []
  private(set) var reports: [Int: AdapterModuleReport] = [:]

  /// `start` is where the first tensor begins: behind the largest header that the file can have.
  init(_ job: any AdapterJob, file: OutputFile, start: Int, algebra: LinearAlgebra, kernels: Kernels, watcher: Watcher) {
    self.job = job
    self.file = file
    self.algebra = algebra
    self.kernels = kernels
    self.watcher = watcher
    end = start
    let entries = job.layout.tensors
    var steps: [Step] = []
    for index in SafetensorsLayout.order(of: entries.map(\.tensor)) {
      switch entries[index].role {
      case .a(let module): steps.append(.module(module))
      // With the module's first tensor.
      case .b, .bias: break
      case .whole, .magnitude: steps.append(.tensor(entries[index].role))
      }
    }
    self.steps = steps
  }

  /// `threads` is what one product of this worker may use.
  func work(isCaller: Bool, workspace: MatrixWorkspace, threads: Int) {
    while let step = claim(isCaller) {
      do throws(IngotError) {
        switch steps[step] {
        case .module(let module):
          let computed = try compute(module, workspace, threads)
          guard waitForTurn(step, isCaller) else { return }
          try write(computed)
        case .tensor(let role):
          guard waitForTurn(step, isCaller) else { return }
          try copy(role)
        }
        pass()
      } catch {
        fail(error)
      }
    }
  }

  /// What lies in the file, in its order. Throws what stopped the run.
  func finish() throws(IngotError) -> [Written] {
    if let failure { throw failure }
    watcher.look(progress, isFinal: true)
    return written
  }

  // MARK: Turns

  private var progress: Progress {
    Progress(bytesDone: turn, bytesTotal: steps.count, tensorsDone: turn, tensorsTotal: steps.count, tensor: nil)
  }

  private func look() {
    monitor.lock()
    let now = progress
    monitor.unlock()
    watcher.look(now)
  }

  private func claim(_ isCaller: Bool) -> Int? {
    if isCaller { look() }
    monitor.lock()
    defer { monitor.unlock() }
    if failure == nil, let stop = watcher.stop { failure = stop.status == .cancelled ? Self.cancelled(stop) : stop }
    guard failure == nil, claimed < steps.count else { return nil }
    defer { claimed += 1 }
    return claimed
  }

  private static func cancelled(_ stop: IngotError) -> IngotError {
    IngotError(.cancelled, "the run was cancelled; nothing was written", userCode: stop.userCode)
  }

  /// Waits until everything before `step` is written. False when the run has failed.
  private func waitForTurn(_ step: Int, _ isCaller: Bool) -> Bool {
    monitor.lock()
    defer { monitor.unlock() }
    while failure == nil, turn != step {
      if isCaller {
        monitor.wait(milliseconds: 100)
        let now = progress
        monitor.unlock()
        watcher.look(now)
        monitor.lock()
      } else {
        monitor.wait()
      }
    }
    return failure == nil
  }

  private func pass() {
    monitor.lock()
    turn += 1
    monitor.signalAll()
    monitor.unlock()
  }

  private func fail(_ error: IngotError) {
    monitor.lock()
    if failure == nil { failure = error }
    monitor.signalAll()
    monitor.unlock()
  }

  // MARK: Modules

  /// A module's tensors as bytes.
  private struct Computed {
    var module: Int
    var parts: [(name: String, bytes: ReadScratch)]
    var report: AdapterModuleReport
  }

  private func compute(_ number: Int, _ workspace: MatrixWorkspace, _ threads: Int) throws(IngotError) -> Computed {
    let module = job.layout.modules[number]
    do throws(IngotError) {
      return try workspace.scope { () throws(IngotError) in
        try algebra.withThreads(threads) { () throws(IngotError) in
          let result = try job.compute(number, LowRankAlgebra(algebra, workspace))
          let factors = result.factors
          guard factors.b.isFinite, factors.a.isFinite else {
            throw IngotError(.nonFinite, "the result has values that are NaN or infinite", hint: "look for such values in the inputs")
          }
          var layout = job.layout
          layout.modules = [module]
          layout.modules[0].rank = factors.rank
          layout.whole = []
          var parts: [(name: String, bytes: ReadScratch)] = []
          for (tensor, role) in layout.tensors {
            switch role {
            case .a: parts.append((tensor.name, try rounded(factors.a, turned: true, workspace)))
            case .b: parts.append((tensor.name, try rounded(factors.b, turned: false, workspace)))
            case .bias:
              let row: Matrix<Double> = try workspace.matrix(1, module.outputs)
              for (index, value) in (result.bias ?? []).enumerated() { row[index] = Double(value) }
              parts.append((tensor.name, try rounded(row, turned: false, workspace)))
            case .magnitude, .whole: break
            }
          }
          let report = AdapterModuleReport(
            name: module.name, outputs: module.outputs, inputs: module.inputs, rank: factors.rank, norm: result.norm, error: result.error)
          return Computed(module: number, parts: parts, report: report)
        }
      }
    } catch { throw error.about(module.name) }
  }

  /// The elements by rows (by columns where `turned`) in the type that factors are stored in.
  private func rounded(_ matrix: Matrix<Double>, turned: Bool, _ workspace: MatrixWorkspace) throws(IngotError) -> ReadScratch {
    let dtype = job.layout.dtype
    let bytes = ReadScratch(matrix.count * dtype.bits / 8)
    try workspace.scope { () throws(IngotError) in
      let narrow: Matrix<Float> =
        turned ? try workspace.matrix(matrix.columns, matrix.rows) : try workspace.matrix(matrix.rows, matrix.columns)
      if turned { narrow.copyTransposed(matrix) } else { narrow.copy(matrix) }
      // SAFETY: as many elements as the scratch was made for.
      kernels.store(narrow.floats, into: unsafe MutableElementSlice(unsafe: bytes.address, dtype: dtype, count: matrix.count))
      // What was rounded is looked at again: f16 ends at 65504.
      kernels.load(bytes.elements(0, dtype, matrix.count), into: narrow.floats)
      guard narrow.isFinite else {
        throw IngotError(
          .nonFinite, "the result has values beyond what \(dtype.safetensorsName) holds", hint: "choose another type with --dtype")
      }
    }
    return bytes
  }

  // MARK: Writing, in turn

  private func write(_ computed: Computed) throws(IngotError) {
    for part in computed.parts {
      let bytes = unsafe UnsafeRawBufferPointer(part.bytes.bytes(0, part.bytes.count))
      // SAFETY: the scratch lives to the end of this function.
      try unsafe file.write(bytes, at: end)
      written.append(
        Written(name: part.name, offset: end, byteCount: bytes.count, digest: try unsafe TensorDigest.of(bytes)))
      end += bytes.count
    }
    monitor.lock()
    reports[computed.module] = computed.report
    monitor.unlock()
  }

  private func copy(_ role: AdapterLayout.Role) throws(IngotError) {
    guard let entry = job.layout.tensors.first(where: { $0.role == role }) else { return }
    let source: any DerivedTensor
    switch role {
    case .whole(let index): source = try job.whole(index)
    case .magnitude(let module): source = try job.magnitude(module)
    case .a, .b, .bias: return
    }
    let count = try entry.tensor.shape.byteCount(entry.tensor.dtype)
    written.append(Written(name: entry.tensor.name, offset: end, byteCount: count, digest: try source.copy(count, to: file, at: end)))
    end += count
  }
}
