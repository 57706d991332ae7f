import CIngot
import IngotABI

// A C program that fills structs with anything. Pointers are its own: a wild pointer is no input that a library can survive.
// SAFETY: of this file: every pointer leads to memory that `CallerMemory` owns until the calls are over.

/// One context for all inputs: making threads is not what is tested. Tests beside each other find it busy, which is one more answer.
let context = makeContext()

func makeContext() -> UInt {
  var made: OpaquePointer?
  var options = ingot_context_options()
  options.struct_size = UInt32(MemoryLayout<ingot_context_options>.size)
  options.threads = 1
  options.team = Int32(INGOT_TEAM_PTHREAD)
  options.memory_budget_bytes = 16 << 20
  _ = ingot_context_create(&made, &options, nil)
  return UInt(bitPattern: made)
}

func handle(_ number: UInt) -> OpaquePointer? { OpaquePointer(bitPattern: number) }

/// The status and the error object of a call must agree; the error is looked at from all sides and released.
func check(_ call: (_ error: UnsafeMutablePointer<OpaquePointer?>) -> ingot_status) throws -> ingot_status {
  var error: OpaquePointer?
  let status = call(&error)
  try require((status == INGOT_OK) == (error == nil), "status \(status) and the error object disagree")
  try require(ingot_error_status(error) == status, "the error object has another status than \(status)")
  try require(status != ingot_status(INGOT_E_INTERNAL), "internal error: \(String(cString: ingot_error_json(error)))")
  if error != nil { try require(ingot_error_message(error).pointee != 0, "an error without words") }
  ingot_error_destroy(error)
  return status
}

func fillOptions(_ bytes: [UInt8]) throws {
  var input = FuzzInput(bytes)
  switch input.byte() % 9 {
  case 0: try createContext(&input)
  case 1: try parseRecipe(&input)
  case 2: try createModel(&input)
  case 3: try planFromSources(&input)
  case 4: try runPlan(&input)
  case 6: try runToTensors(&input)
  case 7: try describeTensor(&input)
  case 8: try useWrongHandles(&input)
  default: try mergeTensors(&input)
  }
}

private func createContext(_ input: inout FuzzInput) throws {
  let options = CallerMemory(struct: MemoryLayout<ingot_context_options>.size, &input)
  // Neither a thousand threads nor OpenMP's, which stay.
  let threads = Int32(truncatingIfNeeded: options.get(at: 8, width: 4))
  if threads > 3, threads <= 4096 { options.put(UInt64(threads) % 3 + 1, at: 8, width: 4) }
  if options.get(at: 12, width: 4) < 2 { options.put(2, at: 12, width: 4) }
  options.point(at: 24, to: input.byte() % 2 == 0 ? nil : CallerMemory(text: input.rest))
  let log: ingot_log_fn = { _, _, _, _ in }
  options.put(input.byte() % 2 == 0 ? 0 : UInt64(UInt(bitPattern: unsafeBitCast(log, to: Int.self))), at: 32)
  var made: OpaquePointer?
  let status = try check { error in ingot_context_create(&made, options.typed(), error) }
  try require((status == INGOT_OK) == (made != nil), "a handle after failure, or none after success")
  if made != nil { try require(ingot_context_json(made) != nil, "a context without its description") }
  ingot_context_destroy(made)
}

private func parseRecipe(_ input: inout FuzzInput) throws {
  let options = CallerMemory(struct: MemoryLayout<ingot_recipe_options>.size, &input)
  let origin = input.byte() % 2 == 0 ? nil : CallerMemory(text: input.take(6))
  let text = CallerMemory(input.rest)
  var made: OpaquePointer?
  let status = try check { error in
    ingot_recipe_parse(text.typed(CChar.self), UInt64(text.count), origin?.typed(CChar.self), &made, options.typed(), error)
  }
  if status == INGOT_OK {
    for index in 0...ingot_recipe_model_count(made) { _ = ingot_recipe_model(made, index) }
    try require(ingot_recipe_method(made) != nil && ingot_recipe_notices_json(made) != nil, "a recipe without texts")
  }
  ingot_recipe_destroy(made)
}

