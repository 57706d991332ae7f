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
  /// True for a weight that is stored as [in, out].
  let isTurned: Bool

  var isEmpty: Bool { places.isEmpty }

  /// Of the part that the weight's file has as it is stored, or of the `turned` one. Empty when no model has one. Throws `.shape` when only some have, or
  /// some of either.
  init(
    _ input: String, _ part: SideTensor.Part, turned: SideTensor.Part, _ request: MethodRequest, _ segment: MethodRequest.Segment
  ) throws(IngotError) {
    let models = request.inputs.indices.filter { !request.inputs[$0].isBase }
    var places: [Place] = []
    var turnedCount = 0
    for model in models {
      let own = segment.side(input, model: model, part: turned)
      guard let side = own ?? segment.side(input, model: model, part: part) else { continue }
      places.append(Place(side: side, isPacked: segment.sides[side].shape.rank == 1))
      turnedCount += own == nil ? 0 : 1
    }
    guard turnedCount == 0 || turnedCount == places.count else {
      throw IngotError(
        .shape, "the \(input) of \(turnedCount) of \(places.count) models is of \(segment.name) stored as [in, out]",
        hint: "collect it for all models alike", subject: segment.name)
    }
    isTurned = turnedCount > 0
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
