import CIngot
import IngotErrors

// A C program whose resolver has files of its own, and that uses plans in every way.
// SAFETY: of this file: every pointer leads to memory that `CallerMemory` owns until the calls are over.

/// Nobody else's: a merge here must not find it busy.
private let ownContext = makeContext()

/// The files that a resolver has: what the input says is in them, and how its functions behave.
private final class CallerFiles {
  /// What the input's numbers of files mean. Several files of one name: the last.
  static let names = [
    "m/model.safetensors", "m/config.json", "l/adapter_config.json", "l/adapter_model.safetensors", "l/delta_pack.safetensors",
    "m/model.safetensors.index.json", "m/a.safetensors", "m/pytorch_model.bin", "l/adapter_model.bin", "m/tokenizer.json", "m/README.md",
    "m/../x", "m//x", "m/\u{1}",
  ]
  struct Behaviour: OptionSet {
    var rawValue: UInt8
    static let lists = Behaviour(rawValue: 1)
    static let knowsNothing = Behaviour(rawValue: 2)
    static let maps = Behaviour(rawValue: 4)
    static let failsToRead = Behaviour(rawValue: 8)
    static let failsToOpen = Behaviour(rawValue: 16)
    static let failsToTellSizes = Behaviour(rawValue: 32)
  }

  let behaviour: Behaviour
  private(set) var contents: [String: CallerMemory] = [:]
  var opened = 0
  var released = 0

  init(_ behaviour: Behaviour, _ input: inout FuzzInput) {
    self.behaviour = behaviour
    // A number of a file, its length in two bytes, its bytes.
    while !input.rest.isEmpty {
      let name = Self.names[Int(input.byte()) % Self.names.count]
      let length = Int(input.number(2))
      contents[name] = CallerMemory(input.take(min(length, input.rest.count)))
    }
  }

  static func of(_ user: UnsafeMutableRawPointer) -> CallerFiles { Unmanaged<CallerFiles>.fromOpaque(user).takeUnretainedValue() }
}

/// One of them, open.
private final class OpenCallerFile {
  let files: CallerFiles
  let memory: CallerMemory
  init(_ files: CallerFiles, _ memory: CallerMemory) {
    self.files = files
    self.memory = memory
  }

  func has(_ offset: UInt64, _ count: UInt64) -> Bool { offset <= UInt64(memory.count) && count <= UInt64(memory.count) - offset }

  static func of(_ user: UnsafeMutableRawPointer) -> OpenCallerFile { Unmanaged<OpenCallerFile>.fromOpaque(user).takeUnretainedValue() }
}

private let openCallerFile:
  @Sendable @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, UnsafePointer<CChar>?, UnsafeMutablePointer<ingot_source>?) ->
    Int32 = { user, model, file, out in
      guard let user, let model, let file, let out else { return 77 }
      let files = CallerFiles.of(user)
      guard let memory = files.contents["\(String(cString: model))/\(String(cString: file))"] else {
        return files.behaviour.contains(.failsToOpen) ? 9 : Int32(INGOT_E_NOT_FOUND)
      }
      files.opened += 1
      out.pointee.user = Unmanaged.passRetained(OpenCallerFile(files, memory)).toOpaque()
      out.pointee.size = { user, size in
        guard let user, let size else { return 1 }
        let file = OpenCallerFile.of(user)
        size.pointee = UInt64(file.memory.count)
        return file.files.behaviour.contains(.failsToTellSizes) ? 4 : 0
      }
      out.pointee.read_at = { user, offset, target, count in
        guard let user else { return 1 }
        let file = OpenCallerFile.of(user)
        guard file.has(offset, count), !file.files.behaviour.contains(.failsToRead) else { return 5 }
        target?.copyMemory(from: file.memory.address + Int(offset), byteCount: Int(count))
        return 0
      }
      if files.behaviour.contains(.maps) {
        out.pointee.map = { user, offset, count in
          guard let user, OpenCallerFile.of(user).has(offset, count) else { return nil }
          return UnsafeRawPointer(OpenCallerFile.of(user).memory.address + Int(offset))
        }
      }
      out.pointee.release = { user in
        guard let user else { return }
        OpenCallerFile.of(user).files.released += 1
        Unmanaged<OpenCallerFile>.fromOpaque(user).release()
      }
      return 0
    }

