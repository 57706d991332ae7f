public import CIngot
internal import IngotErrors
internal import IngotTensors

// MARK: tensors in memory: DLPack

@c @implementation public func ingot_tensor_view_from_dlpack(
  _ tensor: OpaquePointer?, _ out: UnsafeMutablePointer<ingot_tensor_view>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    guard let tensor = unsafe UnsafeRawPointer(tensor) else { throw nullArgument("tensor") }
    guard let out = unsafe out else { throw nullArgument("out") }
    try unsafe DLPack.view(managed: tensor).write(to: out)
  }
}

@c @implementation public func ingot_tensor_view_from_dlpack_versioned(
  _ tensor: OpaquePointer?, _ out: UnsafeMutablePointer<ingot_tensor_view>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    guard let tensor = unsafe UnsafeRawPointer(tensor) else { throw nullArgument("tensor") }
    guard let out = unsafe out else { throw nullArgument("out") }
    try unsafe DLPack.view(versioned: tensor).write(to: out)
  }
}

/// Tensors as other libraries hand them over. https://dmlc.github.io/dlpack/latest/c_api.html
///
/// The offsets are those of dlpack.h on 64-bit machines; both capsules have been frozen since DLPack 1.0.
enum DLPack {
  private enum Offset {
    static let managedTensor = 0
    static let versionedMajor = 0
    static let versionedFlags = 24
    static let versionedTensor = 32
    // In DLTensor:
    static let data = 0
    static let deviceType = 8
    static let deviceNumber = 12
    static let rank = 16
    static let typeCode = 20
    static let typeBits = 21
    static let typeLanes = 22
    static let shape = 24
    static let strides = 32
    static let byteOffset = 40
  }
  private static let readOnlyFlag: UInt64 = 1
  private static let paddedFlag: UInt64 = 4

  /// From `struct DLManagedTensor`.
  static func view(managed: UnsafeRawPointer) throws(IngotError) -> ingot_tensor_view {
    try unsafe view(tensor: managed + Offset.managedTensor)
  }

  /// From `struct DLManagedTensorVersioned`.
  static func view(versioned: UnsafeRawPointer) throws(IngotError) -> ingot_tensor_view {
    // SAFETY: the C contract: a whole struct is there. The version says whether the rest has the known layout.
    let major = unsafe versioned.load(fromByteOffset: Offset.versionedMajor, as: UInt32.self)
    guard major == 1 else {
      throw IngotError(.unsupported, "the tensor is of DLPack version \(major), expected 1", hint: "ask its library for version 1")
    }
    let flags = unsafe versioned.load(fromByteOffset: Offset.versionedFlags, as: UInt64.self)
    var view = try unsafe view(tensor: versioned + Offset.versionedTensor)
    if flags & readOnlyFlag != 0 { unsafe view.flags |= UInt32(INGOT_TENSOR_READ_ONLY) }
    guard unsafe flags & paddedFlag == 0 || (DType(rawValue: view.dtype)?.bits ?? 0) >= 8 else {
      throw IngotError(.dtype, "the tensor's elements are narrower than a byte and padded to bytes, expected them packed")
    }
    return unsafe view
  }

  private static func view(tensor: UnsafeRawPointer) throws(IngotError) -> ingot_tensor_view {
    // SAFETY: the C contract: a whole DLTensor is there, aligned as C aligns it.
    try unsafe requireCPU(tensor)
    let dtype = try unsafe dtype(tensor)
    let rank = unsafe tensor.load(fromByteOffset: Offset.rank, as: Int32.self)
    guard (0...Int32(INGOT_RANK_MAX)).contains(rank) else {
      throw IngotError(.shape, "the tensor has \(rank) axes, expected 0 to \(INGOT_RANK_MAX)")
    }
    var view = unsafe ingot_tensor_view()
    unsafe view.struct_size = unsafe UInt32(MemoryLayout<ingot_tensor_view>.stride)
    unsafe view.dtype = dtype.rawValue
    unsafe view.rank = rank
    unsafe view.shape = tensor.load(fromByteOffset: Offset.shape, as: UnsafePointer<Int64>?.self)
    unsafe view.strides = tensor.load(fromByteOffset: Offset.strides, as: UnsafePointer<Int64>?.self)
    let data = unsafe tensor.load(fromByteOffset: Offset.data, as: UInt.self)
    let start = UInt(unsafe tensor.load(fromByteOffset: Offset.byteOffset, as: UInt64.self)).addingReportingOverflow(data)
    guard !start.overflow else { throw IngotError(.shape, "the tensor's byte_offset leaves what this machine can address") }
    // An empty tensor may come without memory; an offset from nowhere is still nowhere.
    unsafe view.data = data == 0 ? nil : UnsafeMutableRawPointer(bitPattern: start.partialValue)
    if rank > 0, unsafe view.shape == nil { throw IngotError(.invalidArgument, "the tensor has \(rank) axes and no shape") }
    return unsafe view
  }

  /// Device types whose memory the processor can address: kDLCPU, kDLCUDAHost, kDLROCMHost.
  private static func requireCPU(_ tensor: UnsafeRawPointer) throws(IngotError) {
    let type = unsafe tensor.load(fromByteOffset: Offset.deviceType, as: Int32.self)
    let number = unsafe tensor.load(fromByteOffset: Offset.deviceNumber, as: Int32.self)
    if type == 1 || type == 3 || type == 11 { return }
    let names: [Int32: String] = [
      2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 9: "vpi", 10: "rocm", 12: "extension device", 13: "cuda managed", 14: "oneapi",
      15: "webgpu", 16: "hexagon", 17: "maia", 18: "trainium",
    ]
    let name = names[type] ?? "DLPack device type \(type)"
    throw IngotError(
      .unsupported, "the tensor is on \(name):\(number), expected memory of the CPU",
      hint: "copy it to the CPU first, in torch with tensor.cpu()", subject: "\(name):\(number)")
  }

  private static func dtype(_ tensor: UnsafeRawPointer) throws(IngotError) -> DType {
    let code = unsafe tensor.load(fromByteOffset: Offset.typeCode, as: UInt8.self)
    let bits = unsafe tensor.load(fromByteOffset: Offset.typeBits, as: UInt8.self)
    let lanes = unsafe tensor.load(fromByteOffset: Offset.typeLanes, as: UInt16.self)
    if lanes == 1, let found = dtype(code: code, bits: bits) { return found }
    throw IngotError(
      .dtype, "the tensor's DLPack type has code \(code), \(bits) bits and \(lanes) lanes, which safetensors does not have",
      hint: "convert it to one of float32, float16 and bfloat16")
  }

  private static func dtype(code: UInt8, bits: UInt8) -> DType? {
    switch (code, bits) {
    case (0, 8): .i8
    case (0, 16): .i16
    case (0, 32): .i32
    case (0, 64): .i64
    case (1, 8): .u8
    case (1, 16): .u16
    case (1, 32): .u32
    case (1, 64): .u64
    case (2, 16): .f16
    case (2, 32): .f32
    case (2, 64): .f64
    case (4, 16): .bf16
    case (5, 64): .c64
    case (6, 8): .bool
    case (10, 8): .f8E4M3
    case (11, 8): .f8E4M3FNUZ
    case (12, 8): .f8E5M2
    case (13, 8): .f8E5M2FNUZ
    case (14, 8): .f8E8M0
    case (15, 6): .f6E2M3
    case (16, 6): .f6E3M2
    case (17, 4): .f4
    default: nil
    }
  }
}
