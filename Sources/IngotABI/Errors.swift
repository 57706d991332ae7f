public import CIngot
internal import IngotErrors

// MARK: status and error

@c @implementation public func ingot_status_name(_ status: ingot_status) -> UnsafePointer<CChar>? {
  unsafe literal(Status(rawValue: status)?.constantName ?? "INGOT_E_UNKNOWN")
}

@c @implementation public func ingot_error_status(_ error: OpaquePointer?) -> ingot_status {
  unsafe ErrorObject.find(error)?.error.status.rawValue ?? Status.ok.rawValue
}

@c @implementation public func ingot_error_message(_ error: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ErrorObject.find(error)?.message.pointer ?? literal("")
}

@c @implementation public func ingot_error_hint(_ error: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ErrorObject.find(error)?.hint?.pointer
}

@c @implementation public func ingot_error_subject(_ error: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ErrorObject.find(error)?.subject?.pointer
}

@c @implementation public func ingot_error_origin(_ error: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ErrorObject.find(error)?.origin?.pointer
}

@c @implementation public func ingot_error_position(
  _ error: OpaquePointer?, _ line: UnsafeMutablePointer<Int32>?, _ column: UnsafeMutablePointer<Int32>?
) -> Int32 {
  let position = unsafe ErrorObject.find(error)?.error.position
  // SAFETY: the C contract: NULL or writable.
  unsafe line?.pointee = Int32(clamping: position?.line ?? 0)
  unsafe column?.pointee = Int32(clamping: position?.column ?? 0)
  return position == nil ? 0 : 1
}

@c @implementation public func ingot_error_user_code(_ error: OpaquePointer?) -> Int32 {
  unsafe ErrorObject.find(error)?.error.userCode ?? 0
}

@c @implementation public func ingot_error_json(_ error: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ErrorObject.find(error)?.json.pointer ?? literal("null")
}

@c @implementation public func ingot_error_destroy(_ error: OpaquePointer?) { unsafe ErrorObject.destroy(error) }

@c @implementation public func ingot_string_destroy(_ text: UnsafeMutablePointer<CChar>?) { unsafe text?.deallocate() }
