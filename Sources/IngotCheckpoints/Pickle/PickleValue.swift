import IngotTensors

/// What a pickle's opcodes leave on the stack.
///
/// Containers, tensors and storages are numbers of entries in the unpickler's tables: values that share or contain each other cost
/// nothing, and nothing is freed or walked by recursion, however deep a file nests.
enum PickleValue: Sendable {
  case none
  case bool(Bool)
  case int(Int)
  /// An integer of more than 64 bits: little-endian two's complement.
  case longInt([UInt8])
  case float(Double)
  case string(String)
  /// Bytes, a device: of no use here.
  case other
  case global(TorchGlobal)
  case object(Int)
  case tensor(Int)
  case storage(Int)

  var asInt: Int? {
    if case .int(let value) = self { return value }
    return nil
  }

  var asString: String? {
    if case .string(let value) = self { return value }
    return nil
  }
}

/// A container of a pickle.
enum PickleObject: Sendable {
  case tuple([PickleValue])
  case list([PickleValue])
  /// In the order in which they were set; a key may be there twice, the later one counts.
  case dict([(key: PickleValue, value: PickleValue)])
}

/// The bytes that tensors of a pickle share.
struct TorchStorage: Sendable, Hashable {
  var key: String
  /// nil for untyped storages, whose `count` is bytes.
  var dtype: DType?
  /// Elements.
  var count: Int
}

/// A tensor of a pickle: a view of a storage.
struct TorchTensor: Sendable, Hashable {
  /// Index into the unpickler's storages.
  var storage: Int
  var dtype: DType
  /// Elements of the storage before the first.
  var offset: Int
  var shape: [Int]
  /// In elements.
  var strides: [Int]
}

/// The globals that checkpoints of PyTorch need. None of them is ever called: each stands for a rule of the unpickler.
enum TorchGlobal: Sendable, Hashable {
  case orderedDict
  case defaultDict
  /// A type such as `int`, as the factory of a defaultdict.
  case builtinType
  case size
  case device
  /// `_rebuild_tensor`, `_rebuild_tensor_v2`, `_rebuild_tensor_v3`.
  case rebuildTensor(version: Int)
  case rebuildParameter
  case dtype(DType)
  /// nil: untyped.
  case storage(DType?)

  /// nil for every global that is not known to be harmless.
  init?(module: String, name: String) {
    switch (module, name) {
    case ("collections", "OrderedDict"): self = .orderedDict
    case ("collections", "defaultdict"): self = .defaultDict
    case ("builtins", "int"), ("builtins", "float"), ("builtins", "list"), ("builtins", "dict"), ("__builtin__", "int"),
      ("__builtin__", "float"), ("__builtin__", "list"), ("__builtin__", "dict"):
      self = .builtinType
    case ("torch", "Size"): self = .size
    case ("torch", "device"): self = .device
    case ("torch._utils", "_rebuild_tensor"): self = .rebuildTensor(version: 1)
    case ("torch._utils", "_rebuild_tensor_v2"): self = .rebuildTensor(version: 2)
    case ("torch._utils", "_rebuild_tensor_v3"): self = .rebuildTensor(version: 3)
    case ("torch._utils", "_rebuild_parameter"): self = .rebuildParameter
    case ("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage"): self = .storage(nil)
    case ("torch", _), ("torch.cuda", _):
      if let dtype = Self.storages[name] {
        self = .storage(dtype)
      } else if module == "torch", let dtype = Self.dtypes[name] {
        self = .dtype(dtype)
      } else {
        return nil
      }
    default: return nil
    }
  }

  private static let storages: [String: DType] = [
    "DoubleStorage": .f64, "FloatStorage": .f32, "HalfStorage": .f16, "BFloat16Storage": .bf16, "LongStorage": .i64, "IntStorage": .i32,
    "ShortStorage": .i16, "CharStorage": .i8, "ByteStorage": .u8, "BoolStorage": .bool, "ComplexFloatStorage": .c64,
  ]

  private static let dtypes: [String: DType] = [
    "float64": .f64, "float32": .f32, "float16": .f16, "bfloat16": .bf16, "int64": .i64, "int32": .i32, "int16": .i16, "int8": .i8,
    "uint64": .u64, "uint32": .u32, "uint16": .u16, "uint8": .u8, "bool": .bool, "complex64": .c64, "float8_e4m3fn": .f8E4M3,
    "float8_e5m2": .f8E5M2, "float8_e4m3fnuz": .f8E4M3FNUZ, "float8_e5m2fnuz": .f8E5M2FNUZ, "float8_e8m0fnu": .f8E8M0,
  ]
}
