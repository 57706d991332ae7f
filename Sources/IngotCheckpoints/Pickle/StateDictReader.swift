import IngotErrors
import IngotTensors

/// Finds the tensors in what a PyTorch file holds: a state dict, or a training checkpoint with one inside.
struct StateDictReader {
  private let content: TorchFile.Content
  private let origin: String
  private(set) var notices: [Notice] = []

  /// Keys under which trainers keep the state dict.
  private static let wrappers = ["state_dict", "model", "model_state_dict", "module"]

  init(_ content: TorchFile.Content, origin: String) {
    self.content = content
    self.origin = origin
  }

  private typealias Items = [(key: PickleValue, value: PickleValue)]

  private func dict(_ value: PickleValue) -> Items? {
    if case .object(let index) = value, case .dict(let items) = content.unpickler.objects[index] { return items }
    return nil
  }

  private static func isTensor(_ value: PickleValue) -> Bool {
    if case .tensor = value { return true }
    return false
  }

  /// In the order of their bytes. Throws `.format` when there is no dict, or a tensor leaves its storage.
  mutating func read() throws(IngotError) -> [CheckpointTensor] {
    guard var items = dict(content.root) else {
      throw IngotError(.format, "the file holds no dict, expected a state dict", subject: origin)
    }
    // Two levels are what trainers write.
    for _ in 0..<2 {
      guard let inner = unwrapped(items) else { break }
      items = inner
    }
    var skipped: [String] = []
    var tensors: [CheckpointTensor] = []
    var places: [String: Int] = [:]
    for (key, value) in items {
      guard let name = key.asString, case .tensor(let index) = value else {
        skipped.append(key.asString ?? "an entry without a name")
        continue
      }
      guard !name.utf8.contains(0) else { throw IngotError(.format, "a tensor name holds a NUL character", subject: origin) }
      let tensor = try place(content.unpickler.tensors[index], name)
      if let known = places.updateValue(places[name] ?? tensors.count, forKey: name) {
        tensors[known] = tensor
      } else {
        tensors.append(tensor)
      }
    }
    if !skipped.isEmpty {
      let list = skipped.prefix(3).map { "\"\($0.prefix(60))\"" }.joined(separator: ", ") + (skipped.count > 3 ? ", …" : "")
      notices.append(Notice(.info, "\(skipped.count) entries that are no tensors are left out (\(list))", subject: origin))
    }
    return tensors.enumerated().sorted { ($0.element.fileOffset, $0.offset) < ($1.element.fileOffset, $1.offset) }.map(\.element)
  }

  /// The state dict inside of a training checkpoint.
  private mutating func unwrapped(_ items: Items) -> Items? {
    for wrapper in Self.wrappers {
      guard let inner = items.last(where: { $0.key.asString == wrapper }).flatMap({ dict($0.value) }) else { continue }
      let hasTensors = inner.contains { Self.isTensor($0.value) }
      guard hasTensors || inner.contains(where: { Self.wrappers.contains($0.key.asString ?? "") }) else { continue }
      let others = items.compactMap { $0.key.asString == wrapper ? nil : $0.key.asString }
      let list = others.prefix(3).map { "\"\($0.prefix(60))\"" }.joined(separator: ", ") + (others.count > 3 ? ", …" : "")
      notices.append(
        Notice(
          .info,
          "the tensors are taken from \"\(wrapper)\"" + (others.isEmpty ? "" : "; \(others.count) other entries are left out (\(list))"),
          subject: origin))
      return inner
    }
    return nil
  }

  /// Where a tensor's elements lie, checked against its storage.
  private func place(_ tensor: TorchTensor, _ name: String) throws(IngotError) -> CheckpointTensor {
    let storage = content.places[tensor.storage]
    let shape = Shape(tensor.shape)
    let count = try shape.elementCount()
    let byteCount = try shape.byteCount(tensor.dtype)
    let width = tensor.dtype.bits / 8
    var last = tensor.offset
    var isInside = true
    for (extent, stride) in zip(tensor.shape, tensor.strides) where extent > 0 && count > 0 {
      let (step, overflow) = (extent - 1).multipliedReportingOverflow(by: stride)
      let (sum, overflow2) = last.addingReportingOverflow(step)
      if overflow || overflow2 { isInside = false }
      last = sum
    }
    let elements = Int(clamping: storage.size) / width
    guard isInside, count > 0 ? last < elements : tensor.offset <= elements else {
      throw IngotError(
        .format, "the tensor of shape \(shape) leaves its storage of \(storage.size) bytes", hint: "the file is damaged: fetch it again",
        subject: name)
    }
    guard byteCount <= elements * width || byteCount <= Limit.expandedBytes else {
      throw IngotError(
        .unsupported, "the tensor of shape \(shape) is expanded from a storage of \(storage.size) bytes", hint: "save it as contiguous()",
        subject: name)
    }
    var strides: [Int]? = tensor.strides
    var expected = 1
    var isPacked = true
    for (extent, stride) in zip(tensor.shape, tensor.strides).reversed() where extent != 1 && count > 0 {
      if stride != expected { isPacked = false }
      expected *= extent
    }
    if isPacked || count == 0 { strides = nil }
    return CheckpointTensor(
      name: name, dtype: tensor.dtype, shape: shape, shard: 0, fileOffset: storage.offset + UInt64(tensor.offset * width),
      byteCount: byteCount, strides: strides)
  }
}
