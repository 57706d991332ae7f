package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
internal import IngotTensors

/// RegMean: the linear layer whose outputs are nearest to those of every model's layer on that model's own inputs.
///
/// With Gᵢ = XᵢᵀXᵢ (n × n) of the inputs Xᵢ of model i's layer and G̃ᵢ = wᵢ (α Gᵢ + (1 − α) diag Gᵢ): W = W̄ + (Σ (Wᵢ − W̄) G̃ᵢ) S⁻¹, S = Σ G̃ᵢ + ε I, where W̄
/// is the weighted mean and ε = `ridge` · trace(S) / n. Solved by Cholesky in f64; where S is not positive definite by its eigenvectors, components
/// below 1e-10 of the largest keep W̄. A weight that is stored as [in, out] is solved for as its transpose. Weights without a Gram matrix take the mean.
/// RegMean++ is the same solve with Gram matrices collected behind already merged layers (arXiv 2508.03121). Memory: S and one Gᵢ in f64, the right side in
/// f64. Rows of W are independent, so tall weights may stream in panels (`panels`), with every G̃ᵢ S⁻¹ in f64 instead. Identical models return themselves.
/// Source: Jin et al., Dataless Knowledge Fusion, arXiv 2212.09849.
package struct RegMean: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "regmean", title: "RegMean", summary: "Solves for the weights whose outputs are nearest to every model's on its own inputs.",
    formula: "(Σ wᵢ Wᵢ G̃ᵢ) (Σ wᵢ G̃ᵢ)⁻¹,  G̃ = α G + (1 − α) diag G",
    reference: .init(
      "Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv 2212.09849", url: "https://arxiv.org/abs/2212.09849"),
    base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model's Gram matrix, 0 or more", default: .number(1), isPerModel: true),
      ParameterDescriptor(
        "reduce_non_diagonal_ratio", .number(.fraction), "factor of the Gram matrices' elements off the diagonal", default: .number(0.9)),
      ParameterDescriptor(
        "ridge", .number(NumberRange(from: .closed(0))), "added to the diagonal of the sum, times its mean", default: .number(1e-6)),
      .panels,
    ], scopes: [.tensor],
    sideInputs: [
      SideInputDescriptor("gram", .gram, "mean of x xᵀ over the inputs x of each linear layer, n × n or its packed upper triangle")
    ],
    notes: [
      "weights that have no Gram matrix take the weighted mean; a weight that only some models have one of is an error",
      "a singular sum without a ridge keeps the mean in the directions that no model's inputs have",
    ],
    example: """
      merge_method: regmean
      models:
        - model: models/french
          side: {gram: grams/french.safetensors}
        - model: models/code
          side: {gram: grams/code.safetensors}
      parameters: {reduce_non_diagonal_ratio: 0.9}
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { false }

  private let weights: [Float]
  private let ratio: Double
  private let ridge: Double
  /// Where each model's Gram matrix is among the side tensors, and whether it is packed; empty for tensors without.
  private let grams: [(side: Int, isPacked: Bool)]
  /// True for a weight whose rows are its inputs.
  private let isTurned: Bool
  private let panels: PanelRule
  package let rest: RestRule

  package var isMatrix: Bool { !grams.isEmpty }

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    weights = request.inputs.indices.map { Float(segment.number("weight", model: $0) ?? 1) }
    for (weight, input) in zip(weights, request.inputs) where weight < 0 {
      throw IngotError(
        .recipe, "the weight of \(input.model) is \(weight), and a Gram matrix takes no negative factor", hint: "give 0 or more",
        subject: segment.name)
    }
    guard weights.contains(where: { $0 > 0 }) else {
      throw IngotError(.recipe, "every weight is 0", hint: "give some model a weight above 0", subject: segment.name)
    }
    ratio = segment.number("reduce_non_diagonal_ratio") ?? 0.9
    ridge = segment.number("ridge") ?? 1e-6
    panels = PanelRule(segment)
    rest = RestRule(mean: weights)
    var found: [(side: Int, isPacked: Bool)] = []
    var turned = 0
    for model in request.inputs.indices {
      let ofRows = segment.side("gram", model: model, part: .gramOfRows)
      guard let side = ofRows ?? segment.side("gram", model: model, part: .gram) else { continue }
      found.append((side, segment.sides[side].shape.rank == 1))
      turned += ofRows == nil ? 0 : 1
    }
    guard turned == 0 || turned == found.count else {
      throw IngotError(
        .shape, "the Gram matrices of \(turned) of \(found.count) models are of the rows of \(segment.name)",
        hint: "collect them for all models alike", subject: segment.name)
    }
    isTurned = turned > 0
    guard found.isEmpty || found.count == request.inputs.count else {
      throw IngotError(
        .shape, "\(found.count) of \(request.inputs.count) models have a Gram matrix of \(segment.name)",
        hint: "collect it for all models, or merge the tensor by a rule with another method", subject: segment.name)
    }
    let isMatrix = segment.shape.rank == 2 && segment.shape.dimensions.allSatisfy { $0 > 0 }
    if isMatrix && !found.isEmpty { _ = try LinearAlgebra.load() }
    grams = isMatrix ? found : []
  }

  package func streams(rows: Int, columns: Int) -> Bool { !isTurned && panels.streams(rows: rows, columns: columns) }

  package func merge(_ job: MatrixJob) throws(IngotError) {
    if job.isStreamed { return try stream(job) }
    let (algebra, workspace) = (job.algebra, job.workspace)
    let (n, outputs) = isTurned ? (job.rows, job.columns) : (job.columns, job.rows)
    let mean = job.output
    let panel: Matrix<Float> = try workspace.matrix(job.rows, job.columns)
    mean.fill(0)
    let total = weights.reduce(0.0) { $0 + Double($1) }
    for (model, weight) in weights.enumerated() where weight > 0 || job.isMeasuring {
      try job.load(model, into: panel)
      mean.add(panel, times: Float(Double(weight) / total))
    }
    let sum: Matrix<Double> = try workspace.matrix(n, n)
    let right: Matrix<Double> = try workspace.matrix(outputs, n)
    sum.fill(0)
    right.fill(0)
    try workspace.scope { () throws(IngotError) in
      let gram: Matrix<Double> = try workspace.matrix(n, n)
      let stored: Matrix<Float> = try workspace.matrix(n, n)
      let part: Matrix<Double> = try workspace.matrix(min(outputs, Self.panelRows), n)
      for (model, weight) in weights.enumerated() where weight > 0 || job.isMeasuring {
        try job.checkStop()
        try job.loadGram(grams[model].side, isPacked: grams[model].isPacked, into: stored)
        try check(stored, model, job)
        gram.fill(shrunk: stored, factor: Double(weight), ratio: ratio, addingTo: sum)
        try job.load(model, into: panel)
        panel.add(mean, times: -1)
        for start in stride(from: 0, to: job.isMeasuring ? 0 : outputs, by: Self.panelRows) {
          let range = start..<min(start + Self.panelRows, outputs)
          let rows = part.rows(0..<range.count)
          if isTurned { rows.copyTransposed(panel.columns(range)) } else { rows.copy(panel.rows(range)) }
          try algebra.multiply(rows, gram, into: right.rows(range), beta: 1)
        }
      }
    }
    try solve(sum, right, job)
    guard isTurned else { return mean.add(right) }
    panel.copyTransposed(right)
    mean.add(panel)
  }

  /// The same of a weight of many rows, handed on panel by panel: W = W̄ + Σ (Wᵢ − W̄) G̃ᵢ S⁻¹.
  private func stream(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let models = weights.indices.filter { weights[$0] > 0 || job.isMeasuring }
    let total = weights.reduce(0.0) { $0 + Double($1) }
    // The models' G̃ below each other.
    let factors: Matrix<Double> = try workspace.matrix(models.count * n, n)
    try workspace.scope { () throws(IngotError) in
      let sum: Matrix<Double> = try workspace.matrix(n, n)
      sum.fill(0)
      try workspace.scope { () throws(IngotError) in
        let stored: Matrix<Float> = try workspace.matrix(n, n)
        for (place, model) in models.enumerated() {
          try job.checkStop()
          try job.loadGram(grams[model].side, isPacked: grams[model].isPacked, into: stored)
          try check(stored, model, job)
          factors.rows(place * n..<(place + 1) * n).fill(shrunk: stored, factor: Double(weights[model]), ratio: ratio, addingTo: sum)
        }
      }
      try solve(sum, factors, job)
    }
    let mean: Matrix<Double> = try workspace.matrix(job.output.rows, n)
    let part: Matrix<Double> = try workspace.matrix(job.output.rows, n)
    let merged: Matrix<Double> = try workspace.matrix(job.output.rows, n)
    try job.forEachStreamedPanel { (range) throws(IngotError) in
      let rows = 0..<range.count
      let (read, mean, part, merged) = (job.output.rows(rows), mean.rows(rows), part.rows(rows), merged.rows(rows))
      mean.fill(0)
      for model in models {
        try job.load(model, rows: range, into: read)
        mean.add(read, times: Double(weights[model]) / total)
      }
      merged.copy(mean)
      for (place, model) in models.enumerated() {
        try job.load(model, rows: range, into: read)
        part.copy(read)
        part.add(mean, times: -1)
        try algebra.multiply(part, factors.rows(place * n..<(place + 1) * n), into: merged, beta: 1)
      }
      read.copy(merged)
      try job.emit(range)
    }
  }

  /// Enough rows for a product to pack the square matrix seldom.
  private static let panelRows = 1024

  private func check(_ gram: Matrix<Float>, _ model: Int, _ job: MatrixJob) throws(IngotError) {
    if job.isMeasuring { return }
    let bad = (0..<gram.rows).first { gram[$0, $0] < 0 }
    guard let bad else { return }
    throw IngotError(
      .format,
      "the Gram matrix of model \(model + 1) for \(job.name) has \(gram[bad, bad]) at place \(bad) of its diagonal, expected 0 or more",
      hint: "collect it again", subject: job.name)
  }

  /// right ← right S⁻¹.
  private func solve(_ sum: Matrix<Double>, _ right: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let n = sum.rows
    let trace = (0..<n).reduce(0.0) { $0 + sum[$1, $1] }
    guard trace > 0 || job.isMeasuring else {
      // No model has any input here: the mean stays.
      right.fill(0)
      return
    }
    let added = ridge * trace / Double(n)
    sum.addToDiagonal(added)
    job.report("ridge", added)
    try workspace.scope { () throws(IngotError) in
      let factor: Matrix<Double> = try workspace.matrix(n, n)
      factor.copy(sum)
      let isDefinite = try algebra.cholesky(factor)
      if isDefinite {
        let diagonal = (0..<n).map { factor[$0, $0] }
        let (least, most) = (diagonal.min() ?? 0, diagonal.max() ?? 0)
        if least > 1e-6 * most && !job.isMeasuring {
          job.report("condition_bound", (most / least) * (most / least))
          return try algebra.solve(right, factor: factor)
        }
      }
      try project(sum, right, job)
    }
  }

  /// The same by eigenvectors, for a sum that is singular or nearly so.
  private func project(_ sum: Matrix<Double>, _ right: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace) = (job.algebra, job.workspace)
    let n = sum.rows
    let values: Matrix<Double> = try workspace.vector(n)
    try algebra.eigen(sum, values: values, workspace)
    let floor = 1e-10 * (n > 0 ? values[n - 1] : 0)
    let inverses: Matrix<Double> = try workspace.vector(n)
    var kept = 0
    for j in 0..<n where values[j] > floor && values[j] > 0 {
      inverses[j] = 1 / values[j]
      kept += 1
    }
    job.report("rank", Double(kept))
    let turned: Matrix<Double> = try workspace.matrix(min(right.rows, Self.panelRows), n)
    for start in stride(from: 0, to: right.rows, by: Self.panelRows) {
      let range = start..<min(start + Self.panelRows, right.rows)
      let part = turned.rows(0..<range.count)
      try algebra.multiply(right.rows(range), sum, .transposed, into: part)
      part.scaleColumns(by: inverses)
      try algebra.multiply(part, sum, into: right.rows(range))
    }
  }
}
