/// Element types of the safetensors format. Raw values are those of `INGOT_DTYPE_*` in `ingot.h`.
///
/// Types with arithmetic can be merged; all others can be copied. Sub-byte types are packed little-endian.
package enum DType: Int32, Sendable, Hashable, CaseIterable {
  case f32 = 1
  case f16 = 2
  case bf16 = 3
  case f64 = 4
  case f8E4M3 = 5
  case f8E5M2 = 6
  case i64 = 10
  case i32 = 11
  case i16 = 12
  case i8 = 13
  case u64 = 14
  case u32 = 15
  case u16 = 16
  case u8 = 17
  case bool = 18
  case f8E8M0 = 20
  case f4 = 21
  case f6E2M3 = 22
  case f6E3M2 = 23
  case c64 = 24
  case f8E4M3FNUZ = 25
  case f8E5M2FNUZ = 26

  /// Width of one element in bits.
  package var bits: Int {
    switch self {
    case .f64, .i64, .u64, .c64: 64
    case .f32, .i32, .u32: 32
    case .f16, .bf16, .i16, .u16: 16
    case .f8E4M3, .f8E5M2, .f8E8M0, .f8E4M3FNUZ, .f8E5M2FNUZ, .i8, .u8, .bool: 8
    case .f6E2M3, .f6E3M2: 6
    case .f4: 4
    }
  }

  /// True for the types whose values the engine can combine.
  package var hasArithmetic: Bool {
    switch self {
    case .f64, .f32, .f16, .bf16, .f8E4M3, .f8E5M2: true
    default: false
    }
  }

  /// True for the types the engine can round results to.
  package var isOutput: Bool {
    switch self {
    case .f32, .f16, .bf16: true
    default: false
    }
  }

  /// The name in a safetensors header.
  package var safetensorsName: String {
    switch self {
    case .f32: "F32"
    case .f16: "F16"
    case .bf16: "BF16"
    case .f64: "F64"
    case .f8E4M3: "F8_E4M3"
    case .f8E5M2: "F8_E5M2"
    case .i64: "I64"
    case .i32: "I32"
    case .i16: "I16"
    case .i8: "I8"
    case .u64: "U64"
    case .u32: "U32"
    case .u16: "U16"
    case .u8: "U8"
    case .bool: "BOOL"
    case .f8E8M0: "F8_E8M0"
    case .f4: "F4"
    case .f6E2M3: "F6_E2M3"
    case .f6E3M2: "F6_E3M2"
    case .c64: "C64"
    case .f8E4M3FNUZ: "F8_E4M3FNUZ"
    case .f8E5M2FNUZ: "F8_E5M2FNUZ"
    }
  }

  package init?(safetensorsName name: String) {
    guard let found = DType.allCases.first(where: { $0.safetensorsName == name }) else { return nil }
    self = found
  }

  /// The name torch and recipes use (`bfloat16`), where there is one.
  package var torchName: String? {
    switch self {
    case .f32: "float32"
    case .f16: "float16"
    case .bf16: "bfloat16"
    case .f64: "float64"
    case .f8E4M3: "float8_e4m3fn"
    case .f8E5M2: "float8_e5m2"
    case .i64: "int64"
    case .i32: "int32"
    case .i16: "int16"
    case .i8: "int8"
    case .u8: "uint8"
    case .bool: "bool"
    default: nil
    }
  }

  /// The result type when a recipe names none: narrow floats widen to BF16, F64 narrows to F32 (design: numbers).
  package var defaultOutput: DType {
    switch self {
    case .f64: .f32
    case .f8E4M3, .f8E5M2: .bf16
    default: self
    }
  }
}
