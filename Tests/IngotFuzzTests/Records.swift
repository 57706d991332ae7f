import IngotEngine
import IngotErrors
import IngotStorage

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

/// What was understood, written again, is understood as the same.
func readJournal(_ bytes: [UInt8]) throws {
  let journal = Journal(parsing: bytes)
  try require(journal.completeBytes <= bytes.count, "\(journal.completeBytes) bytes are complete of \(bytes.count)")
  try require(bytes[journal.completeBytes...].allSatisfy { $0 != 0x0A }, "a line that was not looked at")
  try require(journal.finished.keys.allSatisfy { $0 >= 0 }, "a tensor below 0")
  guard let identity = journal.identity else { throw IngotError(.format, "no journal") }
  let text = Journal.header(identity) + journal.finished.map { Journal.tensorLine($0.key, $0.value) }.joined()
  let again = Journal(parsing: Array(text.utf8))
  try require(again.identity == identity && again.finished == journal.finished, "it is another journal when it is written again")
  try require(again.skippedLines == 0 && again.completeBytes == text.utf8.count, "a line of ours is not understood")
}
