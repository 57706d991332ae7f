import CKernels

/// One model's part in a fused merge.
///
/// The terms of a job live in one array whose `source` and `mask` move from tile to tile, so that a tile allocates nothing.
@safe package struct MergeTerm {
  // The only stored property: an array of these is an array of the kernels' struct.
  fileprivate var raw: ingotk_term

  /// - Parameters:
  ///   - threshold: deltas whose key (see `Kernels.key`) is below it are zero; 0 trims nothing. An exclusive threshold is the next key.
  ///   - mask: where given, kept deltas are scaled by `maskScale` and the others are zero.
  package init(_ source: ElementSlice, weight: Float, threshold: UInt64 = 0, mask: KeepBits? = nil, maskScale: Float = 1) {
    // SAFETY: the views' own promises; the struct is read only during a kernel call.
    unsafe raw = ingotk_term(
      source: source.address, count: source.count, dtype: source.dtype.rawValue, weight: weight, least: threshold,
      bits: mask.map { unsafe UnsafePointer($0.base) },
      bit_count: mask?.count ?? 0, bits_scale: maskScale)
  }

  /// Moves the term to the next tile.
  package mutating func move(to source: ElementSlice, mask: KeepBits? = nil) {
    // SAFETY: as in init.
    unsafe raw.source = source.address
    unsafe raw.count = source.count
    unsafe raw.dtype = source.dtype.rawValue
    unsafe raw.bits = mask.map { unsafe UnsafePointer($0.base) }
    unsafe raw.bit_count = mask?.count ?? 0
  }

  package var weight: Float {
    // SAFETY: a plain number.
    get { unsafe raw.weight }
    set { unsafe raw.weight = newValue }
  }

  package var threshold: UInt64 {
    // SAFETY: a plain number.
    get { unsafe raw.least }
    set { unsafe raw.least = newValue }
  }

  package var maskScale: Float {
    // SAFETY: a plain number.
    get { unsafe raw.bits_scale }
    set { unsafe raw.bits_scale = newValue }
  }

  var sourceCount: Int {
    // SAFETY: a plain number.
    unsafe raw.count
  }

  /// The elements that source and mask both cover.
  var count: Int {
    // SAFETY: plain numbers and a comparison with null.
    unsafe raw.bits == nil ? raw.count : min(raw.count, raw.bit_count)
  }
}

/// How the deltas of a fused merge become one.
package enum DeltaCombination: Sendable, Hashable {
  /// `Kernels.weightedSum`.
  case sum(divisor: Float)
  /// `Kernels.electAndMerge`.
  case election(normalize: Bool, zeroSign: ZeroSign)
}

/// Fused merges: a method's whole element-wise step in registers, from and to storage types. The bits are those of the single kernels
/// called one after the other; what is saved is the way through scratch memory. The shortest run counts, as everywhere.
///
/// Both return how many input elements are NaN or infinite (counted per input: `load` says of each how many). The output may be one of
/// the inputs where their types are the same.
extension Kernels {
  /// `linearCombination` of the terms' sources; thresholds and masks are not looked at.
  @discardableResult
  package func mergeLinear(_ terms: [MergeTerm], divisor: Float = 1, into output: MutableElementSlice) -> Int {
    guard output.dtype.isOutput else { return 0 }
    let n = terms.reduce(output.count) { min($0, $1.sourceCount) }
    return unsafe withRaw(terms) { raw in
      // SAFETY: all runs hold at least n elements.
      unsafe Int(ingotk_merge_linear(set, raw, terms.count, divisor, output.dtype.rawValue, output.address, n))
    }
  }

  /// base + scale · combination of the terms' deltas: task arithmetic, TIES after its thresholds, DARE and DELLA after their masks.
  ///
  /// A term's delta is its source less the base, trimmed by its threshold, then masked. `firstIndex` is the flat index of the first
  /// element, for the ties of trimming.
  @discardableResult
  package func mergeDeltas(
    base: ElementSlice, _ terms: [MergeTerm], _ combination: DeltaCombination, scale: Float = 1, firstIndex: UInt64 = 0,
    ties: TieRule = .hash, into output: MutableElementSlice
  ) -> Int {
    guard output.dtype.isOutput else { return 0 }
    let n = terms.reduce(min(output.count, base.count)) { min($0, $1.count) }
    var rule = ingotk_rule(elect: false, normalize: false, zero_sign: 0, ties: ties.rawValue, divisor: 1, scale: scale)
    switch combination {
    case .sum(let divisor): rule.divisor = divisor
    case .election(let normalize, let zeroSign):
      rule.elect = true
      rule.normalize = normalize
      rule.zero_sign = zeroSign.rawValue
    }
    var baseTerm = MergeTerm(base, weight: 1)
    return unsafe withRaw(terms) { raw in
      // SAFETY: all runs hold at least n elements.
      unsafe Int(
        ingotk_merge_deltas(set, &baseTerm.raw, raw, terms.count, rule, firstIndex, output.dtype.rawValue, output.address, n))
    }
  }

  /// The terms as the kernels read them.
  private func withRaw(_ terms: [MergeTerm], _ body: (UnsafePointer<ingotk_term>) -> Int) -> Int {
    unsafe terms.withUnsafeBufferPointer { buffer in
      // SAFETY: a MergeTerm is laid out as its only property; without terms, a static address stands for an array of none.
      let first = unsafe buffer.baseAddress.map { unsafe UnsafeRawPointer($0) } ?? UnsafeRawPointer(ingotk_nothing())
      return unsafe body(first.assumingMemoryBound(to: ingotk_term.self))
    }
  }
}
