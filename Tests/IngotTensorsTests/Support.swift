import IngotTensors

/// SplitMix64 (Steele, Lea, Flood 2014): a seeded source, so that a failing case can be repeated.
struct Source: RandomNumberGenerator {
  var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Roughly normal: the sum of four uniforms.
  mutating func normal() -> Float { (0..<4).reduce(Float(0)) { sum, _ in sum + Float.random(in: -1...1, using: &self) } }
}

/// The run lengths of the differential tests: empty, around every vector width, a tile, a tile and a ragged end.
let raggedLengths = [0, 1, 7, 8, 15, 16, 17, 31, 33, 65, 4096, 4096 + 3]

/// The instruction sets to compare with the scalar reference.
let fastSets = InstructionSet.available.filter { $0 != InstructionSet.scalar }

/// Memory with a border on both sides that a kernel must leave alone. It lives as long as the variable that names it: a run borrowed from
/// an unnamed one dangles at once.
@safe final class Memory<Element: BitwiseCopyable & Equatable> {
  private let all: UnsafeMutableBufferPointer<Element>
  private let border: Int
  private let filler: Element
  let count: Int

  /// `shift` moves the start by whole elements, off the alignment of the allocation.
  init(_ values: [Element], filler: Element, shift: Int = 0) {
    border = 16 + shift
    count = values.count
    self.filler = filler
    unsafe all = UnsafeMutableBufferPointer.allocate(capacity: values.count + border + 16)
    unsafe all.initialize(repeating: filler)
    unsafe values.withUnsafeBufferPointer { source in
      if let base = source.baseAddress { unsafe start.update(from: base, count: source.count) }
    }
  }

  deinit { unsafe all.deallocate() }

  var start: UnsafeMutablePointer<Element> { unsafe all.baseAddress! + border }
  var values: [Element] { unsafe Array(UnsafeBufferPointer(start: start, count: count)) }
  var bordersAreIntact: Bool {
    (0..<border).allSatisfy { unsafe all[$0] == filler }
      && (border + count..<border + count + 16).allSatisfy { unsafe all[$0] == filler }
  }
}

extension Memory where Element == Float {
  convenience init(_ values: [Float], shift: Int = 0) { self.init(values, filler: 12345.5, shift: shift) }
  /// Zeros.
  convenience init(count: Int, shift: Int = 0) { self.init([Float](repeating: 0, count: count), shift: shift) }
  var floats: Floats { unsafe Floats(unsafe: start, count: count) }
  var bits: [UInt32] {
    unsafe Array(UnsafeRawBufferPointer(start: start, count: 4 * count).bindMemory(to: UInt32.self))
  }
  /// The same bits, but that all NaN are alike: an operation with two NaN operands may give either one's payload.
  func agrees(with other: Memory<Float>) -> Bool {
    let mine = bits, theirs = other.bits
    return mine == theirs || mine.map(Self.oneNaN) == theirs.map(Self.oneNaN)
  }
  private static func oneNaN(_ bits: UInt32) -> UInt32 { bits & 0x7fff_ffff > 0x7f80_0000 ? 0x7fc0_0000 : bits }
}

extension Memory where Element == UInt8 {
  convenience init(bytes: [UInt8], shift: Int = 0) { self.init(bytes, filler: 0xa5, shift: shift) }
  func keepBits(count: Int) -> KeepBits { unsafe KeepBits(unsafe: start, count: count) }
  func elements(_ dtype: DType, count: Int) -> ElementSlice { unsafe ElementSlice(unsafe: start, dtype: dtype, count: count) }
  func mutableElements(_ dtype: DType, count: Int) -> MutableElementSlice {
    unsafe MutableElementSlice(unsafe: start, dtype: dtype, count: count)
  }
}

extension Memory where Element == Double {
  convenience init(lanes: [Double] = [Double](repeating: 0, count: Lanes.width)) { self.init(lanes, filler: 12345.5) }
  var lanes: Lanes { unsafe Lanes(unsafe: start) }
  var bits: [UInt64] { values.map { $0.isNaN ? Double.nan.bitPattern : $0.bitPattern } }
}

extension Memory where Element == UInt64 {
  convenience init(words: Int) { self.init([UInt64](repeating: 0, count: words), filler: 0xa5a5) }
  var keys: KeyBuffer { unsafe KeyBuffer(unsafe: start, capacity: count) }
  var counters: Counters { unsafe Counters(unsafe: start, count: count) }
}

/// Rows of equal length and the table of their addresses.
@safe final class Rows {
  let rows: [Memory<Float>]
  private let pointers: UnsafeMutablePointer<UnsafeMutablePointer<Float>>

  convenience init(_ values: [[Float]], shift: Int) { self.init(values.map { Memory($0, shift: shift) }) }

  init(_ memories: [Memory<Float>]) {
    rows = memories
    unsafe pointers = .allocate(capacity: max(memories.count, 1))
    for (r, row) in rows.enumerated() { unsafe (pointers + r).initialize(to: row.start) }
  }

  deinit { unsafe pointers.deallocate() }

  var table: FloatTable {
    unsafe FloatTable(unsafe: UnsafePointer(pointers), rows: rows.count, count: rows.first?.count ?? 0)
  }
}

/// Kinds of values that selections and combinations meet.
enum Kind: String, CaseIterable, Sendable {
  /// Continuous, all different.
  case normal
  /// Differences of bf16 weights: many zeros, many equal magnitudes.
  case bfloatDifferences
  case allEqual
  case allZero
  case denormals
  /// Every exponent, both zeros, NaN and infinity.
  case anyBits
  /// One huge magnitude above tiny ones that all differ.
  case outlier

  func values(_ count: Int, seed: UInt64) -> [Float] {
    var source = Source(seed: seed)
    return (0..<count).map { i in
      switch self {
      case .normal: return source.normal()
      case .bfloatDifferences:
        let weight = truncated(source.normal() * 0.02)
        return truncated(weight + source.normal() * 0.0002) - weight
      case .allEqual: return i % 3 == 0 ? -0.25 : 0.25
      case .allZero: return i % 5 == 0 ? -0.0 : 0
      case .denormals: return Float(bitPattern: UInt32.random(in: 0...0x0080_0010, using: &source) | (i % 2 == 0 ? 0 : 1 << 31))
      case .anyBits:
        let special: [Float] = [.nan, .infinity, -.infinity, 0, -0.0, .greatestFiniteMagnitude, .leastNonzeroMagnitude]
        return i % 9 == 0
          ? special[Int.random(in: 0..<special.count, using: &source)]
          : Float(bitPattern: UInt32(truncatingIfNeeded: source.next()))
      case .outlier: return i == count / 2 ? 1e30 : source.normal() * 1e-30
      }
    }
  }

  private func truncated(_ x: Float) -> Float { Float(bitPattern: x.bitPattern & 0xffff_0000) }
}
