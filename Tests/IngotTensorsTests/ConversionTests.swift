import IngotTensors
import Testing

/// Conversion on every instruction set against references written here: every 8- and 16-bit pattern, and the hard cases of rounding.
@Suite struct ConversionTests {
  // MARK: References

  static func decode(_ pattern: UInt64, _ dtype: DType) -> Float {
    switch dtype {
    case .f32: return Float(bitPattern: UInt32(pattern))
    case .f64: return Float(Double(bitPattern: pattern))
    case .bf16: return Float(bitPattern: UInt32(pattern) << 16)
    case .f16: return Float(Float16(bitPattern: UInt16(pattern)))
    case .f8E5M2: return eightBits(UInt8(pattern), exponentBits: 5, hasInfinity: true)
    case .f8E4M3: return eightBits(UInt8(pattern), exponentBits: 4, hasInfinity: false)
    default: return 0
    }
  }

  /// The definition in words: sign, biased exponent, mantissa; E4M3FN has one NaN per sign and no infinity.
  static func eightBits(_ byte: UInt8, exponentBits: Int, hasInfinity: Bool) -> Float {
    let mantissaBits = 7 - exponentBits
    let bias = 1 << (exponentBits - 1) - 1
    let exponent = Int(byte & 0x7f) >> mantissaBits
    let mantissa = Int(byte) & (1 << mantissaBits - 1)
    let top = 1 << exponentBits - 1
    let sign: Float = byte >= 0x80 ? -1 : 1
    if hasInfinity && exponent == top { return mantissa == 0 ? sign * .infinity : .nan }
    if !hasInfinity && exponent == top && mantissa == (1 << mantissaBits - 1) { return .nan }
    func power(_ e: Int) -> Float { Float(sign: .plus, exponent: e, significand: 1) }
    let fraction = Float(mantissa) / Float(1 << mantissaBits)
    return exponent == 0 ? sign * fraction * power(1 - bias) : sign * (1 + fraction) * power(exponent - bias)
  }

  /// Nearest bf16, ties to even, by looking at both neighbours; nil for NaN.
  static func nearestBFloat(_ x: Float) -> UInt16? {
    if x.isNaN { return nil }
    let below = UInt16(x.bitPattern >> 16)
    if x.bitPattern & 0xffff == 0 { return below }
    let low = Float(bitPattern: UInt32(below) << 16), high = Float(bitPattern: UInt32(below &+ 1) << 16)
    // Beyond the largest bf16 the next step stands for infinity.
    let far = high.isInfinite ? Double(sign: x < 0 ? .minus : .plus, exponent: 128, significand: 1) : Double(high)
    let toLow = abs(Double(x) - Double(low)), toHigh = abs(far - Double(x))
    if toLow != toHigh { return toLow < toHigh ? below : below &+ 1 }
    return below & 1 == 0 ? below : below &+ 1
  }

  static func bytes(_ patterns: [UInt64], _ dtype: DType) -> [UInt8] {
    patterns.flatMap { pattern in (0..<dtype.bits / 8).map { UInt8(truncatingIfNeeded: pattern >> UInt64(8 * $0)) } }
  }

  static func load(_ patterns: [UInt64], _ dtype: DType, _ set: InstructionSet, shift: Int = 0) -> (bits: [Float], nonFinite: Int) {
    let source = Memory(bytes: bytes(patterns, dtype), shift: shift)
    let output = Memory(count: patterns.count, shift: shift % 4)
    let bad = Kernels(set).load(source.elements(dtype, count: patterns.count), into: output.floats)
    #expect(output.bordersAreIntact)
    return (output.values, bad)
  }

  static func store(_ values: [Float], _ dtype: DType, _ set: InstructionSet, shift: Int = 0) -> [UInt8] {
    let input = Memory(values, shift: shift % 4)
    let output = Memory(bytes: [UInt8](repeating: 0, count: values.count * dtype.bits / 8), shift: shift)
    Kernels(set).store(input.floats, into: output.mutableElements(dtype, count: values.count))
    #expect(output.bordersAreIntact)
    return output.values
  }

  static func narrowed(_ bytes: [UInt8]) -> [UInt16] {
    stride(from: 0, to: bytes.count, by: 2).map { UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8 }
  }

  // MARK: Loading

