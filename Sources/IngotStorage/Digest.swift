import CPlatform
package import IngotErrors

/// An XXH3-128 value (seed 0). Ordered and printed in its canonical form: 16 bytes, big-endian, 32 lower-case hex digits.
package struct Digest128: Hashable, Sendable, CustomStringConvertible {
  package var high: UInt64
  package var low: UInt64

  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// The digest of some bytes. https://github.com/Cyan4973/xxHash, XXH3_128bits.
  package init(of bytes: UnsafeRawBufferPointer) {
    // SAFETY: the caller keeps the bytes alive for the call, which reads bytes.count of them and writes 16.
    unsafe self.init { unsafe ingot_xxh3_128(bytes.baseAddress, bytes.count, $0) }
  }

  package init(of bytes: [UInt8]) {
    // SAFETY: the array's storage lives for the closure.
    self = unsafe bytes.withUnsafeBytes { unsafe Digest128(of: $0) }
  }

  package init(of text: String) { self.init(of: Array(text.utf8)) }

  /// From 32 hex digits; nil for anything else.
  package init?(hex: some StringProtocol) {
    let digits = Array(hex.utf8)
    guard digits.count == 32 else { return nil }
    var values: (UInt64, UInt64) = (0, 0)
    for (index, digit) in digits.enumerated() {
      let value: UInt64
      switch digit {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = UInt64(digit - UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = UInt64(digit - UInt8(ascii: "a") + 10)
      default: return nil
      }
      if index < 16 { values.0 = values.0 << 4 | value } else { values.1 = values.1 << 4 | value }
    }
    (high, low) = values
  }

  /// From a function that writes the canonical form.
  fileprivate init(_ fill: (UnsafeMutablePointer<UInt8>) -> Void) {
    // SAFETY: the 16 bytes are initialised before `fill` writes and the loop reads them, and do not leave the closure.
    (high, low) = unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16) { bytes in
      var parts: (UInt64, UInt64) = (0, 0)
      guard let start = bytes.baseAddress else { return parts }
      unsafe start.initialize(repeating: 0, count: 16)
      unsafe fill(start)
      for index in 0..<16 {
        let value = unsafe UInt64(bytes[index])
        if index < 8 { parts.0 = parts.0 << 8 | value } else { parts.1 = parts.1 << 8 | value }
      }
      return parts
    }
  }

  package var description: String {
    let words = (high, low)
    // SAFETY: the closure writes all 32 bytes that it says it wrote, each an ASCII digit.
    return unsafe String(unsafeUninitializedCapacity: 32) { digits in
      for index in 0..<32 {
        let word = index < 16 ? words.0 : words.1
        let value = UInt8(truncatingIfNeeded: word >> UInt64(60 - 4 * (index % 16))) & 15
        unsafe digits[index] = value + (value < 10 ? UInt8(ascii: "0") : UInt8(ascii: "a") - 10)
      }
      return 32
    }
  }
}

/// XXH3-64 (seed 0) of some bytes.
package func xxh3(_ bytes: [UInt8]) -> UInt64 {
  // SAFETY: the array's storage lives for the closure.
  unsafe bytes.withUnsafeBytes { unsafe ingot_xxh3_64($0.baseAddress, $0.count) }
}

/// A running XXH3-128. One thread at a time.
@safe package struct StreamingDigest: ~Copyable {
  // SAFETY: made in init, freed in deinit, never handed out.
  private let state: OpaquePointer

  /// Throws `.memory` when there is none.
  package init() throws(IngotError) {
    // SAFETY: allocates, with no precondition.
    guard let state = unsafe ingot_xxh3_create() else { throw IngotError(.memory, "no memory for a digest") }
    unsafe self.state = state
  }

  // SAFETY: the last use of the state.
  deinit { unsafe ingot_xxh3_destroy(state) }

  package mutating func add(_ bytes: UnsafeRawBufferPointer) {
    // SAFETY: the state is ours alone, and the caller keeps the bytes alive for the call.
    unsafe ingot_xxh3_update(state, bytes.baseAddress, bytes.count)
  }

  /// Adds the canonical 16 bytes of another digest.
  package mutating func add(_ digest: Digest128) {
    let words = (digest.high.bigEndian, digest.low.bigEndian)
    // SAFETY: the tuple's bytes live for the closure.
    unsafe withUnsafeBytes(of: words) { unsafe add($0) }
  }

  package mutating func add(_ bytes: [UInt8]) {
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeBytes { unsafe add($0) }
  }

  /// The digest of what was added so far; more may follow.
  package var value: Digest128 {
    // SAFETY: the state lives as long as self, and the call writes the 16 bytes that it is given.
    unsafe Digest128 { unsafe ingot_xxh3_digest(state, $0) }
  }
}
