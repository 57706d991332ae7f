internal import IngotErrors
internal import IngotRecipes
package import IngotTensors

/// Σ cᵢ xᵢ / divisor with coefficients that are known before any data is read: what every average comes down to. Runs as `Linear` does.
///
/// Inputs of coefficient 0 are not read at all; a single input of coefficient 1 is copied.
package struct KnownCombination: Sendable {
  /// Of the inputs that are read.
  private let weights: [Float]
  private let divisor: Float
  private let used: [Int]
  private let isNarrowed: Bool

  /// - Parameters: `weights` has one coefficient for each input of the job, in order.
  package init(_ weights: [Double], divisor: Double = 1) {
    let rounded = weights.map { Float($0) }
    let nonzero = rounded.indices.filter { rounded[$0] != 0 }
    // A sum of nothing is zeros in the shape of the first input.
    let used = nonzero.isEmpty ? Array(rounded.indices.prefix(1)) : nonzero
    self.used = used
    self.weights = used.map { rounded[$0] }
    self.divisor = Float(divisor)
    isNarrowed = used.count < rounded.count
  }

  /// The mean of those inputs that `members` counts.
  package init(meanOf members: Range<Int>, of count: Int) {
    self.init((0..<count).map { members.contains($0) ? 1 : 0 }, divisor: Double(members.count))
  }

  package var demands: Demands {
    let isCopy = used.count == 1 && weights == [divisor]
    return Demands(copiedInput: isCopy ? used[0] : nil, usedInputs: isNarrowed ? used : nil)
  }

  package var fused: FusedMerge { FusedMerge(.linear(divisor: divisor), terms: weights.map { FusedMerge.Term(weight: $0) }) }

  package func emit(_ tile: Tile, into output: Floats) {
    tile.kernels.linearCombination(tile.inputs, weights: weights, divisor: divisor, into: output)
  }
}

/// A method that is one known combination: it says which, the rest follows.
package protocol AveragingMethod: MergeMethod where State == Void {
  var combination: KnownCombination { get }
}

extension AveragingMethod {
  package var demands: Demands { combination.demands }
  package func fused(_ state: Void, segment: Int) -> FusedMerge? { combination.fused }
  package func emit(_ state: Void, _ tile: Tile, into output: Floats) { combination.emit(tile, into: output) }
}

extension MethodRequest {
  /// Throws `.internalError` for a job without tensors, `.recipe` for one without inputs.
  func averagedSegment(of method: String) throws(IngotError) -> Segment {
    let segment = try onlySegment()
    guard !inputs.isEmpty else {
      throw IngotError(.recipe, "\(method) got no model at tensor \(segment.name)", hint: "list at least one model", subject: segment.name)
    }
    return segment
  }
}
