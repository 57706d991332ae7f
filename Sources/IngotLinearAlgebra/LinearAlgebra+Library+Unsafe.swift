internal import CLAPACK
internal import Glibc
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

  /// The processor core whose kernels OpenBLAS runs; nil before the first matrix method is planned.
  package static var coreInUse: String? {
    // SAFETY: a static string that ends with a zero byte.
    let name = unsafe String(cString: ingotl_core())
    return name.isEmpty ? nil : name
  }

  /// What would let OpenBLAS use all of this processor; nil where it does, or will when it is loaded.
  package static var coreHint: String? {
    guard let advised = advisedCore else { return nil }
    // SAFETY: the value is copied at once; the library never changes the environment.
    let chosen = unsafe getenv("OPENBLAS_CORETYPE").map { unsafe String(cString: $0) }
    if (coreInUse ?? chosen) == advised { return nil }
    return "OPENBLAS_CORETYPE=\(advised), set before OpenBLAS is loaded, would use this processor's AVX-512 units"
  }

  /// The library in use.
  package var library: Library {
    // SAFETY: static strings that end with a zero byte.
    unsafe Library(
      core: String(cString: ingotl_core()), configuration: String(cString: ingotl_configuration()), threads: Int(ingotl_threads()))
  }
}