private let listCallerFiles:
  @Sendable @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, ingot_name_fn?, UnsafeMutableRawPointer?) -> Int32 = {
    user, model, add, names in
    guard let user, let model, let add, let names else { return 1 }
    let files = CallerFiles.of(user)
    if files.behaviour.contains(.knowsNothing) { return Int32(INGOT_E_NOT_FOUND) }
    let folder = String(cString: model) + "/"
    for path in files.contents.keys.sorted() where path.hasPrefix(folder) {
      let answer = add(names, String(path.dropFirst(folder.count)))
      if answer != 0 { return answer }
    }
    return files.behaviour.contains(.failsToOpen) ? 6 : 0
  }

/// Plans a copy of a model out of the caller's files, perhaps with an adapter or a pack applied, and runs it.
func mergeFiles(_ bytes: [UInt8]) throws {
  var input = FuzzInput(bytes)
  let references = ["m", "m+l", "m+l#0", "m+l#t"]
  let reference = references[Int(input.byte()) % references.count]
  let files = CallerFiles(CallerFiles.Behaviour(rawValue: input.byte()), &input)
  var resolver = ingot_resolver()
  resolver.struct_size = UInt32(MemoryLayout<ingot_resolver>.size)
  resolver.user = Unmanaged.passUnretained(files).toOpaque()
  resolver.open = openCallerFile
  if files.behaviour.contains(.lists) { resolver.list = listCallerFiles }
  let text = "merge_method: linear\nmodels: [{model: \"\(reference)\", parameters: {weight: 1}}]\n"
  var recipe: OpaquePointer?
  _ = try check { error in ingot_recipe_parse(text, UInt64(text.utf8.count), nil, &recipe, nil, error) }
  var plan: OpaquePointer?
  var status = try withUnsafePointer(to: resolver) { resolver in
    var request = ingot_plan_options()
    request.struct_size = UInt32(MemoryLayout<ingot_plan_options>.size)
    request.flags = UInt32(INGOT_PLAN_NO_FILES)
    request.resolver = resolver
    return try check { error in ingot_plan_create(handle(ownContext), recipe, &plan, &request, error) }
  }
  if status == INGOT_OK {
    try require(ingot_plan_json(plan) != nil && ingot_plan_digest(plan) != nil, "a plan without texts")
    status = try run(plan)
  }
  ingot_plan_destroy(plan)
  ingot_recipe_destroy(recipe)
  try require(files.opened == files.released, "\(files.opened) sources were opened and \(files.released) released")
  withExtendedLifetime(files) {}
  if status != INGOT_OK { throw IngotError(.format, "refused with the status \(status)") }
}

/// Into a sink that keeps nothing.
private func run(_ plan: OpaquePointer?) throws -> ingot_status {
  var sink = ingot_sink()
  sink.struct_size = UInt32(MemoryLayout<ingot_sink>.size)
  sink.write_at = { _, _, _, _, _ in 0 }
  var options = ingot_run_options()
  options.struct_size = UInt32(MemoryLayout<ingot_run_options>.size)
  options.flags = UInt32(INGOT_RUN_ALLOW_NONFINITE)
  var report: UnsafeMutablePointer<CChar>?
  let status = try check { error in ingot_plan_run_to_sink(handle(ownContext), plan, &sink, &report, &options, error) }
  try require((status == INGOT_OK) == (report != nil), "a report after failure, or none after success")
  ingot_string_destroy(report)
  return status
}

