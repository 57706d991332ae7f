internal import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON

/// An error as the caller holds it: all texts ready for C.
final class ErrorObject: HandleObject {
  static let kind = HandleKind.error
  static let typeName = "ingot_error"

  let error: IngotError
  let message: CText
  let hint: CText?
  let subject: CText?
  let origin: CText?
  let json: CText

  init(_ error: IngotError) {
    self.error = error
    message = CText(error.message.split(whereSeparator: \.isNewline).joined(separator: " "))
    hint = error.hint.map(CText.init)
    subject = error.subject.map(CText.init)
    origin = error.position.map { CText($0.origin) }
    json = CText(JSON.text(error.json))
  }
}

/// Runs what a C function does. What it throws becomes the status and, where the caller wants it, an error handle.
func report(to out: ingot_error_out?, _ body: () throws(IngotError) -> Void) -> ingot_status {
  // SAFETY: the C contract: NULL, or the address of a pointer that may be written.
  unsafe out?.pointee = nil
  do throws(IngotError) {
    try withStandardArithmetic(body)
    return Status.ok.rawValue
  } catch {
    // An error that says "no failure" would be taken for success.
    var failure = error
    if failure.status == .ok { failure.status = .internalError }
    unsafe out?.pointee = ErrorObject(failure).makeHandle()
    return failure.status.rawValue
  }
}

/// Runs what reads a recipe that is made here of the caller's arguments: a mistake in it has no place in a text of theirs, and one of these statuses
/// means that an argument is wrong.
func asArgument<Result>(_ statuses: [Status] = [.recipe], _ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
  do throws(IngotError) {
    return try body()
  } catch {
    var failure = error
    failure.position = nil
    if statuses.contains(failure.status) { failure.status = .invalidArgument }
    throw failure
  }
}

extension Status {
  /// The name of the constant in ingot.h.
  var cName: StaticString {
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

extension IngotError {
  var json: JSONValue {
    .object([
      "status": .string("\(status.cName)"), "code": .int(status.rawValue), "message": .string(message), "hint": .text(hint),
      "subject": .text(subject), "position": .position(position), "user_code": .int(userCode),
    ])
  }
}

extension Notice {
  var json: JSONValue {
    .object([
      "severity": .string(severity == .warning ? "warning" : "info"), "message": .string(message), "subject": .text(subject),
      "position": .position(position),
    ])
  }
}

extension JSONValue {
  /// A string, or null.
  static func text(_ text: String?) -> JSONValue { text.map { .string($0) } ?? .null }

  static func position(_ position: SourcePosition?) -> JSONValue {
    guard let position else { return .null }
    return .object(["origin": .string(position.origin), "line": .int(position.line), "column": .int(position.column)])
  }
}
