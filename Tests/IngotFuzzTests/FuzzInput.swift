/// Takes an input apart, front to back; behind its end come zeros.
struct FuzzInput {
  private let bytes: [UInt8]
  private var place = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  mutating func take(_ count: Int) -> [UInt8] {
    let part = bytes[min(place, bytes.count)..<min(place + count, bytes.count)]
    place += count
    return Array(part) + [UInt8](repeating: 0, count: count - part.count)
  }

  mutating func byte() -> UInt8 { take(1)[0] }
  mutating func number(_ width: Int) -> UInt64 { take(width).reversed().reduce(0) { $0 << 8 | UInt64($1) } }
  var rest: [UInt8] { Array(bytes.dropFirst(place)) }
}

/// Memory of exactly the bytes that a caller owns, so that AddressSanitizer sees every step beyond; freed with its owner.
final class CallerMemory {
  let address: UnsafeMutableRawPointer
  let count: Int
  private var kept: [CallerMemory] = []

  init(_ bytes: [UInt8]) {
    count = bytes.count
    address = .allocate(byteCount: max(count, 1), alignment: 8)
    address.copyMemory(from: bytes, byteCount: count)
  }

  deinit { address.deallocate() }

  var number: UInt { UInt(bitPattern: address) }

  func put(_ value: UInt64, at offset: Int, width: Int = 8) {
    guard offset + width <= count else { return }
    for (index, byte) in littleEndian(Int(truncatingIfNeeded: value), width).enumerated() {
      address.storeBytes(of: byte, toByteOffset: offset + index, as: UInt8.self)
    }
  }

  func get(at offset: Int, width: Int) -> UInt64 {
    guard offset + width <= count else { return 0 }
    return (0..<width).reversed().reduce(0) { $0 << 8 | UInt64(address.load(fromByteOffset: offset + $1, as: UInt8.self)) }
  }

  /// Points at other memory, which lives as long as this; nil is NULL.
  func point(at offset: Int, to other: CallerMemory?) {
    put(UInt64(other?.number ?? 0), at: offset)
    if let other { kept.append(other) }
  }

  func typed<Pointee>(_: Pointee.Type = Pointee.self) -> UnsafeMutablePointer<Pointee> {
    address.assumingMemoryBound(to: Pointee.self)
  }
}

extension CallerMemory {
  /// A C text.
  convenience init(text: [UInt8]) { self.init(text.prefix { $0 != 0 } + [0]) }

  /// An extensible struct with the input's bytes. Mostly its `struct_size` is `size`; where the input says otherwise, that many bytes are there.
  convenience init(struct size: Int, _ input: inout FuzzInput) {
    let choice = input.byte()
    let given = choice < 192 ? size : choice < 224 ? Int(choice - 192) * 8 : Int(input.number(4))
    let count = given < 8 || given > 4096 ? 4 : given
    self.init(
      littleEndian(given, 4) + input.take(max(0, min(count, size + 8) - 4)) + [UInt8](repeating: 0, count: max(0, count - size - 8)))
  }
}
