internal import IngotErrors

/// The f32 route of singular triplets. An f32 eigensolver mixes eigenvectors i and j of a Gram matrix G by about u / (λⱼ − λᵢ), where u was measured at
/// 1.6e-8 ‖G‖_F / √n for any n: negligible between values near σ₁, not between small ones. So the few small values are found again in f64 inside the span of
/// their vectors, and where they are many, or the vectors asked for mix with the others, the f64 route is taken.
extension LinearAlgebra {
  private static var mixingUnit: Double { 4e-8 }
  /// Eigenvalues below this share of the largest are refined in f64.
  private static var smallShare: Double { 5e-3 }

  /// A gap between the strong directions and the rest: what subspace iteration needs to tell them apart.
  private static var strongGap: Double { 5 }

  /// As `singularTriplets`; nil where the spectrum does not allow it, and the triplets' contents are then undefined.
  func singleTriplets(
    _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double, _ workspace: MatrixWorkspace
  ) throws(IngotError) -> TripletReport? {
    // Few vectors of a large matrix are cheaper one by one.
    guard 10 * triplets.values.count > a.rank else { return nil }
    return try workspace.scope { () throws(IngotError) -> TripletReport? in
      let gram: Matrix<Float> = try workspace.matrix(a.rank, a.rank)
      try formGram(a, gram)
      if workspace.isMeasuring || !isFlat(gram) {
        guard let report = try deflatedTriplets(gram, a, into: triplets, rangeTolerance: rangeTolerance, workspace) else { return nil }
        if !workspace.isMeasuring { return report }
      }
      return try flatTriplets(gram, a, into: triplets, rangeTolerance: rangeTolerance, workspace)
    }
  }

  private func formGram(_ a: Matrix<Float>, _ gram: Matrix<Float>) throws(IngotError) {
    try accumulateGram(a, a.rows >= a.columns ? .plain : .transposed, into: gram)
  }

  /// The same for a few strong directions over a flat rest, as differences of bf16 weights have: the strong ones by themselves in f64, the others as
  /// triplets of what is left of A without them. `gram` is A's, and destroyed.
  private func deflatedTriplets(
    _ gram: Matrix<Float>, _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double, _ workspace: MatrixWorkspace
  ) throws(IngotError) -> TripletReport? {
    let most = min(64, a.rank / 16)
    guard workspace.isMeasuring || isHeld(gram.lowerMoments), most >= 2 else { return nil }
    return try workspace.scope { () throws(IngotError) -> TripletReport? in
      let found = try workspace.directions(most, of: a)
      try strongDirections(of: a, into: found, workspace)
      let strong = workspace.isMeasuring ? most - 1 : strongCount(found.values)
      guard strong > 0, strong < triplets.values.count else { return nil }
      let rest: Matrix<Float> = try workspace.matrix(a.rows, a.columns)
      let apart = found.part(most - strong..<most)
      try subtract(apart, from: a, into: rest, workspace)
      try formGram(rest, gram)
      guard workspace.isMeasuring || isFlat(gram) else { return nil }
      let count = triplets.values.count - strong
      let largest = workspace.isMeasuring ? 1 : found.values[most - 1]
      guard
        let report = try flatTriplets(
          gram, rest, into: triplets.part(0..<count), rangeTolerance: rangeTolerance, atLeast: largest, workspace)
      else { return nil }
      let own = triplets.part(count..<count + strong)
      let (near, far) = a.rows >= a.columns ? (own.right, own.left) : (own.left, own.right)
      near.copy(apart.near)
      far.copy(apart.far)
      own.values.copy(apart.values)
      return TripletReport(route: .single, residual: report.residual, strong: strong)
    }
  }

  /// The same from the f32 Gram matrix of A, which is destroyed. Values up to `rangeTolerance` of the largest, or of `atLeast`, count as zero.
  private func flatTriplets(
    _ gram: Matrix<Float>, _ a: Matrix<Float>, into triplets: SingularTriplets, rangeTolerance: Double, atLeast: Double = 0,
    _ workspace: MatrixWorkspace
  ) throws(IngotError) -> TripletReport? {
    let (size, count, values) = (a.rank, triplets.values.count, triplets.values)
    let (near, far) = a.rows >= a.columns ? (triplets.right, triplets.left) : (triplets.left, triplets.right)
    return try workspace.scope { () throws(IngotError) -> TripletReport? in
      let squares = gram.lowerMoments.squares
      let all: Matrix<Float> = try workspace.vector(size)
      try eigen(gram, values: all, workspace)
      let first = size - count
      let small = workspace.isMeasuring ? size / 8 : (0..<size).count { Double(all[$0]) < Self.smallShare * Double(all[size - 1]) }
      // Where the cut lies among the small values, what is asked for is refined against what is left out.
      let mixed = first < small ? 0 : mixing(all, first, unit: Self.mixingUnit * (squares / Double(size)).squareRoot())
      guard 8 * small <= size, mixed <= 2e-5 else { return nil }
      near.copy(gram.rows(first..<size))
      let start = max(small - first, 0)
      let (from, to) = (near.rows(start..<count), far.rows(start..<count))
      if a.rows >= a.columns { try multiply(from, a, .transposed, into: to) } else { try multiply(from, a, into: to) }
      for j in start..<count {
        let row = far.rows(j..<j + 1)
        let norm = row.norm
        values[j] = norm
        row.scale(by: norm > 0 ? Float(1 / norm) : 0)
      }
      if start > 0 || workspace.isMeasuring {
        try refine(gram.rows(0..<max(small, 1)), a, triplets, first: first, start: max(start, 1), workspace)
      }
      let residual = try distanceFromOrthonormal(to, workspace)
      guard workspace.isMeasuring || residual <= 2e-5 else { return nil }
      if !workspace.isMeasuring { triplets.clear(below: rangeTolerance * max(values[count - 1], atLeast)) }
      return TripletReport(route: .single, residual: residual)
    }
  }