/// A tensor view with the input's numbers over memory that it cannot judge: nothing may read the elements.
func tensorView(_ input: inout FuzzInput) -> CallerMemory {
  let view = CallerMemory(struct: MemoryLayout<ingot_tensor_view>.size, &input)
  let choices = input.byte()
  let names = ["w", "layers.0.w", "\u{e9}"]
  // What tensors of side inputs may be called.
  let name = choices & 0xC == 8 ? ["row_sums", "column_sums", "transposed", "m.weight"][Int(choices & 3)] : names[Int(choices & 3) % 3]
  view.point(at: 8, to: choices & 0xC == 0xC ? nil : CallerMemory(text: Array(name.utf8)))
  let rank = Int(Int32(truncatingIfNeeded: view.get(at: 20, width: 4)))
  func extents() -> CallerMemory { CallerMemory((0..<min(max(rank, 0), 32)).flatMap { _ in littleEndian(extent(&input), 8) }) }
  view.point(at: 24, to: choices & 0x10 == 0 ? extents() : nil)
  view.point(at: 32, to: choices & 0x20 == 0 ? nil : extents())
  if choices & 0x40 == 0 { view.put(UInt64(input.number(2)) << 4 + 0x1000, at: 40) }
  return view
}

/// Four numbers, w, in memory that may be read.
func plainTensor() -> CallerMemory {
  let plain = CallerMemory(
    littleEndian(56, 4) + littleEndian(0, 4 + 8) + littleEndian(1, 4) + littleEndian(1, 4) + [UInt8](repeating: 0, count: 32))
  plain.point(at: 8, to: CallerMemory(text: Array("w".utf8)))
  plain.point(at: 24, to: CallerMemory(littleEndian(4, 8)))
  plain.point(at: 40, to: CallerMemory([UInt8](repeating: 0, count: 16)))
  return plain
}

/// Small ones and huge ones.
private func extent(_ input: inout FuzzInput) -> Int {
  let first = input.byte()
  return first < 240 ? Int(first) % 8 - (first >= 200 ? 4 : 0) : Int(truncatingIfNeeded: input.number(8))
}

func pointers(_ views: [CallerMemory]) -> CallerMemory {
  let array = CallerMemory([UInt8](repeating: 0, count: 8 * views.count))
  for (index, view) in views.enumerated() { array.point(at: 8 * index, to: view) }
  return array
}

private func createModel(_ input: inout FuzzInput) throws {
  let options = CallerMemory(struct: MemoryLayout<ingot_model_options>.size, &input)
  let views = (0...input.byte() % 3).map { _ in tensorView(&input) }
  options.point(at: 8, to: input.byte() % 2 == 0 ? nil : CallerMemory(text: input.rest))
  try withModel(views, options) { _ in }
}

/// Makes a model and plans with it, which reads shapes and no elements.
func withModel(_ views: [CallerMemory], _ options: CallerMemory?, _ body: (_ plan: OpaquePointer?) throws -> Void) throws {
  let array = pointers(views)
  let name = CallerMemory(text: Array("m".utf8))
  var model: OpaquePointer?
  let status = try check { error in
    ingot_model_create(name.typed(CChar.self), array.typed(), UInt64(views.count), &model, options?.typed(), error)
  }
  defer { ingot_model_destroy(model) }
  guard status == INGOT_OK else { return }
  let text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n"
  var recipe: OpaquePointer?
  _ = try check { error in ingot_recipe_parse(text, UInt64(text.utf8.count), nil, &recipe, nil, error) }
  defer { ingot_recipe_destroy(recipe) }
  var plan: OpaquePointer?
  defer { ingot_plan_destroy(plan) }
  let models = CallerMemory(littleEndian(Int(bitPattern: model), 8))
  var request = ingot_plan_options()
  request.struct_size = UInt32(MemoryLayout<ingot_plan_options>.size)
  request.flags = UInt32(INGOT_PLAN_NO_FILES)
  request.models = UnsafePointer(models.typed(Optional<OpaquePointer>.self))
  request.model_count = 1
  guard try check({ error in ingot_plan_create(handle(context), recipe, &plan, &request, error) }) == INGOT_OK else { return }
  try require(ingot_plan_json(plan) != nil && ingot_plan_table(plan) != nil, "a plan without texts")
  try body(plan)
}

