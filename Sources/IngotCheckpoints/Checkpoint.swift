package import IngotErrors
package import IngotJSON
package import IngotTensors

/// One weight file of a checkpoint, with what identifies it: size, time of change, and a digest of its header.
package struct CheckpointShard: Sendable, Hashable {
  package var name: String
  package var size: UInt64
  /// Nanoseconds since 1970; 0 when unknown.
  package var modificationTime: Int64
  /// What the opener's digest function gave for the header's JSON.
  package var headerDigest: UInt128
  package var metadata: [MetadataEntry]

  package init(name: String, size: UInt64, modificationTime: Int64, headerDigest: UInt128, metadata: [MetadataEntry] = []) {
    self.name = name
    self.size = size
    self.modificationTime = modificationTime
    self.headerDigest = headerDigest
    self.metadata = metadata
  }
}

/// One tensor of a checkpoint and where its bytes are.
package struct CheckpointTensor: Sendable, Hashable {
  package var name: String
  package var dtype: DType
  package var shape: Shape
  /// Index into the checkpoint's shards.
  package var shard: Int
  /// From the start of the shard's file; of a strided tensor, where the element (0, …, 0) is.
  package var fileOffset: UInt64
  /// Of the elements in row-major order without gaps.
  package var byteCount: Int
  /// Steps in elements, one per axis, none negative; nil for row-major without gaps. Only files of PyTorch have others.
  package var strides: [Int]?
  /// The type that the tensor is written in when a recipe names none, where it is not `dtype`: for tensors that are computed when read.
  package var nominalDType: DType?

  package init(
    name: String, dtype: DType, shape: Shape, shard: Int, fileOffset: UInt64, byteCount: Int, strides: [Int]? = nil,
    nominalDType: DType? = nil
  ) {
    self.strides = strides
    self.nominalDType = nominalDType
    self.name = name
    self.dtype = dtype
    self.shape = shape
    self.shard = shard
    self.fileOffset = fileOffset
    self.byteCount = byteCount
  }
}

/// A model's weights as a description: shards, tensors by name, config. Immutable; holds no file open.
package struct Checkpoint: Sendable {
  /// The model as its opener names it.
  package let displayPath: String
  package let shards: [CheckpointShard]
  /// In the order of the shards' names, inside a shard in the order of the bytes.
  package let tensors: [CheckpointTensor]
  /// The content of config.json, where there is one.
  package let config: JSONValue?
  package let notices: [Notice]
  /// The distinct first components of names, in the order of first mention; the first 64 of them.
  package let leadingComponents: [String]
  private let places: [String: Int]

  /// Throws `.format` when two tensors have one name, `.shape` when all together are larger than anything real.
  package init(
    displayPath: String, shards: [CheckpointShard], tensors: [CheckpointTensor], config: JSONValue?, notices: [Notice] = []
  ) throws(IngotError) {
    var places: [String: Int] = Dictionary(minimumCapacity: tensors.count)
    for (place, tensor) in tensors.enumerated() where places.updateValue(place, forKey: tensor.name) != nil {
      throw IngotError(.format, "\(displayPath) has two tensors of this name, expected one", subject: tensor.name)
    }
    var bytes = 0
    for tensor in tensors {
      guard tensor.byteCount <= Limit.checkpointBytes - bytes else {
        throw IngotError(
          .shape, "the tensors of \(displayPath) take more than \(Limit.checkpointBytes) bytes, expected a checkpoint that exists",
          subject: tensor.name)
      }
      bytes += tensor.byteCount
      // One without elements may have rows of any length.
      if tensor.byteCount == 0, try tensor.shape.span() > Limit.checkpointBytes {
        throw IngotError(.shape, "shape \(tensor.shape) has extents beyond anything that exists", subject: tensor.name)
      }
    }
    var leading: [String] = []
    for tensor in tensors where leading.count < 64 {
      let first = tensor.name.utf8.prefix { $0 != UInt8(ascii: ".") }
      if let last = leading.last, last.utf8.elementsEqual(first) { continue }
      let component = String(Substring(first))
      if !leading.contains(component) { leading.append(component) }
    }
    leadingComponents = leading
    self.displayPath = displayPath
    self.shards = shards
    self.tensors = tensors
    self.config = config
    self.notices = notices
    self.places = places
  }

  /// The place of a tensor in `tensors`.
  package func index(of name: String) -> Int? { places[name] }

  package subscript(name: String) -> CheckpointTensor? { places[name].map { tensors[$0] } }
}
