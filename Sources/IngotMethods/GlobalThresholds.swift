internal import IngotErrors
internal import IngotLinearAlgebra

/// The exact magnitude from which the largest elements of each task matrix are kept, over all matrices of a model together: digit by digit, the
/// counters of one pass telling what the next one looks at. Elements equal to the threshold are all kept.
struct GlobalThresholds: Sendable {
  private struct Digit {
    var shift: UInt32
    var width: UInt32
    var bins: Int { 1 << Int(width) }
  }

  /// The 31 bits of a magnitude, from the highest on.
  private static let digits = [Digit(shift: 20, width: 11), Digit(shift: 10, width: 10), Digit(shift: 0, width: 10)]

  /// How many elements of each task stay; 0 and all need no counting.
  private let keeps: [UInt64]
  private let elements: UInt64

  /// Keeps ⌊share · elements⌋ of each task.
  init(shares: [Double], elements: Int) {
    let count = UInt64(max(elements, 0))
    keeps = shares.map { keptCount(density: $0, of: count) }
    self.elements = count
  }

  private var tasks: Int { keeps.count }

  func counters(after passes: [[UInt64]]) -> Int? {
    guard keeps.contains(where: { $0 > 0 && $0 < elements }), passes.count < Self.digits.count else { return nil }
    return tasks * Self.digits[passes.count].bins
  }

  /// Counts the elements of one task's matrix.
  func count(_ matrix: Matrix<Float>, task: Int, after passes: [[UInt64]], into counters: inout [UInt64]) {
    guard passes.count < Self.digits.count, keeps.indices.contains(task) else { return }
    let digit = Self.digits[passes.count]
    matrix.countMagnitudes(
      known: prefix(task, passes), shift: digit.shift, width: digit.width, into: &counters, from: task * digit.bins)
  }

  /// The least magnitude of task `task` that is kept.
  func threshold(_ task: Int, _ passes: [[UInt64]]) -> UInt32 {
    guard keeps.indices.contains(task), keeps[task] > 0 else { return .max }
    return keeps[task] >= elements ? 0 : prefix(task, passes)
  }

  /// The leading bits of the threshold, as many as the passes tell.
  private func prefix(_ task: Int, _ passes: [[UInt64]]) -> UInt32 {
    var bits: UInt32 = 0
    // How many of the elements that begin with these bits stay.
    var left = keeps[task]
    for (digit, counters) in zip(Self.digits, passes) where counters.count == tasks * digit.bins {
      var bin = digit.bins - 1
      while bin > 0, counters[task * digit.bins + bin] < left {
        left -= counters[task * digit.bins + bin]
        bin -= 1
      }
      bits = bits << digit.width | UInt32(bin)
    }
    return bits
  }
}
