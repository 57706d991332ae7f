import IngotTensors
import Testing

/// Decoding of quantised storage on every instruction set, against the definition written here.
@Suite struct DecodingTests {
  static let sets = InstructionSet.available

  @Test(arguments: [DType.f8E4M3, .f8E5M2]) func scaledCodes(_ dtype: DType) {
    var source = Source(seed: 11)
    for count in raggedLengths + [5000, 9001] {
      for (first, block) in [(0, 128), (5, 128), (127, 128), (0, 1 << 20), (3, 1), (0, 7)] {
        let codes = (0..<count).map { _ in UInt64(UInt8.random(in: 0...255, using: &source)) }
        let scales = (0..<(first + count) / block + 1).map { _ in source.normal() }
        let expected = codes.enumerated().map { ConversionTests.decode($1, dtype) * scales[(first + $0) / block] }
        let stored = Memory(bytes: codes.map { UInt8($0) })
        let memory = Memory(scales)
        for set in Self.sets {
          let output = Memory(count: count)
          Kernels(set).loadScaled(
            stored.elements(dtype, count: count), scales: memory.floats, first: first, block: block, into: output.floats)
          #expect(output.agrees(with: Memory(expected)), "\(set) \(count) \(first) \(block)")
          #expect(output.bordersAreIntact)
        }
      }
    }
  }

  @Test func scaledCodesStopWhereTheScalesEnd() {
    let codes = Memory(bytes: [UInt8](repeating: 0x38, count: 20))
    let scales = Memory([2, 3])
    for set in Self.sets {
      let output = Memory(count: 20)
      Kernels(set).loadScaled(codes.elements(.f8E4M3, count: 20), scales: scales.floats, first: 2, block: 8, into: output.floats)
      #expect(output.values == [Float](repeating: 2, count: 6) + [Float](repeating: 3, count: 8) + [Float](repeating: 0, count: 6))
    }
  }

  /// 2^(e − 127) by repeated doubling and halving.
  static func power(_ code: UInt8) -> Float {
    if code == 255 { return .nan }
    var value: Float = 1
    for _ in 0..<abs(Int(code) - 127) { value *= code > 127 ? 2 : 0.5 }
    return value
  }

  @Test func powersOfTwo() {
    let stored = Memory(bytes: Array(0...255))
    for set in Self.sets {
      let output = Memory(count: 256)
      Kernels(set).loadPowers(stored.elements(.f8E8M0, count: 256), into: output.floats)
      #expect(output.agrees(with: Memory((0...255).map { Self.power($0) })))
    }
  }

  @Test func mxfp4() {
    let values: [Float] = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    var source = Source(seed: 12)
    for count in raggedLengths {
      let bytes = (0..<count * 16).map { _ in UInt8.random(in: 0...255, using: &source) }
      let scales = (0..<count).map { _ in UInt8.random(in: 0...255, using: &source) }
      let (blocks, powers) = (Memory(bytes: bytes), Memory(bytes: scales))
      for index in [0, 1, 2, 17, 31] {
        let expected = (0..<count).map { place in
          let byte = bytes[place * 16 + index / 2]
          let code = index % 2 == 0 ? byte & 15 : byte >> 4
          return values[Int(code & 7)] * (code >= 8 ? -1 : 1) * Self.power(scales[place])
        }
        for set in Self.sets {
          let output = Memory(count: count)
          Kernels(set).loadMXFP4(
            blocks: blocks.elements(.u8, count: count * 16), index: index, scales: powers.elements(.u8, count: count), into: output.floats)
          #expect(output.agrees(with: Memory(expected)), "\(set) \(count) \(index)")
          #expect(output.bordersAreIntact)
        }
      }
    }
  }
}
