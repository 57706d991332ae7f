public import CIngot
internal import IngotErrors

/// An extensible struct of ingot.h: it begins with its size and its flags, and zero is the default everywhere.
protocol ExtensibleStruct {
  init()
  static var typeName: String { get }
  static var knownFlags: UInt32 { get }
  var flags: UInt32 { get }
}

extension ingot_context_options: ExtensibleStruct {
  static let typeName = "ingot_context_options"
  static let knownFlags: UInt32 = 0
}
extension ingot_tensor_view: ExtensibleStruct {
  static let typeName = "ingot_tensor_view"
  static let knownFlags = UInt32(INGOT_TENSOR_READ_ONLY)
}
extension ingot_model_options: ExtensibleStruct {
  static let typeName = "ingot_model_options"
  static let knownFlags: UInt32 = 0
}
extension ingot_source: ExtensibleStruct {
  static let typeName = "ingot_source"
  static let knownFlags: UInt32 = 0
}
extension ingot_resolver: ExtensibleStruct {
  static let typeName = "ingot_resolver"
  static let knownFlags: UInt32 = 0
}
extension ingot_recipe_options: ExtensibleStruct {
  static let typeName = "ingot_recipe_options"
  static let knownFlags = UInt32(INGOT_RECIPE_STRICT)
}
extension ingot_plan_options: ExtensibleStruct {
  static let typeName = "ingot_plan_options"
  static let knownFlags = UInt32(INGOT_PLAN_SEED | INGOT_PLAN_NO_FILES)
}
extension ingot_run_options: ExtensibleStruct {
  static let typeName = "ingot_run_options"
  static let knownFlags = UInt32(
    INGOT_RUN_RESUME | INGOT_RUN_OVERWRITE | INGOT_RUN_ALLOW_NONFINITE | INGOT_RUN_CACHED_WRITES | INGOT_RUN_CHECK_FINITE
      | INGOT_RUN_TENSORS_ONLY | INGOT_RUN_CACHED_READS)
}
extension ingot_delta_options: ExtensibleStruct {
  static let typeName = "ingot_delta_options"
  static let knownFlags: UInt32 = 0
}
extension ingot_side_input: ExtensibleStruct {
  static let typeName = "ingot_side_input"
  static let knownFlags: UInt32 = 0
}
extension ingot_aim: ExtensibleStruct {
  static let typeName = "ingot_aim"
  static let knownFlags = UInt32(INGOT_AIM_OMEGA)
}
extension ingot_sink: ExtensibleStruct {
  static let typeName = "ingot_sink"
  static let knownFlags: UInt32 = 0
}
extension ingot_merge_options: ExtensibleStruct {
  static let typeName = "ingot_merge_options"
  static let knownFlags = UInt32(INGOT_MERGE_ALLOW_NONFINITE)
}

extension ExtensibleStruct {
  /// The struct's size as its owner gives it, checked.
  static func size(of pointer: UnsafePointer<Self>) throws(IngotError) -> Int {
    // SAFETY: the C contract: at least struct_size, four bytes, is there.
    let given = unsafe UnsafeRawPointer(pointer).loadUnaligned(as: UInt32.self)
    // A larger one is a mistake, not a newer version: nothing beyond it is read. A size between would cut a pointer in two.
    guard given >= 8, given <= UInt32(Limit.structBytes), given % UInt32(MemoryLayout<Self>.alignment) == 0 else {
      throw IngotError(
        .invalidArgument, "struct_size of \(typeName) is \(given), expected \(MemoryLayout<Self>.stride)",
        hint: "initialise it with its _INIT", subject: typeName)
    }
    return Int(given)
  }

  /// A copy of the caller's struct; what an older one lacks is zero. Throws `.unsupported` for flags and fields this version does not know.
  static func copy(of pointer: UnsafePointer<Self>) throws(IngotError) -> Self {
    let given = try unsafe size(of: pointer)
    let own = MemoryLayout<Self>.stride
    // SAFETY: the C contract: struct_size bytes are there. C structs are trivial: any bytes, and all zero, are a value.
    let bytes = unsafe UnsafeRawBufferPointer(start: pointer, count: given)
    if given > own, unsafe bytes.dropFirst(own).contains(where: { $0 != 0 }) {
      throw IngotError(
        .unsupported, "\(typeName) has \(given) bytes and uses what comes after the \(own) that this version knows",
        hint: "load a newer libingot", subject: typeName)
    }
    var value = Self()
    unsafe withUnsafeMutableBytes(of: &value) { copy in
      unsafe copy.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes.prefix(min(given, copy.count))))
    }
    let unknown = value.flags & ~knownFlags
    guard unknown == 0 else {
      throw IngotError(
        .unsupported, "\(typeName) has the flags 0x\(String(unknown, radix: 16)), which this version does not know",
        hint: "initialise it with its _INIT, or load a newer libingot", subject: typeName)
    }
    return value
  }

  /// The same for an optional argument: the defaults for NULL.
  static func copy(ofOptional pointer: UnsafePointer<Self>?) throws(IngotError) -> Self {
    guard let pointer = unsafe pointer else { return Self() }
    return try unsafe copy(of: pointer)
  }

  /// Writes as much of the struct as the caller's struct_size has room for; struct_size itself stays.
  func write(to pointer: UnsafeMutablePointer<Self>) throws(IngotError) {
    let given = try unsafe Self.size(of: UnsafePointer(pointer))
    // SAFETY: the C contract: struct_size bytes may be written, and `size` made sure that they are 8 or more.
    unsafe withUnsafeBytes(of: self) { own in
      let target = unsafe UnsafeMutableRawBufferPointer(start: pointer, count: min(given, own.count))
      for index in 4..<target.count { unsafe target[index] = own[index] }
    }
  }
}

/// A required text argument.
func text(_ pointer: UnsafePointer<CChar>?, _ parameter: String) throws(IngotError) -> String {
  guard let found = try unsafe optionalText(pointer, parameter) else { throw nullArgument(parameter) }
  return found
}

/// A text argument that may be NULL.
func optionalText(_ pointer: UnsafePointer<CChar>?, _ parameter: String) throws(IngotError) -> String? {
  guard let pointer = unsafe pointer else { return nil }
  // SAFETY: the C contract: the text ends with NUL.
  guard let text = unsafe String(validatingCString: pointer) else {
    throw IngotError(.invalidArgument, "\(parameter) is not valid UTF-8", subject: parameter)
  }
  return text
}

/// A count that fits the machine.
func count(_ value: UInt64, _ parameter: String) throws(IngotError) -> Int {
  guard let count = Int(exactly: value) else {
    throw IngotError(.invalidArgument, "\(parameter) is \(value), more than this machine can address", subject: parameter)
  }
  return count
}

/// An array of `number` texts; NULL will do for none.
func texts(
  _ pointers: UnsafePointer<UnsafePointer<CChar>?>?, _ number: UInt64, _ parameter: String
) throws(IngotError) -> [String] {
  let number = try count(number, "count of \(parameter)")
  if number == 0 { return [] }
  guard let pointers = unsafe pointers else { throw nullArgument(parameter) }
  var found: [String] = []
  // SAFETY: the C contract: the array has that many pointers.
  for index in 0..<number { found.append(try unsafe text(pointers[index], "\(parameter)[\(index)]")) }
  return found
}
