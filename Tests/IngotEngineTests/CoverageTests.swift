import Foundation
import IngotMethods
import IngotRecipes
import Testing

/// docs/coverage.md tells what there is: no method, and no file, that is not; and no method left out.
@Suite struct CoverageTests {
  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  /// The cells of every row of a table.
  private static func rows() throws -> [[String]] {
    let page = try String(contentsOf: folder.appendingPathComponent("docs/coverage.md"), encoding: .utf8)
    return page.split(separator: "\n").filter { $0.hasPrefix("| ") && !$0.hasPrefix("| paper") }.map { line in
      line.dropFirst().dropLast().split(separator: "|", omittingEmptySubsequences: false).map {
        $0.trimmingCharacters(in: .whitespaces)
      }
    }
  }

  /// What stands between the marks, the text outside left away.
  private static func quoted(_ text: String) -> [String] {
    text.split(separator: "`", omittingEmptySubsequences: false).enumerated().filter { $0.offset % 2 == 1 }.map { String($0.element) }
  }

  @Test func namesWhatThereIs() throws {
    let registered = Set(MethodRegistry.all.map { $0.descriptor.name })
    var named: Set<String> = []
    for row in try Self.rows() {
      try #require(row.count == 3, "\(row)")
      #expect(!row[0].isEmpty && !row[2].isEmpty, "\(row)")
      let isUsual = row[1].split(separator: ",").allSatisfy { id in
        let parts = id.trimmingCharacters(in: .whitespaces).split(separator: ".")
        return parts.count == 2 && parts[0].count == 4 && parts[1].count == 5 && parts.allSatisfy { $0.allSatisfy(\.isNumber) }
      }
      #expect(isUsual, "\(row[1])")
      for name in Self.quoted(row[2]) where name.allSatisfy({ $0.isLowercase || $0.isNumber || $0 == "_" }) {
        #expect(registered.contains(name), "\(row[0]): \(name)")
        named.insert(name)
      }
      for link in row[2].components(separatedBy: "](").dropFirst() {
        let path = String(link.prefix { $0 != ")" })
        let exists = FileManager.default.fileExists(atPath: Self.folder.appendingPathComponent("docs/" + path).path)
        #expect(exists, "\(path)")
      }
    }
    #expect(registered.subtracting(named).isEmpty, "not on the page: \(registered.subtracting(named).sorted())")
  }
}
