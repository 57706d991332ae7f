internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// A job under way, seen by the scheduler: phases made of work items, settled by one thread in between.
///
/// Thread rule: `process` is called by many workers at once, each with its own `Worker`; everything else by one thread at a time while no item of
/// the job is being processed. The scheduler's lock orders the two.
protocol JobRun: AnyObject, Sendable {
  /// Work items of the present phase.
  var itemCount: Int { get }
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
}
