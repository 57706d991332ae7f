/// A text that equals another only when their bytes do.
///
/// Swift's `String` takes canonically equivalent texts for one: "é" as one scalar and as two, Ω and the ohm sign. JSON's keys and the
/// tokens of a vocabulary are different there, so sets and tables of them go by this.
package struct ExactText: Sendable, Hashable {
  package let text: String

  package init(_ text: String) { self.text = text }

  package static func == (a: ExactText, b: ExactText) -> Bool { a.text.utf8.elementsEqual(b.text.utf8) }

  package func hash(into hasher: inout Hasher) {
    // SAFETY: the bytes live for the closure, which only reads them.
    let isDone: Void? = unsafe text.utf8.withContiguousStorageIfAvailable { unsafe hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    if isDone == nil { for byte in text.utf8 { hasher.combine(byte) } }
    hasher.combine(UInt8(0xFF))
  }
}
