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
