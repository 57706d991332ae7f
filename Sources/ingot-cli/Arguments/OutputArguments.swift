import ArgumentParser
import IngotErrors

/// Options of every command that say how it talks.
struct OutputArguments: ParsableArguments {
  @Flag(help: "Print one JSON document on standard output, and failures as one on standard error.")
  var json = false

  @Flag(name: .shortAndLong, help: "Print no notices, no summary and no progress; failures are printed.")
  var quiet = false

  /// Shows what was found on the way. In JSON documents notices are a field.
  func talk(_ notices: [Notice]) {
    guard !json, !quiet else { return }
    for notice in notices { Console.talk(notice.text(on: .standardError)) }
  }

  /// Prints a result in its two forms.
  func print(_ text: @autoclosure () -> String, json document: @autoclosure () -> String) throws {
    try Console.result(json ? document() : text())
  }
}
