internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
internal import IngotTensors

/// A job under way, seen by the scheduler: phases made of work items, settled by one thread in between.
///
/// Thread rule: `process` is called by many workers at once, each with its own `Worker`; everything else by one thread at a time while no item of
/// the job is being processed. The scheduler's lock orders the two.
protocol JobRun: AnyObject, Sendable {
  /// Work items of the present phase.
  var itemCount: Int { get }
  /// The same items by tensor, in their order; empty when the job has one tensor.
  var itemStretches: [ItemStretch] { get }
  /// Rough bytes of input that one item reads, for progress.
  var bytesRead: Int { get }

  /// Prepares the first phase.
  func begin() throws(IngotError)
  func process(item: Int, worker: Worker) throws(IngotError)
  /// Called when every item of the phase is done. True when the job is finished.
  func advance() throws(IngotError) -> Bool
  /// Gives the memory back; called once, after the last phase or a failure.
  func release()
}

extension JobRun {
  var itemStretches: [ItemStretch] { [] }
}

/// What a running job needs of its surroundings.
struct JobContext: Sendable {
  let plan: Plan
  let sources: [any ByteSource]
  let sink: any OutputSink
  let memory: JobMemory
  let kernels: Kernels
  let workerCount: Int
  let allowsNonfinite: Bool
  let skipsFinished: Bool
  let report: ReportCollector
  /// Where large writes go; nil when workers write themselves.
  var writes: WriteQueue?
  /// Looks at the values of copies too.
  var checksFinite = false
  /// The memory of matrix jobs; nil where the plan has none.
  var matrices: MatrixRegion?
  var watcher: Watcher = .none
  /// Where workers and tensors belong.
  var layout = NodeLayout(workers: 1)
  /// Reads of cold files under way; nil where files are read through the page cache.
  var ahead: ReadAhead?

  /// How many items before its turn an item's inputs are announced, in rounds of all workers.
  func roundsAhead(isOnce: Bool) -> Int { isOnce && ahead != nil ? 2 : 1 }
}
