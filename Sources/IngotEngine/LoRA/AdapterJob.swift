internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
internal import IngotMethods
internal import IngotTensors

/// What became of one module of an adapter that was written.
package struct AdapterModuleReport: Sendable, Hashable {
  package var name: String
  package var outputs: Int
  package var inputs: Int
  package var rank: Int
  /// ‖ΔW‖ of what was written, in the Frobenius norm, before rounding to the type it is stored in.
  package var norm: Double
  /// ‖target − ΔW‖ / ‖target‖ in the Frobenius norm, where the target is the exact sum of the inputs' changes, or the difference of two models.
  /// Nil where the target is 0. Errors below 1e-7 are 0 within the precision of the figure.
  package var error: Double?
}

/// The factors of one module, in a workspace.
struct ComputedModule {
  var factors: LowRank
  /// What is added to the module's bias.
  var bias: [Float]?
  var norm: Double
  var error: Double?
}

/// An adapter that is to be computed and written.
protocol AdapterJob: Sendable {
  /// What will be written, with the most that each rank can be.
  var layout: AdapterLayout { get }
  /// True when a module is large enough to keep all threads of one product busy.
  var usesAllThreads: Bool { get }
  /// What the config takes over.
  var configs: [JSONValue] { get }
  /// The base model's name where the configs do not say it.
  var base: String? { get }
  /// What the journal tells partial outputs apart by.
  var identity: String { get }

  /// Computes one module. On a measuring workspace it reads nothing and asks for the most memory it can need.
  func compute(_ module: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule

  /// The values of `layout.whole[index]`, in its type.
  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor

  /// DoRA's magnitude of a module that has one.
  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor

  func requireUnchanged() throws(IngotError)
}

extension AdapterJob {
  /// Bytes of workspace that a module needs at most, found by running it without memory.
  func workspaceBytes(of module: Int, _ algebra: LinearAlgebra) throws(IngotError) -> Int {
    let measuring = MatrixWorkspace.measuring()
    let result = try compute(module, LowRankAlgebra(algebra, measuring))
    // The rounded factors, beside the workspace's own.
    let factors = result.factors
    return measuring.peak + 8 * factors.rank * (factors.outputs + factors.inputs) + 4096
  }
}
