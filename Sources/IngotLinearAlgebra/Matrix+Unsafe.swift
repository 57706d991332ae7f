package import IngotTensors

/// A borrowed, writable matrix of f32 or f64 in row-major order: element (i, j) lies at i · stride + j.
///
/// It borrows the memory of a `MatrixWorkspace`, or what `init(unsafe:)` is given, and is valid as long as that is. A matrix of a measuring
/// workspace has a shape and no memory: it reads as zeros and takes no writes. Thread rule: not Sendable; it belongs to who made it.
@safe package struct Matrix<Element: MatrixElement> {
  /// Nil in a measuring workspace.
  let base: UnsafeMutablePointer<Element>?
  package let rows: Int
  package let columns: Int
  /// Elements from one row to the next; at least `columns`.
  package let stride: Int

  /// `base` must be valid for `(rows − 1) · stride + columns` elements as long as this matrix is used. Negative counts are 0.
  package init(unsafe base: UnsafeMutablePointer<Element>?, rows: Int, columns: Int, stride: Int? = nil) {
    unsafe self.base = unsafe base
    self.rows = max(rows, 0)
    self.columns = max(columns, 0)
    self.stride = max(stride ?? 0, columns, 1)
  }

  package var count: Int { rows * columns }
  /// The shorter side.
  package var rank: Int { min(rows, columns) }
  package var isMeasured: Bool { unsafe base == nil }
  package var isContiguous: Bool { stride == columns || rows <= 1 }

  /// Out of range, reads give 0 and writes do nothing.
  package subscript(row: Int, column: Int) -> Element {
    get {
      guard let base = unsafe base, row >= 0, row < rows, column >= 0, column < columns else { return 0 }
      // SAFETY: inside the shape.
      return unsafe base[row * stride + column]
    }
    nonmutating set {
      guard let base = unsafe base, row >= 0, row < rows, column >= 0, column < columns else { return }
      // SAFETY: inside the shape.
      unsafe base[row * stride + column] = newValue
    }
  }

  /// Element i of a matrix of one row (or of one column).
  package subscript(index: Int) -> Element {
    get { rows == 1 ? self[0, index] : self[index, 0] }
    nonmutating set { if rows == 1 { self[0, index] = newValue } else { self[index, 0] = newValue } }
  }

  /// The part with these rows and columns, clipped to this matrix; same memory.
  package func part(rows range: Range<Int>, columns other: Range<Int>) -> Matrix {
    let r = range.clamped(to: 0..<rows)
    let c = other.clamped(to: 0..<columns)
    // SAFETY: the part lies inside the shape; an empty one is not read.
    return unsafe Matrix(
      unsafe: base.map { unsafe $0 + (r.isEmpty || c.isEmpty ? 0 : r.lowerBound * stride + c.lowerBound) }, rows: r.count,
      columns: c.count, stride: stride)
  }

  package func rows(_ range: Range<Int>) -> Matrix { part(rows: range, columns: 0..<columns) }
  package func columns(_ range: Range<Int>) -> Matrix { part(rows: 0..<rows, columns: range) }

  /// The same memory with another shape of at most as many elements; empty where this matrix is not contiguous or too small.
  package func reshaped(_ rows: Int, _ columns: Int) -> Matrix {
    let (wanted, overflow) = rows.multipliedReportingOverflow(by: columns)
    guard isContiguous, !overflow, rows >= 0, columns >= 0, wanted <= count else {
      // SAFETY: an empty matrix is not read.
      return unsafe Matrix(unsafe: base, rows: 0, columns: 0)
    }
    // SAFETY: no more elements than there are, one after the other.
    return unsafe Matrix(unsafe: base, rows: rows, columns: columns)
  }

  // MARK: Element by element

  /// Calls `body` with each row's elements.
  @inline(__always)
  private func forEachRow(_ body: (_ row: Int, _ elements: UnsafeMutablePointer<Element>) -> Void) {
    guard let base = unsafe base, columns > 0 else { return }
    // SAFETY: every row lies inside the shape.
    for row in 0..<rows { unsafe body(row, base + row * stride) }
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func fill(_ value: Element) {
    // SAFETY: a row has `columns` elements.
    unsafe forEachRow { _, row in unsafe row.update(repeating: value, count: columns) }
  }

  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scale(by factor: Element) {
    // SAFETY: a row has `columns` elements.
    unsafe forEachRow { _, row in for j in 0..<columns { unsafe row[j] *= factor } }
  }

  /// Multiplies row i by factors[i]; where there are fewer factors the other rows stay.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scaleRows(by factors: Matrix<Element>) {
    // SAFETY: a row has `columns` elements.
    unsafe forEachRow { i, row in
      let factor = factors[i]
      for j in 0..<columns { unsafe row[j] *= factor }
    }
  }

  /// Multiplies column j by factors[j], of which there must be one for each column.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func scaleColumns(by factors: Matrix<Element>) {
    guard let other = unsafe factors.base, factors.count >= columns, factors.isContiguous else { return }
    // SAFETY: both have `columns` elements.
    unsafe forEachRow { _, row in for j in 0..<columns { unsafe row[j] *= other[j] } }
  }

  /// self += factor · other, over the elements both have. `Other` may be the wider or the narrower type.
  @_specialize(where Element == Float, Other == Float)
  @_specialize(where Element == Float, Other == Double)
  @_specialize(where Element == Double, Other == Float)
  @_specialize(where Element == Double, Other == Double)
  package func add<Other: MatrixElement>(_ other: Matrix<Other>, times factor: Element = 1) {
    guard let source = unsafe other.base else { return }
    let width = min(columns, other.columns)
    // SAFETY: the row is below other.rows, the column below both widths.
    unsafe forEachRow { i, row in
      guard i < other.rows else { return }
      let from = unsafe source + i * other.stride
      for j in 0..<width { unsafe row[j] += factor * Element(from[j]) }
    }
  }

  /// Copies the elements both have, converted.
  @_specialize(where Element == Float, Other == Float)
  @_specialize(where Element == Float, Other == Double)
  @_specialize(where Element == Double, Other == Float)
  @_specialize(where Element == Double, Other == Double)
  package func copy<Other: MatrixElement>(_ other: Matrix<Other>) {
    guard let source = unsafe other.base else { return }
    let width = min(columns, other.columns)
    // SAFETY: the row is below other.rows, the column below both widths.
    unsafe forEachRow { i, row in
      guard i < other.rows else { return }
      let from = unsafe source + i * other.stride
      for j in 0..<width { unsafe row[j] = Element(from[j]) }
    }
  }

  /// Copies the transpose of `other`, block by block.
  @_specialize(where Element == Float, Other == Float)
  @_specialize(where Element == Float, Other == Double)
  @_specialize(where Element == Double, Other == Float)
  @_specialize(where Element == Double, Other == Double)
  package func copyTransposed<Other: MatrixElement>(_ other: Matrix<Other>) {
    guard let source = unsafe other.base, let target = unsafe base else { return }
    let height = min(rows, other.columns)
    let width = min(columns, other.rows)
    let block = 32
    for i0 in Swift.stride(from: 0, to: height, by: block) {
      for j0 in Swift.stride(from: 0, to: width, by: block) {
        for i in i0..<min(i0 + block, height) {
          // SAFETY: i and j lie inside both shapes.
          for j in j0..<min(j0 + block, width) { unsafe target[i * stride + j] = Element(source[j * other.stride + i]) }
        }
      }
    }
  }

  /// Adds `value` to the elements of the main diagonal.
  package func addToDiagonal(_ value: Element) {
    for i in 0..<rank { self[i, i] += value }
  }

  /// Copies the triangle below the main diagonal of a square matrix onto the one above.
  @_specialize(where Element == Float)
  @_specialize(where Element == Double)
  package func mirrorLowerTriangle() {
    guard let base = unsafe base else { return }
    let n = rank
    let block = 32
    for i0 in Swift.stride(from: 0, to: n, by: block) {
      for j0 in Swift.stride(from: 0, through: i0, by: block) {
        for i in i0..<min(i0 + block, n) {
          // SAFETY: both indices are below both sides.
          for j in j0..<min(j0 + block, i) { unsafe base[j * stride + i] = base[i * stride + j] }
        }
      }
    }
  }

  // MARK: Sums, in f64

  /// Σ xᵢⱼ yᵢⱼ over the elements both have, in 16 lanes for each row.
  package func dot(_ other: Matrix) -> Double {
    guard let source = unsafe other.base else { return 0 }
    let width = min(columns, other.columns)
    var total = 0.0
    unsafe forEachRow { i, row in
      // SAFETY: the row is below other.rows, the column below both widths.
      if i < other.rows { total += unsafe Element.dot(row, source + i * other.stride, width) }
    }
    return total
  }

  /// The Frobenius norm.
  package var norm: Double { dot(self).squareRoot() }

  /// The trace and the sum of the squares of all elements of a symmetric matrix, of which only the lower triangle is read.
  package var lowerMoments: (trace: Double, squares: Double) {
    @_specialize(where Element == Float)
    @_specialize(where Element == Double)
    get {
      var (trace, squares) = (0.0, 0.0)
      unsafe forEachRow { i, row in
        guard i < columns else { return }
        // SAFETY: i is below the row's count.
        let (part, own) = unsafe (Element.dot(row, row, i), Double(row[i]))
        trace += own
        squares += 2 * part + own * own
      }
      return (trace, squares)
    }
  }

  /// True when no element is NaN or infinite.
  package var isFinite: Bool {
    @_specialize(where Element == Float)
    @_specialize(where Element == Double)
    get {
      var result = true
      unsafe forEachRow { _, row in
        var sum: Element = 0
        // SAFETY: a row has `columns` elements.
        for j in 0..<columns { sum += unsafe row[j] * 0 }
        if !(sum == 0) { result = false }
      }
      return result
    }
  }
}

