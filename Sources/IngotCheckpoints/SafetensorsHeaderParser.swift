import IngotErrors
import IngotJSON
import IngotTensors

/// Goes through a header's JSON once, without a tree; then checks that the tensors tile the data buffer.
struct SafetensorsHeaderParser {
  private var scanner: JSONScanner
  private let origin: String
  private let dataStart: UInt64
  private let dataLength: UInt64

  private var tensors: [SafetensorsTensor] = []
  private var names: Set<String> = []
  private var metadata: [MetadataEntry]?
  private var inOrder = true
  private var last: (begin: UInt64, end: UInt64) = (0, 0)
  // Most tensors of a file have one dtype: its name is looked up once.
  private var lastDTypeName = ""
  private var lastDType = DType.f32

  init(_ json: [UInt8], fileSize: UInt64, origin: String) {
    scanner = JSONScanner(json, origin: origin)
    self.origin = origin
    dataStart = UInt64(SafetensorsHeader.prefixBytes) + UInt64(json.count)
    dataLength = fileSize >= dataStart ? fileSize - dataStart : 0
  }

  mutating func parse() throws(IngotError) -> SafetensorsHeader {
    try scanner.expect(UInt8(ascii: "{"), "'{' at the start of a safetensors header")
    if !scanner.accept(UInt8(ascii: "}")) {
      repeat { try member() } while scanner.accept(UInt8(ascii: ","))
      try scanner.expect(UInt8(ascii: "}"), "',' or '}'")
    }
    try scanner.end()
    names = []
    if !inOrder {
      tensors.sort { ($0.fileOffset, $0.byteCount) < ($1.fileOffset, $1.byteCount) }
    }
    try checkTiling()
    return SafetensorsHeader(tensors: tensors, metadata: metadata ?? [])
  }

  private mutating func member() throws(IngotError) {
    let place = scanner.offset
    let key = try scanner.string()
    try scanner.expect(UInt8(ascii: ":"), "':' after the key")
    if key == "__metadata__" {
      guard metadata == nil else { throw scanner.failure("the key \"__metadata__\" is there twice", at: place) }
      metadata = try metadataMap()
      return
    }
    guard names.insert(key).inserted else {
      throw IngotError(.format, "\(origin) has two tensors of this name, expected one", subject: key)
    }
    guard !key.utf8.contains(0) else {
      throw scanner.failure("a tensor name that holds a NUL character", at: place)
    }
    try entry(key)
  }

  private mutating func metadataMap() throws(IngotError) -> [MetadataEntry] {
    if scanner.peek() == UInt8(ascii: "n") {
      let value = try scanner.value()
      guard value.isNull else { throw scanner.unexpected("expected an object of strings") }
      return []
    }
    try scanner.expect(UInt8(ascii: "{"), "an object of strings for __metadata__")
    var entries: [MetadataEntry] = []
    if scanner.accept(UInt8(ascii: "}")) { return entries }
    repeat {
      let key = try scanner.string()
      try scanner.expect(UInt8(ascii: ":"), "':' after the key")
      let value = try scanner.string()
      entries.append(MetadataEntry(key, value))
    } while scanner.accept(UInt8(ascii: ","))
    try scanner.expect(UInt8(ascii: "}"), "',' or '}'")
    return entries
  }

  private mutating func entry(_ name: String) throws(IngotError) {
    var dtype: DType?
    var shape: Shape?
    var range: (begin: UInt64, end: UInt64)?
    try scanner.expect(UInt8(ascii: "{"), "an object with dtype, shape and data_offsets")
    if !scanner.accept(UInt8(ascii: "}")) {
      repeat {
        let place = scanner.offset
        let key = try scanner.string()
        try scanner.expect(UInt8(ascii: ":"), "':' after the key")
        switch key {
        case "dtype" where dtype == nil: dtype = try self.dtype(of: name)
        case "shape" where shape == nil: shape = try self.shape(of: name)
        case "data_offsets" where range == nil: range = try offsets(of: name)
        case "dtype", "shape", "data_offsets": throw scanner.failure("the key \"\(key)\" is there twice in one object", at: place)
        default: _ = try scanner.value(depth: 2)
        }
      } while scanner.accept(UInt8(ascii: ","))
      try scanner.expect(UInt8(ascii: "}"), "',' or '}'")
    }
    guard let dtype, let shape, let range else {
      let missing = dtype == nil ? "dtype" : shape == nil ? "shape" : "data_offsets"
      throw IngotError(.format, "\(origin) gives no \(missing) for this tensor", subject: name)
    }
    let byteCount = try checkedByteCount(name, dtype, shape, range)
    if range < last { inOrder = false }
    last = range
    // No overflow: begin ≤ end ≤ dataLength, and dataStart + dataLength is the file's size.
    tensors.append(
      SafetensorsTensor(name: name, dtype: dtype, shape: shape, fileOffset: dataStart + range.begin, byteCount: byteCount))
  }

