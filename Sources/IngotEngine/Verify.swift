internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotStorage

/// What came of comparing a directory that Ingot wrote with the digests in its `ingot.json`.
package struct Verification: Sendable {
  package let directory: String
  /// Tensors and bytes that were read and compared.
  package private(set) var tensors = 0
  package private(set) var bytes = 0
  /// Empty when every tensor is as it was written.
  package private(set) var differences: [TensorDifference] = []

  private static let bufferBytes = 4 << 20

  /// Reads every tensor of `directory` and compares its digest with the record, and the record with the weight files' headers.
  ///
  /// Runs on the calling thread and takes a few MiB of memory. Throws `.notFound` (no directory, no record, a weight file that is absent),
  /// `.io`, `.format` (the record or a weight file is not valid), `.unsupported` (a record of a later version), `.cancelled`. Differences
  /// are no error here: see `requireIntact`.
  package init(directory: String, watcher: Watcher = .none) throws(IngotError) {
    self.directory = directory
    let record = try MergeRecord(directory: directory)
    let isAdapter = record.tensors.contains { $0.file == Engine.adapterWeights }
    let model = try LocalModels(environment: [:]).open(
      path: isAdapter ? DirectoryFiles(directory).place(of: Engine.adapterWeights) : directory, isDirectory: !isAdapter)
    let expected = compare(record.tensors, with: model.checkpoint)
    var progress = Progress(
      bytesDone: 0, bytesTotal: expected.reduce(0) { $0 + $1.bytes }, tensorsDone: 0, tensorsTotal: expected.count, tensor: nil)
    var buffer = [UInt8](repeating: 0, count: Self.bufferBytes)
    // In the order of the bytes, file by file: one pass over the medium.
    for entry in expected.sorted(by: { ($0.shard, $0.offset) < ($1.shard, $1.offset) }) {
      progress.tensor = entry.name
      let found = try digest(of: entry, from: model.sources[entry.shard], &buffer, &progress, watcher)
      if found != entry.digest {
        differences.append(
          TensorDifference(tensor: entry.name, file: entry.file, problem: "the digest is \(found), expected \(entry.digest)"))
      }
      tensors += 1
      bytes += entry.bytes
      progress.tensorsDone += 1
    }
    watcher.look(progress, isFinal: true)
    differences.sortByTensor()
  }

  /// Throws `.format` with the number of differences and the first of them.
  package func requireIntact() throws(IngotError) {
    try differences.requireNone(.format, hint: "the directory was changed or damaged after the merge: merge again")
  }

  /// One JSON document with a schema version; with what was computed again, where that was asked for.
  package func json(recomputed: Recomputation? = nil) -> String {
    var document = JSONDocument()
    document.object { document in
      differences.write(to: &document, directory: directory, verdict: "intact", tensors: tensors, bytes: bytes)
      if let recomputed { document.object("recomputed") { recomputed.write(to: &$0) } }
    }
    return document.line()
  }
}

extension Verification {
  /// A tensor as the record has it.
  private struct Entry {
    var name: String
    var file: String
    var offset: Int
    var bytes: Int
    var digest: Digest128
    /// Index into the checkpoint's shards.
    var shard: Int
  }

  /// The tensors whose bytes are to be read. What the record and the files disagree on becomes a difference.
  private mutating func compare(_ record: [MergeRecord.Tensor], with checkpoint: Checkpoint) -> [Entry] {
    let origin = MergeRecord.fileName
    var entries: [Entry] = []
    entries.reserveCapacity(record.count)
    var known: Set<String> = []
    for expected in record {
      let (name, file, offset, bytes) = (expected.name, expected.file, expected.offset, expected.bytes)
      known.insert(name)
      guard let tensor = checkpoint[name] else {
        differences.append(TensorDifference(tensor: name, file: file, problem: "the tensor is not there"))
        continue
      }
      let shard = checkpoint.shards[tensor.shard].name
      // The place in the file is the header's, which was checked against the file's size: the record's is only compared.
      guard shard == file, Int(exactly: tensor.fileOffset) == offset, tensor.byteCount == bytes else {
        differences.append(
          TensorDifference(
            tensor: name, file: shard,
            problem:
              "the tensor has \(tensor.byteCount) bytes at offset \(tensor.fileOffset) of \(shard), expected \(bytes) at \(offset) of \(file)"
          ))
        continue
      }
      entries.append(Entry(name: name, file: file, offset: offset, bytes: bytes, digest: expected.digest, shard: tensor.shard))
    }
    for tensor in checkpoint.tensors where !known.contains(tensor.name) {
      differences.append(
        TensorDifference(tensor: tensor.name, file: checkpoint.shards[tensor.shard].name, problem: "\(origin) does not have this tensor"))
    }
    return entries
  }

  private func digest(
    of entry: Entry, from source: any ByteSource, _ buffer: inout [UInt8], _ progress: inout Progress, _ watcher: Watcher
  ) throws(IngotError) -> Digest128 {
    let digest = try TensorDigest(byteCount: entry.bytes)
    var done = 0
    while done < entry.bytes {
      if let stop = watcher.stop { throw IngotError(.cancelled, "the check was cancelled", userCode: stop.userCode) }
      watcher.look(progress)
      let count = min(buffer.count, entry.bytes - done)
      let start = done
      var outcome: Result<Void, IngotError> = .success(())
      // SAFETY: count <= buffer.count, and the array's storage is this closure's own.
      unsafe buffer.withUnsafeMutableBytes { bytes in
        outcome = Result { () throws(IngotError) in
          let part = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
          try unsafe source.read(part, at: entry.offset + start)
          try unsafe digest.add(UnsafeRawBufferPointer(part), at: start)
        }
      }
      try outcome.get()
      done += count
      progress.bytesDone += count
    }
    return try digest.finish()
  }
}
