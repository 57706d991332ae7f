import IngotErrors
import IngotLinearAlgebra

/// Numbers of a fixed sequence, about normal with variance 1.
struct Sequence: Sendable {
  private var state: UInt64

  init(_ seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }

  mutating func uniform() -> Double {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Double(state >> 11) / Double(1 << 53)
  }

  mutating func normal() -> Double { (0..<12).reduce(-6.0) { sum, _ in sum + uniform() } }
}

extension MatrixWorkspace {
  func random<Element: MatrixElement>(
    _ rows: Int, _ columns: Int, seed: UInt64, of type: Element.Type = Element.self
  ) throws(IngotError) -> Matrix<Element> {
    var sequence = Sequence(seed)
    let made: Matrix<Element> = try matrix(rows, columns)
    for i in 0..<rows { for j in 0..<columns { made[i, j] = Element(sequence.normal()) } }
    return made
  }

  func made<Element: MatrixElement>(_ values: [[Double]], of type: Element.Type = Element.self) throws(IngotError) -> Matrix<Element> {
    let made: Matrix<Element> = try matrix(values.count, values.first?.count ?? 0)
    for (i, row) in values.enumerated() { for (j, value) in row.enumerated() { made[i, j] = Element(value) } }
    return made
  }
}

extension Matrix {
  /// The largest difference of two matrices' elements.
  func distance(_ other: Matrix) -> Double {
    guard rows == other.rows, columns == other.columns else { return .infinity }
    var largest = 0.0
    for i in 0..<rows { for j in 0..<columns { largest = max(largest, abs(Double(self[i, j]) - Double(other[i, j]))) } }
    return largest
  }

  /// ‖self − other‖_F / ‖other‖_F.
  func relativeDistance(_ other: Matrix) -> Double {
    var (difference, total) = (0.0, 0.0)
    for i in 0..<rows {
      for j in 0..<columns {
        difference += (Double(self[i, j]) - Double(other[i, j])) * (Double(self[i, j]) - Double(other[i, j]))
        total += Double(other[i, j]) * Double(other[i, j])
      }
    }
    return (difference / total).squareRoot()
  }

  /// op(self) · op(other), one element after the other.
  func product(_ op: Transposition, _ other: Matrix, _ opOther: Transposition, _ i: Int, _ j: Int) -> Double {
    let inner = op == .plain ? columns : rows
    return (0..<inner).reduce(0.0) { sum, k in
      sum + Double(op == .plain ? self[i, k] : self[k, i]) * Double(opOther == .plain ? other[k, j] : other[j, k])
    }
  }
}