  private mutating func dtype(of name: String) throws(IngotError) -> DType {
    let text = try scanner.string()
    if text == lastDTypeName { return lastDType }
    guard let dtype = DType(safetensorsName: text) else {
      let known = DType.allCases.map(\.safetensorsName).joined(separator: ", ")
      throw IngotError(
        .dtype, "\(origin) gives the unknown dtype \"\(text.prefix(60))\", expected one of \(known)",
        hint: "the file may be of a newer safetensors version than this program knows", subject: name)
    }
    lastDTypeName = text
    lastDType = dtype
    return dtype
  }

  private mutating func shape(of name: String) throws(IngotError) -> Shape {
    try scanner.expect(UInt8(ascii: "["), "an array of extents")
    var dimensions: [Int] = []
    if scanner.accept(UInt8(ascii: "]")) { return Shape(dimensions) }
    repeat {
      let extent = try scanner.unsignedInteger()
      guard let extent = Int(exactly: extent) else {
        throw IngotError(.format, "\(origin) gives the extent \(extent), which does not fit 63 bits", subject: name)
      }
      guard dimensions.count < Limit.rank else {
        throw IngotError(.format, "\(origin) gives a shape of more than \(Limit.rank) axes", subject: name)
      }
      dimensions.append(extent)
    } while scanner.accept(UInt8(ascii: ","))
    try scanner.expect(UInt8(ascii: "]"), "',' or ']'")
    return Shape(dimensions)
  }

  private mutating func offsets(of name: String) throws(IngotError) -> (begin: UInt64, end: UInt64) {
    try scanner.expect(UInt8(ascii: "["), "data_offsets as two integers")
    let begin = try scanner.unsignedInteger()
    try scanner.expect(UInt8(ascii: ","), "',' between two offsets")
    let end = try scanner.unsignedInteger()
    try scanner.expect(UInt8(ascii: "]"), "']' after two offsets")
    return (begin, end)
  }

  private func checkedByteCount(
    _ name: String, _ dtype: DType, _ shape: Shape, _ range: (begin: UInt64, end: UInt64)
  ) throws(IngotError) -> Int {
    guard range.begin <= range.end else {
      throw IngotError(.format, "\(origin) gives data_offsets [\(range.begin), \(range.end)] that run backwards", subject: name)
    }
    guard range.end <= dataLength else {
      throw IngotError(
        .format,
        "data_offsets [\(range.begin), \(range.end)] end beyond the \(dataLength) bytes of data in \(origin): the file is cut short",
        hint: SafetensorsHeader.downloadHint, subject: name)
    }
    let expected: Int
    do throws(IngotError) {
      expected = try shape.byteCount(dtype)
    } catch {
      throw IngotError(.format, "\(origin): \(error.message)", subject: name)
    }
    guard let found = Int(exactly: range.end - range.begin), found == expected else {
      throw IngotError(
        .format,
        "data_offsets [\(range.begin), \(range.end)] hold \(range.end - range.begin) bytes, expected \(expected) for \(dtype.safetensorsName) \(shape) in \(origin)",
        subject: name)
    }
    return expected
  }

  /// Every byte of the buffer belongs to exactly one tensor. `tensors` are in the order of their bytes.
  private func checkTiling() throws(IngotError) {
    var expected = dataStart
    for (index, tensor) in tensors.enumerated() {
      let begin = tensor.fileOffset
      if begin < expected {
        let other = tensors[..<index].last { $0.byteCount > 0 }?.name ?? ""
        throw IngotError(
          .format,
          "begins at byte \(begin - dataStart) of the data, inside \"\(other)\" that ends at \(expected - dataStart), in \(origin)",
          subject: tensor.name)
      }
      if begin > expected {
        throw IngotError(
          .format,
          "begins at byte \(begin - dataStart) of the data, expected \(expected - dataStart): \(begin - expected) bytes before it belong to no tensor in \(origin)",
          subject: tensor.name)
      }
      expected = begin + UInt64(tensor.byteCount)
    }
    guard expected == dataStart + dataLength else {
      let last = tensors.last.map { "the last tensor \"\($0.name)\" ends at byte" } ?? "there is no tensor; the data would end at byte"
      throw IngotError(
        .format, "\(last) \(expected - dataStart) of the data, but the file holds \(dataLength)", hint: SafetensorsHeader.downloadHint,
        subject: origin)
    }
  }
}