/// Everything that is checked before a run into memory; the run itself is cancelled before it reads an element.
func runToTensors(_ input: inout FuzzInput) throws {
  let cancel = CallerMemory(littleEndian(1, 4))
  let options = CallerMemory(struct: MemoryLayout<ingot_run_options>.size, &input)
  options.put(0, at: 8)
  options.point(at: 32, to: cancel)
  guard options.count >= 40 else { return }
  let outputs = (0..<Int(input.byte() % 4)).map { _ in tensorView(&input) }
  let array = pointers(outputs)
  try withModel([plainTensor()], nil) { plan in
    let status = try check { error in
      ingot_plan_run_to_tensors(handle(context), plan, array.typed(), UInt64(outputs.count), nil, options.typed(), error)
    }
    try require(status != INGOT_OK, "a cancelled run ended well")
  }
}

/// A view that the library fills, as far as the input says that there is room.
func describeTensor(_ input: inout FuzzInput) throws {
  let view = CallerMemory(struct: MemoryLayout<ingot_tensor_view>.size, &input)
  let index = UInt64(input.byte() & 1) * (input.byte() < 128 ? 1 : .max)
  try withModel([plainTensor()], nil) { plan in
    let status = try check { error in ingot_plan_tensor(plan, index, view.typed(), error) }
    try require(
      (status == INGOT_OK) == (index == 0 && view.get(at: 0, width: 4) % 8 == 0 && (8...4096).contains(view.get(at: 0, width: 4))),
      "tensor \(index) of one into \(view.get(at: 0, width: 4)) bytes: status \(status)")
    if status == INGOT_OK, view.count >= 56 { try require(view.get(at: 48, width: 8) == 16, "a tensor of four numbers has other bytes") }
  }
}

/// Handles of another kind and of nobody, wherever one is taken.
func useWrongHandles(_ input: inout FuzzInput) throws {
  let text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n"
  var recipe: OpaquePointer?
  _ = try check { error in ingot_recipe_parse(text, UInt64(text.utf8.count), nil, &recipe, nil, error) }
  defer { ingot_recipe_destroy(recipe) }
  let foreign = CallerMemory(input.take(64))
  let wrong = [nil, OpaquePointer(foreign.address), OpaquePointer(foreign.address + 1), handle(context)]
  let other = wrong[Int(input.byte()) % wrong.count]
  var plan: OpaquePointer?
  var report: UnsafeMutablePointer<CChar>?
  let invalid = ingot_status(INGOT_E_INVALID_ARGUMENT)
  try require(try check { error in ingot_plan_create(handle(context), other, &plan, nil, error) } == invalid, "no recipe made a plan")
  try require(try check { error in ingot_plan_create(recipe, recipe, &plan, nil, error) } == invalid, "no context made a plan")
  try require(
    try check { error in ingot_plan_run_to_directory(handle(context), other, "no/where", &report, nil, error) } == invalid, "no plan ran")
  try require(try check { error in ingot_directory_verify(recipe, "no/where", &report, nil, error) } == invalid, "no context verified")
  try require(plan == nil && report == nil, "a result after failure")
  try require(ingot_plan_json(other) == nil && ingot_plan_table(other) == nil && ingot_plan_digest(other) == nil, "the texts of no plan")
  try require(ingot_plan_tensor_count(other) == 0 && ingot_recipe_model_count(other) == 0, "the tensors or models of nothing")
  try require(
    ingot_recipe_method(other) == nil && ingot_recipe_notices_json(other) == nil && ingot_model_name(other) == nil, "the texts of nothing")
  try require(ingot_error_status(other) == INGOT_OK && ingot_error_hint(other) == nil, "no error has something to say")
  ingot_plan_destroy(other)
  ingot_recipe_destroy(other)
  ingot_model_destroy(other)
  ingot_error_destroy(other)
  try require(ingot_context_json(handle(context)) != nil, "another kind's destroy destroyed the context")
}
