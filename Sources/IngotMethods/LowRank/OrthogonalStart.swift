internal import Glibc
package import IngotErrors
internal import IngotLinearAlgebra
internal import IngotTensors

/// Where an adapter begins so that it uses inputs that others do not: rows of A out of one orthogonal basis, B = 0.
///
/// Orthogonal Adaptation (Po et al. 2023, arXiv 2312.02432) gives each task a block of columns of one shared basis of the inputs, fixed while it is
/// trained; merging is then the plain sum. The basis is Q of the QR factorisation, with a positive diagonal of R, of a matrix of normal numbers that
/// seed and module decide: block t are its columns (t − 1) ρ to t ρ, and no other block is needed to make it. With `after`, the basis is one of what
/// earlier adapters leave: the orthogonal initialisation of continual merging (arXiv 2512.23017).
package struct OrthogonalStart: Sendable {
  package let rank: Int
  /// From 1.
  package let task: Int

  package init(rank: Int, task: Int) {
    self.rank = rank
    self.task = task
  }

  /// How many inputs a module must have, when earlier adapters use `used` of them.
  package func needed(_ used: Int) -> Int { used + rank * task }

  /// The factors: `inputs` × rank with orthonormal columns orthogonal to those of all of `after`, and zeros. Throws `.shape` where there are too few inputs.
  package func factors(outputs: Int, inputs: Int, after: [LowRank], key: DrawKey, _ low: LowRankAlgebra) throws(IngotError) -> LowRank {
    let used = after.reduce(0) { $0 + $1.rank }
    guard needed(used) <= inputs else {
      throw IngotError(
        .shape, "the module has \(inputs) inputs, and \(task) blocks of \(rank) beside \(used) that are in use need \(needed(used))",
        hint: "lower the rank")
    }
    let result = try low.empty(outputs: outputs, inputs: inputs, rank: rank)
    result.b.fill(0)
    try low.workspace.scope { () throws(IngotError) in
      let basis: Matrix<Double> = try low.workspace.matrix(inputs, used + rank * task)
      var first = 0
      for factors in after {
        basis.columns(first..<first + factors.rank).copy(factors.a)
        first += factors.rank
      }
      draw(basis.columns(used..<basis.columns), key)
      // Earlier adapters may use fewer directions than they have columns: theirs are made orthonormal alone, by their SVD.
      let own = try off(basis, used, low)
      let r: Matrix<Double> = try low.workspace.matrix(own.columns, own.columns)
      try low.algebra.qr(own, r: r, low.workspace)
      result.a.copy(own.columns(own.columns - rank..<own.columns))
      for unit in 0..<rank where r[own.columns - rank + unit, own.columns - rank + unit] < 0 {
        result.a.columns(unit..<unit + 1).scale(by: -1)
      }
    }
    return result
  }

  /// The drawn columns without what lies in the span of the first `used` ones.
  private func off(_ basis: Matrix<Double>, _ used: Int, _ low: LowRankAlgebra) throws(IngotError) -> Matrix<Double> {
    let own = basis.columns(used..<basis.columns)
    let copy: Matrix<Double> = try low.workspace.matrix(own.rows, own.columns)
    copy.copy(own)
    guard used > 0 else { return copy }
    let taken: Matrix<Double> = try low.workspace.matrix(basis.rows, used)
    let (u, values, v): (Matrix<Double>, Matrix<Double>, Matrix<Double>) = (
      try low.workspace.matrix(basis.rows, used), try low.workspace.matrix(1, used), try low.workspace.matrix(used, used)
    )
    taken.copy(basis.columns(0..<used))
    try low.requireFinite(taken)
    try low.algebra.svd(taken, u: u, values: values, v: v, low.workspace)
    let kept = low.workspace.isMeasuring ? used : (0..<used).prefix { values[$0] > 1e-12 * values[0] && values[$0] > 0 }.count
    let span = u.columns(0..<kept)
    let shares: Matrix<Double> = try low.workspace.matrix(kept, copy.columns)
    // Twice: the second pass takes away what the rounding of the first left.
    for _ in 0..<2 {
      try low.algebra.multiply(span, .transposed, copy, .plain, into: shares)
      try low.algebra.multiply(span, .plain, shares, .plain, into: copy, alpha: -1, beta: 1)
    }
    return copy
  }

  /// Normal numbers by the method of Box and Muller: column c depends on seed, module, c and the number of rows alone.
  private func draw(_ columns: Matrix<Double>, _ key: DrawKey) {
    for column in 0..<(columns.isMeasured ? 0 : columns.columns) {
      for row in 0..<columns.rows {
        let index = UInt64(column * columns.rows + row)
        let words = Philox.block(
          counter: (
            UInt32(truncatingIfNeeded: index), UInt32(truncatingIfNeeded: index >> 32), UInt32(truncatingIfNeeded: key.stream),
            UInt32(truncatingIfNeeded: key.stream >> 32)
          ),
          key: (UInt32(truncatingIfNeeded: key.seed), UInt32(truncatingIfNeeded: key.seed >> 32)))
        let (u, w) = ((Double(words.0) + 0.5) * 0x1p-32, (Double(words.1) + 0.5) * 0x1p-32)
        columns[row, column] = (-2 * log(u)).squareRoot() * cos(2 * Double.pi * w)
      }
    }
  }
}
