package import IngotErrors
internal import IngotLinearAlgebra
package import IngotMethods
internal import IngotRecipes
package import IngotStorage

/// What a finished run did.
package struct RunReport: Sendable {
  package var bytesRead = 0
  /// Of those, bytes of cold files that were read ahead past the page cache.
  package var bytesReadAhead = 0
  /// Why no reads could be under way though some were asked for.
  package var readAheadRefusal: String?
  package var bytesWritten = 0
  /// Bytes of input that were widened to numbers; copies leave it at 0.
  package var decodedBytes = 0
  package var seconds = 0.0
  package var threads = 0
  package var team = ""
  package var instructionSet = ""
  /// The core whose kernels OpenBLAS ran; nil where the plan has no matrix job.
  package var blasCore: String?
  /// What would make its matrix jobs faster.
  package var blasHint: String?
  /// The most bytes of the budget that were in use at once.
  package var peakMemory = 0
  package var notices: [Notice] = []
  /// Digest of each output tensor by index, where taken.
  package var digests: [Int: Digest128] = [:]
  /// `document` is the name of the recipe's document that makes the tensor, nil for that of the output.
  package var findings: [(document: String?, tensor: String, finding: Finding)] = []
  /// Output tensors that an earlier run had finished.
  package var resumedTensors = 0
  /// What was done on each memory node, where workers are bound to several.
  package var nodes: [NodeReport] = []

  /// How the sources' bytes came, in words.
  package var reading: String {
    if bytesReadAhead > 0 { return "io_uring, past the page cache, for what was not in it" }
    return readAheadRefusal.map { "the page cache (io_uring: \($0))" } ?? "the page cache"
  }
}

extension Engine {
  /// The core whose kernels OpenBLAS runs in this process, nil before it is loaded, and what would make it faster.
  package static var linearAlgebra: (core: String?, hint: String?) { (LinearAlgebra.coreInUse, LinearAlgebra.coreHint) }
}

/// Collects what jobs have to say while they run.
final class ReportCollector: @unchecked Sendable {
  // SENDABLE: all members are under the lock.
  private let lock = Monitor()
  private var report = RunReport()

  func add(_ notice: Notice) {
    lock.lock()
    report.notices.append(notice)
    lock.unlock()
  }

  func add(_ findings: [Finding], tensor: String, of plan: Plan) {
    if findings.isEmpty { return }
    lock.lock()
    for finding in findings { report.findings.append((plan.recipe.name, tensor, finding)) }
    lock.unlock()
  }

  func finished(tensor: Int, digest: Digest128?) {
    lock.lock()
    report.digests[tensor] = digest
    lock.unlock()
  }

  var collected: RunReport {
    lock.lock()
    defer { lock.unlock() }
    return report
  }
}