  @Test(arguments: InstructionSet.available, [DType.f16, .bf16, .f8E4M3, .f8E5M2])
  func everyPatternLoads(_ set: InstructionSet, _ dtype: DType) {
    let patterns = (0..<(1 << UInt64(dtype.bits))).map(UInt64.init)
    let (values, nonFinite) = Self.load(patterns, dtype, set)
    for pattern in patterns {
      let expected = Self.decode(pattern, dtype), found = values[Int(pattern)]
      if expected.isNaN {
        #expect(found.isNaN && (found.sign == .minus) == (pattern >> UInt64(dtype.bits - 1) == 1), "pattern \(pattern)")
      } else {
        #expect(found.bitPattern == expected.bitPattern, "pattern \(pattern)")
      }
    }
    #expect(nonFinite == values.count { !$0.isFinite })
    #expect(values.map(\.bitPattern) == Self.load(patterns, dtype, .scalar).bits.map(\.bitPattern))
  }

  static let doubles: [Double] = {
    var source = Source(seed: 5)
    let hard: [Double] = [
      0, -0.0, .nan, .infinity, -.infinity, 1 + 0x1p-24, 1 + 0x1p-24 + 0x1p-50, 1 + 3 * 0x1p-24, 3.5e38, -3.5e38, 1e-46, 0x1p-150,
      0x1.8p-149, 0x1.fffffefp127, 0x1.ffffffp127,
    ]
    return (0..<20).flatMap { _ in hard } + (0..<1000).map { _ in Double(bitPattern: source.next()) }
      + (0..<1000).map { _ in Double(source.normal()) * 1.0000000123 }
  }()