private func runPlan(_ input: inout FuzzInput) throws {
  let sink = CallerMemory(struct: MemoryLayout<ingot_sink>.size, &input)
  let options = CallerMemory(struct: MemoryLayout<ingot_run_options>.size, &input)
  let choices = input.byte()
  let result = Int32(input.byte() % 3)
  let user = CallerMemory(littleEndian(Int(result), 4) + littleEndian(0, 4))
  let write: @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, UInt64, UnsafeRawPointer?, UInt64) -> Int32 = {
    user, _, _, _, _ in
    user?.load(as: Int32.self) ?? 0
  }
  let reserve: @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, UInt64) -> Int32 = { _, _, _ in 0 }
  let commit: @convention(c) (UnsafeMutableRawPointer?) -> Int32 = { user in user?.load(as: Int32.self) == 2 ? 5 : 0 }
  let release: @convention(c) (UnsafeMutableRawPointer?) -> Void = { user in
    if let user = user { user.storeBytes(of: user.load(fromByteOffset: 4, as: Int32.self) + 1, toByteOffset: 4, as: Int32.self) }
  }
  let progress: ingot_progress_fn = { _, progress in
    guard let progress else { return 8 }
    return progress.pointee.bytes_done > progress.pointee.bytes_total ? 9 : 0
  }
  sink.point(at: 8, to: user)
  sink.put(choices & 1 == 0 ? 0 : address(of: reserve), at: 16)
  sink.put(choices & 2 == 0 ? address(of: write) : 0, at: 24)
  sink.put(choices & 4 == 0 ? 0 : address(of: commit), at: 32)
  sink.put(address(of: release), at: 40)
  options.put(choices & 8 == 0 ? 0 : address(of: progress), at: 8)
  options.put(0, at: 16)
  options.point(at: 32, to: choices & 16 == 0 ? nil : CallerMemory(littleEndian(choices & 32 == 0 ? 0 : 1, 4)))
  try withModel([plainTensor()], nil) { plan in
    let status = try check { error in ingot_plan_run_to_sink(handle(context), plan, sink.typed(), nil, options.typed(), error) }
    let releases = user.get(at: 4, width: 4)
    let isRefused = [ingot_status(INGOT_E_INVALID_ARGUMENT), ingot_status(INGOT_E_UNSUPPORTED)].contains(status)
    // A sink that ends before `release` has none.
    if !isRefused, sink.count >= 48 { try require(releases == 1, "the sink was released \(releases) times, status \(status)") }
    if isRefused { try require(releases <= 1, "the sink was released \(releases) times, status \(status)") }
  }
}

/// The address of a C function.
func address<Function>(of function: Function) -> UInt64 { UInt64(UInt(bitPattern: unsafeBitCast(function, to: Int.self))) }

/// The files that a resolver of the caller's has: the input as the weights, and the struct that `open` fills.
private final class ResolverFiles {
  let weights: CallerMemory
  let source: [UInt8]
  var releases = 0
  init(weights: [UInt8], source: [UInt8]) {
    self.weights = CallerMemory(weights)
    self.source = source
  }
}

