internal import IngotCheckpoints
package import IngotErrors
package import IngotRecipes
package import IngotStorage
package import IngotTensors

/// A tensor in the caller's memory, borrowed: it must stay valid and unchanged while a plan that uses it runs.
@safe
package struct TensorView: @unchecked Sendable {
  // SENDABLE: an address the caller promised to leave alone while the engine uses it.
  package let name: String
  package let dtype: DType
  package let shape: Shape
  /// Steps in elements, one per axis, possibly zero or negative; nil for row-major without gaps.
  package let strides: [Int]?
  let address: UnsafeMutableRawPointer?
  /// Bytes of the elements, packed.
  package let byteCount: Int
  /// True when the elements lie packed in row-major order.
  package let isContiguous: Bool

  /// - Parameters: `address` points at the element of index (0, …, 0); nil only for a tensor without elements.
  /// Throws `.invalidArgument` when shape, strides and address do not fit together, `.dtype` for strided sub-byte types.
  package init(
    name: String, dtype: DType, shape: Shape, strides: [Int]? = nil, unsafe address: UnsafeMutableRawPointer?
  ) throws(IngotError) {
    let count = try shape.elementCount()
    byteCount = try shape.byteCount(dtype)
    if let strides {
      guard strides.count == shape.rank else {
        throw IngotError(
          .invalidArgument, "tensor \(name) has \(strides.count) strides and \(shape.rank) axes", hint: "give one stride per axis",
          subject: name)
      }
    }
    let isAbsent = unsafe address == nil
    guard count == 0 || !isAbsent else {
      throw IngotError(.invalidArgument, "tensor \(name) has \(count) elements but no address", subject: name)
    }
    self.name = name
    self.dtype = dtype
    self.shape = shape
    self.strides = strides
    unsafe self.address = unsafe address
    isContiguous = strides.map { Self.isPacked(shape, $0) } ?? true
    guard isContiguous || dtype.bits % 8 == 0 else {
      throw IngotError(.dtype, "tensor \(name) of \(dtype.safetensorsName) has strides, which need whole bytes", subject: name)
    }
  }

  private static func isPacked(_ shape: Shape, _ strides: [Int]) -> Bool {
    var expected = 1
    for (extent, stride) in zip(shape.dimensions, strides).reversed() {
      if extent == 0 { return true }
      if extent != 1 && stride != expected { return false }
      expected *= extent
    }
    return true
  }

  /// Copies between packed bytes from `offset` on and the tensor's elements. Offsets and counts are whole elements.
  func transfer(_ packed: UnsafeMutableRawPointer, offset: Int, count: Int, toTensor: Bool) {
    guard let address = unsafe address, let strides else { return }
    let width = dtype.bits / 8
    let last = max(shape.rowLength, 1)
    let step = strides.last ?? 1
    var element = offset / width
    var done = 0
    while done < count / width {
      // SAFETY: the caller of the view promised that every index of the shape is addressable.
      let row = min(last - element % last, count / width - done)
      let start = unsafe address + (rowOffset(element / last, strides) + (element % last) * step) * width
      for index in 0..<row {
        let place = unsafe start + index * step * width
        let other = unsafe packed + (done + index) * width
        if toTensor {
          unsafe place.copyMemory(from: other, byteCount: width)
        } else {
          unsafe other.copyMemory(from: place, byteCount: width)
        }
      }
      element += row
      done += row
    }
  }

  /// Elements from the origin to the start of row `row`, counting all axes but the last.
  private func rowOffset(_ row: Int, _ strides: [Int]) -> Int {
    var rest = row
    var offset = 0
    for axis in stride(from: shape.rank - 2, through: 0, by: -1) {
      let extent = max(shape.dimensions[axis], 1)
      offset += rest % extent * strides[axis]
      rest /= extent
    }
    return offset
  }
}

/// A tensor view as a byte source: packed row-major bytes whatever its strides.
final class ViewSource: ByteSource {
  private let view: TensorView

  init(_ view: TensorView) { self.view = view }

  var name: String { view.name }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset <= view.byteCount, destination.count <= view.byteCount - offset else {
      throw IngotError(
        .io, "read of \(destination.count) bytes at \(offset) leaves the tensor's \(view.byteCount) bytes", subject: view.name)
    }
    guard let target = destination.baseAddress, let from = unsafe view.address else { return }
    if view.isContiguous {
      unsafe target.copyMemory(from: from + offset, byteCount: destination.count)
    } else {
      unsafe view.transfer(target, offset: offset, count: destination.count, toTensor: false)
    }
  }

  func address(of range: Range<Int>) -> UnsafeRawPointer? {
    guard view.isContiguous, range.upperBound <= view.byteCount, let base = unsafe view.address else { return nil }
    return unsafe UnsafeRawPointer(base + range.lowerBound)
  }
}

