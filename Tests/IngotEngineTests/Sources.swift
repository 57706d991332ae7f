import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors

/// How a test's byte source gives its bytes.
enum SourceKind: CaseIterable, Sendable {
  /// In the source's own memory.
  case mapped
  /// By reads.
  case read
  /// By reads that cost, so that a run keeps what it has read where memory allows.
  case costly
}

/// A source in front of another one: hides its memory, counts its reads, and can fail.
final class TestSource: ByteSource, @unchecked Sendable {
  // SENDABLE: immutable; the hook is the test's business.
  private let inner: any ByteSource
  private let kind: SourceKind
  private let onRead: (@Sendable (Range<Int>) throws(IngotError) -> Void)?

  init(_ inner: any ByteSource, kind: SourceKind, onRead: (@Sendable (Range<Int>) throws(IngotError) -> Void)? = nil) {
    self.inner = inner
    self.kind = kind
    self.onRead = onRead
  }

  var name: String { inner.name }
  var isCostlyToReread: Bool { kind == .costly }

  func read(_ destination: UnsafeMutableRawBufferPointer, at offset: Int) throws(IngotError) {
    try onRead?(offset..<offset + destination.count)
    try unsafe inner.read(destination, at: offset)
  }

  func address(of range: Range<Int>) -> UnsafeRawPointer? { kind == .mapped ? unsafe inner.address(of: range) : nil }
  func requireUnchanged() throws(IngotError) { try inner.requireUnchanged() }
}

/// The models of another provider with `TestSource`s in front.
struct TestModels: ModelProvider {
  let inner: any ModelProvider
  var kind = SourceKind.read
  var onRead: (@Sendable (Range<Int>) throws(IngotError) -> Void)?

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    var model = try inner.open(reference)
    model.sources = model.sources.map { TestSource($0, kind: kind, onRead: onRead) }
    return model
  }
}

/// Models that lie in directories of their names.
struct DirectoryModels: ModelProvider {
  let root: String
  var system = System.live

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    try LocalModels(environment: [:], system: system).open(path: root + "/" + reference.name, isDirectory: true)
  }
}

extension MemoryModels {
  /// Models of tensors that a test owns.
  init(_ models: [String: [TestTensor]]) throws {
    self.init(try models.mapValues { try $0.map { try $0.view } })
  }
}

extension Recipe {
  /// A recipe of the engine's methods.
  init(_ text: String) throws {
    self = try Recipe.parse(Array(text.utf8), origin: "recipe.yml", catalog: MethodRegistry.catalog)
  }
}