/// The files of a model: the input as the weights, and nothing else. The input may spoil the source.
private let openFile:
  @Sendable @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, UnsafePointer<CChar>?, UnsafeMutablePointer<ingot_source>?) ->
    Int32 = {
      user, _, file, out in
      guard let user = user, let file = file, let out = out else { return 77 }
      guard String(cString: file) == "model.safetensors" else { return Int32(INGOT_E_NOT_FOUND) }
      let files = Unmanaged<ResolverFiles>.fromOpaque(user).takeUnretainedValue()
      // The input may spoil the size and the flags.
      if files.source[0] > 200 { out.pointee.struct_size = UInt32(files.source[1]) }
      if files.source[2] > 200 { out.pointee.flags = UInt32(files.source[3]) }
      out.pointee.user = user
      if files.source[4] < 250 {
        out.pointee.size = { user, size in
          guard let user = user, let size = size else { return 1 }
          size.pointee = UInt64(Unmanaged<ResolverFiles>.fromOpaque(user).takeUnretainedValue().weights.count)
          return 0
        }
      }
      if files.source[5] < 250 {
        out.pointee.read_at = { user, offset, target, count in
          guard let user = user else { return 1 }
          let weights = Unmanaged<ResolverFiles>.fromOpaque(user).takeUnretainedValue().weights
          guard offset <= UInt64(weights.count), count <= UInt64(weights.count) - offset else { return 3 }
          target?.copyMemory(from: weights.address + Int(offset), byteCount: Int(count))
          return 0
        }
      }
      out.pointee.release = { user in
        if let user = user { Unmanaged<ResolverFiles>.fromOpaque(user).takeUnretainedValue().releases += 1 }
      }
      return 0
    }

private let listFiles:
  @Sendable @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, ingot_name_fn?, UnsafeMutableRawPointer?) -> Int32 = {
    _, _, add, names in
    guard let add = add, let names = names else { return 1 }
    return add(names, "model.safetensors")
  }

private func planFromSources(_ input: inout FuzzInput) throws {
  let resolver = CallerMemory(struct: MemoryLayout<ingot_resolver>.size, &input)
  let options = CallerMemory(struct: MemoryLayout<ingot_plan_options>.size, &input)
  let choices = input.byte()
  let image = input.take(8)
  let files = ResolverFiles(weights: input.rest, source: image)
  let user = Unmanaged.passUnretained(files)
  resolver.put(UInt64(UInt(bitPattern: user.toOpaque())), at: 8)
  resolver.put(choices & 1 == 0 ? address(of: openFile) : 0, at: 16)
  resolver.put(choices & 2 == 0 ? 0 : address(of: listFiles), at: 24)
  resolver.put(0, at: 32)
  options.put(0, at: 24)
  options.point(at: 40, to: choices & 4 == 0 ? resolver : nil)
  if options.get(at: 32, width: 8) > 2, choices & 8 == 0 { options.put(0, at: 32) }
  // Files of this machine are no part of the input.
  options.put(options.get(at: 4, width: 4) | UInt64(INGOT_PLAN_NO_FILES), at: 4, width: 4)
  let text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n"
  var recipe: OpaquePointer?
  _ = try check { error in ingot_recipe_parse(text, UInt64(text.utf8.count), nil, &recipe, nil, error) }
  var plan: OpaquePointer?
  let status = try check { error in ingot_plan_create(handle(context), recipe, &plan, options.typed(), error) }
  if status == INGOT_OK {
    try require(ingot_plan_json(plan) != nil, "a plan without texts")
    _ = try check { error in ingot_plan_run_to_sink(handle(context), plan, nil, nil, nil, error) }
  }
  ingot_plan_destroy(plan)
  ingot_recipe_destroy(recipe)
  try require(files.releases <= 1, "a source was released \(files.releases) times")
  withExtendedLifetime(files) {}
}

private func sideInput(_ input: inout FuzzInput) -> CallerMemory {
  let side = CallerMemory(struct: MemoryLayout<ingot_side_input>.size, &input)
  let choices = input.byte()
  let names = [
    "fisher", "second_moment", "gradients", "x", "gram", "output_gram", "features", "regularization", "mask", "prior", "votes", "",
  ]
  let name = names[Int(choices & 0xF) % names.count]
  side.point(at: 8, to: choices & 0xC == 0xC ? nil : CallerMemory(text: Array(name.utf8)))
  if choices & 0x10 == 0 { side.put(choices & 0x60 == 0x60 ? UInt64.max : UInt64(choices >> 5) & 3, at: 16) }
  side.point(at: 24, to: choices & 0x80 == 0 ? tensorView(&input) : nil)
  return side
}