  /// Whether most eigenvalues are of the size of the largest: (Σλ)² / (n Σλ²), which is 0.5 of a square Gaussian matrix; and whether f32 holds them.
  private func isFlat(_ gram: Matrix<Float>) -> Bool {
    let moments = gram.lowerMoments
    return isHeld(moments) && moments.trace * moments.trace >= 0.2 * Double(gram.rows) * moments.squares
  }

  private func isHeld(_ moments: (trace: Double, squares: Double)) -> Bool {
    moments.trace.isFinite && moments.trace > 1e-20 && moments.squares < 1e30
  }

  /// How many of the ascending values come before the last gap.
  private func strongCount(_ values: Matrix<Double>) -> Int {
    let n = values.count
    return (1..<n).last { values[n - $0] > 0 && values[n - $0] >= Self.strongGap * values[n - 1 - $0] } ?? 0
  }

  /// The root of the share of Σλ, over the eigenvectors from `first` on, that rounding moves out of their span.
  private func mixing(_ values: Matrix<Float>, _ first: Int, unit: Double) -> Double {
    if first == 0 || values.isMeasured { return 0 }
    var (moved, total) = (0.0, 0.0)
    for j in first..<values.count {
      let value = max(Double(values[j]), 0)
      total += value
      var share = 0.0
      for i in 0..<first {
        let angle = unit / max(value - Double(values[i]), unit)
        share += angle * angle
      }
      moved += min(share, 1) * value
    }
    return total > 0 ? (moved / total).squareRoot() : 0
  }

  /// Finds the triplets of the smallest values again, in the span of the eigenvectors `weak` (p × size), and writes those from row `first` on.
  ///
  /// In f64: B = A V of the weak vectors, without what lies along the strong vectors, which are the triplets' rows from `start` on; then the
  /// eigenvectors of the p × p matrix B Bᵀ turn both.
  private func refine(
    _ weak: Matrix<Float>, _ a: Matrix<Float>, _ triplets: SingularTriplets, first: Int, start: Int, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let isTall = a.rows >= a.columns
    let (near, far) = isTall ? (triplets.right, triplets.left) : (triplets.left, triplets.right)
    let (p, size, long, count) = (weak.rows, a.rank, far.columns, near.rows)
    try workspace.scope { () throws(IngotError) in
      let v: Matrix<Double> = try workspace.matrix(p, size)
      let b: Matrix<Double> = try workspace.matrix(p, long)
      v.copy(weak)
      try widened(v, a, isTall: isTall, into: b, workspace)
      try workspace.scope { () throws(IngotError) in
        let (strongNear, strongFar) = (near.rows(start..<count), far.rows(start..<count))
        let narrow: Matrix<Float> = try workspace.matrix(p, long)
        let turned: Matrix<Float> = try workspace.matrix(p, size)
        let overlap: Matrix<Float> = try workspace.matrix(p, strongFar.rows)
        narrow.copy(b)
        try multiply(narrow, strongFar, .transposed, into: overlap)
        try multiply(overlap, strongFar, into: narrow)
        b.add(narrow, times: -1)
        let inverses: Matrix<Float> = try workspace.vector(strongFar.rows)
        for j in 0..<strongFar.rows { inverses[j] = triplets.values[start + j] > 0 ? Float(1 / triplets.values[start + j]) : 0 }
        overlap.scaleColumns(by: inverses)
        try multiply(overlap, strongNear, into: turned)
        v.add(turned, times: -1)
      }
      let square: Matrix<Double> = try workspace.matrix(p, p)
      let values: Matrix<Double> = try workspace.vector(p)
      try accumulateGram(b, .transposed, into: square)
      try eigen(square, values: values, workspace)
      let wanted = min(first, p)..<p
      let newNear: Matrix<Double> = try workspace.matrix(wanted.count, size)
      let newFar: Matrix<Double> = try workspace.matrix(wanted.count, long)
      try multiply(square.rows(wanted), v, into: newNear)
      try multiply(square.rows(wanted), b, into: newFar)
      for j in 0..<(a.isMeasured ? 0 : wanted.count) {
        let (x, y) = (newNear.rows(j..<j + 1), newFar.rows(j..<j + 1))
        let (scale, value) = (x.norm, y.norm)
        x.scale(by: scale > 0 ? 1 / scale : 0)
        y.scale(by: value > 0 ? 1 / value : 0)
        near.rows(j..<j + 1).copy(x)
        far.rows(j..<j + 1).copy(y)
        triplets.values[j] = scale > 0 ? value / scale : 0
      }
    }
  }

  /// ‖Q Qᵀ − I‖_F / √rows of a matrix whose rows should be orthonormal.
  func distanceFromOrthonormal(_ q: Matrix<Float>, _ workspace: MatrixWorkspace) throws(IngotError) -> Double {
    try workspace.scope { () throws(IngotError) in
      let square: Matrix<Float> = try workspace.matrix(q.rows, q.rows)
      try accumulateGram(q, .transposed, into: square)
      let (trace, squares) = square.lowerMoments
      let n = Double(q.rows)
      return n > 0 ? (max(squares - 2 * trace + n, 0) / n).squareRoot() : 0
    }
  }
}
