extension Matrix {
  /// Hands all elements of a contiguous matrix to `body`, by rows: loops over them run on the bare memory. None where the matrix is not contiguous
  /// or has no memory.
  package func withElements<Result>(_ body: (UnsafeMutableBufferPointer<Element>) -> Result) -> Result {
    // SAFETY: count elements one after the other, valid as long as the matrix.
    unsafe body(UnsafeMutableBufferPointer(start: base, count: unsafe base == nil || !isContiguous ? 0 : count))
  }
}
