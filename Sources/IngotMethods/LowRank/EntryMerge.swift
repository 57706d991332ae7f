internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotTensors

/// Merges matrices of one shape entry by entry: each is pruned, then the entries are summed, or signs are elected first.
///
/// f64 throughout, entries in order; random draws by Philox with the entry's index, so that no thread or tile matters.
struct EntryMerge {
  enum Pruning: Sendable, Hashable {
    /// Keeps the share of entries with the largest magnitudes, exactly Int(share · count) of them; of equal ones the first.
    case magnitude(Double)
    /// Drops each entry with this probability and divides the others by what is left of 1 (DARE, arXiv 2311.03099).
    case random(Double)
  }

  /// The sign where the vote is even.
  enum Even: Sendable, Hashable {
    case positive
    /// The sign that most entries of the matrix elected.
    case majority
  }

  enum Combination: Sendable, Hashable {
    case sum
    /// The mean of the entries that have the elected sign (TIES, arXiv 2306.01708).
    case disjointMean(LowRankOptions.Majority, even: Even)
  }

  var prunings: [Pruning]
  var combination: Combination

  /// Merges contiguous `parts`, which are changed, into `result`. `weights` multiply entries after the vote.
  func merge(
    _ parts: [Matrix<Double>], weights: [Double], into result: Matrix<Double>, key: DrawKey, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    for (ordinal, part) in parts.enumerated() {
      for pruning in prunings { try prune(part, pruning, DrawKey(seed: key.seed, stream: key.stream &+ UInt64(ordinal)), workspace) }
    }
    switch combination {
    case .sum:
      result.fill(0)
      for (part, weight) in zip(parts, weights) { result.add(part, times: weight) }
    case .disjointMean(let majority, let even):
      try vote(parts, weights, into: result, majority, even, workspace)
    }
  }

  private func prune(_ part: Matrix<Double>, _ pruning: Pruning, _ key: DrawKey, _ workspace: MatrixWorkspace) throws(IngotError) {
    switch pruning {
    case .magnitude(let share):
      guard share < 1 else { return }
      try workspace.scope { () throws(IngotError) in
        let magnitudes: Matrix<Double> = try workspace.matrix(1, part.count)
        // SAFETY: both buffers live to the end of the scope, and indices stay below their counts.
        unsafe part.withElements { values in
          unsafe magnitudes.withElements { scratch in unsafe Self.keepLargest(values, Int(share * Double(values.count)), scratch) }
        }
      }
    case .random(let drop):
      // SAFETY: the index stays below the count.
      unsafe part.withElements { values in unsafe Self.dropAtRandom(values, drop, key) }
    }
  }

  private static func keepLargest(
    _ values: UnsafeMutableBufferPointer<Double>, _ count: Int, _ scratch: UnsafeMutableBufferPointer<Double>
  ) {
    let total = min(values.count, scratch.count)
    guard count < total else { return }
    guard count > 0 else {
      for index in 0..<total { unsafe values[index] = 0 }
      return
    }
    // NaN has no order; the callers checked.
    for index in 0..<total { unsafe scratch[index] = abs(values[index]) }
    var sorted = unsafe scratch
    unsafe sorted.sort()
    let threshold = unsafe scratch[total - count]
    var ties = count
    for index in 0..<total where unsafe scratch[index] > threshold { ties -= 1 }
    for index in 0..<total {
      let magnitude = unsafe abs(values[index])
      if magnitude > threshold { continue }
      if magnitude == threshold, ties > 0 {
        ties -= 1
        continue
      }
      unsafe values[index] = 0
    }
  }

  private static func dropAtRandom(_ values: UnsafeMutableBufferPointer<Double>, _ drop: Double, _ key: DrawKey) {
    let limit = drop * 0x1p32
    let factor = 1 / (1 - drop)
    let seed = (UInt32(truncatingIfNeeded: key.seed), UInt32(truncatingIfNeeded: key.seed >> 32))
    let stream = (UInt32(truncatingIfNeeded: key.stream), UInt32(truncatingIfNeeded: key.stream >> 32))
    for first in stride(from: 0, to: values.count, by: 4) {
      let block = UInt64(first / 4)
      let words = Philox.block(
        counter: (UInt32(truncatingIfNeeded: block), UInt32(truncatingIfNeeded: block >> 32), stream.0, stream.1), key: seed)
      for (offset, word) in [words.0, words.1, words.2, words.3].enumerated() where first + offset < values.count {
        // SAFETY: checked against the count.
        unsafe values[first + offset] = Double(word) < limit ? 0 : values[first + offset] * factor
      }
    }
  }

  private func vote(
    _ parts: [Matrix<Double>], _ weights: [Double], into result: Matrix<Double>, _ majority: LowRankOptions.Majority,
    _ rule: Even, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      let signs: Matrix<Double> = try workspace.matrix(result.rows, result.columns)
      let counts: Matrix<Double> = try workspace.matrix(result.rows, result.columns)
      for matrix in [signs, counts, result] { matrix.fill(0) }
      for part in parts {
        // SAFETY: both have one shape, checked by `withPairs`.
        Self.withPairs(part, signs) { value, sum in sum += majority == .total ? value : Self.sign(value) }
      }
      var even = 1.0
      if rule == .majority {
        var sum = 0.0
        unsafe signs.withElements { for index in $0.indices { unsafe sum += Self.sign($0[index]) } }
        even = sum < 0 ? -1 : 1
      }
      unsafe signs.withElements { values in
        for index in values.indices { unsafe values[index] = values[index] == 0 ? even : Self.sign(values[index]) }
      }
      for (part, weight) in zip(parts, weights) {
        // Entries against the vote, and zeros, are left out.
        Self.withPairs(part, signs) { value, elected in if Self.sign(value) != elected { value = 0 } }
        result.add(part, times: weight)
        Self.withPairs(part, counts) { value, count in if value != 0 { count += 1 } }
      }
      Self.withPairs(result, counts) { value, count in if count > 1 { value /= count } }
    }
  }

  private static func sign(_ value: Double) -> Double { value > 0 ? 1 : value < 0 ? -1 : 0 }

  /// Calls `body` for each pair of entries of two contiguous matrices.
  @inline(__always)
  private static func withPairs(_ x: Matrix<Double>, _ y: Matrix<Double>, _ body: (inout Double, inout Double) -> Void) {
    unsafe x.withElements { left in
      unsafe y.withElements { right in
        // SAFETY: below both counts; the two are different matrices.
        for index in 0..<min(left.count, right.count) { unsafe body(&left[index], &right[index]) }
      }
    }
  }
}
