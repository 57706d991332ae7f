internal import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotTensors

// MARK: tensors in memory

/// The memory of a tensor, from its first to its last byte.
struct MemoryRange: Sendable {
  var first: UInt
  /// Past the last byte; equal to `first` for a tensor without elements.
  var end: UInt
  var name: String

  func overlaps(_ other: MemoryRange) -> Bool { first < other.end && other.first < end }
}

/// A caller's tensor, checked.
struct CheckedTensor: Sendable {
  var view: TensorView
  var memory: MemoryRange
  var isReadOnly: Bool

  /// - Parameters: `parameter` says which argument it is; `replacement` stands for the view's own name, which is demanded otherwise.
  init(_ pointer: UnsafePointer<ingot_tensor_view>?, _ parameter: String, name replacement: String? = nil) throws(IngotError) {
    guard let pointer = unsafe pointer else { throw nullArgument(parameter) }
    let view = try unsafe ingot_tensor_view.copy(of: pointer)
    let given = try unsafe optionalText(view.name, "name of \(parameter)")
    guard let name = replacement ?? given else {
      throw IngotError(.invalidArgument, "\(parameter) has no name", hint: "set its name", subject: parameter)
    }
    guard let dtype = unsafe DType(rawValue: view.dtype) else {
      throw IngotError(.dtype, unsafe "\(parameter) has the dtype \(view.dtype), expected one of INGOT_DTYPE_*", subject: name)
    }
    let shape = Shape(try unsafe extents(view.shape, view.rank, "shape of \(parameter)", name))
    let strides = unsafe view.strides == nil ? nil : try unsafe extents(view.strides, view.rank, "strides of \(parameter)", name)
    let bytes = try shape.byteCount(dtype)
    guard unsafe view.byte_count == 0 || view.byte_count == UInt64(bytes) else {
      throw IngotError(
        .shape,
        unsafe "\(parameter) has byte_count \(view.byte_count), but shape \(shape) of \(dtype.safetensorsName) takes \(bytes) bytes",
        subject: name)
    }
    memory = unsafe try memoryRange(
      UInt(bitPattern: view.data), shape: shape, strides: strides, width: max(dtype.bits / 8, 1), bytes: bytes,
      name: replacement == nil ? name : parameter)
    self.view = try unsafe TensorView(name: name, dtype: dtype, shape: shape, strides: strides, unsafe: view.data)
    isReadOnly = unsafe view.flags & UInt32(INGOT_TENSOR_READ_ONLY) != 0
  }

  /// False when no two indices lead to one element: each axis steps over all that the axes with smaller steps reach.
  private var repeatsElements: Bool {
    // Without elements there are none to repeat, and strides mean nothing.
    guard let strides = view.strides, !view.shape.dimensions.contains(0) else { return false }
    var reach: UInt = 0
    for (stride, extent) in zip(strides.map(\.magnitude), view.shape.dimensions).filter({ $0.1 > 1 }).sorted(by: { $0.0 < $1.0 }) {
      if stride <= reach { return true }
      // `memoryRange` made sure that this fits.
      reach += stride * UInt(extent - 1)
    }
    return false
  }

  /// An array of pointers to views.
  static func all(
    _ pointers: UnsafePointer<UnsafePointer<ingot_tensor_view>?>?, _ number: UInt64, _ parameter: String, name: String? = nil
  ) throws(IngotError) -> [CheckedTensor] {
    let number = try count(number, "count of \(parameter)")
    if number == 0 { return [] }
    guard let pointers = unsafe pointers else { throw nullArgument(parameter) }
    var tensors: [CheckedTensor] = []
    for index in 0..<number {
      // SAFETY: the C contract: the array has that many pointers.
      tensors.append(try unsafe CheckedTensor(pointers[index], "\(parameter)[\(index)]", name: name))
    }
    return tensors
  }

