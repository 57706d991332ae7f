internal import CLAPACK
package import IngotErrors

/// BLAS and LAPACK on row-major matrices: the proof that OpenBLAS is loaded, and every operation that needs it.
///
/// LAPACK is column-major. A row-major m × n matrix is the column-major n × m matrix of its transpose in the same memory, so nothing is copied:
/// products are asked for as Cᵀ = op(B)ᵀ op(A)ᵀ, a QR factorisation is LAPACK's LQ, the factors of an SVD change places, and triangles
/// change sides. Each operation says what it wants and gives by rows.
///
/// Shapes are checked and throw `.shape`; sides beyond 32-bit integers throw `.unsupported`; an INFO of LAPACK that is not 0 throws
/// `.internalError` or what the operation says. On matrices of a measuring workspace an operation asks for its memory and computes nothing.
/// Results are the same on one machine for one thread count; they are not bit-identical over thread counts and processors.
///
/// Thread rule: any thread inside `withThreads`, on disjoint matrices.
package struct LinearAlgebra: Sendable {
  private init() {}

  /// Opens OpenBLAS, once for the process. Throws `.notFound` where it is missing.
  package static func load() throws(IngotError) -> LinearAlgebra {
    if let reason = reasonForAbsence() {
      throw IngotError(
        .notFound, "matrix methods need OpenBLAS, which does not load: \(reason)", hint: "apt-get install libopenblas0-pthread",
        subject: "libopenblas.so.0")
    }
    return LinearAlgebra()
  }

  /// What OpenBLAS is, for reports. The processor core is that of the kernels it chose.
  package struct Library: Sendable, Hashable {
    package var core: String
    package var configuration: String
    /// The process-wide thread count outside matrix phases.
    package var threads: Int
  }

  /// Runs `body` while every call of OpenBLAS in this process uses `threads` threads.
  ///
  /// The count is process-wide: it is saved, set and restored. Bodies of one thread run at the same time; a body of several threads runs alone and
  /// waits for the others, those of other contexts too. Do not nest.
  package func withThreads<Result>(_ threads: Int, _ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
    ingotl_begin_phase(Int32(clamping: threads))
    defer { ingotl_end_phase() }
    return try body()
  }

  /// `value` for LAPACK. Throws `.unsupported` beyond 32 bits.
  func int32(_ value: Int) throws(IngotError) -> Int32 {
    guard let narrow = Int32(exactly: value) else {
      throw IngotError(
        .unsupported, "a matrix operation needs a size of \(value), beyond LAPACK's 32-bit integers", hint: "exclude the tensor")
    }
    return narrow
  }

  /// Throws `.shape` unless `holds`.
  func require(_ holds: Bool, _ message: @autoclosure () -> String) throws(IngotError) {
    if !holds { throw IngotError(.shape, message()) }
  }

  /// Throws for an INFO that is not 0: `.nonFinite` where LAPACK's routine did not converge, which values do that overflow on the way, and
  /// `.internalError` where it was called wrongly.
  func check(_ info: Int32, _ routine: String) throws(IngotError) {
    guard info != 0 else { return }
    let reason = info < 0 ? "refused argument \(-info)" : "did not converge (INFO \(info))"
    throw IngotError(
      info < 0 ? .internalError : .nonFinite, "LAPACK's \(routine) \(reason)",
      hint: "look for extreme values in the inputs, or exclude the tensor")
  }
}
