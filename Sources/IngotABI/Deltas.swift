public import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON

// MARK: delta packs

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_delta_pack(
  _ context: OpaquePointer?, _ method: UnsafePointer<CChar>?, _ parametersJSON: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?,
  _ models: UnsafePointer<UnsafePointer<CChar>?>?, _ modelCount: UInt64, _ directory: UnsafePointer<CChar>?,
  _ summary: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    unsafe summary?.pointee = nil
    let options = try unsafe ingot_run_options.copy(ofOptional: options)
    let parameters = try unsafe packParameters(optionalText(parametersJSON, "parameters_json") ?? "{}")
    let (method, base) = try unsafe (text(method, "method"), text(base, "base"))
    let models = try unsafe texts(models, modelCount, "models")
    let path = try unsafe text(directory, "directory")
    let choice = try unsafe PackOptions(options)
    let watcher = unsafe Watcher(options)
    let context = try unsafe ContextObject.require(context, "context")
    let made = try context.exclusively { () throws(IngotError) in
      let plan = try asArgument { () throws(IngotError) in
        try PackPlan.make(
          method: method, base: base, models: models, parameters: parameters, provider: LocalModels(environment: modelEnvironment()))
      }
      return try context.engine.pack(plan, to: path, options: choice, watcher: watcher)
    }
    context.tell(made.notices)
    unsafe summary?.pointee = ownedCString(made.json)
  }
}

@c @implementation public func ingot_delta_inspect(
  _ pack: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let found = try unsafe PackSummary(path: text(pack, "pack"))
    unsafe out.pointee = ownedCString(found.json)
  }
}

@c @implementation public func ingot_delta_plan_apply(
  _ context: OpaquePointer?, _ pack: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ options: UnsafePointer<ingot_delta_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe planMerge(context, out, options, error) { (options) throws(IngotError) in
    let scale = unsafe options.scale
    return try unsafe PackMerge.applying(
      text(pack, "pack"), task: optionalText(options.task, "task"), scale: scale == 0 ? 1 : scale, base: text(base, "base"),
      models: LocalModels(environment: modelEnvironment()))
  }
}

@c @implementation public func ingot_delta_plan_unpack(
  _ context: OpaquePointer?, _ pack: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ options: UnsafePointer<ingot_delta_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe planMerge(context, out, options, error) { (options) throws(IngotError) in
    let scale = unsafe options.scale
    guard scale == 0 else {
      throw IngotError(.invalidArgument, "scale is \(scale), expected 0: unpacked differences are as they are", subject: "scale")
    }
    return try unsafe PackMerge.unpacking(
      text(pack, "pack"), task: optionalText(options.task, "task"), base: optionalText(base, "base"),
      models: LocalModels(environment: modelEnvironment()))
  }
}

private func planMerge(
  _ context: OpaquePointer?, _ out: UnsafeMutablePointer<OpaquePointer?>?, _ options: UnsafePointer<ingot_delta_options>?,
  _ error: ingot_error_out?, _ merge: (ingot_delta_options) throws(IngotError) -> PackMerge
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let given = try unsafe ingot_delta_options.copy(ofOptional: options)
    let out = try unsafe output(out)
    var options = PlanOptions()
    if let size = try unsafe shardSize(given.shard_size_bytes) { options.shardSize = size }
    let context = try unsafe ContextObject.require(context, "context")
    let plan = try context.exclusively { () throws(IngotError) in
      try asArgument { [options] () throws(IngotError) in try unsafe merge(given).plan(options) }
    }
    context.tell(plan.notices)
    unsafe out.pointee = PlanObject(plan, inputs: []).makeHandle()
  }
}

extension PackOptions {
  init(_ options: ingot_run_options) throws(IngotError) {
    self.init()
    force = unsafe options.flags & UInt32(INGOT_RUN_OVERWRITE) != 0
    sync = try unsafe synchronisation(options.sync)
  }
}

/// Parameters of a packing as texts: what the command line has behind `-p`.
private func packParameters(_ text: String) throws(IngotError) -> [(name: String, value: String)] {
  let members = try asArgument([.format]) { () throws(IngotError) in
    try JSON.parse(text, origin: "parameters_json").requireObject("parameters_json", in: "parameters_json").members
  }
  var parameters: [(name: String, value: String)] = []
  for member in members {
    var values: [String] = []
    for value in member.value.asArray ?? [member.value] {
      guard let word = value.asString ?? value.asNumberText ?? value.asBool.map({ "\($0)" }) else {
        throw IngotError(
          .invalidArgument, "\(member.key) is \(value.kindName), expected a number, a text, a boolean or an array of them",
          subject: member.key)
      }
      values.append(word)
    }
    parameters.append((member.key, values.joined(separator: ",")))
  }
  return parameters
}
