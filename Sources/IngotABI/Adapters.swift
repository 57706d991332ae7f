public import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotMethods

// MARK: LoRA adapters

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_lora_inspect(
  _ parametersJSON: UnsafePointer<CChar>?, _ adapters: UnsafePointer<UnsafePointer<CChar>?>?, _ adapterCount: UInt64,
  _ out: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    var parameters = try unsafe JSONParameters(optionalText(parametersJSON, "parameters_json"))
    let spectrum = try parameters.flag("spectrum") ?? false
    try parameters.finish()
    let names = try unsafe texts(adapters, adapterCount, "adapters")
    let survey = try asArgument { () throws(IngotError) in
      try AdapterSurvey(of: names, spectrum: spectrum, models: LocalModels(environment: modelEnvironment()))
    }
    unsafe out.pointee = ownedCString(survey.json())
  }
}

@c @implementation public func ingot_lora_merge(
  _ context: OpaquePointer?, _ method: UnsafePointer<CChar>?, _ parametersJSON: UnsafePointer<CChar>?,
  _ adapters: UnsafePointer<UnsafePointer<CChar>?>?, _ adapterCount: UInt64, _ directory: UnsafePointer<CChar>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe write(context, parametersJSON, directory, report, options, error) { (parameters, models) throws(IngotError) in
    let method = try unsafe text(method, "method")
    let names = try unsafe texts(adapters, adapterCount, "adapters")
    let weights = try parameters.numbers("weight", count: names.count) ?? names.map { _ in 1 }
    var choice = LowRankOptions()
    choice.rank = try parameters.rankRule()
    choice.density = try parameters.number("density")
    choice.majority = try parameters.choice("majority")
    choice.drop = try parameters.number("drop")
    choice.clusters = try parameters.integer("clusters")
    choice.start = try parameters.choice("start")
    choice.reweight = try parameters.flag("reweight")
    let seed = try parameters.seed()
    let wholeTensors: AdapterMergeRequest.WholeTensors? = try parameters.choice("modules_to_save")
    let dtype = try parameters.outputType()
    try parameters.finish()
    var opened: [OpenedAdapter] = []
    for name in names { opened.append(try models.openAdapter(named: name)) }
    var request = AdapterMergeRequest(adapters: opened, weights: weights, method: method)
    request.options = choice
    request.seed = seed ?? request.seed
    request.wholeTensors = wholeTensors ?? request.wholeTensors
    request.dtype = dtype
    return { (engine, path, output, watcher) throws(IngotError) in
      try engine.merge(request, to: path, options: output, watcher: watcher)
    }
  }
}

@c @implementation public func ingot_lora_extract(
  _ context: OpaquePointer?, _ parametersJSON: UnsafePointer<CChar>?, _ base: UnsafePointer<CChar>?, _ tuned: UnsafePointer<CChar>?,
  _ directory: UnsafePointer<CChar>?, _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
  _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe write(context, parametersJSON, directory, report, options, error) { (parameters, models) throws(IngotError) in
    let (base, tuned) = try unsafe (text(base, "base"), text(tuned, "tuned"))
    let rule = try parameters.requiredRankRule()
    let most = try parameters.integer("max_rank")
    if let most, most < 1 { throw IngotError(.invalidArgument, "max_rank is \(most), expected at least 1", subject: "max_rank") }
    let rules = ExtractionRequest.rules(
      leavingOut: try parameters.patterns("skip"), single: try parameters.moduleRules("rules"), only: try parameters.patterns("only"))
    let embeddings: ExtractionRequest.Embeddings? = try parameters.choice("embeddings")
    let others: ExtractionRequest.Others? = try parameters.choice("others")
    let isExact = try parameters.flag("exact")
    let seed = try parameters.seed()
    let dtype = try parameters.outputType()
    try parameters.finish()
    var request = ExtractionRequest(
      base: try models.open(named: base), tuned: try models.open(named: tuned), baseName: base, rule: rule)
    request.mostRank = most ?? request.mostRank
    request.rules = rules
    request.embeddings = embeddings ?? request.embeddings
    request.others = others ?? request.others
    request.isExact = isExact ?? request.isExact
    request.seed = seed ?? request.seed
    request.dtype = dtype
    return { (engine, path, output, watcher) throws(IngotError) in
      try engine.extract(request, to: path, options: output, watcher: watcher)
    }
  }
}

@c @implementation public func ingot_lora_resize(
  _ context: OpaquePointer?, _ parametersJSON: UnsafePointer<CChar>?, _ adapter: UnsafePointer<CChar>?, _ directory: UnsafePointer<CChar>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe write(context, parametersJSON, directory, report, options, error) { (parameters, models) throws(IngotError) in
    let name = try unsafe text(adapter, "adapter")
    let rule = try parameters.requiredRankRule()
    let dtype = try parameters.outputType()
    try parameters.finish()
    let opened = try models.openAdapter(named: name)
    return { (engine, path, output, watcher) throws(IngotError) in
      try engine.resize(opened, rule: rule, dtype: dtype, to: path, options: output, watcher: watcher)
    }
  }
}

/// Writes an adapter to a directory.
private typealias AdapterRunner = (Engine, String, AdapterOutputOptions, Watcher) throws(IngotError) -> AdapterReport

/// What the functions that write an adapter share: `prepare` reads the parameters, opens the inputs, and says what is to be run.
private func write(
  _ context: OpaquePointer?, _ parametersJSON: UnsafePointer<CChar>?, _ directory: UnsafePointer<CChar>?,
  _ report: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ options: UnsafePointer<ingot_run_options>?, _ error: ingot_error_out?,
  _ prepare: (inout JSONParameters, LocalModels) throws(IngotError) -> AdapterRunner
) -> ingot_status {
  unsafe IngotABI.report(to: error) { () throws(IngotError) in
    unsafe report?.pointee = nil
    let options = try unsafe ingot_run_options.copy(ofOptional: options)
    var parameters = try unsafe JSONParameters(optionalText(parametersJSON, "parameters_json"))
    let path = try unsafe text(directory, "directory")
    var output = AdapterOutputOptions()
    output.force = unsafe options.flags & UInt32(INGOT_RUN_OVERWRITE) != 0
    output.sync = try unsafe synchronisation(options.sync)
    let watcher = unsafe Watcher(options)
    let context = try unsafe ContextObject.require(context, "context")
    let made = try context.exclusively { [output] () throws(IngotError) in
      let run = try asArgument { () throws(IngotError) in try prepare(&parameters, LocalModels(environment: modelEnvironment())) }
      return try run(context.engine, path, output, watcher)
    }
    context.tell(made.notices)
    unsafe report?.pointee = ownedCString(made.json())
  }
}
