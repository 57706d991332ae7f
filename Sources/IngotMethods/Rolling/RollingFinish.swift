package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The end of a rolling merge, which makes a model of the running objects of its state.
///
/// `rule` sum: state / divisor, with a base model base + lambda · state. `vote`: of four states, which are the sums and the weights of the positive and
/// of the negative terms, base + lambda · the mean of the side with the larger sum. `ratio`: the first state / the second. `grafted`: the same, the
/// base where the second is at most `least`, and with a lambda other than 1 base + lambda · (that − base).
/// Not a method of recipes: `RollingPlan.finish` writes the recipe. Shapes: any, equal. Arithmetic: f32. Bytes: each input once, the output once.
package struct RollingFinish: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rolling_finish", title: "Rolling Finish", summary: "Makes a model of a state.", base: .optional, models: 1...4,
    parameters: [
      ParameterDescriptor("rule", .choice(["sum", "vote", "ratio", "grafted"]), "what the states are", default: .text("sum")),
      ParameterDescriptor("divisor", .number(.any), "what the state is divided by, without a base", default: .number(1)),
      ParameterDescriptor("lambda", .number(.any), "factor of the state, with a base", default: .number(1)),
      ParameterDescriptor("least", .number(.any), "sum of weights up to which the base stands", default: .number(0)),
    ], scopes: [.element])

  private enum Rule: Sendable { case divide, add, vote, ratio, grafted }

  private let rule: Rule
  private let divisor: Float
  private let lambda: Float
  private let least: Float

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    rule =
      switch segment.text("rule") {
      case "vote": .vote
      case "ratio": .ratio
      case "grafted": .grafted
      default: request.hasBase ? .add : .divide
      }
    let wanted = rule == .vote ? 4 : rule == .ratio || rule == .grafted ? 2 : 1
    guard request.modelCount == wanted, request.hasBase == (rule != .divide && rule != .ratio) else {
      throw IngotError(
        .internalError, "the end of a rolling merge with \(request.modelCount) states, expected \(wanted)", subject: segment.name)
    }
    divisor = Float(segment.number("divisor") ?? 1)
    lambda = Float(segment.number("lambda") ?? 1)
    least = Float(segment.number("least") ?? 0)
  }

  package var demands: Demands { Demands() }

  package func fused(_ state: Void, segment: Int) -> FusedMerge? {
    rule == .divide ? FusedMerge(.linear(divisor: divisor), terms: [FusedMerge.Term(weight: 1)]) : nil
  }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    switch rule {
    case .divide: tile.kernels.linearCombination(tile.inputs, weights: [1], divisor: divisor, into: output)
    case .add: tile.kernels.addDelta(tile.inputs[1], scaledBy: lambda, to: tile.inputs[0], into: output)
    case .vote:
      tile.kernels.settleVote(tile.inputs.dropFirst(), into: output)
      tile.kernels.addDelta(output, scaledBy: lambda, to: tile.inputs[0], into: output)
    case .ratio: tile.kernels.ratio(tile.inputs[0], tile.inputs[1], into: output)
    case .grafted: graft(tile, into: output)
    }
  }

  private func graft(_ tile: Tile, into output: Floats) {
    let (base, weighted, weights) = (tile.inputs[0], tile.inputs[1], tile.inputs[2])
    for index in 0..<output.count {
      let mean = weighted[index] / weights[index]
      let delta = lambda * (mean - base[index])
      // Where nothing is left of the difference the base stands, down to the sign of zero.
      output[index] = weights[index] <= least || delta == 0 ? base[index] : lambda == 1 ? mean : base[index] + delta
    }
  }
}
