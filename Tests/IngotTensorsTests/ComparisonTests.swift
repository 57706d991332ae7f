import IngotTensors
import Testing

/// The statistics of two runs on every instruction set: against the scalar set bit by bit, and against their definition.
@Suite struct ComparisonTests {
  static let kinds: [Kind] = [.normal, .bfloatDifferences, .denormals, .anyBits, .outlier]

  static func lanes(_ set: InstructionSet, _ x: [Float], _ y: [Float], shift: Int) -> [UInt64] {
    let first = Memory(x, shift: shift), second = Memory(y, shift: shift)
    let lanes = Memory<Double>(lanes: [Double](repeating: 0.25, count: ComparisonLanes.count))
    Kernels(set).accumulateComparison(first.floats, second.floats, into: unsafe ComparisonLanes(unsafe: lanes.start))
    #expect(lanes.bordersAreIntact)
    return lanes.bits
  }

  @Test(arguments: fastSets, kinds) func sumsMatchTheScalarSet(_ set: InstructionSet, _ kind: Kind) {
    for count in raggedLengths {
      let (x, y) = (kind.values(count, seed: 1), kind.values(count, seed: 2))
      let reference = Self.lanes(.scalar, x, y, shift: 0)
      for shift in [0, 1, 3] { #expect(Self.lanes(set, x, y, shift: shift) == reference, "\(count) elements, shift \(shift)") }
    }
  }

  @Test(arguments: InstructionSet.available, kinds) func sumsAreTheirDefinition(_ set: InstructionSet, _ kind: Kind) {
    let (x, y) = (kind.values(1003, seed: 3), kind.values(1003, seed: 4))
    let first = Memory(x), second = Memory(y)
    let lanes = Memory<Double>(lanes: [Double](repeating: 0, count: ComparisonLanes.count))
    let sums = unsafe ComparisonLanes(unsafe: lanes.start)
    Kernels(set).accumulateComparison(first.floats, second.floats, into: sums)
    var expected = (xx: 0.0, xy: 0.0, yy: 0.0, dd: 0.0, largest: 0.0)
    for (a, b) in zip(x, y) where a.isFinite && b.isFinite {
      let (a, b) = (Double(a), Double(b))
      expected.xx += a * a
      expected.xy += a * b
      expected.yy += b * b
      expected.dd += (a - b) * (a - b)
      expected.largest = max(expected.largest, abs(a - b))
    }
    let found = sums.folded
    #expect(found.largest == expected.largest)
    for (found, expected, scale) in [
      (found.xx, expected.xx, expected.xx), (found.yy, expected.yy, expected.yy), (found.dd, expected.dd, expected.dd),
      (found.xy, expected.xy, (expected.xx * expected.yy).squareRoot()),
    ] { #expect(abs(found - expected) <= 1e-12 * scale) }
  }

  @Test(arguments: InstructionSet.available, kinds) func signsAreCounted(_ set: InstructionSet, _ kind: Kind) {
    for count in raggedLengths {
      let (x, y) = (kind.values(count, seed: 5), kind.values(count, seed: 6))
      var expected = SignCounts()
      for (a, b) in zip(x, y) {
        let (a, b) = ((a > 0 ? 1 : 0) - (a < 0 ? 1 : 0), (b > 0 ? 1 : 0) - (b < 0 ? 1 : 0))
        expected.first += a != 0 ? 1 : 0
        expected.second += b != 0 ? 1 : 0
        expected.both += a * b != 0 ? 1 : 0
        expected.opposite += a * b < 0 ? 1 : 0
      }
      let first = Memory(x, shift: 1), second = Memory(y, shift: 1)
      var found = SignCounts()
      Kernels(set).countSigns(first.floats, second.floats, into: &found)
      #expect(found == expected, "\(count) elements")
    }
  }

  static let types: [(DType, limit: UInt64)] = [
    (.f64, 0x7ff0_0000_0000_0000), (.f32, 0x7f80_0000), (.f16, 0x7c00), (.bf16, 0x7f80), (.f8E4M3, 0x7f), (.f8E5M2, 0x7c), (.i32, 0),
    (.u8, 0), (.bool, 0), (.i64, 0), (.c64, 0), (.f4, 0),
  ]

  @Test(arguments: InstructionSet.available, types.indices) func distancesAreTheirDefinition(_ set: InstructionSet, _ type: Int) {
    let (dtype, limit) = Self.types[type]
    let width = dtype.bits / 8
    var source = Source(seed: UInt64(type))
    for count in raggedLengths {
      var x = (0..<count * width).map { _ in UInt8.random(in: 0...255, using: &source) }
      var y = x
      // A third equal, a third close, a third anything; NaN and infinity, both zeros.
      for i in 0..<count where i % 3 != 0 && width > 0 {
        for byte in 0..<(i % 3 == 1 ? 1 : width) { y[i * width + byte] = UInt8.random(in: 0...255, using: &source) }
        if i % 11 == 1 { for byte in 0..<width { (x[i * width + byte], y[i * width + byte]) = (0, byte == width - 1 ? 0x80 : 0) } }
      }
      var expected = (differing: 0, largest: UInt64(0))
      for i in 0..<count where width > 0 {
        func pattern(_ bytes: [UInt8]) -> UInt64 { (0..<width).reduce(0) { $0 | UInt64(bytes[i * width + $1]) << UInt64(8 * $1) } }
        let sign = UInt64(1) << UInt64(8 * width - 1)
        let (p, q) = (pattern(x), pattern(y))
        expected.differing += p == q ? 0 : 1
        let (a, b) = (p & (sign - 1), q & (sign - 1))
        if a < limit, b < limit { expected.largest = max(expected.largest, (p ^ q) & sign == 0 ? max(a, b) - min(a, b) : a + b) }
      }
      for shift in [0, 1, 3] {
        let first = Memory(bytes: x, shift: shift), second = Memory(bytes: y, shift: shift)
        let found = Kernels(set).distances(first.elements(dtype, count: count), second.elements(dtype, count: count))
        #expect(found.differing == expected.differing && found.largest == expected.largest, "\(dtype), \(count) elements, shift \(shift)")
      }
    }
  }

  @Test func distancesNeedOneType() {
    let bytes = Memory(bytes: [1, 2, 3, 4])
    let found = Kernels(.scalar).distances(bytes.elements(.f16, count: 2), bytes.elements(.bf16, count: 2))
    #expect(found.differing == 0 && found.largest == 0)
  }
}
