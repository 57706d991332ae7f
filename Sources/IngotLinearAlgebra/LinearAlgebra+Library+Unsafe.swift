internal import CLAPACK
internal import IngotErrors

extension LinearAlgebra {
  /// Nil when OpenBLAS is open.
  static func reasonForAbsence() -> String? {
    var why = [CChar](repeating: 0, count: 512)
    // SAFETY: the buffer has as many bytes as are said.
    let isOpen = unsafe why.withUnsafeMutableBufferPointer { buffer in unsafe ingotl_open(buffer.baseAddress, buffer.count) }
    if isOpen { return nil }
    return String(decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// The value of OPENBLAS_CORETYPE that makes OpenBLAS use all of this processor, where it does not find out itself; else nil. OpenBLAS reads
  /// the variable when it is loaded. Only a program may set it (the command and the Python package do), never the library.
  package static var advisedCore: String? {
    // SAFETY: a static string that ends with a zero byte, or null.
    unsafe ingotl_advised_core().map { unsafe String(cString: $0) }
  }

  /// The library in use.
  package var library: Library {
    // SAFETY: static strings that end with a zero byte.
    unsafe Library(
      core: String(cString: ingotl_core()), configuration: String(cString: ingotl_configuration()), threads: Int(ingotl_threads()))
  }
}
