internal import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes

/// The side inputs of a merge of one tensor, and its activation-informed last step: models of one tensor each, which the recipe names like files.
struct SideArguments {
  /// What a side input was taken of.
  enum Owner: Hashable {
    case base
    case input(Int)
  }

  /// What the merged tensor is called. Channels and Gram matrices belong to modules, of which it is the weight.
  let weight: String
  /// By the name that the recipe has for it.
  private(set) var models: [String: [TensorView]] = [:]
  private(set) var memory: [MemoryRange] = []
  /// The recipe's `aim`.
  private(set) var aim: JSONValue?
  /// Names of models by owner and side input; several where it takes a list.
  private var entries: [Owner: JSONObject] = [:]

  /// Throws `.invalidArgument` for a side input without name or tensor and for names that do not go together; the rest is checked as in a recipe.
  init(
    _ options: ingot_merge_options, of method: MethodDescriptor, output: UnsafePointer<ingot_tensor_view>?
  ) throws(IngotError) {
    guard let output = unsafe output else { throw nullArgument("output") }
    let given = try unsafe optionalText(ingot_tensor_view.copy(of: output).name, "name of output")
    let number = unsafe try count(options.side_count, "side_count")
    var isOfModule = unsafe options.aim != nil
    for index in 0..<number {
      let side = try unsafe Self.side(index, of: options)
      let name = try unsafe text(side.name, "name of sides[\(index)]")
      let form = method.sideInputs.first { $0.name == name }?.form
      isOfModule = isOfModule || form?.isOfModules == true
    }
    weight = given ?? (isOfModule ? "tensor.weight" : "tensor")
    guard !isOfModule || weight.hasSuffix(".weight") else {
      throw IngotError(
        .invalidArgument, "the output is called \(weight), and channels belong to the weight of a module",
        hint: "call it NAME.weight, or give no name", subject: "output")
    }
    for index in 0..<number { try unsafe add(Self.side(index, of: options), of: method, "sides[\(index)]") }
    if let pointer = unsafe options.aim { try unsafe addAim(ingot_aim.copy(of: pointer)) }
  }

  /// What the recipe says beside a model.
  func recipe(of owner: Owner) -> JSONValue? { entries[owner].map { .object($0) } }

  /// Throws `.invalidArgument` for a side input of a model that there is not.
  func requireModels(_ inputs: Int, hasBase: Bool) throws(IngotError) {
    for owner in entries.keys {
      switch owner {
      case .base where !hasBase: throw IngotError(.invalidArgument, "a side input is of the base, and there is none", subject: "sides")
      case .input(let index) where index >= inputs:
        throw IngotError(.invalidArgument, "a side input is of inputs[\(index)], and there are \(inputs)", subject: "sides")
      default: break
      }
    }
  }

  private static func side(_ index: Int, of options: ingot_merge_options) throws(IngotError) -> ingot_side_input {
    guard let pointers = unsafe options.sides else { throw nullArgument("sides") }
    // SAFETY: the C contract: the array has side_count pointers.
    guard let pointer = unsafe pointers[index] else { throw nullArgument("sides[\(index)]") }
    return try unsafe ingot_side_input.copy(of: pointer)
  }

  private mutating func add(_ side: ingot_side_input, of method: MethodDescriptor, _ parameter: String) throws(IngotError) {
    let name = try unsafe text(side.name, "name of \(parameter)")
    let descriptor = method.sideInputs.first { $0.name == name }
    let owner: Owner = unsafe side.input == UInt64.max ? .base : .input(try count(side.input, "input of \(parameter)"))
    guard let view = unsafe side.tensor else { throw nullArgument("tensor of \(parameter)") }
    let part = try unsafe optionalText(ingot_tensor_view.copy(of: view).name, "name of the tensor of \(parameter)")
    let parts: [String] =
      switch descriptor?.form {
      case .tensorOrSums: ["row_sums", "column_sums"]
      case .gram, .outputGram: ["transposed"]
      case .tensor, .optionalTensor, .channels, .rows, nil: []
      }
    guard part.map(parts.contains) ?? true else {
      throw IngotError(
        .invalidArgument,
        "the tensor of \(parameter) is called \(part ?? ""), expected no name" + parts.map { " or \($0)" }.joined(), subject: parameter)
    }
    let owned = descriptor?.form.isOfModules == true ? String(weight.dropLast(7)) : weight
    let called = owned + (part.map { "." + $0 } ?? "")
    let tensor = try unsafe CheckedTensor(view, "tensor of \(parameter)", name: called)
    memory.append(tensor.memory)
    var own = entries[owner] ?? JSONObject()
    var labels = own[name].map { $0.asArray ?? [$0] } ?? []
    // Row and column sums are two tensors of one file.
    if descriptor?.form == .tensorOrSums, part != nil, let last = labels.last?.asString, let parts = models[last], parts.count == 1,
      parts[0].name != called
    {
      models[last] = parts + [tensor.view]
      return
    }
    let label = "\(name) \(labels.count) of \(owner == .base ? "base" : "inputs[\(unsafe side.input)]")"
    models[label] = [tensor.view]
    labels.append(.string(label))
    own[name] = labels.count == 1 ? labels[0] : .array(labels)
    entries[owner] = own
  }

  private mutating func addAim(_ given: ingot_aim) throws(IngotError) {
    guard let norms = unsafe given.norms else { throw nullArgument("norms of ingot_aim") }
    let tensor = try unsafe CheckedTensor(norms, "norms of ingot_aim", name: String(weight.dropLast(7)))
    memory.append(tensor.memory)
    models["norms of aim"] = [tensor.view]
    var recipe: JSONValue = ["side": "norms of aim"]
    if unsafe given.flags & UInt32(INGOT_AIM_OMEGA) != 0 {
      let omega = unsafe given.omega
      guard omega.isFinite else { throw IngotError(.invalidArgument, "omega is \(omega), expected 0 to 1", subject: "omega") }
      recipe["omega"] = .double(omega)
    }
    if let base = unsafe given.base {
      let tensor = try unsafe CheckedTensor(base, "base of ingot_aim", name: weight)
      memory.append(tensor.memory)
      models["base of aim"] = [tensor.view]
      recipe["base_model"] = "base of aim"
    }
    aim = recipe
  }
}
