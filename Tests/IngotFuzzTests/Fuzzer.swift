// libFuzzer's entry. Not part of the tests: scripts/fuzz compiles it (see Package.swift).
import Glibc

private let target: FuzzTarget? = getenv("INGOT_FUZZ_TARGET").flatMap { FuzzTarget(rawValue: String(cString: $0)) }

@c(LLVMFuzzerTestOneInput)
public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
  guard let target else { fatalError("INGOT_FUZZ_TARGET names no target") }
  do {
    // SAFETY: libFuzzer gives `size` bytes, which live for the call.
    try target.run(Array(UnsafeBufferPointer(start: data, count: size)))
  } catch {
    fatalError("\(target): \(error)")
  }
  return 0
}
