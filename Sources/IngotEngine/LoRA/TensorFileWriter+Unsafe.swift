internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotStorage
internal import IngotTensors

/// Writes the tensors of one safetensors file, whose types and shapes are known, one after the other, and keeps their digests.
///
/// Thread rule: not Sendable; one thread.
final class TensorFileWriter {
  private let tensors: [TensorDescription]
  private let layout: SafetensorsLayout
  private var written: [AdapterRun.Written] = []

  init(_ tensors: [TensorDescription]) throws(IngotError) {
    self.tensors = tensors
    layout = try SafetensorsLayout(tensors: tensors, metadata: [MetadataEntry("format", "pt")])
  }

  var fileSize: Int { Int(clamping: layout.fileSize) }

  func begin(_ file: OutputFile) throws(IngotError) { try file.write(layout.header, at: 0) }

  /// The tensor that is next, and where it lies.
  private func next() throws(IngotError) -> (tensor: TensorDescription, offset: Int, byteCount: Int) {
    let place = written.count
    guard tensors.indices.contains(place), let offset = Int(exactly: layout.fileOffsets[place]) else {
      throw IngotError(.internalError, "more tensors than were announced")
    }
    return (tensors[place], offset, layout.byteCounts[place])
  }

  /// The next tensor, rounded to its type. Throws `.nonFinite` where that holds no such number.
  func write(_ values: [Float], to file: OutputFile, _ kernels: Kernels) throws(IngotError) {
    let (tensor, _, byteCount) = try next()
    let count = values.count
    let (wide, narrow) = (ReadScratch(4 * count), ReadScratch(byteCount))
    guard count * tensor.dtype.bits / 8 == byteCount else {
      throw IngotError(.internalError, "\(count) values for \(byteCount) bytes", subject: tensor.name)
    }
    let floats = wide.floats(0, count)
    for (index, value) in values.enumerated() { floats[index] = value }
    // SAFETY: as many elements as the scratch was made for.
    kernels.store(floats, into: unsafe MutableElementSlice(unsafe: narrow.address, dtype: tensor.dtype, count: count))
    // What was rounded is looked at again: f16 ends at 65504.
    guard kernels.load(narrow.elements(0, tensor.dtype, count), into: floats) == 0 else {
      throw IngotError(
        .nonFinite, "there are values beyond what \(tensor.dtype.safetensorsName) holds", hint: "choose another type with --dtype",
        subject: tensor.name)
    }
    // SAFETY: the scratch lives to the end of this function.
    try unsafe write(UnsafeRawBufferPointer(narrow.bytes(0, byteCount)), to: file)
    withExtendedLifetime(wide) {}
    withExtendedLifetime(narrow) {}
  }

  /// The next tensor's bytes.
  func write(_ bytes: [UInt8], to file: OutputFile) throws(IngotError) {
    let (tensor, _, byteCount) = try next()
    guard bytes.count == byteCount else {
      throw IngotError(.internalError, "\(bytes.count) bytes for \(byteCount)", subject: tensor.name)
    }
    let scratch = ReadScratch(byteCount)
    // SAFETY: the scratch has as many bytes, and lives to the end of this function.
    unsafe scratch.bytes(0, byteCount).copyBytes(from: bytes)
    try unsafe write(UnsafeRawBufferPointer(scratch.bytes(0, byteCount)), to: file)
    withExtendedLifetime(scratch) {}
  }

  private func write(_ bytes: UnsafeRawBufferPointer, to file: OutputFile) throws(IngotError) {
    let (tensor, offset, _) = try next()
    // SAFETY: the caller keeps the bytes alive for the call.
    try unsafe file.write(bytes, at: offset)
    written.append(.init(name: tensor.name, offset: offset, byteCount: bytes.count, digest: try unsafe TensorDigest.of(bytes)))
  }

  /// The next tensor, from where it is.
  func copy(_ source: any DerivedTensor, to file: OutputFile) throws(IngotError) {
    let (tensor, offset, byteCount) = try next()
    written.append(.init(name: tensor.name, offset: offset, byteCount: byteCount, digest: try source.copy(byteCount, to: file, at: offset)))
  }

  /// The text of `ingot.json`.
  func record(_ operation: String, file name: String) -> String { written.record(operation, file: name) }
}

extension [AdapterRun.Written] {
  /// The text of `ingot.json`, by which `ingot verify` checks the directory; `more` adds members at the end.
  func record(_ operation: String, file name: String, _ more: (inout JSONDocument) -> Void = { _ in }) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("ingot_version", Version.text)
      document.field("operation", operation)
      document.field("digest_algorithm", "xxh3-128/1MiB")
      document.object("tensors") { list in
        for tensor in self {
          list.object(tensor.name) { entry in
            entry.field("file", name)
            entry.field("offset", tensor.offset)
            entry.field("bytes", tensor.byteCount)
            entry.field("digest", tensor.digest.description)
          }
        }
      }
      more(&document)
    }
    return document.line()
  }
}

extension DerivedTensor {
  /// Writes the tensor's bytes into a file, piece by piece, and gives their digest.
  func copy(_ byteCount: Int, to file: OutputFile, at offset: Int) throws(IngotError) -> Digest128 {
    let digest = try TensorDigest(byteCount: byteCount)
    let scratch = ReadScratch(min(byteCount, TensorDigest.pieceSize))
    var done = 0
    while done < byteCount {
      // SAFETY: the scratch lives to the end of this function, and is this call's alone.
      let piece = unsafe scratch.bytes(0, min(scratch.count, byteCount - done))
      try unsafe read(piece, at: done)
      try unsafe file.write(UnsafeRawBufferPointer(piece), at: offset + done)
      try unsafe digest.add(UnsafeRawBufferPointer(piece), at: done)
      done += piece.count
    }
    withExtendedLifetime(scratch) {}
    return try digest.finish()
  }
}

extension StoredBytes {
  /// The whole tensor in memory.
  func allBytes() throws(IngotError) -> [UInt8] {
    let scratch = ReadScratch(byteCount)
    // SAFETY: the scratch lives to the end of this function.
    let all = unsafe scratch.bytes(0, byteCount)
    try unsafe read(all, at: 0)
    let bytes = unsafe Array(all)
    withExtendedLifetime(scratch) {}
    return bytes
  }
}