  @Test(arguments: InstructionSet.available) func doublesRoundAndOverflowCountsAsInfinite(_ set: InstructionSet) {
    let (values, nonFinite) = Self.load(Self.doubles.map(\.bitPattern), .f64, set)
    for (double, found) in zip(Self.doubles, values) {
      if double.isNaN { #expect(found.isNaN) } else { #expect(found.bitPattern == Float(double).bitPattern, "\(double)") }
    }
    #expect(nonFinite == values.count { !$0.isFinite })
    #expect(Self.doubles.contains { $0.isFinite && !Float($0).isFinite }, "the data must hold doubles that overflow")
  }

  @Test(arguments: InstructionSet.available) func f32LoadsAndStoresBitForBit(_ set: InstructionSet) {
    // Signalling NaN, quiet NaN with a payload, both zeros.
    let patterns: [UInt64] = (0..<40).flatMap { _ in [0x7f80_0001, 0xffc0_1234, 0x8000_0000, 0, 0x7f80_0000, 0x0000_0001] }
    let (values, nonFinite) = Self.load(patterns, .f32, set)
    #expect(nonFinite == 120)
    let bytes = Self.bytes(patterns, .f32)
    // Compared as memory: a signalling NaN need not survive a Swift Float.
    #expect(Self.store(values, .f32, set).count == bytes.count)
    let source = Memory(bytes: bytes), through = Memory(count: patterns.count),
      back = Memory(bytes: [UInt8](repeating: 0, count: bytes.count))
    Kernels(set).load(source.elements(.f32, count: patterns.count), into: through.floats)
    Kernels(set).store(through.floats, into: back.mutableElements(.f32, count: patterns.count))
    #expect(back.values == bytes)
  }

  @Test(arguments: InstructionSet.available, [DType.f32, .f64, .f16, .bf16, .f8E4M3, .f8E5M2])
  func raggedAndMisalignedLoadsMatchTheReference(_ set: InstructionSet, _ dtype: DType) {
    var source = Source(seed: 11)
    for count in raggedLengths {
      for shift in [0, 1, 3] {
        let mask: UInt64 = dtype.bits == 64 ? .max : 1 << UInt64(dtype.bits) - 1
        let patterns = (0..<count).map { _ in source.next() & mask }
        let reference = Self.load(patterns, dtype, .scalar), found = Self.load(patterns, dtype, set, shift: shift)
        #expect(found.bits.map(\.bitPattern) == reference.bits.map(\.bitPattern), "\(count) elements, shift \(shift)")
        #expect(found.nonFinite == reference.nonFinite)
      }
    }
  }

  @Test(arguments: InstructionSet.available) func typesWithoutArithmeticLoadAsZeros(_ set: InstructionSet) {
    let output = Memory([Float](repeating: 7, count: 20))
    let source = Memory(bytes: [UInt8](repeating: 0xff, count: 200))
    #expect(Kernels(set).load(source.elements(.i64, count: 20), into: output.floats) == 0)
    #expect(output.values == [Float](repeating: 0, count: 20))
  }

  // MARK: Storing

  /// Every pattern of the narrow type, its neighbours half a step away and a hair beside that, and any bits.
  static let toNarrow: [Float] = {
    var source = Source(seed: 3)
    var values: [Float] = []
    for pattern in stride(from: UInt32(0), through: 0xffff, by: 1) {
      let top = pattern << 16
      values += [top, top | 0x8000, top | 0x7fff, top | 0x8001].map(Float.init(bitPattern:))
      let half = Float(Float16(bitPattern: UInt16(pattern)))
      if half.isFinite {
        // Half the distance to the next f16, exactly and off by one f32 step.
        let middle = half + Float(Float16(bitPattern: UInt16(pattern)).ulp) / 2
        values += [half, middle, middle.nextUp, middle.nextDown]
      }
    }
    return values + (0..<4096).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: source.next())) }
  }()

  @Test(arguments: InstructionSet.available) func f16RoundsAsSwiftDoes(_ set: InstructionSet) {
    let found = Self.narrowed(Self.store(Self.toNarrow, .f16, set))
    var wrong = 0
    for (value, pattern) in zip(Self.toNarrow, found) {
      let same = value.isNaN ? Float16(bitPattern: pattern).isNaN : Float16(value).bitPattern == pattern
      if !same { wrong += 1 }
    }
    #expect(wrong == 0)
    #expect(found == Self.narrowed(Self.store(Self.toNarrow, .f16, .scalar)))
  }

  @Test(arguments: InstructionSet.available) func bf16RoundsToTheNearestNeighbour(_ set: InstructionSet) {
    let found = Self.narrowed(Self.store(Self.toNarrow, .bf16, set))
    var wrong = 0
    for (value, pattern) in zip(Self.toNarrow, found) {
      let same = Self.nearestBFloat(value).map { $0 == pattern } ?? Float(bitPattern: UInt32(pattern) << 16).isNaN
      if !same { wrong += 1 }
    }
    #expect(wrong == 0)
    #expect(found == Self.narrowed(Self.store(Self.toNarrow, .bf16, .scalar)))
  }

  @Test(arguments: InstructionSet.available, [DType.f16, .bf16]) func everyPatternSurvivesARoundTrip(_ set: InstructionSet, _ dtype: DType)
  {
    let patterns = (0..<UInt64(1 << 16)).map { $0 }
    let back = Self.narrowed(Self.store(Self.load(patterns, dtype, set).bits, dtype, set))
    let infinity: UInt64 = dtype == .f16 ? 0x7c00 : 0x7f80, quiet: UInt64 = dtype == .f16 ? 0x0200 : 0x0040
    // A signalling NaN comes back quiet, with its sign and payload.
    #expect(back.map(UInt64.init) == patterns.map { $0 & 0x7fff > infinity ? $0 | quiet : $0 })
  }

  @Test(arguments: InstructionSet.available, [DType.f32, .f16, .bf16])
  func raggedAndMisalignedStoresMatchTheReference(_ set: InstructionSet, _ dtype: DType) {
    for count in raggedLengths {
      for shift in [0, 1, 3] {
        let values = Kind.anyBits.values(count, seed: UInt64(count))
        #expect(Self.store(values, dtype, set, shift: shift) == Self.store(values, dtype, .scalar), "\(count) elements, shift \(shift)")
      }
    }
  }

  @Test func storingIntoATypeThatIsNoOutputWritesNothing() {
    let output = Memory(bytes: [UInt8](repeating: 9, count: 64))
    let values = Memory([Float](repeating: 1, count: 8))
    for dtype in DType.allCases where !dtype.isOutput && dtype.bits >= 8 {
      Kernels(.best).store(values.floats, into: output.mutableElements(dtype, count: 8))
    }
    #expect(output.values == [UInt8](repeating: 9, count: 64))
  }
}