extension Matrix where Element == Float {
  /// A contiguous matrix as a run for the kernels; empty where it is not contiguous or has no memory.
  package var floats: Floats {
    guard let base = unsafe base, isContiguous else { return .empty }
    // SAFETY: count elements one after the other.
    return unsafe Floats(unsafe: base, count: count)
  }

  /// Borrows a run of values as a matrix; empty where there are too few.
  package init(_ values: Floats, rows: Int, columns: Int) {
    let (wanted, overflow) = rows.multipliedReportingOverflow(by: columns)
    let fits = !overflow && rows >= 0 && columns >= 0 && wanted <= values.count
    // SAFETY: no more elements than the run has.
    unsafe self.init(unsafe: values.address, rows: fits ? rows : 0, columns: fits ? columns : 0)
  }
}

extension Matrix where Element == Float {
  /// One step of Adam (Kingma and Ba, arXiv 1412.6980) with β 0.9 and 0.999, ε 1e-8 and no decay, in place. The moments start as zeros.
  ///
  /// - Parameters: `rate` is the learning rate over 1 − 0.9ᵗ, `correction` the root of 1 − 0.999ᵗ. All four matrices have this shape.
  package func adamStep(
    gradient: Matrix<Float>, first: Matrix<Float>, second: Matrix<Float>, rate: Float, correction: Float
  ) {
    guard let g = unsafe gradient.base, let m = unsafe first.base, let v = unsafe second.base,
      [gradient, first, second].allSatisfy({ $0.rows == rows && $0.columns == columns })
    else { return }
    unsafe forEachRow { i, row in
      let (a, b, c) = unsafe (g + i * gradient.stride, m + i * first.stride, v + i * second.stride)
      for j in 0..<columns {
        // SAFETY: all four have this row and column.
        let slope = unsafe a[j]
        let mean = unsafe 0.9 * b[j] + 0.1 * slope
        let square = unsafe 0.999 * c[j] + 0.001 * slope * slope
        unsafe b[j] = mean
        unsafe c[j] = square
        unsafe row[j] -= rate * mean / (square.squareRoot() / correction + 1e-8)
      }
    }
  }
}

