public import CIngot
internal import IngotEngine
internal import IngotErrors

// MARK: looking at checkpoints

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_checkpoint_inspect(
  _ path: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let found = try unsafe Inspection(of: text(path, "path"), models: LocalModels(environment: modelEnvironment()))
    unsafe out.pointee = ownedCString(found.json())
  }
}

@c @implementation public func ingot_directory_verify(
  _ context: OpaquePointer?, _ directory: UnsafePointer<CChar>?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe IngotABI.report(to: error) { () throws(IngotError) in
    unsafe report?.pointee = nil
    let watcher = try unsafe Watcher(ingot_run_options.copy(ofOptional: options))
    let path = try unsafe text(directory, "directory")
    let context = try unsafe ContextObject.require(context, "context")
    let found = try context.exclusively { () throws(IngotError) in try Verification(directory: path, watcher: watcher) }
    unsafe report?.pointee = ownedCString(found.json())
    try found.requireIntact()
  }
}
