/// What kind of failure happened. Raw values are those of `ingot_status` in `ingot.h` and are never renumbered.
package enum Status: Int32, Sendable, CaseIterable {
  case ok = 0
  case invalidArgument = -1
  case recipe = -2
  case notFound = -3
  case io = -4
  case format = -5
  case shape = -6
  case dtype = -7
  case memory = -8
  case cancelled = -9
  case callback = -10
  case unsupported = -11
  case exists = -12
  case noSpace = -13
  case nonFinite = -14
  case busy = -15
  case stale = -16
  case output = -17
  case internalError = -99
}

extension Status {
  /// The name of the constant in ingot.h.
  package var constantName: StaticString {
    switch self {
    case .ok: "INGOT_OK"
    case .invalidArgument: "INGOT_E_INVALID_ARGUMENT"
    case .recipe: "INGOT_E_RECIPE"
    case .notFound: "INGOT_E_NOT_FOUND"
    case .io: "INGOT_E_IO"
    case .format: "INGOT_E_FORMAT"
    case .shape: "INGOT_E_SHAPE"
    case .dtype: "INGOT_E_DTYPE"
    case .memory: "INGOT_E_MEMORY"
    case .cancelled: "INGOT_E_CANCELLED"
    case .callback: "INGOT_E_CALLBACK"
    case .unsupported: "INGOT_E_UNSUPPORTED"
    case .exists: "INGOT_E_EXISTS"
    case .noSpace: "INGOT_E_NO_SPACE"
    case .nonFinite: "INGOT_E_NONFINITE"
    case .busy: "INGOT_E_BUSY"
    case .stale: "INGOT_E_STALE"
    case .output: "INGOT_E_OUTPUT"
    case .internalError: "INGOT_E_INTERNAL"
    }
  }
}

/// A place in a text: 1-based line and column (column counts Unicode scalars), and the name the text goes by (a path, usually).
package struct SourcePosition: Hashable, Sendable, CustomStringConvertible {
  package var origin: String
  package var line: Int
  package var column: Int

  package init(origin: String, line: Int, column: Int) {
    self.origin = origin
    self.line = line
    self.column = column
  }

  package var description: String { "\(origin):\(line):\(column)" }
}

/// The one error of the engine: what was found and what was expected, where, and what to try next.
///
/// `message` is one line, impersonal, with units, and does not repeat `subject` or `position` when a caller prints them.
/// `subject` is what the failure is about: a tensor, a path, a recipe key. `userCode` is what a caller's callback returned.
package struct IngotError: Error, Sendable, Hashable {
  package var status: Status
  package var message: String
  package var hint: String?
  package var subject: String?
  package var position: SourcePosition?
  package var userCode: Int32

  package init(
    _ status: Status, _ message: String, hint: String? = nil, subject: String? = nil, position: SourcePosition? = nil,
    userCode: Int32 = 0
  ) {
    self.status = status
    self.message = message
    self.hint = hint
    self.subject = subject
    self.position = position
    self.userCode = userCode
  }

  /// This error; of a place, where it has none of its own.
  package func at(_ position: SourcePosition?) -> IngotError {
    var placed = self
    placed.position = self.position ?? position
    return placed
  }

  /// This error; about something, where it does not say about what.
  package func about(_ subject: String) -> IngotError {
    var named = self
    named.subject = self.subject ?? subject
    return named
  }
}

/// Something a person should know although the work goes on: an ignored key, a cropped embedding, a replaced dtype.
package struct Notice: Sendable, Hashable {
  package enum Severity: Int, Sendable { case info, warning }
  package var severity: Severity
  package var message: String
  package var subject: String?
  package var position: SourcePosition?

  package init(_ severity: Severity, _ message: String, subject: String? = nil, position: SourcePosition? = nil) {
    self.severity = severity
    self.message = message
    self.subject = subject
    self.position = position
  }
}
