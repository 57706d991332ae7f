import Foundation
import Testing

/// Every input of Tests/Corpora, those that once were findings among them, ends in a value or an error.
@Suite struct CorpusTests {
  static func inputs(_ target: FuzzTarget, file: String = #filePath) throws -> [(name: String, bytes: [UInt8])] {
    let folder = URL(fileURLWithPath: file).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent(
      "Corpora/\(target.rawValue)")
    return try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map { name in
      (name, Array(try Data(contentsOf: folder.appendingPathComponent(name))))
    }
  }

  @Test(arguments: FuzzTarget.allCases) func replay(_ target: FuzzTarget) throws {
    let inputs = try Self.inputs(target)
    #expect(inputs.count >= 8)
    var read = 0
    for (name, bytes) in inputs {
      do {
        let isRead = try target.run(bytes)
        read += isRead ? 1 : 0
        // What others write must stay readable: a corpus of refusals alone would test little.
        #expect(isRead || !name.hasPrefix("good-"), "\(target)/\(name) was refused")
      } catch {
        Issue.record("\(target)/\(name): \(error)")
      }
    }
    #expect(read > 0)
  }
}
