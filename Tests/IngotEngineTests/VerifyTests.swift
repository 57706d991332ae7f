import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Synchronization
import Testing

@Suite struct VerifyTests {
  @Test func intact() throws {
    try withMerge { path, count in
      let verification = try Verification(directory: path)
      #expect(verification.differences.isEmpty)
      #expect(verification.tensors == count)
      #expect(verification.bytes == (3 << 20) + 40 + 4)
      try verification.requireIntact()
      let document = try JSON.parse(verification.json(), origin: "verify")
      #expect(document["intact"]?.asBool == true)
    }
  }

  /// One flipped bit anywhere in the data is one tensor that differs, and it is named.
  @Test func findsEveryFlippedBit() throws {
    try withMerge { path, _ in
      let file = URL(fileURLWithPath: path + "/model.safetensors")
      let whole = try Data(contentsOf: file)
      let inspection = try Inspection(of: path, models: LocalModels(environment: [:]))
      for tensor in inspection.checkpoint.tensors where tensor.byteCount > 0 {
        for place in [0, tensor.byteCount / 2, tensor.byteCount - 1] {
          var damaged = whole
          damaged[Int(tensor.fileOffset) + place] ^= 4
          try damaged.write(to: file)
          let verification = try Verification(directory: path)
          #expect(verification.differences.map(\.tensor) == [tensor.name], "\(tensor.name) at \(place)")
          let error = #expect(throws: IngotError.self) { try verification.requireIntact() }
          #expect(error?.status == .format && error?.subject == tensor.name)
        }
      }
      try whole.write(to: file)
    }
  }

  @Test func cancels() throws {
    try withMerge { path, _ in
      let calls = Mutex(0)
      let watcher = unsafe Watcher(
        listener: { progress in
          calls.withLock { $0 += 1 }
          #expect(progress.bytesDone <= progress.bytesTotal)
          return 7
        }, unsafe: nil, intervalMilliseconds: 1)
      let error = #expect(throws: IngotError.self) { try Verification(directory: path, watcher: watcher) }
      #expect(error?.status == .cancelled && error?.userCode == 7)
      #expect(calls.withLock { $0 } == 1)
    }
  }

  @Test(arguments: [
    ("\"schema\": 1", "\"schema\": 2", Status.unsupported), ("\"schema\": 1", "\"schema\": \"1\"", .format),
    ("xxh3-128/1MiB", "md5", .unsupported), ("\"tensors\": {", "\"tensors\": 3, \"x\": {", .format),
    ("\"digest\": \"", "\"digest\": \"zz", .format),
    ("\"bytes\": ", "\"bytes\": -", .ok), ("\"offset\": ", "\"offset\": 9", .ok), ("\"file\": \"", "\"file\": \"../../", .ok),
    ("{", "[", .format),
  ])
  func survivesDamagedRecords(_ old: String, _ new: String, _ status: Status) throws {
    try withMerge { path, _ in
      let file = URL(fileURLWithPath: path + "/ingot.json")
      let text = try String(contentsOf: file, encoding: .utf8)
      // The tensors stand behind the models, which have some of the same keys.
      let range = try #require(text.range(of: old, options: status == .ok ? .backwards : []))
      try text.replacingCharacters(in: range, with: new).write(to: file, atomically: true, encoding: .utf8)
      if status == .ok {
        // The record is well-formed and wrong: a difference, not a failure.
        let verification = try? Verification(directory: path)
        #expect(verification?.differences.isEmpty != true)
      } else {
        let error = #expect(throws: IngotError.self) { try Verification(directory: path) }
        #expect(error?.status == status)
      }
    }
  }
}

/// A merged directory with a tensor of several pieces, a small, an empty and a scalar one; removed afterwards.
private func withMerge(_ body: (_ path: String, _ tensors: Int) throws -> Void) throws {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("ingot-verify-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  func model(_ seed: UInt64) throws -> [TensorView] {
    var generator = SplitMix(seed)
    return try [("large", [3, 1 << 18]), ("small", [10]), ("empty", [0, 4]), ("scalar", [])].map { name, shape in
      let tensor = TestTensor(name, .f32, shape)
      for index in stride(from: 0, to: tensor.count, by: 97) { tensor.set(index, generator.normal()) }
      kept.withLock { $0.append(tensor) }
      return try tensor.view
    }
  }
  let recipe = try Recipe.parse(
    Array("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]\n".utf8), origin: "r",
    catalog: MethodRegistry.catalog)
  let plan = try Plan.make(recipe, models: MemoryModels(["a": try model(1), "b": try model(2)]))
  let path = folder.appendingPathComponent("out").path
  var options = DirectoryOptions()
  options.sync = .none
  _ = try Engine().merge(plan, to: path, options: options)
  try body(path, 4)
}

/// The memory that views point into, for the life of the tests.
private let kept = Mutex<[TestTensor]>([])
