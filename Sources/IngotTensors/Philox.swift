/// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
///
/// This is the definition that the kernels are tested against. Word j of the block with counter (i in two words, stream in two words) and
/// the seed as key serves element 4 i + j, so a draw depends on nothing but seed, stream and index.
package enum Philox {
  package typealias Words = (UInt32, UInt32, UInt32, UInt32)

  /// Ten rounds over one counter.
  package static func block(counter: Words, key: (UInt32, UInt32)) -> Words {
    var (a, b, c, d) = counter
    var (k0, k1) = key
    for _ in 0..<10 {
      let p = UInt32(0xD251_1F53).multipliedFullWidth(by: a)
      let q = UInt32(0xCD9E_8D57).multipliedFullWidth(by: c)
      (a, b, c, d) = (q.high ^ b ^ k0, q.low, p.high ^ d ^ k1, p.low)
      k0 &+= 0x9E37_79B9
      k1 &+= 0xBB67_AE85
    }
    return (a, b, c, d)
  }

  /// The word of one element.
  package static func word(seed: UInt64, stream: UInt64, index: UInt64) -> UInt32 {
    let i = index / 4
    let words = block(
      counter: (
        UInt32(truncatingIfNeeded: i), UInt32(truncatingIfNeeded: i >> 32), UInt32(truncatingIfNeeded: stream),
        UInt32(truncatingIfNeeded: stream >> 32)
      ),
      key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
    switch index % 4 {
    case 0: return words.0
    case 1: return words.1
    case 2: return words.2
    default: return words.3
    }
  }
}
