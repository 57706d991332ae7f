import IngotTensors
import Testing

/// The fused merges give the bits of the single kernels in a row, on every instruction set.
@Suite struct MergingTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var dtypes: [DType] = [.bf16, .bf16, .bf16, .bf16]
    var output = DType.bf16
    var combination = DeltaCombination.sum(divisor: 1)
    var scale: Float = 1
    var weights: [Float] = [0.5, 0.75, -0.25]
    var trims = false
    var masks = false
    var ties = TieRule.hash
    var first: UInt64 = 0
    var testDescription: String {
      "\(dtypes) to \(output), \(combination), scale \(scale), \(trims ? "trimmed by \(ties) from \(first)" : ""), \(masks ? "masked" : "")"
    }
  }

  static let cases: [Case] = {
    let elections: [DeltaCombination] =
      ZeroSign.allCases.flatMap { [.election(normalize: true, zeroSign: $0), .election(normalize: false, zeroSign: $0)] }
    var cases: [Case] = []
    for combination in [DeltaCombination.sum(divisor: 1), .sum(divisor: 1.3)] + elections {
      for (trims, masks) in [(false, false), (true, false), (false, true), (true, true)] {
        cases.append(Case(combination: combination, scale: 0.8, trims: trims, masks: masks))
      }
    }
    let vote = DeltaCombination.election(normalize: true, zeroSign: .positive)
    for dtype in [DType.f32, .f16, .f64, .f8E4M3, .f8E5M2] {
      cases.append(Case(dtypes: [dtype, dtype, dtype, dtype], output: dtype.isOutput ? dtype : .bf16, trims: true))
      cases.append(Case(dtypes: [.bf16, dtype, .f32, .f16], output: .f16, combination: vote, masks: true))
    }
    for ties in TieRule.allCases { cases.append(Case(combination: vote, trims: true, ties: ties, first: 77)) }
    // Across 2^32 and beyond it.
    let firsts: [UInt64] = [0xffff_ff9b, 0x1_0000_0000, 0x6_ffff_fff7]
    for first in firsts { cases.append(Case(combination: vote, trims: true, first: first)) }
    // More models than are kept in registers, and one.
    let many = (0..<19).map { Float($0) * 0.1 - 0.4 }
    cases.append(Case(dtypes: [DType](repeating: .bf16, count: 20), combination: vote, weights: many, trims: true))
    cases.append(Case(dtypes: [DType](repeating: .bf16, count: 70), weights: [Float](repeating: 0.01, count: 69), trims: true))
    cases.append(Case(dtypes: [.bf16, .bf16], weights: [1]))
    cases.append(Case(dtypes: [.bf16], weights: []))
    return cases
  }()

  struct Inputs {
    let bytes: [Memory<UInt8>]
    let masks: [Memory<UInt8>]
    let thresholds: [UInt64]
    let count: Int
  }

  static func inputs(_ merge: Case, _ kind: Kind, _ count: Int, shift: Int) -> Inputs {
    let base = kind.values(count, seed: 1)
    let bytes = merge.dtypes.enumerated().map { r, dtype in
      let other = kind.values(count, seed: UInt64(r + 1))
      // Models near the base, so that deltas tie; every eighth element is the base's own.
      let values = (0..<count).map { (i: Int) -> Float in
        if r == 0 || i % 8 == 0 { return base[i] }
        return kind == .anyBits ? other[i] : base[i] + other[i] * 0.01
      }
      return Memory(bytes: encode(values, dtype), shift: shift)
    }
    let masks = (1..<max(merge.dtypes.count, 1)).map { r in
      let mask = SamplingTests.mask(count, shift: shift)
      Kernels(.scalar).bernoulli(seed: 5, stream: UInt64(r), firstIndex: 0, threshold: 3 << 30, into: mask.keepBits(count: count))
      return mask
    }
    // The key of some delta, so that ties with the threshold happen.
    let threshold = Kernels.key(0x1p-8, index: 3, ties: merge.ties)
    return Inputs(
      bytes: bytes, masks: masks, thresholds: masks.indices.map { $0 == 1 ? 0 : threshold &+ UInt64($0) << 40 }, count: count)
  }

  static func encode(_ values: [Float], _ dtype: DType) -> [UInt8] {
    switch dtype {
    case .f64: ConversionTests.bytes(values.map { Double($0).bitPattern }, .f64)
    case .f32: ConversionTests.bytes(values.map { UInt64($0.bitPattern) }, .f32)
    case .f16: ConversionTests.bytes(values.map { UInt64(Float16($0).bitPattern) }, .f16)
    case .bf16: ConversionTests.bytes(values.map { UInt64($0.bitPattern >> 16) }, .bf16)
    default: values.map { UInt8(truncatingIfNeeded: $0.bitPattern >> 20) }
    }
  }

  /// The single kernels in a row, on the scalar set.
  static func stepByStep(_ merge: Case, _ inputs: Inputs) -> (bytes: [UInt8], nonFinite: Int) {
    let kernels = Kernels(.scalar), n = inputs.count
    let rows = Rows(merge.dtypes.map { _ in Memory(count: n) }), table = rows.table, merged = Memory(count: n)
    let stored = Memory(bytes: [UInt8](repeating: 0, count: n * merge.output.bits / 8))
    var nonFinite = 0
    for (r, dtype) in merge.dtypes.enumerated() {
      nonFinite += kernels.load(inputs.bytes[r].elements(dtype, count: n), into: table[r])
      guard r > 0 else { continue }
      kernels.subtract(table[r], table[0], into: table[r])
      if merge.trims {
        kernels.trim(table[r], firstIndex: merge.first, ties: merge.ties, threshold: inputs.thresholds[r - 1], inclusive: true)
      }
      if merge.masks { kernels.applyMask(table[r], inputs.masks[r - 1].keepBits(count: n), scale: 1.6) }
    }
    switch merge.combination {
    case .sum(let divisor):
      kernels.weightedSum(table.dropFirst(), weights: merge.weights, divisor: divisor, into: merged.floats)
    case .election(let normalize, let zeroSign):
      kernels.electAndMerge(table.dropFirst(), weights: merge.weights, normalize: normalize, zeroSign: zeroSign, into: merged.floats)
    }
    kernels.addDelta(merged.floats, scaledBy: merge.scale, to: table[0], into: merged.floats)
    kernels.store(merged.floats, into: stored.mutableElements(merge.output, count: n))
    return (stored.values, nonFinite)
  }

  static func terms(_ merge: Case, _ inputs: Inputs) -> [MergeTerm] {
    (1..<max(merge.dtypes.count, 1)).map { r in
      MergeTerm(
        inputs.bytes[r].elements(merge.dtypes[r], count: inputs.count), weight: merge.weights[r - 1],
        threshold: merge.trims ? inputs.thresholds[r - 1] : 0,
        mask: merge.masks ? inputs.masks[r - 1].keepBits(count: inputs.count) : nil, maskScale: 1.6)
    }
  }

  /// Bytes with all NaN alike: which of two NaN an operation passes on is the processor's choice.
  static func plain(_ bytes: [UInt8], _ dtype: DType) -> [UInt32] {
    let width = dtype.bits / 8
    return stride(from: 0, to: bytes.count, by: width).map { at in
      let pattern = (0..<width).reduce(UInt32(0)) { $0 | UInt32(bytes[at + $1]) << UInt32(8 * $1) }
      return ConversionTests.decode(UInt64(pattern), dtype).isNaN ? .max : pattern
    }
  }

  @Test(arguments: InstructionSet.available, cases) func fusedIsTheSameAsStepByStep(_ set: InstructionSet, _ merge: Case) {
    for (kind, count, shift) in [
      (Kind.normal, 0, 0), (.normal, 1, 1), (.normal, 31, 0), (.bfloatDifferences, 33, 3), (.normal, 65, 1), (.bfloatDifferences, 515, 1),
      (.anyBits, 260, 0), (.denormals, 100, 0),
    ] {
      let inputs = Self.inputs(merge, kind, count, shift: shift)
      let expected = Self.stepByStep(merge, inputs)
      let output = Memory(bytes: [UInt8](repeating: 0, count: expected.bytes.count), shift: shift)
      let nonFinite = Kernels(set).mergeDeltas(
        base: inputs.bytes[0].elements(merge.dtypes[0], count: count), Self.terms(merge, inputs), merge.combination, scale: merge.scale,
        firstIndex: merge.first, ties: merge.ties, into: output.mutableElements(merge.output, count: count))
      let same =
        output.values == expected.bytes || Self.plain(output.values, merge.output) == Self.plain(expected.bytes, merge.output)
      #expect(same, "\(kind), \(count) elements")
      #expect(nonFinite == expected.nonFinite, "\(kind), \(count) elements")
      #expect(output.bordersAreIntact)
    }
  }

  @Test(arguments: InstructionSet.available, [DType.bf16, .f16, .f32, .f64, .f8E4M3]) func fusedLinearIsTheSameAsStepByStep(
    _ set: InstructionSet, _ dtype: DType
  ) {
    let output = dtype.isOutput ? dtype : .bf16
    for (weights, divisor) in [([0.5, 0.25, 0.125], Float(0.875)), ([0.3, 0.7], 1), ([1], 1), ([2], 1), ([], 1)] as [([Float], Float)] {
      for (kind, count, shift) in [(Kind.normal, 67, 1), (.anyBits, 300, 0), (.normal, 5, 0), (.bfloatDifferences, 4099, 3)] {
        let merge = Case(dtypes: weights.map { _ in dtype }, output: output)
        let inputs = Self.inputs(merge, kind, count, shift: shift)
        let rows = Rows(weights.map { _ in Memory(count: count) }), table = rows.table, sum = Memory(count: count)
        let expected = Memory(bytes: [UInt8](repeating: 0, count: count * output.bits / 8))
        var nonFinite = 0
        for r in weights.indices { nonFinite += Kernels(.scalar).load(inputs.bytes[r].elements(dtype, count: count), into: table[r]) }
        if !weights.isEmpty { Kernels(.scalar).linearCombination(table, weights: weights, divisor: divisor, into: sum.floats) }
        Kernels(.scalar).store(sum.floats, into: expected.mutableElements(output, count: count))
        let found = Memory(bytes: [UInt8](repeating: 1, count: expected.count), shift: shift)
        let terms = weights.indices.map { MergeTerm(inputs.bytes[$0].elements(dtype, count: count), weight: weights[$0]) }
        let bad = Kernels(set).mergeLinear(terms, divisor: divisor, into: found.mutableElements(output, count: count))
        #expect(
          found.values == expected.values || Self.plain(found.values, output) == Self.plain(expected.values, output),
          "\(weights), \(kind), \(count)")
        #expect(bad == nonFinite)
        #expect(found.bordersAreIntact)
      }
    }
  }

  @Test(arguments: InstructionSet.available) func anInputMayBeTheOutputAndIsCountedBeforeItIs(_ set: InstructionSet) {
    let merge = Case(combination: .election(normalize: true, zeroSign: .positive))
    let inputs = Self.inputs(merge, .anyBits, 300, shift: 0)
    let expected = Self.stepByStep(merge, inputs)
    #expect(expected.nonFinite > 0)
    let nonFinite = Kernels(set).mergeDeltas(
      base: inputs.bytes[0].elements(.bf16, count: 300), Self.terms(merge, inputs), merge.combination,
      into: inputs.bytes[2].mutableElements(.bf16, count: 300))
    #expect(nonFinite == expected.nonFinite)
    #expect(Self.plain(inputs.bytes[2].values, .bf16) == Self.plain(expected.bytes, .bf16))
  }

  @Test(arguments: InstructionSet.available) func thresholdsAboveEveryKeyLeaveTheBase(_ set: InstructionSet) {
    let inputs = Self.inputs(Case(), .normal, 100, shift: 0), output = Memory(bytes: [UInt8](repeating: 0, count: 200))
    for threshold in [UInt64.max, 1 << 63, 0x7fff_ffff << 32, 0x7f80_0001 << 32] {
      var terms = Self.terms(Case(), inputs)
      for r in terms.indices { terms[r].threshold = threshold }
      Kernels(set).mergeDeltas(
        base: inputs.bytes[0].elements(.bf16, count: 100), terms, .sum(divisor: 1), into: output.mutableElements(.bf16, count: 100))
      #expect(output.values == inputs.bytes[0].values)
    }
  }

  @Test func theShortestRunCountsAndTermsMove() {
    let base = Memory(bytes: Self.encode([1, 2, 3, 4], .f32)), model = Memory(bytes: Self.encode([2, 2, 2, 2], .f32))
    let output = Memory(bytes: Self.encode([9, 9, 9, 9], .f32)), mask = Memory(bytes: [0b1001])
    var term = MergeTerm(model.elements(.f32, count: 3), weight: 1)
    Kernels(.best).mergeDeltas(
      base: base.elements(.f32, count: 4), [term], .sum(divisor: 1), into: output.mutableElements(.f32, count: 4))
    #expect(output.values == Self.encode([2, 2, 2, 9], .f32))
    term.move(to: model.elements(.f32, count: 4), mask: mask.keepBits(count: 4))
    term.weight = 3
    Kernels(.best).mergeDeltas(
      base: base.elements(.f32, count: 4), [term], .sum(divisor: 1), into: output.mutableElements(.f32, count: 4))
    #expect(output.values == Self.encode([4, 2, 3, -2], .f32))
    #expect(Kernels(.best).mergeLinear([term], into: output.mutableElements(.i32, count: 4)) == 0)
  }
}