extension Matrix where Element == Float {
  /// The sum of the magnitudes that lie more than `sigma` standard deviations above their row's mean magnitude, and the share of the elements
  /// whose magnitude is at least `least` times the root mean square of all.
  package func outliers(sigma: Double, least: Double) -> (outliers: Double, density: Double) {
    outliers(sigma: sigma, floor: least * norm / Double(Swift.max(count, 1)).squareRoot())
  }

  /// The same, with the magnitude from which an element counts for the share.
  package func outliers(sigma: Double, floor: Double) -> (outliers: Double, density: Double) {
    var (total, dense) = (0.0, 0)
    unsafe forEachRow { _, row in
      var (sum, squares) = (0.0, 0.0)
      // SAFETY: a row has `columns` elements.
      for j in 0..<columns {
        let value = unsafe Double(abs(row[j]))
        sum += value
        squares += value * value
        if value >= floor { dense += 1 }
      }
      let mean = sum / Double(columns)
      let limit = mean + sigma * Swift.max(squares / Double(columns) - mean * mean, 0).squareRoot()
      for j in 0..<columns {
        let value = unsafe Double(abs(row[j]))
        if value > limit { total += value }
      }
    }
    return (total, Double(dense) / Double(Swift.max(count, 1)))
  }
}

extension Matrix where Element == Double {
  /// self = factor · (ratio · G + (1 − ratio) · diag G) of a square f32 matrix G, whose lower triangle is also added to that of `sum`, in one pass.
  package func fill(shrunk stored: Matrix<Float>, factor: Double, ratio: Double, addingTo sum: Matrix<Double>) {
    guard let source = unsafe stored.base, let total = unsafe sum.base,
      [rows, stored.rows, stored.columns, sum.rows, sum.columns].allSatisfy({ $0 == columns })
    else { return }
    let common = factor * ratio
    unsafe forEachRow { i, row in
      // SAFETY: all three have n rows of n elements, and i is below n.
      let (from, to) = unsafe (source + i * stored.stride, total + i * sum.stride)
      for j in 0..<columns { unsafe row[j] = common * Double(from[j]) }
      unsafe row[i] = factor * Double(from[i])
      for j in 0...i { unsafe to[j] += row[j] }
    }
  }
}