/// Models made of tensors in memory, by the name a recipe uses; other names go to `fallback`.
package struct MemoryModels: ModelProvider {
  private let models: [String: [TensorView]]
  private let fallback: (any ModelProvider)?

  package init(_ models: [String: [TensorView]], fallback: (any ModelProvider)? = nil) {
    self.models = models
    self.fallback = fallback
  }

  package func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    if let fallback { return try fallback.adapting(model, as: reference) }
    throw IngotError(
      .notFound, "the adapter of \(reference.name) was not given", subject: reference.name, position: reference.position)
  }

  package func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    guard let views = models[reference.name] else {
      if let fallback { return try fallback.open(reference) }
      throw IngotError(
        .notFound, "no model of the name \(reference.name) was given",
        hint: "the models are \(models.keys.sorted().joined(separator: ", "))", subject: reference.name, position: reference.position)
    }
    var shards: [CheckpointShard] = []
    var tensors: [CheckpointTensor] = []
    var sources: [any ByteSource] = []
    for (index, view) in views.enumerated() {
      shards.append(CheckpointShard(name: view.name, size: UInt64(view.byteCount), modificationTime: 0, headerDigest: 0))
      tensors.append(
        CheckpointTensor(name: view.name, dtype: view.dtype, shape: view.shape, shard: index, fileOffset: 0, byteCount: view.byteCount))
      sources.append(ViewSource(view))
    }
    let checkpoint = try Checkpoint(displayPath: reference.name, shards: shards, tensors: tensors, config: nil)
    return ProvidedModel(path: reference.name, checkpoint: checkpoint, sources: sources, files: nil)
  }
}

/// Writes a plan's tensors into the caller's memory. An output may be one of the inputs only where the plan reads each element once, before it
/// writes it; the engine cannot see that, so callers who pass the same memory twice must copy (see `mergeTensors`).
package final class MemorySink: OutputSink {
  package let finished: Set<Int> = []
  package let wantsDigests = false
  /// Output views of each file, by where the tensor begins in it.
  private let views: [[(offset: Int, view: TensorView)]]

  /// Throws `.notFound`, `.dtype` or `.shape` when `outputs` do not match the plan's tensors name by name.
  package init(plan: Plan, outputs: [TensorView]) throws(IngotError) {
    var byName: [String: TensorView] = [:]
    for view in outputs { byName[view.name] = view }
    var views = [[(offset: Int, view: TensorView)]](repeating: [], count: plan.files.count)
    for tensor in plan.tensors {
      guard let view = byName[tensor.name] else {
        throw IngotError(.notFound, "no output was given for tensor \(tensor.name)", subject: tensor.name)
      }
      guard view.dtype == tensor.dtype else {
        throw IngotError(
          .dtype, "output \(tensor.name) is \(view.dtype.safetensorsName), the merge gives \(tensor.dtype.safetensorsName)",
          hint: "set out_dtype, or allocate the output in that type", subject: tensor.name)
      }
      guard view.shape == tensor.shape else {
        throw IngotError(
          .shape, "output \(tensor.name) has shape \(view.shape), the merge gives \(tensor.shape)", subject: tensor.name)
      }
      views[tensor.file].append((tensor.offset, view))
    }
    self.views = views.map { $0.sorted { $0.offset < $1.offset } }
  }

  package func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {
    guard let from = bytes.baseAddress, views.indices.contains(file) else { return }
    let list = views[file]
    var low = 0
    var high = list.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if list[middle].offset <= offset { low = middle } else { high = middle }
    }
    guard list.indices.contains(low), let target = unsafe list[low].view.address else { return }
    let within = offset - list[low].offset
    let view = list[low].view
    guard within >= 0, bytes.count <= view.byteCount - within else {
      throw IngotError(.internalError, "a write of \(bytes.count) bytes at \(within) leaves the output", subject: view.name)
    }
    if view.isContiguous {
      unsafe (target + within).copyMemory(from: from, byteCount: bytes.count)
    } else {
      unsafe view.transfer(UnsafeMutableRawPointer(mutating: from), offset: within, count: bytes.count, toTensor: true)
    }
  }

  package func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {}
}
