public import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

// MARK: one tensor

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_merge_tensors(
  _ context: OpaquePointer?, _ method: UnsafePointer<CChar>?, _ parametersJSON: UnsafePointer<CChar>?,
  _ base: UnsafePointer<ingot_tensor_view>?, _ inputs: UnsafePointer<UnsafePointer<ingot_tensor_view>?>?, _ inputCount: UInt64,
  _ output: UnsafePointer<ingot_tensor_view>?, _ options: UnsafePointer<ingot_merge_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let options = try unsafe ingot_merge_options.copy(ofOptional: options)
    let context = try unsafe ContextObject.require(context, "context")
    let descriptor = try unsafe MethodRegistry.catalog.require(text(method, "method"))
    let sides = try unsafe SideArguments(options, of: descriptor, output: output)
    let merge = try unsafe SingleTensorMerge(
      descriptor, parameters: optionalText(parametersJSON, "parameters_json") ?? "{}",
      TensorArguments(base, inputs, inputCount, output, sides: sides))
    let watcher = unsafe Watcher(listener: nil, unsafe: options.cancel, intervalMilliseconds: 100)
    try context.exclusively { () throws(IngotError) in
      try unsafe merge.run(context.engine, seed: options.seed, flags: options.flags, watcher: watcher)
    }
  }
}

/// The tensors of one call, which all go by the output's name: names do not matter to the caller, but equal ones make a plan.
private struct TensorArguments {
  let base: CheckedTensor?
  let inputs: [CheckedTensor]
  let output: CheckedTensor
  let sides: SideArguments

  init(
    _ base: UnsafePointer<ingot_tensor_view>?, _ inputs: UnsafePointer<UnsafePointer<ingot_tensor_view>?>?, _ count: UInt64,
    _ output: UnsafePointer<ingot_tensor_view>?, sides: SideArguments
  ) throws(IngotError) {
    let name = sides.weight
    self.sides = sides
    self.output = try unsafe CheckedTensor(output, "output", name: name)
    self.inputs = try unsafe CheckedTensor.all(inputs, count, "inputs", name: name)
    self.base = unsafe base == nil ? nil : try unsafe CheckedTensor(base, "base", name: name)
    try check(name)
  }

  private func check(_ name: String) throws(IngotError) {
    guard let first = inputs.first else {
      throw IngotError(.invalidArgument, "there are no inputs, expected at least one", subject: "inputs")
    }
    for (index, tensor) in inputs.enumerated() { try requireShape(tensor, "inputs[\(index)]", of: first) }
    if let base { try requireShape(base, "base", of: first) }
    try requireShape(output, "output", of: first)
    try sides.requireModels(inputs.count, hasBase: base != nil)
    guard output.view.dtype.isOutput else {
      throw IngotError(.dtype, "the output is \(output.view.dtype.safetensorsName), expected F32, F16 or BF16", subject: name)
    }
    try CheckedTensor.requireWritable([output], beside: (inputs + (base.map { [$0] } ?? [])).map(\.memory) + sides.memory)
  }

  private func requireShape(_ tensor: CheckedTensor, _ parameter: String, of first: CheckedTensor) throws(IngotError) {
    guard tensor.view.shape == first.view.shape else {
      throw IngotError(.shape, "\(parameter) has shape \(tensor.view.shape), inputs[0] has \(first.view.shape)", subject: parameter)
    }
  }
}

/// The merge of one tensor: a plan whose models have just that one, so that methods, checks and arithmetic are those of every merge.
private struct SingleTensorMerge {
  let descriptor: MethodDescriptor
  let parameters: JSONObject
  let base: TensorView?
  let inputs: [TensorView]
  let output: TensorView
  let sides: SideArguments

  init(_ descriptor: MethodDescriptor, parameters text: String, _ tensors: TensorArguments) throws(IngotError) {
    self.descriptor = descriptor
    parameters = try asArgument([.recipe, .format]) { () throws(IngotError) in
      try JSON.parse(text, origin: "parameters_json").requireObject("parameters_json", in: "parameters_json")
    }
    base = tensors.base?.view
    inputs = tensors.inputs.map(\.view)
    output = tensors.output.view
    sides = tensors.sides
  }

  func run(_ engine: Engine, seed: UInt64, flags: UInt32, watcher: Watcher) throws(IngotError) {
    let recipe: Recipe = try asArgument([.recipe, .format]) { () throws(IngotError) in
      try Recipe.parse(JSON.bytes(.object(try recipeJSON())), origin: "parameters_json", catalog: MethodRegistry.catalog, strict: true)
    }
    var models = sides.models
    if let base { models["base"] = [base] }
    for (index, input) in inputs.enumerated() { models["input \(index)"] = [input] }
    var options = PlanOptions()
    options.shardSize = 0
    options.seed = seed
    let plan = try asArgument([.recipe, .format]) { () throws(IngotError) in
      try Plan.make(recipe, options: options, models: MemoryModels(models))
    }
    var run = RunOptions()
    run.allowsNonfinite = flags & UInt32(INGOT_MERGE_ALLOW_NONFINITE) != 0
    _ = try engine.run(plan, into: try MemorySink(plan: plan, outputs: [output]), options: run, watcher: watcher)
  }

  /// The recipe as a person would write it: parameters with one value for all models, and those with an array at each model.
  private func recipeJSON() throws(IngotError) -> JSONObject {
    var shared = JSONObject()
    var own = [JSONObject](repeating: JSONObject(), count: inputs.count)
    // As on the command line: where models are weighed and no weight is given, all weigh the same.
    if descriptor.parameter("weight")?.isRequired == true, parameters["weight"] == nil { shared["weight"] = .int(1) }
    for member in parameters.members {
      guard let values = member.value.asArray else {
        shared[member.key] = member.value
        continue
      }
      guard descriptor.parameter(member.key)?.isPerModel ?? true, values.count == inputs.count else {
        throw IngotError(
          .invalidArgument,
          "\(member.key) is an array of \(values.count), expected one value or, if it may differ by model, \(inputs.count)",
          subject: member.key)
      }
      for (index, value) in values.enumerated() { own[index][member.key] = value }
    }
    var recipe = JSONObject()
    recipe["merge_method"] = .string(descriptor.name)
    if base != nil { recipe["base_model"] = .string("base") }
    // A base with a side input is listed among the models, which it is one of.
    var models: [JSONValue] = []
    if let side = sides.recipe(of: .base) { models.append(["model": "base", "side": side]) }
    for (index, parameters) in own.enumerated() {
      var entry: JSONValue = ["model": .string("input \(index)"), "parameters": .object(parameters)]
      entry["side"] = sides.recipe(of: .input(index))
      models.append(entry)
    }
    recipe["models"] = .array(models)
    recipe["aim"] = sides.aim
    recipe["parameters"] = .object(shared)
    recipe["dtype"] = output.dtype.torchName.map { .string($0) }
    return recipe
  }
}
