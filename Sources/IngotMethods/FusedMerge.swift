package import IngotTensors

/// A method's output step in the form of the fused kernels, which go from stored types to stored types in registers.
///
/// The bits are those of `emit`; only the way through scratch memory is saved. A method offers one for a state where its step is one of these
/// forms; where it does not, the engine calls `emit`.
package struct FusedMerge: Sendable {
  package enum Form: Sendable {
    /// Σ w x / divisor over all inputs.
    case linear(divisor: Float)
    /// base + scale · combination of the deltas of inputs 1....
    case deltas(DeltaCombination, scale: Float)
  }

  /// One model's part.
  package struct Term: Sendable {
    package var weight: Float
    /// What of the delta stays.
    package var cut: MagnitudeCut
    /// Plane of keep bits, and the factor of what is kept.
    package var mask: Int?
    package var maskScale: Float

    package init(weight: Float, cut: MagnitudeCut = .everything, mask: Int? = nil, maskScale: Float = 1) {
      self.weight = weight
      self.cut = cut
      self.mask = mask
      self.maskScale = maskScale
    }
  }

  package var form: Form
  package var terms: [Term]
  package var ties: TieRule

  package init(_ form: Form, terms: [Term], ties: TieRule = .hash) {
    self.form = form
    self.terms = terms
    self.ties = ties
  }

  /// True when it reads keep bits that an earlier round must have drawn.
  package var needsMasks: Bool { terms.contains { $0.mask != nil } }
}
