package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The job contract: what a merge method is, and all it may know.
///
/// A job maps inputs to outputs and runs  gather* → settle → emit.  The engine cuts the job's elements into blocks, reads them, widens them
/// to f32 and calls `gather` once per tile with a statistic of the tile's block; `settle` then runs on one thread, sees every statistic folded
/// in block order, and says what comes next: another round or the output. A method never opens a file, starts a thread or names an
/// instruction set; nothing it computes may depend on how many tiles, threads or bytes of budget there are.
///
/// One value of the type serves one job. `State` carries what rounds have found: it is made by `begin` and `settle`, read by all workers.
package protocol MergeMethod: Sendable {
  associatedtype State: Sendable

  /// The only definition of name, parameters and arity; recipe checking, help, schema and docs read it.
  static var descriptor: MethodDescriptor { get }

  /// Which tensors share one job, given the recipe's global parameters.
  static func scope(_ parameters: [String: ParameterValue]) -> JobScope

  /// Under `.group`: tensors of the output with the same answer share a job.
  static func group(of name: String) -> String

  /// True when a model's larger embedding is cut to the base's rows, as in the task-vector family; else the fewest rows win.
  static var cropsToBase: Bool { get }

  /// Checks and resolves everything that headers and parameters can tell. Runs while planning; throws `.recipe` or `.shape`.
  init(_ request: MethodRequest) throws(IngotError)

  /// How the engine must cut and serve this job.
  var demands: Demands { get }

  /// The first phase. Runs on one thread.
  func begin() -> Phase<State>

  /// Reads one tile and adds to the statistic of its block. Runs on any worker; must not keep references to the tile.
  func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic)

  /// `gather` straight from stored elements, where the round has such a form; nil leaves it to `gather`. Otherwise the number of values that
  /// may be NaN or infinite, which the engine then looks for itself. Adds what `gather` would, bit for bit.
  func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int?

  /// Turns a side tensor that is held whole into what `gather` and `emit` want of it, in place: called once for each worker and tensor, before
  /// the worker's first tile of that tensor, with every value as stored. What it makes may depend on nothing else.
  func prepare(side: Int, segment: Int, _ values: Floats)

  /// Decides the next phase from the folded statistics. Runs on one thread.
  func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State>

  /// Computes one tile of the output, `tile.count` elements of f32. Runs on any worker.
  func emit(_ state: State, _ tile: Tile, into output: Floats)

  /// The output step for tensor `segment` as a fused kernel, where it is one; nil leaves it to `emit`.
  func fused(_ state: State, segment: Int) -> FusedMerge?

  /// What the report should say of this job: thresholds, kept shares, angles.
  func findings(_ state: State) -> [Finding]
}

extension MergeMethod {
  package static func scope(_ parameters: [String: ParameterValue]) -> JobScope { .tensor }
  package static func group(of name: String) -> String { name }
  package static var cropsToBase: Bool { false }
  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {}
  package func gatherStored(_ state: State, _ tile: StoredTile, _ statistic: BlockStatistic) -> Int? { nil }
  package func prepare(side: Int, segment: Int, _ values: Floats) {}
  package func settle(_ state: State, _ statistics: Statistics) throws(IngotError) -> Phase<State> { .emit(state) }
  package func fused(_ state: State, segment: Int) -> FusedMerge? { nil }
  package func findings(_ state: State) -> [Finding] { [] }
}

extension MergeMethod where State == Void {
  package func begin() -> Phase<Void> { .emit(()) }
}

/// The tensors over which a method's statistics extend.
package enum JobScope: Sendable, Hashable {
  case tensor
  /// Those that `MergeMethod.group` puts together.
  case group
  case model
}

/// How the elements of a tensor are cut. Fixed by the method, never by memory or threads.
package enum Granularity: Sendable, Hashable {
  /// Blocks of 65,536 elements in row-major order, served in tiles of 4,096.
  case block
  /// Whole rows (last axis); a tile is one or more whole rows.
  case row
  /// The whole tensor is one block and one tile (matrix methods).
  case tensor
}

/// What a job needs of the engine besides its inputs.
package struct Demands: Sendable {
  package var granularity: Granularity
  /// f32 runs as long as a tile that a worker lends to `gather` and `emit`, besides the inputs and the output.
  package var scratchRows: Int
  /// Planes of one keep bit per element that live from the first gather to the last emit, if the budget has room.
  package var maskPlanes: Int
  /// The most `Round.columnSums` of any round: 8 bytes each of the budget, which a run must have room for beside its workers.
  package var columnSums: Int
  /// Set when the output is this input unchanged: bytes are then copied without being decoded (a dtype change still converts).
  package var copiedInput: Int?
  /// The only inputs that the job reads, in this order; nil reads all. Tiles have these and no others.
  package var usedInputs: [Int]?

  package init(
    granularity: Granularity = .block, scratchRows: Int = 0, maskPlanes: Int = 0, columnSums: Int = 0, copiedInput: Int? = nil,
    usedInputs: [Int]? = nil
  ) {
    self.granularity = granularity
    self.scratchRows = scratchRows
    self.maskPlanes = maskPlanes
    self.columnSums = columnSums
    self.copiedInput = copiedInput
    self.usedInputs = usedInputs
  }
}

/// What follows `begin` or `settle`.
package enum Phase<State: Sendable>: Sendable {
  case gather(State, Round)
  case emit(State)
}

/// The statistic of one round, and which blocks the round reads.
package struct Round: Sendable {
  /// f64 sums per block, each kept in 16 lanes inside the block and folded over blocks in order.
  package var sums: Int
  /// Unsigned counters over the whole job (addition of integers needs no order).
  package var tallies: Int
  /// Histograms over the whole job, and bins of each.
  package var histograms: Int
  package var bins: Int
  /// Capacity of each key pool: selection keys collected over the whole job, in no particular order. One entry per pool.
  package var keyCapacities: [Int]
  /// f64 sums over the whole job that one worker adds to in element order, for statistics of columns; a tensor is then one work item.
  package var columnSums: Int
  /// 0 visits every element. n > 0 takes a sample: of every n-th tile one run of `sampleRun` elements, at a place that differs from tile to tile.
  package var sampleStride: Int
  /// True for a round that looks at side tensors only: the models are not read, and a tile's `inputs` hold nothing.
  package var readsOnlySides: Bool
  /// The tensors of the job that the round reads; nil reads all.
  package var segments: Set<Int>?

  /// Elements of one run of a sample: short, because neighbours in a row resemble each other.
  package static let sampleRun = 32

  package init(
    sums: Int = 0, tallies: Int = 0, histograms: Int = 0, bins: Int = 0, keyCapacities: [Int] = [], columnSums: Int = 0,
    sampleStride: Int = 0, readsOnlySides: Bool = false, segments: Set<Int>? = nil
  ) {
    self.readsOnlySides = readsOnlySides
    self.segments = segments
    self.sums = sums
    self.tallies = tallies
    self.histograms = histograms
    self.bins = bins
    self.keyCapacities = keyCapacities
    self.columnSums = columnSums
    self.sampleStride = sampleStride
  }

  /// True when the round reads every element of every model.
  package var isComplete: Bool { sampleStride == 0 && !readsOnlySides && segments == nil }

  package func reads(_ segment: Int) -> Bool { segments?.contains(segment) ?? true }
}

/// One line of a job's report.
package struct Finding: Sendable {
  package var name: String
  package var value: Double
  package var model: Int?

  package init(_ name: String, _ value: Double, model: Int? = nil) {
    self.name = name
    self.value = value
    self.model = model
  }
}
