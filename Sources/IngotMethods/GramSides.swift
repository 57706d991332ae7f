internal import IngotErrors
internal import IngotLinearAlgebra
internal import IngotTensors

/// Where the Gram matrices of one tensor are among its side tensors, one for each model that has weights to merge.
struct GramSides: Sendable {
  private struct Place: Sendable {
    var side: Int
    var isPacked: Bool
  }

  private let places: [Place]

  var isEmpty: Bool { places.isEmpty }

  /// Empty when no model has one. Throws `.shape` when only some have.
  init(_ input: String, _ part: SideTensor.Part, _ request: MethodRequest, _ segment: MethodRequest.Segment) throws(IngotError) {
    let models = request.inputs.indices.filter { !request.inputs[$0].isBase }
    var places: [Place] = []
    for model in models {
      if segment.side(input, model: model, part: .gramOfRows) != nil {
        throw IngotError(
          .unsupported, "\(segment.name) is stored as [inputs, outputs], for which only regmean solves",
          hint: "merge the tensor by a rule with another method", subject: segment.name)
      }
      guard let side = segment.side(input, model: model, part: part) else { continue }
      places.append(Place(side: side, isPacked: segment.sides[side].shape.rank == 1))
    }
    guard places.isEmpty || places.count == models.count else {
      throw IngotError(
        .shape, "\(places.count) of \(models.count) models have a \(input) of \(segment.name)",
        hint: "collect it for all models, or merge the tensor by a rule with another method", subject: segment.name)
    }
    self.places = places
  }

  /// α G + (1 − α) diag G of the `number`-th model in f64; `stored` is scratch of the same shape. Throws `.format` for a diagonal below 0.
  func load(_ number: Int, ratio: Double, into gram: Matrix<Double>, _ stored: Matrix<Float>, _ job: MatrixJob) throws(IngotError) {
    guard places.indices.contains(number) else { throw IngotError(.internalError, "a Gram matrix that is not planned") }
    try job.loadGram(places[number].side, isPacked: places[number].isPacked, into: stored)
    gram.copy(stored)
    if job.isMeasuring { return }
    let diagonal = (0..<gram.rows).map { gram[$0, $0] }
    if let bad = diagonal.firstIndex(where: { $0 < 0 }) {
      throw IngotError(
        .format,
        "a Gram matrix of model \(number + 1) for \(job.name) has \(diagonal[bad]) at place \(bad) of its diagonal, expected 0 or more",
        hint: "collect it again", subject: job.name)
    }
    if ratio == 1 { return }
    gram.scale(by: ratio)
    for (i, value) in diagonal.enumerated() { gram[i, i] = value }
  }
}
