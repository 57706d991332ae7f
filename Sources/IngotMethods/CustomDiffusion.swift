package import IngotErrors
internal import IngotLinearAlgebra
package import IngotRecipes
internal import IngotTensors

/// Custom-Diffusion's merge of key and value projections: every model's own words keep the keys and values that its projection gives them, and captions
/// change as little as can be.
///
/// W minimises ‖(W − W₀) C_regᵀ‖_F subject to W cᵀ = Wᵢ cᵀ for every row c of model i's text features (sᵢ × n). With all features as the rows of C
/// (s × n), E the columns (Wᵢ − W₀) cᵀ, and R = E[c cᵀ] over captions + ε I: D = C R⁻¹, W = W₀ + λ E (D Cᵀ)⁻¹ D. ε = `ridge` · trace R / n; where R stays
/// singular, 1e-6 · trace R / n more. Where D Cᵀ is singular (one word twice), its eigenvectors above 1e-10 of the largest count and words that
/// contradict each other are met in the least squares sense. Both are reported, with ‖W Cᵀ − V‖ / ‖V − W₀ Cᵀ‖. In f64; memory: R and its factor.
/// Weights that no model has features for follow the rest rule. Source: Kumari et al., Multi-Concept Customization of Text-to-Image Diffusion,
/// arXiv 2212.04488, section 3.2.
package struct CustomDiffusion: MatrixMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "custom_diffusion", title: "Custom Diffusion",
    summary: "Gives every model's own words its keys and values, and changes those of other text as little as can be.",
    formula: "argmin ‖(W − W₀) C_regᵀ‖  subject to  W cᵀ = Wᵢ cᵀ for the words c of model i",
    reference: .init(
      "Multi-Concept Customization of Text-to-Image Diffusion, arXiv 2212.04488", url: "https://arxiv.org/abs/2212.04488"),
    base: .required, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("lambda", .number(.any), "factor of the change", default: .number(1)),
      ParameterDescriptor(
        "ridge", .number(NumberRange(from: .closed(0))), "added to the diagonal of the captions' Gram matrix, times its mean",
        default: .number(1e-6)),
      .rest("base"),
    ], scopes: [.tensor],
    sideInputs: [
      SideInputDescriptor("features", .rows, "text features of the model's own words, one row for each token"),
      SideInputDescriptor(
        "regularization", .gram, "mean of c cᵀ over text features c of captions, n × n or its packed upper triangle", isPerModel: false),
    ],
    notes: [
      "projections share their text features: one tensor, and aliases for the other modules",
      "a word that two models disagree about gets the mean of what they give it",
    ],
    example: """
      merge_method: custom_diffusion
      base_model: models/base
      side: {regularization: sides/captions.safetensors}
      models:
        - model: models/cat
          side: {features: sides/cat_words.safetensors}
        - model: models/chair
          side: {features: sides/chair_words.safetensors}
      dtype: float16
      """)

  private struct Words: Sendable {
    var side: Int
    var count: Int
  }

  private let words: [Words]
  private let captions: (side: Int, isPacked: Bool)?
  private let scale: Double
  private let ridge: Double
  package let isMatrix: Bool
  package let rest: RestRule

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    try request.requireBase(of: "custom_diffusion")
    scale = segment.number("lambda") ?? 1
    ridge = segment.number("ridge") ?? 1e-6
    rest = RestRule(segment.text("rest") ?? "base", weights: [Float](repeating: 1, count: request.modelCount), scale: scale)
    var words: [Words] = []
    for model in 1..<request.inputs.count {
      guard let side = segment.side("features", model: model, part: .rows) else { continue }
      words.append(Words(side: side, count: segment.sides[side].shape.dimensions.first ?? 0))
    }
    guard words.isEmpty || words.count == request.modelCount else {
      throw IngotError(
        .shape, "\(words.count) of \(request.modelCount) models have features of \(segment.name)",
        hint: "give the text features of every model's words", subject: segment.name)
    }
    captions = segment.side("regularization", part: .gram).map { ($0, segment.sides[$0].shape.rank == 1) }
    if !words.isEmpty && captions == nil {
      throw IngotError(
        .shape, "the captions' Gram matrix is missing for \(segment.name)", hint: "it is called as the module, or is an alias of another",
        subject: segment.name)
    }
    self.words = words
    isMatrix = !words.isEmpty && segment.shape.rank == 2 && segment.shape.dimensions.allSatisfy { $0 > 0 }
    if isMatrix { _ = try LinearAlgebra.load() }
  }

  private static let panelRows = 256

  package func merge(_ job: MatrixJob) throws(IngotError) {
    let (algebra, workspace, n) = (job.algebra, job.workspace, job.columns)
    let count = words.reduce(0) { $0 + $1.count }
    let features: Matrix<Double> = try workspace.matrix(count, n)
    let change: Matrix<Double> = try workspace.matrix(job.rows, count)
    try constraints(features, change, job)
    // D = C R⁻¹.
    let directions: Matrix<Double> = try workspace.matrix(count, n)
    directions.copy(features)
    try workspace.scope { () throws(IngotError) in
      let factor: Matrix<Double> = try workspace.matrix(n, n)
      try captionFactor(factor, job)
      try algebra.solve(directions, factor: factor)
    }
    try workspace.scope { () throws(IngotError) in try solve(change, directions, features, job) }
    // The change of the weight, in panels of rows.
    let panel: Matrix<Double> = try workspace.matrix(min(job.rows, Self.panelRows), n)
    for start in stride(from: 0, to: job.rows, by: Self.panelRows) {
      let range = start..<min(start + Self.panelRows, job.rows)
      try algebra.multiply(change.rows(range), directions, into: panel.rows(0..<range.count))
      job.output.rows(range).copy(panel.rows(0..<range.count))
    }
    try job.finish(delta: job.output, scale: scale)
  }

  /// The features of all words, and what each one's own model changes of its projection: C and E.
  private func constraints(_ features: Matrix<Double>, _ change: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    let (workspace, n) = (job.workspace, job.columns)
    var start = 0
    for (model, own) in words.enumerated() {
      try job.checkStop()
      let range = start..<start + own.count
      try workspace.scope { () throws(IngotError) in
        let stored: Matrix<Float> = try workspace.matrix(own.count, n)
        try job.loadSide(own.side, into: stored)
        features.rows(range).copy(stored)
        // The output is free until the end.
        try job.loadTaskMatrix(model + 1, into: job.output)
        let panel: Matrix<Double> = try workspace.matrix(min(job.rows, Self.panelRows), n)
        for first in stride(from: 0, to: job.rows, by: Self.panelRows) {
          let rows = first..<min(first + Self.panelRows, job.rows)
          let part = panel.rows(0..<rows.count)
          part.copy(job.output.rows(rows))
          try job.algebra.multiply(part, features.rows(range), .transposed, into: change.part(rows: rows, columns: range))
        }
      }
      start += own.count
    }
  }

  /// The Cholesky factor of R + ε I.
  private func captionFactor(_ factor: Matrix<Double>, _ job: MatrixJob) throws(IngotError) {
    guard let captions else { throw IngotError(.internalError, "a merge without captions") }
    let n = job.columns
    var mean = 0.0
    var added = 0.0
    try job.workspace.scope { () throws(IngotError) in
      let stored: Matrix<Float> = try job.workspace.matrix(n, n)
      try job.loadGram(captions.side, isPacked: captions.isPacked, into: stored)
      for attempt in 0..<2 {
        factor.copy(stored)
        mean = (0..<n).reduce(0.0) { $0 + factor[$1, $1] } / Double(max(n, 1))
        // No captions at all: every direction counts alike.
        added = mean > 0 ? (ridge + (attempt > 0 ? 1e-6 : 0)) * mean : 1
        factor.addToDiagonal(added)
        guard try job.algebra.cholesky(factor) else { continue }
        if job.isMeasuring { return }
        let diagonal = (0..<n).map { factor[$0, $0] }
        if (diagonal.min() ?? 0) > 1e-7 * (diagonal.max() ?? 0) { return }
      }
      throw IngotError(
        .format, "the captions' Gram matrix is not positive semidefinite", hint: "collect it again, as the mean of c cᵀ", subject: job.name)
    }
    job.report("ridge", added)
  }

  /// E ← E (D Cᵀ)⁻¹.
  private func solve(
    _ change: Matrix<Double>, _ directions: Matrix<Double>, _ features: Matrix<Double>, _ job: MatrixJob
  ) throws(IngotError) {
    let (algebra, workspace, count) = (job.algebra, job.workspace, features.rows)
    let square: Matrix<Double> = try workspace.matrix(count, count)
    let factor: Matrix<Double> = try workspace.matrix(count, count)
    let wanted: Matrix<Double> = try workspace.matrix(job.rows, count)
    try algebra.multiply(directions, features, .transposed, into: square)
    factor.copy(square)
    wanted.copy(change)
    let isDefinite = try algebra.cholesky(factor)
    let diagonal = (0..<count).map { factor[$0, $0] }
    let isRegular = isDefinite && (diagonal.min() ?? 0) > 1e-5 * (diagonal.max() ?? 0)
    if isRegular { try algebra.solve(change, factor: factor) }
    if !isRegular || job.isMeasuring {
      let values: Matrix<Double> = try workspace.vector(count)
      let inverses: Matrix<Double> = try workspace.vector(count)
      let turned: Matrix<Double> = try workspace.matrix(job.rows, count)
      factor.copy(square)
      try algebra.eigen(factor, values: values, workspace)
      var kept = 0
      for j in 0..<count where values[j] > 1e-10 * values[count - 1] && values[j] > 0 {
        inverses[j] = 1 / values[j]
        kept += 1
      }
      try algebra.multiply(wanted, factor, .transposed, into: turned)
      turned.scaleColumns(by: inverses)
      try algebra.multiply(turned, factor, into: change)
      job.report("rank", Double(kept))
    }
    let norm = wanted.norm
    try algebra.multiply(change, square, into: wanted, beta: -1)
    job.report("residual", norm > 0 ? wanted.norm / norm : 0)
  }
}