private func aim(_ input: inout FuzzInput) -> CallerMemory {
  let aim = CallerMemory(struct: MemoryLayout<ingot_aim>.size, &input)
  let choices = input.byte()
  aim.point(at: 8, to: choices & 1 == 0 ? tensorView(&input) : nil)
  aim.point(at: 16, to: choices & 2 == 0 ? nil : tensorView(&input))
  return aim
}

/// Everything that is checked before a run; the run itself is cancelled before it reads an element.
private func mergeTensors(_ input: inout FuzzInput) throws {
  let options = CallerMemory(struct: MemoryLayout<ingot_merge_options>.size, &input)
  options.point(at: 16, to: CallerMemory(littleEndian(1, 4)))
  guard options.count >= 24 else { return }
  let choices = input.byte()
  let extras = input.byte()
  let sides = (0..<Int(extras % 4)).map { _ in sideInput(&input) }
  options.point(at: 24, to: extras & 0x10 == 0 ? pointers(sides) : nil)
  options.put(UInt64(sides.count), at: 32)
  options.point(at: 40, to: extras & 0x20 == 0 ? nil : aim(&input))
  let output = tensorView(&input)
  let inputs = (0...choices % 3).map { _ in tensorView(&input) }
  let base = choices & 8 == 0 ? nil : tensorView(&input)
  let array = pointers(inputs)
  let methods = ["linear", "ties", "slerp", "della", "fisher", "ota", "rcp", "regmean", "mats", "custom_diffusion", "concrete", "magmax"]
  let method = CallerMemory(text: Array(methods[Int(choices >> 4) % methods.count].utf8))
  let parameters = choices & 4 == 0 ? nil : CallerMemory(text: input.rest)
  let status = try check { error in
    ingot_merge_tensors(
      handle(context), method.typed(CChar.self), parameters?.typed(CChar.self), base?.typed(), array.typed(), UInt64(inputs.count),
      output.typed(), options.typed(), error)
  }
  try require(status != INGOT_OK || output.get(at: 48, width: 8) == 0, "a cancelled merge of elements ended well")
}

// MARK: - DLPack

func importDLPack(_ bytes: [UInt8]) throws {
  var input = FuzzInput(bytes)
  let choices = input.byte()
  let isVersioned = choices & 1 == 1
  let start = isVersioned ? 32 : 0
  let tensor = CallerMemory(input.take(start + 48 + (isVersioned ? 0 : 16)))
  if isVersioned, choices & 0x80 == 0 { tensor.put(1, at: 0, width: 4) }
  if choices & 0x40 == 0 { tensor.put(1, at: start + 8, width: 4) }
  let rank = Int(Int32(truncatingIfNeeded: tensor.get(at: start + 16, width: 4)))
  func extents() -> CallerMemory { CallerMemory((0..<min(max(rank, 0), 32)).flatMap { _ in littleEndian(extent(&input), 8) }) }
  tensor.point(at: start + 24, to: choices & 2 == 0 ? extents() : nil)
  tensor.point(at: start + 32, to: choices & 4 == 0 ? nil : extents())
  if choices & 8 == 0 { tensor.put(0x10000, at: start) }
  let view = CallerMemory(struct: MemoryLayout<ingot_tensor_view>.size, &input)
  let status = try check { error in
    let pointer = OpaquePointer(tensor.address)
    return isVersioned
      ? ingot_tensor_view_from_dlpack_versioned(pointer, view.typed(), error) : ingot_tensor_view_from_dlpack(pointer, view.typed(), error)
  }
  guard status == INGOT_OK, view.count >= 56 else { return }
  view.point(at: 8, to: CallerMemory(text: Array("w".utf8)))
  try withModel([view], nil) { _ in }
}
