import CKernels

/// How `Kernels.weightedMean` reads the weights of its rows.
package struct Weighting: Sendable {
  package enum Floor: Sendable, Hashable {
    /// Smaller weights are raised to it.
    case least
    case added
  }

  /// Factor and floor of each row's weights; the floor comes first.
  package var scales: [Double]
  package var floors: [Double]
  package var floor: Floor
  /// Sums of weights up to this do not count.
  package var least: Double

  package init(scales: [Double], floors: [Double], floor: Floor = .least, least: Double = 0) {
    self.scales = scales
    self.floors = floors
    self.floor = floor
    self.least = least
  }
}

/// How a mask is made of a file's logits or shares.
package struct MaskRule: Sendable, Hashable {
  package enum Kind: Int32, Sendable, Hashable {
    /// The share p: the sigmoid of a logit.
    case share = 0
    /// 1 where p > ½, else 0.
    case rounded = 1
    /// 1 with probability p, else 0.
    case drawn = 2
    /// The relaxed Bernoulli sample σ((logit + ln u − ln(1 − u)) / temperature).
    case relaxed = 3
  }

  package var kind: Kind
  package var isLogit: Bool
  package var temperature: Double
  package var seed: UInt64
  package var stream: UInt64

  package init(_ kind: Kind, isLogit: Bool, temperature: Double = 0.5, seed: UInt64 = 0, stream: UInt64 = 0) {
    self.kind = kind
    self.isLogit = isLogit
    self.temperature = temperature
    self.seed = seed
    self.stream = stream
  }

  /// The values as they stand.
  package static let values = MaskRule(.share, isLogit: false)
}

/// Steps that read side inputs.
extension Kernels {
  /// The mask of x, into `output` or times what is there; draws by seed, stream and the element's index. In f64, rounded once.
  package func mask(_ x: Floats, _ rule: MaskRule, firstIndex: UInt64, multiplies: Bool = false, into output: Floats) {
    let how = ingotk_mask_rule(
      kind: rule.kind.rawValue, is_logit: rule.isLogit, multiplies: multiplies, temperature: rule.temperature, seed: rule.seed,
      stream: rule.stream)
    // SAFETY: both hold at least n values.
    unsafe ingotk_soft_mask(set, x.base, how, firstIndex, output.base, min(x.count, output.count))
  }

  /// base + f · (x − base), f the factor of the element's column; x itself where f is 1, the base where nothing is left of the difference. There
  /// are as many columns as factors.
  package func scaleChannels(_ x: Floats, factors: Floats, firstIndex: UInt64, base: Floats, into output: Floats) {
    // SAFETY: the runs hold at least n values, and the kernel reduces indices by the number of columns.
    unsafe ingotk_scale_channels(
      set, x.base, factors.base, firstIndex, factors.count, base.base, output.base, min(x.count, base.count, output.count))
  }

  /// The mean of the rows of `x`, weighted element by element by those of `weights`, in f64 and rounded once. Terms whose weight is not above 0
  /// are skipped; where the sum of the weights is not above `Weighting.least`, `fallback`, without one the plain mean.
  package func weightedMean(_ x: FloatTable, weights: FloatTable, _ weighting: Weighting, fallback: Floats? = nil, into output: Floats) {
    let rows = min(x.rows, weights.rows, weighting.scales.count, weighting.floors.count)
    let n = min(x.count, weights.count, fallback?.count ?? .max, output.count)
    unsafe weighting.scales.withUnsafeBufferPointer { scales in
      unsafe weighting.floors.withUnsafeBufferPointer { floors in
        guard let scale = scales.baseAddress, let floor = floors.baseAddress else { return }
        let how = unsafe ingotk_weighting(scale: scale, floor: floor, least: weighting.least, adds: weighting.floor == .added)
        // SAFETY: rows pointers of at least n values each, as many scales and floors, which live until the call returns.
        unsafe ingotk_weighted_mean(
          set, x.pointers, weights.pointers, rows, how, fallback.map { unsafe UnsafePointer($0.base) }, output.base, n)
      }
    }
  }

  /// What `saliency` multiplies with, so that second moments of 1e-20 and less keep their digits.
  package static let saliencyScale: Float = 0x1p64

  /// v · d² · 2⁶⁴ (v · 2⁶⁴ without `d`) in f32, never less than the smallest number above 0.
  package func saliency(_ v: Floats, _ d: Floats?, into output: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_saliency(
      set, v.base, d.map { unsafe UnsafePointer($0.base) }, output.base, min(v.count, d?.count ?? .max, output.count))
  }

  /// (v^power · factor + epsilon) · scale, in f64 and rounded once; 0 where `kept` is 0. Negative values count as 0; `power` is above 0.
  package func precondition(
    _ v: Floats, kept: Floats?, power: Double, factor: Double, epsilon: Double, scale: Double, into output: Floats
  ) {
    let how = ingotk_preconditioner(power: power, factor: factor, epsilon: epsilon, scale: scale)
    // SAFETY: all hold at least n values.
    unsafe ingotk_precondition(
      set, v.base, kept.map { unsafe UnsafePointer($0.base) }, how, output.base, min(v.count, kept?.count ?? .max, output.count))
  }

  /// The elements from `firstIndex` on of the matrix rowsᵢ · columnsⱼ; beyond its last row nothing is written.
  package func outerProduct(rows: Floats, columns: Floats, firstIndex: UInt64, into output: Floats) {
    // SAFETY: the kernel stays within the counts it is given.
    unsafe ingotk_outer_product(
      set, rows.base, rows.count, columns.base, columns.count, firstIndex, output.base, output.count)
  }

  /// +1 where g · x + lambda · prior · (r − x)² ≤ 0, else −1: added to the votes, or set as the first ones when it `begins`.
  package func vote(gradient g: Floats, _ x: Floats, _ r: Floats, prior: Floats, lambda: Float, begins: Bool, into votes: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_vote(
      set, g.base, x.base, r.base, prior.base, lambda, begins, votes.base, min(g.count, x.count, r.count, prior.count, votes.count))
  }

  /// r + (x − base) where the vote is above 0, else r itself.
  package func addVoted(_ r: Floats, _ x: Floats, base: Floats, votes: Floats, into output: Floats) {
    // SAFETY: all hold at least n values.
    unsafe ingotk_add_voted(
      set, r.base, x.base, base.base, votes.base, output.base, min(r.count, x.count, base.count, votes.count, output.count))
  }
}
