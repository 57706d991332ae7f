package import IngotErrors
package import IngotStorage

/// Bytes that a plan reads: a shard, a caller's tensor, a caller's byte source. Read from any worker at once.
package protocol ByteSource: AnyObject, Sendable {
  /// How messages name it.
  var name: String { get }

  /// Fills `destination` with the bytes from `offset` on. Throws `.io` when fewer are there.
  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError)

  /// The address of the bytes when they lie in memory already; they must stay there while the plan runs.
  func address(of range: Range<Int>) -> UnsafeRawPointer?

  /// True when reading a range again costs as much as the first time. Files are read through the page cache, which serves a second read of
  /// what was just read faster than buffers of our own would (measured), so only callers' own byte sources say true.
  var isCostlyToReread: Bool { get }

  /// A hint that the range will be read soon, front to back.
  func willRead(_ range: Range<Int>)

  /// The same for a range that will be read once, in pieces of `step` bytes from its start on, by a worker on memory node `node`: where it is a
  /// cold file's it is read past the page cache, and `take` gives it.
  func willReadOnce(_ range: Range<Int>, step: Int, node: Int, _ ahead: ReadAhead)

  /// The bytes of `range` and maybe more around it, if they were announced so and read ahead; to be released by the caller.
  func take(_ range: Range<Int>, _ ahead: ReadAhead) -> ReadAhead.Held?

  /// Throws `.stale` when the source is not what it was when it was opened.
  func requireUnchanged() throws(IngotError)

  /// What a source that no file holds is computed from and how, without paths: part of the plan's digest. Nil for what is read as it stands.
  var derivation: String? { get }

  /// True for bytes that are computed when they are read, from others that are counted where they are read.
  var isComputed: Bool { get }

  /// Reads of files or callers' memory behind one element, at most.
  var readsPerElement: Int { get }

  /// The source as one run reads it: most are read as they are, some need the run's memory or a place on its disk.
  func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource
}

extension ByteSource {
  package func address(of range: Range<Int>) -> UnsafeRawPointer? { nil }
  package var isCostlyToReread: Bool { false }
  package func willRead(_ range: Range<Int>) {}
  package func willReadOnce(_ range: Range<Int>, step: Int, node: Int, _ ahead: ReadAhead) { willRead(range) }
  package func take(_ range: Range<Int>, _ ahead: ReadAhead) -> ReadAhead.Held? { nil }
  package func requireUnchanged() throws(IngotError) {}
  package var derivation: String? { nil }
  package var isComputed: Bool { false }
  package var readsPerElement: Int { 1 }
  package func bound(to run: SourceBinding) throws(IngotError) -> any ByteSource { self }
}

/// Where a plan's output goes. Called from any worker at once, except `finish`.
package protocol OutputSink: AnyObject, Sendable {
  /// Output tensors already in place from an earlier run; they are not computed again.
  var finished: Set<Int> { get }

  /// False when nobody wants the digests (a caller's memory, a null sink without verification).
  var wantsDigests: Bool { get }

  /// Stores bytes of output file `file` at `offset`.
  func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError)

  /// True when a large write waits for a device while the processor has nothing to do: it is then left to other threads.
  var waitsForDevice: Bool { get }

  /// Every byte of output tensor `index` has been stored.
  func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError)
}

extension OutputSink {
  package var waitsForDevice: Bool { false }
}

/// A sink that stores nothing: `--sink null`.
package final class NullSink: OutputSink {
  package let finished: Set<Int> = []
  package let wantsDigests = true
  package init() {}
  package func write(_ bytes: UnsafeRawBufferPointer, file: Int, at offset: Int) throws(IngotError) {}
  package func tensorFinished(_ index: Int, digest: Digest128?) throws(IngotError) {}
}
