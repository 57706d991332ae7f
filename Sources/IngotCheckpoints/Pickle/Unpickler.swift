import IngotErrors
import IngotTensors

/// Reads the pickles that `torch.save` writes, and executes nothing.
///
/// A stack machine over the opcodes of `PickleOpcode`. Globals are looked up in `TorchGlobal`, a closed list; what Python would import
/// and call is refused by its name and its byte position before anything else of it is looked at. Time and memory are linear in the
/// pickle's length and bounded by `Limit`.
struct Unpickler {
  private let bytes: [UInt8]
  /// Where the pickle lies, for messages: "data.pkl" or the like.
  private let place: String
  private let origin: String
  private(set) var position: Int
  /// True when the bytes ended inside the pickle.
  private(set) var ranOut = false
  private var opcodeStart = 0
  /// An opcode makes one value at most, so this bounds them all.
  private var opcodes = 0
  private var stack: [PickleValue] = []
  private var marks: [Int] = []
  private var memo: [Int: PickleValue] = [:]
  private var storageOf: [String: Int] = [:]
  private(set) var objects: [PickleObject] = []
  private(set) var tensors: [TorchTensor] = []
  private(set) var storages: [TorchStorage] = []

  /// Begins at byte `start` of `bytes`.
  init(_ bytes: [UInt8], from start: Int = 0, place: String, origin: String) {
    self.bytes = bytes
    self.place = place
    self.origin = origin
    position = start
  }

  /// Runs up to STOP and gives the value on top. Throws `.unsupported` for an opcode or a global that is not known, else `.format`.
  mutating func load() throws(IngotError) -> PickleValue {
    stack = []
    marks = []
    memo = [:]
    while true {
      opcodeStart = position
      let byte = try take()
      guard let opcode = PickleOpcode(rawValue: byte) else {
        if let name = PickleOpcode.name(ofOther: byte) { throw refusal("the opcode \(name)") }
        throw failure("byte \(byte), which is no pickle opcode")
      }
      if opcode == .stop {
        guard let value = stack.popLast(), stack.isEmpty, marks.isEmpty else { throw failure("STOP with a stack that holds not one value") }
        return value
      }
      opcodes += 1
      guard opcodes <= Limit.pickleOpcodes else { throw refusal("more than \(Limit.pickleOpcodes) opcodes") }
      try run(opcode)
    }
  }

