import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotTensors

// A delta pack over a small base of zeros, and everything that it unpacks to.

/// Bytes that are read as a file would be.
private final class BytesSource: ByteSource {
  let name = "bytes"
  private let bytes: [UInt8]

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    guard offset >= 0, offset <= bytes.count, destination.count <= bytes.count - offset else {
      throw IngotError(.io, "a read beyond the end", subject: name)
    }
    for index in 0..<destination.count { destination[index] = bytes[offset + index] }
  }
}

private let packBase = Result {
  var offset = 0
  let tensors = [("m.mlp.weight", [4, 6]), ("m.bias", [4])].map { name, shape in
    let bytes = 4 * shape.reduce(1, *)
    defer { offset += bytes }
    return CheckpointTensor(name: name, dtype: .f32, shape: Shape(shape), shard: 0, fileOffset: UInt64(offset), byteCount: bytes)
  }
  let shard = CheckpointShard(name: "base", size: UInt64(offset), modificationTime: 0, headerDigest: 0)
  let checkpoint = try Checkpoint(displayPath: "base", shards: [shard], tensors: tensors, config: nil)
  return ProvidedModel(
    path: "base", checkpoint: checkpoint, sources: [BytesSource([UInt8](repeating: 0, count: offset))], files: nil)
}

func readPack(_ bytes: [UInt8]) throws {
  let checkpoint = try Checkpoint.open(files: MemoryFiles(files: [DeltaPack.fileName: bytes]), fileName: DeltaPack.fileName)
  let pack = ProvidedModel(path: "pack", checkpoint: checkpoint, sources: [BytesSource(bytes)], files: nil)
  let base = try packBase.get()
  for model in [try base.applying(pack: pack, task: "0", name: "base"), try pack.packedDeltas(task: "0", base: (base, "base"))] {
    // As a run reads it, on another instruction set: the same bytes.
    let binding = SourceBinding(kernels: Kernels(.scalar))
    for tensor in model.checkpoint.tensors where tensor.name.hasPrefix("m.") {
      try require(model.sources.indices.contains(tensor.shard), "\(tensor.name) in no source")
      // What the base does not have is refused, so nothing is larger than it.
      try require(tensor.byteCount <= 8 * 24, "\(tensor.name) has \(tensor.byteCount) bytes")
      let source = model.sources[tensor.shard]
      let bytes = try read(tensor, from: source)
      try require(try read(tensor, from: source.bound(to: binding)) == bytes, "\(tensor.name) has other bytes in a run")
    }
  }
}

private func read(_ tensor: CheckpointTensor, from source: any ByteSource) throws -> [UInt8] {
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: tensor.byteCount, alignment: 8)
  defer { memory.deallocate() }
  try source.read(memory, at: Int(tensor.fileOffset))
  return Array(memory)
}
