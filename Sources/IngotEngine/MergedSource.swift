internal import IngotErrors
internal import IngotMethods
internal import IngotStorage
package import IngotTensors

/// A tensor of an earlier document's result: computed when it is read, or read from where that document was stored.
final class MergedSource: ByteSource {
  private let plan: Plan
  private let tensor: Int
  private let job: Int
  private let isStored: Bool
  /// What is read: set when the source is bound to a run.
  private let access: Access?

  private enum Access {
    case run(StageRun)
    case file(any ByteSource, offset: Int)
  }

  init(_ plan: Plan, tensor: Int, job: Int, isStored: Bool) {
    self.plan = plan
    self.tensor = tensor
    self.job = job
    self.isStored = isStored
    access = nil
  }

  private init(_ other: MergedSource, access: Access) {
    plan = other.plan
    tensor = other.tensor
    job = other.job
    isStored = other.isStored
    self.access = access
  }

  var name: String { plan.tensors[tensor].name }

  /// Neither the way to the reader nor a place is part of it: a result is the same streamed and stored.
  var derivation: String? { "merged \(plan.digest) \(tensor)" }

  var readsPerElement: Int { isStored ? 1 : plan.readsPerElement }

  /// The input that the tensor is a copy of.
  private var copied: PlannedInput? {
    guard case .copy(let input) = plan.jobs[job].work, plan.tensors[tensor].inputs.indices.contains(input) else { return nil }
    return plan.tensors[tensor].inputs[input]
  }

  var isComputed: Bool { !isStored }
  var isCostlyToReread: Bool { !isStored && copied == nil }

  func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource {
    if isStored {
      let place = plan.tensors[tensor]
      return MergedSource(self, access: .file(try run.file(place.file, of: plan), offset: place.offset))
    }
    return MergedSource(self, access: .run(try run.run(of: plan)))
  }

  func requireUnchanged() throws(IngotError) {
    if isStored { return }
    for input in plan.tensors[tensor].streams + plan.tensors[tensor].wholeSides.map(\.source) {
      try plan.sources[input.source].requireUnchanged()
    }
  }

  func address(of range: Range<Int>) -> UnsafeRawPointer? {
    guard case .run(let run)? = access, let copied else { return nil }
    return unsafe run.context.sources[copied.source].address(of: copied.offset + range.lowerBound..<copied.offset + range.upperBound)
  }

  func willRead(_ range: Range<Int>) {
    guard case .run(let run)? = access, let copied else { return }
    run.context.sources[copied.source].willRead(copied.offset + range.lowerBound..<copied.offset + range.upperBound)
  }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    let bytes = plan.tensors[tensor].byteCount
    guard offset >= 0, offset <= bytes, destination.count <= bytes - offset else {
      throw IngotError(.io, "read of \(destination.count) bytes at \(offset) leaves the tensor's \(bytes) bytes", subject: name)
    }
    // SAFETY: the caller owns the destination for the call; what lies behind fills it or throws.
    switch access {
    case .file(let file, let start)?: try unsafe file.read(destination, at: start + offset)
    case .run(let run)?:
      if let copied { return try unsafe run.context.sources[copied.source].read(destination, at: copied.offset + offset) }
      try unsafe run.read(tensor: tensor, destination, at: offset)
    case nil:
      // While planning only copies are looked at: small tensors of integers.
      guard let copied else { throw IngotError(.internalError, "a computed tensor read outside of a run", subject: name) }
      try unsafe plan.sources[copied.source].read(destination, at: copied.offset + offset)
    }
  }
}

/// What the derived sources of one run share: the run's memory, and where stored stages lie. Made and used by the run's thread before its workers start.
package final class SourceBinding {
  struct Surroundings {
    var workerCount: Int
    var memory: JobMemory
    var kernels: Kernels
    var allowsNonfinite: Bool
    var report: ReportCollector
  }

  /// The kernels that computed sources use.
  let kernels: Kernels
  /// Nil where no plan runs: nothing is streamed there.
  private let surroundings: Surroundings?
  /// By plan of the stage.
  private let directories: [ObjectIdentifier: String]
  private var files: [String: any ByteSource] = [:]
  /// Sources that are read in several places, so that they are bound once.
  private var known: [ObjectIdentifier: any ByteSource] = [:]
  private var byPlan: [ObjectIdentifier: StageRun] = [:]
  /// Streamed stages, each after those that it reads.
  private(set) var runs: [StageRun] = []

  init(_ surroundings: Surroundings, directories: [ObjectIdentifier: String]) {
    self.surroundings = surroundings
    kernels = surroundings.kernels
    self.directories = directories
  }

  /// For reads outside of a run.
  package init(kernels: Kernels) {
    self.kernels = kernels
    surroundings = nil
    directories = [:]
  }

  /// A source as this run reads it.
  func bound(_ source: any ByteSource) throws(IngotError) -> any ByteSource {
    if let known = known[ObjectIdentifier(source)] { return known }
    let made = try source.bound(to: self)
    known[ObjectIdentifier(source)] = made
    return made
  }

  func run(of plan: Plan) throws(IngotError) -> StageRun {
    if let known = byPlan[ObjectIdentifier(plan)] { return known }
    guard let surroundings else { throw IngotError(.internalError, "a computed tensor read outside of a run") }
    let sources = try bind(plan)
    let made = try StageRun(plan, sources: sources, surroundings)
    byPlan[ObjectIdentifier(plan)] = made
    runs.append(made)
    return made
  }

  func bind(_ plan: Plan) throws(IngotError) -> [any ByteSource] {
    var bound: [any ByteSource] = []
    bound.reserveCapacity(plan.sources.count)
    for source in plan.sources { bound.append(try self.bound(source)) }
    return bound
  }

  func file(_ number: Int, of plan: Plan) throws(IngotError) -> any ByteSource {
    guard let directory = directories[ObjectIdentifier(plan)], plan.files.indices.contains(number) else {
      throw IngotError(
        .unsupported, "a document of the recipe must be stored before another can read it, and this output is no directory",
        hint: "merge into a directory, or merge the documents one by one")
    }
    let path = directory + "/" + plan.files[number].name
    if let known = files[path] { return known }
    let opened = try FileSource(path)
    files[path] = opened
    return opened
  }

  func release() { for run in runs { run.release() } }
}
