/// Writes pickles opcode by opcode, and the two formats of torch.save around them.
struct PickleWriter {
  var bytes: [UInt8] = [0x80, 2]

  mutating func op(_ opcodes: UInt8...) { bytes += opcodes }
  mutating func global(_ module: String, _ name: String) { bytes += [0x63] + Array("\(module)\n\(name)\n".utf8) }
  mutating func text(_ text: String) { bytes += [0x58] + littleEndian(text.utf8.count, 4) + Array(text.utf8) }
  mutating func int(_ value: Int) { bytes += [0x4A] + littleEndian(value, 4) }

  mutating func ints(_ values: [Int]) {
    op(0x28)
    for value in values { int(value) }
    op(0x74)
  }

  /// A call of `_rebuild_tensor_v2` on a storage.
  mutating func tensor(
    storage: String, type: String = "FloatStorage", count: Int, offset: Int = 0, shape: [Int], strides: [Int], isLegacy: Bool = false
  ) {
    global("torch._utils", "_rebuild_tensor_v2")
    op(0x28, 0x28)
    text("storage")
    global("torch", type)
    text(storage)
    text("cpu")
    int(count)
    if isLegacy { op(0x4E) }
    op(0x74, 0x51)
    int(offset)
    ints(shape)
    ints(strides)
    op(0x89)
    global("collections", "OrderedDict")
    op(0x29, 0x52, 0x74, 0x52)
  }
}

func littleEndian(_ value: Int, _ width: Int) -> [UInt8] { (0..<width).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

/// One entry of a zip archive, with what tests bend.
struct ZipEntry {
  var name: String
  var data: [UInt8]
  var method = 0
  var flags = 0
  /// Where the directory says that the header is, instead of where it is.
  var claimedOffset: Int?
  var claimedSize: Int?
}

/// A zip archive of stored entries, as torch.save writes them; with zip64 records when asked.
func zip(_ entries: [ZipEntry], zip64: Bool = false) -> [UInt8] {
  var file: [UInt8] = []
  var directory: [UInt8] = []
  for entry in entries {
    let offset = entry.claimedOffset ?? file.count
    let size = entry.claimedSize ?? entry.data.count
    let name = Array(entry.name.utf8)
    // The local header leaves sizes to a trailer and is padded, as torch does.
    file += [0x50, 0x4B, 3, 4, 0, 0] + littleEndian(entry.flags | 8, 2) + littleEndian(entry.method, 2) + [UInt8](repeating: 0, count: 16)
    file += littleEndian(name.count, 2) + littleEndian(6, 2) + name + [0x46, 0x42, 2, 0, 0x5A, 0x5A] + entry.data
    directory += [0x50, 0x4B, 1, 2, 0, 0, 0, 0] + littleEndian(entry.flags | 8, 2) + littleEndian(entry.method, 2)
    directory += [UInt8](repeating: 0, count: 8)
    let extra = zip64 ? [1, 0, 24, 0] + littleEndian(size, 8) + littleEndian(size, 8) + littleEndian(offset, 8) : []
    let shown = zip64 ? [UInt8](repeating: 0xFF, count: 8) : littleEndian(size, 4) + littleEndian(size, 4)
    directory += shown + littleEndian(name.count, 2) + littleEndian(extra.count, 2) + [UInt8](repeating: 0, count: 10)
    directory += (zip64 ? [0xFF, 0xFF, 0xFF, 0xFF] : littleEndian(offset, 4)) + name + extra
  }
  let start = file.count
  file += directory
  if zip64 {
    let record = file.count
    file += [0x50, 0x4B, 6, 6] + littleEndian(44, 8) + [UInt8](repeating: 0, count: 12)
    file += littleEndian(entries.count, 8) + littleEndian(entries.count, 8) + littleEndian(directory.count, 8) + littleEndian(start, 8)
    file += [0x50, 0x4B, 6, 7, 0, 0, 0, 0] + littleEndian(record, 8) + [1, 0, 0, 0]
  }
  file += [0x50, 0x4B, 5, 6, 0, 0, 0, 0] + littleEndian(entries.count, 2) + littleEndian(entries.count, 2)
  file += littleEndian(directory.count, 4) + littleEndian(start, 4) + [0, 0]
  return file
}

/// A state dict of three tensors over two storages: a matrix, its transpose, and half-precision values.
func samplePickle(isLegacy: Bool = false) -> [UInt8] {
  var pickle = PickleWriter()
  pickle.op(0x7D, 0x28)
  pickle.text("w")
  pickle.tensor(storage: "0", count: 6, shape: [2, 3], strides: [3, 1], isLegacy: isLegacy)
  pickle.text("t")
  pickle.tensor(storage: "0", count: 6, shape: [3, 2], strides: [1, 3], isLegacy: isLegacy)
  pickle.text("h")
  pickle.tensor(storage: "1", type: "HalfStorage", count: 5, offset: 1, shape: [4], strides: [1], isLegacy: isLegacy)
  pickle.op(0x75, 0x2E)
  return pickle.bytes
}

func sampleEntries(pickle: [UInt8] = samplePickle()) -> [ZipEntry] {
  [
    ZipEntry(name: "m/data.pkl", data: pickle), ZipEntry(name: "m/byteorder", data: Array("little".utf8)),
    ZipEntry(name: "m/data/0", data: Array(0..<24)), ZipEntry(name: "m/data/1", data: Array(0..<10)),
    ZipEntry(name: "m/version", data: [0x33, 0x0A]),
  ]
}

func sampleLegacy(pickle: [UInt8] = samplePickle(isLegacy: true)) -> [UInt8] {
  var file: [UInt8] = [0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E]
  file += [0x80, 2, 0x4D, 0xE9, 3, 0x2E]
  var system = PickleWriter()
  system.op(0x7D, 0x28)
  system.text("little_endian")
  system.op(0x88, 0x75, 0x2E)
  var keys = PickleWriter()
  keys.op(0x5D, 0x28)
  keys.text("0")
  keys.text("1")
  keys.op(0x65, 0x2E)
  return file + system.bytes + pickle + keys.bytes + littleEndian(6, 8) + Array(0..<24) + littleEndian(5, 8) + Array(0..<10)
}

/// A zip archive whose pickle is `{"w": <what the body leaves>}`.
func archive(_ body: (inout PickleWriter) -> Void) -> [UInt8] {
  var pickle = PickleWriter()
  pickle.op(0x7D)
  pickle.text("w")
  body(&pickle)
  pickle.op(0x73, 0x2E)
  return zip(sampleEntries(pickle: pickle.bytes))
}

/// A generator whose seed a failing test can print.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
