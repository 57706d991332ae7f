internal import CIngot
internal import IngotEngine
internal import IngotJSON
internal import IngotTensors

// MARK: version

// SAFETY: of this file: the addresses are those of texts that live as long as the library.

@c @implementation public func ingot_version_number() -> UInt32 {
  UInt32(Version.major * 1_000_000 + Version.minor * 1000 + Version.patch)
}

@c @implementation public func ingot_version_string() -> UnsafePointer<CChar>? { unsafe versionText.pointer }

@c @implementation public func ingot_abi_version() -> UInt32 { UInt32(INGOT_ABI_VERSION) }

@c @implementation public func ingot_build_info_json() -> UnsafePointer<CChar>? { unsafe buildInfo.pointer }

private let versionText = CText(Version.text)

private let buildInfo = CText(
  JSON.text(
    .object([
      "version": .string(Version.text), "abi": .int(Int(INGOT_ABI_VERSION)), "swift": .string(swiftVersion),
      "architecture": .string(architecture), "isas": .array(InstructionSet.compiled.map { .string($0.name) }),
      "isas_here": .array(InstructionSet.available.map { .string($0.name) }),
    ])))

private var swiftVersion: String {
  #if compiler(>=6.4)
    "6.4 or newer"
  #elseif compiler(>=6.3)
    "6.3"
  #else
    "6.2"
  #endif
}

private var architecture: String {
  #if arch(x86_64)
    "x86_64"
  #elseif arch(arm64)
    "aarch64"
  #else
    "other"
  #endif
}
