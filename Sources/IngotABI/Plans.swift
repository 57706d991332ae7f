public import CIngot
internal import IngotEngine
internal import IngotErrors
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors
import Synchronization

// MARK: plan

@c @implementation public func ingot_plan_create(
  _ context: OpaquePointer?, _ recipe: OpaquePointer?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ options: UnsafePointer<ingot_plan_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let request = try unsafe PlanRequest(options)
    let out = try unsafe output(out)
    let recipe = try unsafe RecipeObject.require(recipe, "recipe").recipe
    let context = try unsafe ContextObject.require(context, "context")
    let plan = try context.exclusively { () throws(IngotError) in try Plan.make(recipe, options: request.options, models: request.models) }
    context.tell(plan.notices)
    unsafe out.pointee = PlanObject(plan, inputs: request.memory).makeHandle()
  }
}

@c @implementation public func ingot_plan_json(_ plan: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe PlanObject.find(plan)?.json
}

@c @implementation public func ingot_plan_table(_ plan: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe PlanObject.find(plan)?.table
}

@c @implementation public func ingot_plan_digest(_ plan: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe PlanObject.find(plan)?.digest.pointer
}

@c @implementation public func ingot_plan_tensor_count(_ plan: OpaquePointer?) -> UInt64 {
  unsafe UInt64(PlanObject.find(plan)?.plan.tensors.count ?? 0)
}

@c @implementation public func ingot_plan_tensor(
  _ plan: OpaquePointer?, _ index: UInt64, _ out: UnsafeMutablePointer<ingot_tensor_view>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let plan = try unsafe PlanObject.require(plan, "plan")
    guard let out = unsafe out else { throw nullArgument("out") }
    try unsafe plan.tensor(index).write(to: out)
  }
}

@c @implementation public func ingot_plan_destroy(_ plan: OpaquePointer?) { unsafe PlanObject.destroy(plan) }

/// What a caller wants of a plan. Taking it takes the resolver over, so it comes before every check that may fail.
private struct PlanRequest {
  let options: PlanOptions
  let models: any ModelProvider
  let memory: [MemoryRange]

  init(_ pointer: UnsafePointer<ingot_plan_options>?) throws(IngotError) {
    let given = try unsafe ingot_plan_options.copy(ofOptional: pointer)
    let resolver = try unsafe given.resolver.map { (pointer) throws(IngotError) in try unsafe Resolver(pointer) }
    var options = PlanOptions()
    if unsafe given.flags & UInt32(INGOT_PLAN_SEED) != 0 { options.seed = unsafe given.seed }
    options.numerics = try unsafe Self.choice(given.numerics, [.once, .stepwise], "numerics")
    options.missing = try unsafe Self.choice(given.missing, [.error, .intersection, .union], "missing")
    if let size = try unsafe shardSize(given.shard_size_bytes) { options.shardSize = size }
    self.options = options
    let objects = try unsafe Self.models(given)
    memory = objects.flatMap(\.memory)
    let local: (any ModelProvider)? =
      unsafe given.flags & UInt32(INGOT_PLAN_NO_FILES) != 0 ? nil : LocalModels(environment: modelEnvironment())
    models = try HostModels(objects, fallback: resolver.map { ResolvedModels(resolver: $0) } ?? local)
  }

  /// The choice of a field whose 0 is the recipe's.
  private static func choice<Choice>(_ value: UInt32, _ choices: [Choice], _ name: String) throws(IngotError) -> Choice? {
    if value == 0 { return nil }
    guard value <= UInt32(choices.count) else {
      throw IngotError(.invalidArgument, "\(name) is \(value), expected 0 to \(choices.count)", subject: name)
    }
    return choices[Int(value) - 1]
  }

  private static func models(_ options: ingot_plan_options) throws(IngotError) -> [ModelObject] {
    let number = unsafe try count(options.model_count, "model_count")
    if number == 0 { return [] }
    guard let handles = unsafe options.models else { throw nullArgument("models") }
    var models: [ModelObject] = []
    // SAFETY: the C contract: the array has that many handles.
    for index in 0..<number { models.append(try unsafe ModelObject.require(handles[index], "models[\(index)]")) }
    return models
  }
}

/// What shard_size_bytes asks for; nil for the default.
func shardSize(_ bytes: UInt64) throws(IngotError) -> Int? {
  switch bytes {
  case 0: nil
  case UInt64.max: 0
  default: try count(bytes, "shard_size_bytes")
  }
}

/// A plan and the texts made from it.
final class PlanObject: HandleObject {
  static let kind = HandleKind.plan
  static let typeName = "ingot_plan"

  let plan: Plan
  /// Memory of the caller's that the plan reads.
  let inputs: [MemoryRange]
  let digest: CText
  private let lazyJSON = LazyCText()
  private let lazyTable = LazyCText()
  private let lazyTensors = Mutex<TensorTable?>(nil)

  init(_ plan: Plan, inputs: [MemoryRange]) {
    self.plan = plan
    self.inputs = inputs
    digest = CText(plan.digest.description)
  }

  var json: UnsafePointer<CChar> { unsafe lazyJSON.pointer { plan.json() } }
  var table: UnsafePointer<CChar> { unsafe lazyTable.pointer { plan.table(maxRows: nil) } }

  func tensor(_ index: UInt64) throws(IngotError) -> ingot_tensor_view {
    guard let place = Int(exactly: index), place < plan.tensors.count else {
      throw IngotError(.invalidArgument, "index is \(index), expected less than \(plan.tensors.count)", subject: "index")
    }
    let table = lazyTensors.withLock { (table: inout TensorTable?) -> TensorTable in
      if let table { return table }
      let made = TensorTable(plan.tensors)
      table = made
      return made
    }
    return unsafe table.view(place, plan.tensors[place])
  }
}

/// Names and shapes of a plan's tensors at fixed addresses.
@safe
private final class TensorTable: @unchecked Sendable {
  // SENDABLE: written in `init`, only read afterwards.
  private let names: [CText]
  private let starts: [Int]
  private let extents: UnsafeMutablePointer<Int64>

  init(_ tensors: [PlannedTensor]) {
    names = tensors.map { CText($0.name) }
    var starts: [Int] = []
    var total = 0
    for tensor in tensors {
      starts.append(total)
      total += tensor.shape.rank
    }
    self.starts = starts
    unsafe extents = UnsafeMutablePointer<Int64>.allocate(capacity: max(total, 1))
    var place = 0
    for extent in tensors.lazy.flatMap(\.shape.dimensions) {
      // SAFETY: `total` counted them.
      unsafe (extents + place).initialize(to: Int64(extent))
      place += 1
    }
  }

  deinit { unsafe extents.deallocate() }

  func view(_ index: Int, _ tensor: PlannedTensor) -> ingot_tensor_view {
    var view = unsafe ingot_tensor_view()
    unsafe view.struct_size = unsafe UInt32(MemoryLayout<ingot_tensor_view>.stride)
    unsafe view.name = names[index].pointer
    unsafe view.dtype = tensor.dtype.rawValue
    unsafe view.rank = Int32(clamping: tensor.shape.rank)
    unsafe view.shape = UnsafePointer(extents + starts[index])
    unsafe view.byte_count = UInt64(tensor.byteCount)
    return unsafe view
  }
}
