import IngotErrors
import IngotJSON

/// What a command could not do, with what the command knows about it.
struct Failure: Error {
  var error: IngotError
  /// The text that the error's position is in.
  var text: [UInt8]?
  /// The command that goes on where this one stopped.
  var resume: String?

  init(_ error: IngotError, text: [UInt8]? = nil, resume: String? = nil) {
    self.error = error
    self.text = text
    self.resume = resume
  }
}

extension Status {
  /// The exit code of the process: the one place where it is decided.
  var exitCode: Int32 {
    switch self {
    case .ok: 0
    case .invalidArgument, .recipe: 2
    case .notFound, .io, .format, .shape, .dtype, .unsupported, .nonFinite: 3
    case .noSpace, .memory: 4
    case .exists: 5
    case .cancelled: 130
    case .callback, .busy, .stale, .output, .internalError: 1
    }
  }
}

extension Failure {
  /// For people: `FILE:LINE:COLUMN: error: MESSAGE`, the line with a caret, the subject, the hint.
  func text(on terminal: Terminal) -> String {
    var lines: [String] = []
    let place = error.position.map { terminal.styled(printable($0.description) + ":", .strong) + " " } ?? ""
    lines.append(place + terminal.styled("error:", .error) + " " + printable(error.message))
    if let position = error.position, let text { lines += excerpt(of: text, at: position) }
    if let subject = error.subject, !subject.isEmpty { lines.append("  subject: " + printable(subject)) }
    if let hint = error.hint { lines.append("  " + terminal.styled("hint:", .note) + " " + printable(hint)) }
    if let resume { lines.append("  " + terminal.styled("resume:", .note) + " " + printable(resume)) }
    return lines.joined(separator: "\n") + "\n"
  }

  /// For programs: one JSON document on one line.
  var json: String {
    var fields: [(String, JSONValue)] = [
      ("status", .string("\(error.status.constantName)")), ("code", .int(error.status.rawValue)),
      ("exit_code", .int(error.status.exitCode)),
      ("message", .string(error.message)), ("hint", JSONValue.text(error.hint)), ("subject", JSONValue.text(error.subject)),
      ("position", JSONValue.position(error.position)), ("user_code", .int(error.userCode)),
    ]
    if let resume { fields.append(("resume", .string(resume))) }
    return JSON.text(document([("error", jsonObject(fields))])) + "\n"
  }

  /// The line of the position, and a caret under its column.
  private func excerpt(of text: [UInt8], at position: SourcePosition) -> [String] {
    let lines = text.split(separator: 0x0A, maxSplits: max(position.line, 1), omittingEmptySubsequences: false)
    guard position.line >= 1, position.line <= lines.count, position.column >= 1 else { return [] }
    let scalars = Array(String(decoding: lines[position.line - 1], as: UTF8.self).unicodeScalars.map { $0 == "\t" ? " " : $0 })
    guard position.column <= scalars.count + 1 else { return [] }
    // A window of the line that the column is in: recipes in JSON may be one long line.
    let start = max(0, position.column - 1 - 60)
    let shown = String(String.UnicodeScalarView(scalars[start..<min(scalars.count, start + 100)]))
    let before = String(String.UnicodeScalarView(scalars[start..<position.column - 1]))
    let number = String(position.line)
    let margin = String(repeating: " ", count: number.count)
    return [
      "  \(number) | \(printable(shown))",
      "  \(margin) | \(String(repeating: " ", count: printable(before).unicodeScalars.count))^",
    ]
  }
}

extension Notice {
  func text(on terminal: Terminal) -> String {
    let place = position.map { terminal.styled(printable($0.description) + ":", .strong) + " " } ?? ""
    let label = severity == .warning ? terminal.styled("warning:", .warning) : terminal.styled("note:", .note)
    return place + label + " " + printable(message) + (subject.map { " (\(printable($0)))" } ?? "") + "\n"
  }
}
