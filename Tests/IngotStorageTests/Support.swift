import Foundation
import IngotErrors
import Testing

@testable import IngotStorage

/// A directory of its own, removed at the end.
final class Scratch {
  let path: String

  init(_ parent: String = NSTemporaryDirectory()) throws {
    path = (parent as NSString).appendingPathComponent("ingot-storage-\(UUID().uuidString)")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func callAsFunction(_ name: String) -> String { path + "/" + name }

  func write(_ name: String, _ bytes: [UInt8]) throws {
    let url = URL(fileURLWithPath: self(name))
    try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    try Data(bytes).write(to: url)
  }

  func read(_ name: String) -> [UInt8]? { FileManager.default.contents(atPath: self(name)).map { Array($0) } }

  func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: self(name)) }

  /// The names directly inside.
  var topLevel: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }

  /// All names below a directory, sorted; hidden ones too.
  func tree(_ name: String) -> [String] { (FileManager.default.enumerator(atPath: self(name))?.allObjects as? [String] ?? []).sorted() }
}

/// The bytes that the constants of the digest tests were computed from, in Python: (i*31 + (i>>8)) & 255.
func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ ($0 >> 8)) } }

extension Trait where Self == ConditionTrait {
  /// Skips a test where the machine lacks what it needs. Where INGOT_MAY_SKIP is set (see Tests/skips.py) and does not allow `reason`, it runs all
  /// the same, and fails.
  static func machine(_ reason: String, _ has: @escaping @Sendable () -> Bool) -> Self {
    .enabled(Comment(rawValue: reason)) { has() || !maySkip(reason) }
  }
}

/// Whether a test may be skipped for this reason.
private func maySkip(_ reason: String) -> Bool {
  guard let allowed = ProcessInfo.processInfo.environment["INGOT_MAY_SKIP"] else { return true }
  guard !allowed.isEmpty, let pattern = try? Regex(allowed) else { return false }
  return reason.contains(pattern)
}

/// Runs a command without a word; its exit code, -1 where there is no shell.
func shell(_ command: String) -> Int32 {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/bin/sh")
  process.arguments = ["-c", command + " >/dev/null 2>&1"]
  do { try process.run() } catch { return -1 }
  process.waitUntilExit()
  return process.terminationStatus
}

/// Runs `body` and returns the error it must throw.
func failure(
  of body: () throws(IngotError) -> Void, sourceLocation: SourceLocation = #_sourceLocation
) -> IngotError? {
  do throws(IngotError) {
    try body()
    Issue.record("no error was thrown", sourceLocation: sourceLocation)
    return nil
  } catch {
    return error
  }
}

extension TensorDigest {
  /// Adds the bytes of an array.
  func add(_ bytes: some Collection<UInt8>, at offset: Int) throws(IngotError) {
    var result: Result<Void, IngotError> = .success(())
    // SAFETY: the array's storage lives for the closure.
    unsafe Array(bytes).withUnsafeBytes { bytes in
      result = Result { () throws(IngotError) in try unsafe add(bytes, at: offset) }
    }
    try result.get()
  }

  static func of(_ bytes: [UInt8]) throws(IngotError) -> Digest128 {
    let digest = try TensorDigest(byteCount: bytes.count)
    try digest.add(bytes, at: 0)
    return try digest.finish()
  }
}