  /// Checks that outputs may be written: not read-only, and in nobody else's memory.
  static func requireWritable(_ outputs: [CheckedTensor], beside inputs: [MemoryRange]) throws(IngotError) {
    for output in outputs where output.isReadOnly {
      throw IngotError(
        .invalidArgument, "output \(output.view.name) is read-only", hint: "give it memory of its own", subject: output.view.name)
    }
    for output in outputs where output.repeatsElements {
      throw IngotError(
        .invalidArgument, "output \(output.view.name) has strides \(output.view.strides ?? []) that reach some of its elements twice",
        hint: "give it memory of its own", subject: output.view.name)
    }
    // Sorted by address: an overlap shows between a range and the furthest one before it, unless both are inputs.
    let ranges =
      outputs.map { (range: $0.memory, isOutput: true) } + inputs.map { (range: $0, isOutput: false) }
    var furthestInput: MemoryRange?
    var furthestOutput: MemoryRange?
    for (range, isOutput) in ranges.filter({ $0.range.end > $0.range.first }).sorted(by: { $0.range.first < $1.range.first }) {
      let before = isOutput ? [furthestInput, furthestOutput] : [furthestOutput]
      if let other = before.compactMap({ $0 }).first(where: { $0.overlaps(range) }) {
        throw IngotError(
          .invalidArgument, "the memory of tensors \(other.name) and \(range.name) overlaps, and one of them is an output",
          hint: "give the output memory of its own", subject: range.name)
      }
      if isOutput, range.end > furthestOutput?.end ?? 0 { furthestOutput = range }
      if !isOutput, range.end > furthestInput?.end ?? 0 { furthestInput = range }
    }
  }
}

/// `rank` numbers of the caller's.
private func extents(
  _ pointer: UnsafePointer<Int64>?, _ rank: Int32, _ what: String, _ name: String
) throws(IngotError) -> [Int] {
  guard (0...Int32(INGOT_RANK_MAX)).contains(rank) else {
    throw IngotError(.shape, "the rank is \(rank), expected 0 to \(INGOT_RANK_MAX)", subject: name)
  }
  if rank == 0 { return [] }
  guard let pointer = unsafe pointer else { throw nullArgument(what) }
  // SAFETY: the C contract: the array has `rank` entries.
  return (0..<Int(rank)).map { Int(unsafe pointer[$0]) }
}

/// Where the elements lie. Throws `.shape` when the strides lead out of what can be addressed.
private func memoryRange(
  _ address: UInt, shape: Shape, strides: [Int]?, width: Int, bytes: Int, name: String
) throws(IngotError) -> MemoryRange {
  guard bytes > 0 else { return MemoryRange(first: address, end: address, name: name) }
  var below = 0
  var above = bytes
  if let strides {
    above = width
    for (extent, stride) in zip(shape.dimensions, strides) {
      let (elements, overflow) = stride.multipliedReportingOverflow(by: extent - 1)
      let (reach, overflows) = elements.multipliedReportingOverflow(by: width)
      let sum = reach < 0 ? below.addingReportingOverflow(reach) : above.addingReportingOverflow(reach)
      guard !overflow, !overflows, !sum.overflow else { throw unaddressable(shape, strides, name) }
      if reach < 0 { below = sum.partialValue } else { above = sum.partialValue }
    }
  }
  let first = address.addingReportingOverflow(UInt(bitPattern: below))
  let end = address.addingReportingOverflow(UInt(bitPattern: above))
  // Adding a negative offset, as the bit pattern, carries exactly when the result stays at or above zero.
  guard first.overflow == (below < 0), !end.overflow else { throw unaddressable(shape, strides ?? [], name) }
  return MemoryRange(first: first.partialValue, end: end.partialValue, name: name)
}

private func unaddressable(_ shape: Shape, _ strides: [Int], _ name: String) -> IngotError {
  IngotError(.shape, "shape \(shape) with strides \(strides) leaves what this machine can address", subject: name)
}
