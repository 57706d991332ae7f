import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotStorage
import IngotTensors

// What Ingot writes beside weights and reads again: whoever has the directory may have changed it.

func readRecord(_ bytes: [UInt8]) throws {
  let record = try MergeRecord(parsing: bytes, directory: "out")
  for tensor in record.tensors {
    try require(Digest128(hex: "\(tensor.digest)") == tensor.digest, "the digest of \(tensor.name) is another one as text")
  }
  _ = (record.version, record.planDigest, record.allowsNonfinite, record.numerics, record.missing)
  var failure: IngotError?
  do throws(IngotError) { _ = try record.recipe() } catch { failure = error }
  do throws(IngotError) { _ = try record.seed() } catch { failure = error }
  do throws(IngotError) { _ = try record.models() } catch { failure = error }
  if let failure { throw failure }
}

/// What was understood, written again, is understood as the same; a run resumes what it began itself, and nothing else.
func readJournal(_ bytes: [UInt8]) throws {
  let journal = Journal(parsing: bytes)
  try require(journal.completeBytes <= bytes.count, "\(journal.completeBytes) bytes are complete of \(bytes.count)")
  try require(bytes[journal.completeBytes...].allSatisfy { $0 != 0x0A }, "a line that was not looked at")
  try require(journal.finished.keys.allSatisfy { $0 >= 0 }, "a tensor below 0")
  guard let identity = journal.identity else {
    let digest = Digest128(of: bytes)
    try journal.check(RunIdentity(plan: digest, sources: digest), subject: "out")
    throw FuzzTarget.Violation(words: "a journal without a first line is somebody's")
  }
  try journal.check(identity, subject: "out")
  let (plan, sources) = (identity.plan, identity.sources)
  for other in [
    RunIdentity(plan: sources, sources: sources), RunIdentity(plan: plan, sources: plan), RunIdentity(plan: sources, sources: plan),
  ]
  where other != identity {
    do throws(IngotError) { try journal.check(other, subject: "out") } catch {
      try require(error.status == .stale, "another run is refused as \(error)")
      continue
    }
    throw FuzzTarget.Violation(words: "another run may go on")
  }
  let text =
    Journal.header(identity) + Journal.writerLine() + journal.finished.map { Journal.tensorLine($0.key, $0.value) }.joined()
  let again = Journal(parsing: Array(text.utf8))
  try require(again.identity == identity && again.finished == journal.finished, "it is another journal when it is written again")
  try require(again.writer != nil && again.skippedLines == 0 && again.completeBytes == text.utf8.count, "a line of ours is not understood")
}

/// The record of a rolling merge, of a packed adapter, or of an adapter basis. What is read is written and read again as the same.
func readState(_ bytes: [UInt8]) throws {
  var failures: [IngotError] = []
  func attempt(_ read: ([UInt8]) throws(IngotError) -> [UInt8]) throws {
    let written: [UInt8]
    do throws(IngotError) { written = try read(bytes) } catch { return failures.append(error) }
    let again: [UInt8]
    do throws(IngotError) { again = try read(written) } catch {
      throw FuzzTarget.Violation(words: "what was written cannot be read: \(error)")
    }
    try require(again == written, "read, written and read again it is something else")
  }
  try attempt { (bytes) throws(IngotError) in
    let state = try RollingState(parsing: bytes, path: RollingState.fileName)
    _ = state.normFactor
    return state.bytes
  }
  try attempt { (bytes) throws(IngotError) in
    let record = try AdapterPackRecord(parsing: bytes, path: AdapterPackRecord.fileName)
    // The sizes of its tensors are computed from it.
    for module in record.modules { for tensor in AdapterPackRecord.tensors(module) { _ = try tensor.shape.byteCount(tensor.dtype) } }
    return record.bytes
  }
  try attempt { (bytes) throws(IngotError) in
    let record = try AdapterBasisRecord(parsing: bytes, path: AdapterBasisRecord.fileName)
    for module in record.modules { _ = record.tensors(module, .f32) }
    return record.bytes
  }
  if failures.count == 3 { throw failures[bytes.count % 3] }
}
