import Synchronization

/// A text as C sees it: UTF-8 that ends with NUL, at one address as long as the object lives.
@safe
final class CText: @unchecked Sendable {
  // SENDABLE: the bytes are written in `init` and only read afterwards.
  let pointer: UnsafePointer<CChar>

  init(_ text: String) { unsafe pointer = UnsafePointer(ownedCString(text)) }

  deinit { unsafe pointer.deallocate() }
}

/// A text that is made when somebody asks for it first.
final class LazyCText: Sendable {
  private let made = Mutex<CText?>(nil)

  /// Any thread. `make` runs under the lock and at most once.
  func pointer(_ make: () -> String) -> UnsafePointer<CChar> {
    let text = made.withLock { (made: inout CText?) -> CText in
      if let made { return made }
      let text = CText(make())
      made = text
      return text
    }
    return unsafe text.pointer
  }
}

/// A copy that the caller releases with `ingot_string_destroy`. C text ends at the first NUL, so a NUL inside becomes U+FFFD.
func ownedCString(_ text: String) -> UnsafeMutablePointer<CChar> {
  var bytes: [UInt8] = []
  bytes.reserveCapacity(text.utf8.count + 1)
  for byte in text.utf8 {
    if byte == 0 { bytes += [0xEF, 0xBF, 0xBD] } else { bytes.append(byte) }
  }
  bytes.append(0)
  let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
  // SAFETY: `copy` has room for all of them.
  for (index, byte) in bytes.enumerated() { unsafe (copy + index).initialize(to: CChar(bitPattern: byte)) }
  return unsafe copy
}

/// The address of a literal, which is NUL-terminated and lives as long as the library.
func literal(_ text: StaticString) -> UnsafePointer<CChar> {
  // SAFETY: every literal passed here is a string of ASCII characters, so it has an address; CChar and UInt8 have one layout.
  unsafe UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}