  private mutating func run(_ opcode: PickleOpcode) throws(IngotError) {
    switch opcode {
    case .proto:
      let version = try take()
      guard (2...5).contains(version) else { throw refusal("the pickle protocol \(version)") }
    case .frame: position += min(8, try available(8))
    case .none: stack.append(.none)
    case .newTrue: stack.append(.bool(true))
    case .newFalse: stack.append(.bool(false))
    case .binInt: stack.append(.int(Int(Int32(truncatingIfNeeded: try number(4)))))
    case .binInt1: stack.append(.int(try number(1)))
    case .binInt2: stack.append(.int(try number(2)))
    case .long1: stack.append(try longInt())
    case .binFloat: stack.append(.float(Double(bitPattern: try takeArray(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) })))
    case .shortBinUnicode, .shortBinString: stack.append(.string(try text(try number(1))))
    case .binUnicode, .binString: stack.append(.string(try text(try number(4))))
    case .binUnicode8: stack.append(.string(try text(try number(8))))
    case .shortBinBytes: try skip(try number(1))
    case .binBytes: try skip(try number(4))
    case .mark: marks.append(stack.count)
    case .emptyTuple: try push(.tuple([]))
    case .tuple: try push(.tuple(try popToMark()))
    case .tuple1: try push(.tuple(try pop(1)))
    case .tuple2: try push(.tuple(try pop(2)))
    case .tuple3: try push(.tuple(try pop(3)))
    case .emptyList: try push(.list([]))
    case .append: try append(try pop(1))
    case .appends: try append(try popToMark())
    case .emptyDict: try push(.dict([]))
    case .setItem: try setItems(try pop(2))
    case .setItems: try setItems(try popToMark())
    case .binPut: memo[try number(1)] = try top()
    case .longBinPut: memo[try number(4)] = try top()
    case .memoize: memo[memo.count] = try top()
    case .binGet: stack.append(try remembered(try number(1)))
    case .longBinGet: stack.append(try remembered(try number(4)))
    case .global: stack.append(try global(module: try line(), name: try line()))
    case .stackGlobal:
      let parts = try pop(2)
      guard let module = parts[0].asString, let name = parts[1].asString else { throw failure("STACK_GLOBAL of values that are no names") }
      stack.append(try global(module: module, name: name))
    case .reduce: try reduce()
    case .build: try build()
    case .binPersid: try persistent()
    case .stop: break
    }
  }

  // MARK: Bytes

  private mutating func available(_ count: Int) throws(IngotError) -> Int {
    guard count >= 0, count <= bytes.count - position else {
      ranOut = true
      throw failure("the end of the data inside the pickle")
    }
    return count
  }

  private mutating func take() throws(IngotError) -> UInt8 {
    _ = try available(1)
    defer { position += 1 }
    return bytes[position]
  }

  private mutating func takeArray(_ count: Int) throws(IngotError) -> ArraySlice<UInt8> {
    let count = try available(count)
    defer { position += count }
    return bytes[position..<position + count]
  }

  /// An unsigned little-endian number; one that does not fit is larger than any length there can be.
  private mutating func number(_ width: Int) throws(IngotError) -> Int {
    Int(clamping: try takeArray(width).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
  }

  private mutating func longInt() throws(IngotError) -> PickleValue {
    let digits = Array(try takeArray(try number(1)))
    guard digits.count <= 8 else { return .longInt(digits) }
    var value: Int64 = digits.last.map { $0 >= 0x80 ? -1 : 0 } ?? 0
    for digit in digits.reversed() { value = value << 8 | Int64(digit) }
    return .int(Int(value))
  }

  private mutating func text(_ count: Int) throws(IngotError) -> String {
    guard let text = String(validating: try takeArray(count), as: UTF8.self) else { throw failure("a text that is not UTF-8") }
    return text
  }

  private mutating func skip(_ count: Int) throws(IngotError) {
    _ = try takeArray(count)
    stack.append(.other)
  }

  private mutating func line() throws(IngotError) -> String {
    let start = position
    let limit = min(bytes.count, start + Limit.globalBytes)
    guard let end = bytes[start..<limit].firstIndex(of: 0x0A) else {
      ranOut = limit == bytes.count
      throw failure("a name without an end")
    }
    position = end + 1
    guard let text = String(validating: bytes[start..<end], as: UTF8.self) else { throw failure("a name that is not UTF-8") }
    return text
  }

  // MARK: Stack

  private mutating func push(_ object: PickleObject) throws(IngotError) {
    stack.append(.object(objects.count))
    objects.append(object)
  }

  private func top() throws(IngotError) -> PickleValue {
    guard stack.count > (marks.last ?? 0), let value = stack.last else { throw failure("a stack with too few values") }
    return value
  }

  private mutating func pop(_ count: Int) throws(IngotError) -> [PickleValue] {
    guard stack.count - count >= (marks.last ?? 0) else { throw failure("a stack with too few values") }
    let values = Array(stack.suffix(count))
    stack.removeLast(count)
    return values
  }

  private mutating func popToMark() throws(IngotError) -> [PickleValue] {
    guard let mark = marks.popLast() else { throw failure("an opcode that needs a MARK, and none is there") }
    let values = Array(stack[mark...])
    stack.removeSubrange(mark...)
    return values
  }

  private func remembered(_ index: Int) throws(IngotError) -> PickleValue {
    guard let value = memo[index] else { throw failure("memo entry \(index), which was never stored") }
    return value
  }

  private mutating func append(_ values: [PickleValue]) throws(IngotError) {
    guard case .object(let index) = try top(), case .list(var items) = objects[index] else { throw failure("APPEND to what is no list") }
    // Moved out first, so that it grows in place.
    objects[index] = .tuple([])
    items += values
    objects[index] = .list(items)
  }

  private mutating func setItems(_ values: [PickleValue]) throws(IngotError) {
    guard values.count % 2 == 0, case .object(let index) = try top(), case .dict(var items) = objects[index] else {
      throw failure("SETITEM on what is no dict")
    }
    objects[index] = .tuple([])
    for place in stride(from: 0, to: values.count, by: 2) { items.append((values[place], values[place + 1])) }
    objects[index] = .dict(items)
  }

  // MARK: Objects

  private func global(module: String, name: String) throws(IngotError) -> PickleValue {
    guard let known = TorchGlobal(module: module, name: name) else {
      let shown = Self.shown("\(module).\(name)")
      throw refusal("the global \(shown)")
    }
    return .global(known)
  }

  private func items(_ value: PickleValue) -> [PickleValue]? {
    if case .object(let index) = value, case .tuple(let items) = objects[index] { return items }
    return nil
  }

  private mutating func reduce() throws(IngotError) {
    let parts = try pop(2)
    guard case .global(let callee) = parts[0], let arguments = items(parts[1]) else {
      throw failure("REDUCE of what is no known global and a tuple")
    }
    switch callee {
    case .orderedDict:
      guard arguments.isEmpty else { throw refusal("an OrderedDict with arguments") }
      try push(.dict([]))
    case .defaultDict:
      if let factory = arguments.first {
        switch factory {
        case .none, .global(.builtinType), .global(.orderedDict): break
        default: throw refusal("a defaultdict with such a factory")
        }
      }
      guard arguments.count <= 1 else { throw refusal("a defaultdict with such arguments") }
      try push(.dict([]))
    case .size:
      guard arguments.count == 1, let extents = items(arguments[0]) else { throw failure("torch.Size of what is no tuple") }
      try push(.tuple(extents))
    case .device: stack.append(.other)
    case .rebuildTensor(let version): stack.append(try tensor(arguments, version: version))
    case .rebuildParameter:
      guard let value = arguments.first, case .tensor = value else { throw failure("a parameter of what is no tensor") }
      stack.append(value)
    case .builtinType, .dtype, .storage: throw refusal("a call of a type")
    }
  }

  /// The attributes of an OrderedDict (`_metadata` of a state dict) are of no use here; nothing else has a state to set.
  private mutating func build() throws(IngotError) {
    let state = try pop(1)[0]
    guard case .object(let index) = try top(), case .dict = objects[index], case .object(let other) = state, case .dict = objects[other]
    else { throw refusal("BUILD on what is no dict") }
  }

  /// `('storage', type, key, location, count)`, and in the legacy format a view, which torch stopped to write before 1.0.
  private mutating func persistent() throws(IngotError) {
    let identifier = try pop(1)[0]
    guard let parts = items(identifier), parts.count == 5 || parts.count == 6, parts[0].asString == "storage",
      case .global(.storage(let dtype)) = parts[1], let key = parts[2].asString, let count = parts[4].asInt, count >= 0
    else { throw failure("a persistent identifier that is not of a storage") }
    if parts.count == 6 {
      guard case .none = parts[5] else { throw refusal("a storage that is a view of another") }
    }
    let storage = TorchStorage(key: key, dtype: dtype, count: count)
    if let known = storageOf[key] {
      guard storages[known] == storage else { throw failure("the storage \(Self.shown(key)) with two types or sizes") }
      stack.append(.storage(known))
      return
    }
    storageOf[key] = storages.count
    stack.append(.storage(storages.count))
    storages.append(storage)
  }

  /// `(storage, offset, size, stride, requires_grad, hooks)`; version 3 adds the dtype, and both may end with a dict of flags.
  private mutating func tensor(_ arguments: [PickleValue], version: Int) throws(IngotError) -> PickleValue {
    guard arguments.count >= (version == 1 ? 4 : version == 2 ? 6 : 7), case .storage(let storage) = arguments[0],
      let offset = arguments[1].asInt, let size = items(arguments[2]), let stride = items(arguments[3])
    else { throw failure("a tensor with unexpected arguments") }
    let shape = size.compactMap(\.asInt)
    let strides = stride.compactMap(\.asInt)
    guard offset >= 0, shape.count == size.count, strides.count == stride.count, shape.count == strides.count,
      shape.count <= Limit.rank, shape.allSatisfy({ $0 >= 0 }), strides.allSatisfy({ $0 >= 0 })
    else { throw failure("a tensor with unexpected extents or strides") }
    var dtype = storages[storage].dtype
    if version == 3 {
      guard case .global(.dtype(let named)) = arguments[6] else { throw failure("a tensor with an unexpected dtype") }
      dtype = named
    }
    guard let dtype else { throw failure("a tensor of an untyped storage without a dtype") }
    let flags = version == 3 ? 7 : 6
    if arguments.count > flags, version > 1 {
      guard arguments.count == flags + 1, case .object(let index) = arguments[flags], case .dict(let items) = objects[index],
        items.isEmpty
      else { throw refusal("a conjugated or negated tensor") }
    }
    tensors.append(TorchTensor(storage: storage, dtype: dtype, offset: offset, shape: shape, strides: strides))
    return .tensor(tensors.count - 1)
  }

  // MARK: Errors

  private func failure(_ found: String) -> IngotError {
    IngotError(
      .format, "found \(found) at byte \(opcodeStart) of \(place)", hint: "the file is damaged or cut short: fetch it again",
      subject: origin)
  }

  private func refusal(_ found: String) -> IngotError {
    IngotError(
      .unsupported, "found \(found) at byte \(opcodeStart) of \(place), expected only what tensors need; nothing of the file was executed",
      hint: "do not load the file unless you know who made it; if you do, save only its state dict", subject: origin)
  }

  /// Text of a file in a message: short, and on one line.
  private static func shown(_ text: String) -> String {
    String(String.UnicodeScalarView(text.unicodeScalars.prefix(100).map { $0.value < 0x20 || $0.value == 0x7F ? "?" : $0 }))
  }
}
