import Glibc

/// `path` from the root on, as it is now; nil when the current directory is gone.
package func absolutePath(_ path: String) -> String? {
  if path.hasPrefix("/") { return path }
  var buffer = [CChar](repeating: 0, count: 4097)
  // SAFETY: at most as many bytes as there are are written, with a zero at the end.
  let isKnown = unsafe buffer.withUnsafeMutableBufferPointer { unsafe getcwd($0.baseAddress, $0.count) != nil }
  guard isKnown else { return nil }
  let here = String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  return here.hasSuffix("/") ? here + path : here + "/" + path
}
