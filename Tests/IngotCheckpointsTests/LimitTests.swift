import Foundation
import IngotErrors
import Testing

/// docs/limits.md has every constant of `Limit` with its number, and no other.
@Suite struct LimitTests {
  /// Paths from the root of the repository.
  private static func text(_ path: String, file: String = #filePath) throws -> String {
    let root = URL(fileURLWithPath: file).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    return try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
  }

  /// `256 << 20`, `100_000_000`, `(1 << 24) - 1`.
  private static func value(_ expression: Substring) throws -> Int {
    let plain = expression.filter { !"_() ".contains($0) }
    let parts = plain.split(separator: "-")
    let shifts = try #require(parts.first).split(separator: "<", omittingEmptySubsequences: true)
    let base = try #require(Int(shifts[0]))
    let shifted = shifts.count > 1 ? base << (try #require(Int(shifts[1]))) : base
    return parts.count > 1 ? shifted - (try #require(Int(parts[1]))) : shifted
  }

  @Test func documentationHasTheConstants() throws {
    var constants: [String: Int] = [:]
    for match in try Self.text("Sources/IngotErrors/Limit.swift").matches(of: /static let (\w+) = (.+)/) {
      constants[String(match.1)] = try Self.value(match.2)
    }
    var documented: [String: Int] = [:]
    for match in try Self.text("docs/limits.md").matches(of: /\| ([0-9,]+) \| `(\w+)` \|/) {
      documented[String(match.2)] = Int(match.1.filter { $0 != "," })
    }
    #expect(constants.count > 25)
    #expect(constants == documented)
    // That the expressions above are read as the compiler reads them.
    #expect(constants["headerBytes"] == Limit.headerBytes && constants["tokenNumber"] == Limit.tokenNumber)
    #expect(constants["pickleBytes"] == Limit.pickleBytes && constants["recipeValues"] == Limit.recipeValues)
  }
}
