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

@c @implementation public func ingot_checkpoint_compare(
  _ context: OpaquePointer?, _ a: UnsafePointer<CChar>?, _ b: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?,
  _ out: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let options = try unsafe ingot_run_options.copy(ofOptional: options)
    let watcher = unsafe Watcher(options)
    var choice = Comparison.Options()
    choice.tensorsOnly = unsafe options.flags & UInt32(INGOT_RUN_TENSORS_ONLY) != 0
    let (a, b, base) = try unsafe (text(a, "a"), text(b, "b"), optionalText(base, "base"))
    let context = try unsafe ContextObject.require(context, "context")
    let models = LocalModels(environment: modelEnvironment())
    let found = try context.exclusively { () throws(IngotError) in
      let pair = try asArgument { () throws(IngotError) in
        (try models.open(named: a), try models.open(named: b), try base.map { (name) throws(IngotError) in try models.open(named: name) })
      }
      return try context.engine.compare(pair.0, pair.1, base: pair.2, options: choice, watcher: watcher)
    }
    context.tell(found.notices)
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
