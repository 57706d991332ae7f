internal import CIngot
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

// MARK: what this build can do

// SAFETY: of this file: the addresses are those of texts that live as long as the library.

@c @implementation public func ingot_isa_count() -> UInt32 { UInt32(isaNames.count) }

@c @implementation public func ingot_isa_name(_ index: UInt32) -> UnsafePointer<CChar>? {
  let index = Int(index)
  return unsafe isaNames.indices.contains(index) ? isaNames[index].pointer : nil
}

@c @implementation public func ingot_methods_json() -> UnsafePointer<CChar>? { unsafe methodsText.pointer }

@c @implementation public func ingot_dtype_name(_ dtype: Int32) -> UnsafePointer<CChar>? {
  unsafe DType(rawValue: dtype).flatMap { dtypeNames[$0] }.map { unsafe $0.pointer }
}

@c @implementation public func ingot_dtype_bits(_ dtype: Int32) -> UInt32 { UInt32(DType(rawValue: dtype)?.bits ?? 0) }

// Made when first asked for, never changed: what a processor runs does not change while a process lives.
private let isaNames = InstructionSet.available.map { CText($0.name) }

private let methodsText = CText("[" + MethodRegistry.catalog.methods.map(\.json).joined(separator: ", ") + "]")

private let dtypeNames = Dictionary(uniqueKeysWithValues: DType.allCases.map { ($0, CText($0.safetensorsName)) })
