internal import Glibc
package import IngotErrors

/// The memory of matrix work: matrices are cut from one region and given back together at the end of a `scope`.
///
/// A measuring workspace has no memory; it only counts. A method runs once with a measuring workspace while planning, with the same code as
/// later, and `peak` is then the bytes it needs. Thread rule: not Sendable; one job uses it at a time.
@safe package final class MatrixWorkspace {
  /// Nil when measuring.
  private let base: UnsafeMutableRawPointer?
  private let ownsMemory: Bool
  package let capacity: Int
  private var used = 0
  /// The most bytes that were in use at once.
  package private(set) var peak = 0

  private static let alignment = 64

  /// Borrows `bytes` bytes at `memory`, aligned to 64, which must stay valid as long as this workspace and its matrices are used.
  package init(unsafe memory: UnsafeMutableRawPointer, bytes: Int) {
    unsafe base = unsafe memory
    ownsMemory = false
    capacity = bytes
  }

  /// Reserves `capacity` bytes of address space of its own; pages cost memory when first touched. Throws `.memory` when the system refuses.
  package init(capacity: Int) throws(IngotError) {
    let bytes = max(capacity, 4096)
    let region = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let region = unsafe region, unsafe region != MAP_FAILED else {
      throw IngotError(.memory, "the system refused \(bytes) bytes of address space", hint: "lower the memory budget")
    }
    // Huge pages make the first touch cheaper; a refusal is harmless.
    _ = unsafe madvise(region, bytes, MADV_HUGEPAGE)
    unsafe base = unsafe region
    ownsMemory = true
    self.capacity = bytes
  }

  private init() {
    unsafe base = nil
    ownsMemory = false
    capacity = .max
  }

  deinit {
    // SAFETY: the region that init mapped.
    if ownsMemory, let base = unsafe base { _ = unsafe munmap(base, capacity) }
  }

  /// A workspace without memory that counts what is asked for.
  package static func measuring() -> MatrixWorkspace { MatrixWorkspace() }

  package var isMeasuring: Bool { unsafe base == nil }

  /// Runs `body` and takes back what it cut from this workspace.
  package func scope<Result>(_ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
    let mark = used
    defer { used = mark }
    return try body()
  }

  /// A matrix of undefined contents. Throws `.memory` when the workspace is full, `.unsupported` when a side is beyond LAPACK's integers.
  package func matrix<Element: MatrixElement>(
    _ rows: Int, _ columns: Int, of type: Element.Type = Element.self
  ) throws(IngotError) -> Matrix<Element> {
    guard rows >= 0, columns >= 0, Int32(exactly: rows) != nil, Int32(exactly: columns) != nil else {
      throw IngotError(.unsupported, "a matrix of \(rows) rows and \(columns) columns is beyond what LAPACK's 32-bit integers count")
    }
    let address = try unsafe allocate(rows * columns, MemoryLayout<Element>.stride)
    // SAFETY: as many bytes were cut, aligned to 64.
    return unsafe Matrix(unsafe: address?.bindMemory(to: Element.self, capacity: rows * columns), rows: rows, columns: columns)
  }

  /// A row of `count` zeros.
  package func vector<Element: MatrixElement>(_ count: Int, of type: Element.Type = Element.self) throws(IngotError) -> Matrix<Element> {
    let vector: Matrix<Element> = try matrix(1, count)
    vector.fill(0)
    return vector
  }

  /// Undefined 32-bit integers, for LAPACK; nil when measuring.
  func integers(_ count: Int) throws(IngotError) -> UnsafeMutablePointer<Int32>? {
    // SAFETY: as many bytes were cut, aligned to 64.
    unsafe try allocate(count, MemoryLayout<Int32>.stride)?.bindMemory(to: Int32.self, capacity: count)
  }

  private func allocate(_ count: Int, _ width: Int) throws(IngotError) -> UnsafeMutableRawPointer? {
    let (bytes, overflow) = max(count, 1).multipliedReportingOverflow(by: width)
    let (end, beyond) = (overflow ? 0 : bytes).addingReportingOverflow(used + Self.alignment - 1)
    guard !overflow, !beyond, end / Self.alignment * Self.alignment <= capacity else {
      throw IngotError(
        .memory, "matrix work needs \(overflow ? "too many" : "\(bytes)") more bytes, and \(capacity - used) of \(capacity) are left",
        hint: "raise the memory budget")
    }
    let start = used
    used = end / Self.alignment * Self.alignment
    peak = max(peak, used)
    // SAFETY: start + bytes lies inside the capacity.
    return unsafe base.map { unsafe $0 + start }
  }
}
