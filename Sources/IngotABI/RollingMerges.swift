public import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

// MARK: rolling merges

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_rolling_step(
  _ context: OpaquePointer?, _ method: UnsafePointer<CChar>?, _ parametersJSON: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?,
  _ model: UnsafePointer<CChar>?, _ state: UnsafePointer<CChar>?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe roll(context, parametersJSON, report, options, error) { (parameters, choice, models) throws(IngotError) in
    var step = try unsafe RollingStep(state: text(state, "state"), model: text(model, "model"))
    step.method = try unsafe rollingMethod(optionalText(method, "method"))
    step.base = try unsafe optionalText(base, "base")
    step.weight = try parameters.number("weight")
    step.side = try parameters.text("side")
    step.allowsRepeat = try parameters.flag("again") ?? false
    for name in Set(RollingMethod.allCases.compactMap(\.setting?.name)).sorted() {
      if let value = try parameters.number(name) { step.settings[name] = value }
    }
    try parameters.finish()
    // What an interrupted step left is of no use to this one.
    choice.force = true
    return try RollingPlan.make(step, models: models)
  }
}

@c @implementation public func ingot_rolling_finish(
  _ context: OpaquePointer?, _ parametersJSON: UnsafePointer<CChar>?, _ state: UnsafePointer<CChar>?, _ directory: UnsafePointer<CChar>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe roll(context, parametersJSON, report, options, error) { (parameters, _, models) throws(IngotError) in
    let (state, directory) = try unsafe (text(state, "state"), text(directory, "directory"))
    let (lambda, dtype) = (try parameters.number("lambda"), try parameters.outputType())
    try parameters.finish()
    return try RollingPlan.finish(state, to: directory, lambda: lambda, dtype: dtype?.torchName, models: models)
  }
}

private func rollingMethod(_ name: String?) throws(IngotError) -> RollingMethod? {
  guard let name else { return nil }
  if let method = RollingMethod(rawValue: name) { return method }
  throw IngotError(
    .invalidArgument, "there is no rolling method \"\(name.prefix(60))\"",
    hint: "there are " + RollingMethod.allCases.map(\.rawValue).joined(separator: ", "), subject: "method")
}

private func roll(
  _ context: OpaquePointer?, _ parametersJSON: UnsafePointer<CChar>?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?,
  _ prepare: (inout JSONParameters, inout DirectoryOptions, LocalModels) throws(IngotError) -> RollingPlan
) -> ingot_status {
  unsafe IngotABI.report(to: error) { () throws(IngotError) in
    unsafe report?.pointee = nil
    let options = try unsafe ingot_run_options.copy(ofOptional: options)
    var choice = try unsafe DirectoryOptions(flags: options.flags, sync: options.sync)
    // There is nothing to resume: a step is in the state or it is not.
    choice.resume = false
    var parameters = try unsafe JSONParameters(optionalText(parametersJSON, "parameters_json"))
    let watcher = unsafe Watcher(options)
    let context = try unsafe ContextObject.require(context, "context")
    let (rolling, done) = try context.exclusively { () throws(IngotError) in
      let rolling = try asArgument { () throws(IngotError) in
        try prepare(&parameters, &choice, LocalModels(environment: modelEnvironment()))
      }
      return (rolling, try context.engine.merge(rolling, options: choice, watcher: watcher))
    }
    context.tell(rolling.plan.notices + done.notices)
    unsafe report?.pointee = ownedCString(json(rolling, done))
  }
}

private func json(_ rolling: RollingPlan, _ done: RunReport) -> String {
  JSON.text(
    .object([
      "output": .string(rolling.destination), "method": .string(rolling.state.method.rawValue), "models": .int(rolling.state.count),
      "identity": .string(rolling.state.identity), "tensors": .int(rolling.plan.tensors.count), "run": done.document,
      "notices": .array((rolling.plan.notices + done.notices).map(\.json)),
    ]))
}
