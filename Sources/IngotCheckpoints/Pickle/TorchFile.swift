import IngotErrors
import IngotTensors

/// A file that `torch.save` wrote: its tensors as places in the file. Both formats are read, the zip archive since PyTorch 1.6 and the run of
/// pickles before. https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
struct TorchFile {
  let tensors: [CheckpointTensor]
  let notices: [Notice]
  /// What identifies the description: the pickle, and where the storages lie.
  let header: [UInt8]

  /// Throws `.format` for a damaged file, `.unsupported` for what no checkpoint needs, and whatever `files` throws.
  init(_ files: some ModelFiles, _ name: String, size: UInt64) throws(IngotError) {
    let origin = files.path(of: name)
    let start = try files.read(name, offset: 0, count: Int(min(size, 4)))
    let content =
      start == ZipArchive.signature
      ? try Self.readArchive(files, name, size: size, origin: origin) : try Self.readLegacy(files, name, size: size, origin: origin)
    var collector = StateDictReader(content, origin: origin)
    tensors = try collector.read()
    notices = collector.notices
    var header = content.pickle
    for place in content.places { header += Array("\(place.offset) \(place.size)\n".utf8) }
    self.header = header
  }

  /// The pickled object, and for each of its storages where the bytes lie.
  struct Content {
    var root: PickleValue
    var unpickler: Unpickler
    var places: [(offset: UInt64, size: UInt64)]
    var pickle: [UInt8]
  }

  // MARK: Zip

  private static func readArchive(
    _ files: some ModelFiles, _ name: String, size: UInt64, origin: String
  ) throws(IngotError) -> Content {
    let archive = try ZipArchive(files, name, size: size)
    let ending = "/data.pkl"
    let pickles = archive.entries.filter { $0.name.hasSuffix(ending) && $0.name.utf8.split(separator: UInt8(ascii: "/")).count == 2 }
    guard let pickle = pickles.first, pickles.count == 1 else {
      throw IngotError(
        .format, "found \(pickles.count) entries FOLDER/data.pkl in the zip archive, expected one: not a PyTorch checkpoint",
        subject: origin)
    }
    let folder = pickle.name.dropLast(ending.count)
    let byName = Dictionary(archive.entries.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    if byName["\(folder)/constants.pkl"] != nil {
      throw IngotError(
        .unsupported, "found a TorchScript archive, expected a state dict", hint: "save the module's state_dict() with torch.save",
        subject: origin)
    }
    if let order = byName["\(folder)/byteorder"], try archive.read(order, limit: 16) != Array("little".utf8) {
      throw IngotError(.unsupported, "the tensors are not little-endian", subject: origin)
    }
    let bytes = try archive.read(pickle, limit: Limit.pickleBytes)
    var unpickler = Unpickler(bytes, place: "data.pkl", origin: origin)
    let root = try unpickler.load()
    guard unpickler.position == bytes.count else {
      throw IngotError(.format, "found \(bytes.count - unpickler.position) bytes behind the pickle in data.pkl", subject: origin)
    }
    var places: [(offset: UInt64, size: UInt64)] = []
    for storage in unpickler.storages {
      guard let entry = byName["\(folder)/data/\(storage.key)"] else {
        throw IngotError(.format, "the archive has no entry data/\(storage.key), which a tensor needs", subject: origin)
      }
      let expected = try Self.byteCount(storage, origin)
      guard entry.size == UInt64(expected) else {
        throw IngotError(.format, "the entry \(entry.name) has \(entry.size) bytes, expected \(expected)", subject: origin)
      }
      places.append((entry.dataOffset, entry.size))
    }
    return Content(root: root, unpickler: unpickler, places: places, pickle: bytes)
  }

  // MARK: Legacy

  /// Bytes read first; the pickles of most files fit.
  private static let firstRead: UInt64 = 1 << 20
  /// 0x1950a86a20f9469cfc6c, little-endian.
  private static let magic: [UInt8] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19]

  private static func readLegacy(
    _ files: some ModelFiles, _ name: String, size: UInt64, origin: String
  ) throws(IngotError) -> Content {
    // How long the pickles are is known only when they have been read.
    var count = min(size, firstRead)
    while true {
      let bytes = try files.read(name, offset: 0, count: Int(count))
      var isShort = false
      do throws(IngotError) {
        return try readLegacy(bytes, files, name, size: size, origin: origin, isShort: &isShort)
      } catch {
        guard isShort, count < size, count < UInt64(Limit.pickleBytes) else { throw error }
        count = min(size, count * 4, UInt64(Limit.pickleBytes))
      }
    }
  }

  private static func readLegacy(
    _ bytes: [UInt8], _ files: some ModelFiles, _ name: String, size: UInt64, origin: String, isShort: inout Bool
  ) throws(IngotError) -> Content {
    guard let first = bytes.first, first == PickleOpcode.proto.rawValue || first == PickleOpcode.long1.rawValue else {
      throw IngotError(
        .format, "found neither a zip archive nor a pickle: not a PyTorch checkpoint", hint: "check the file's name and its download",
        subject: origin)
    }
    var position = 0
    func load(_ place: String) throws(IngotError) -> (PickleValue, Unpickler) {
      var unpickler = Unpickler(bytes, from: position, place: place, origin: origin)
      do throws(IngotError) {
        let value = try unpickler.load()
        position = unpickler.position
        return (value, unpickler)
      } catch {
        isShort = unpickler.ranOut
        throw error
      }
    }
    guard case .longInt(magic) = try load("the file").0 else {
      throw IngotError(
        .format, "found a pickle that torch.save did not write", hint: "save the state dict with torch.save, or as safetensors",
        subject: origin)
    }
    guard case .int(1001) = try load("the file").0 else {
      throw IngotError(.unsupported, "an unknown version of the format", subject: origin)
    }
    let (system, machine) = try load("the file")
    if case .object(let index) = system, case .dict(let items) = machine.objects[index] {
      for (key, value) in items where key.asString == "little_endian" {
        guard case .bool(true) = value else { throw IngotError(.unsupported, "the tensors are not little-endian", subject: origin) }
      }
    }
    let (root, unpickler) = try load("the file")
    let (list, keys) = try load("the file")
    var places = [(offset: UInt64, size: UInt64)?](repeating: nil, count: unpickler.storages.count)
    let known = Dictionary(unpickler.storages.enumerated().map { ($1.key, $0) }, uniquingKeysWith: { first, _ in first })
    guard case .object(let index) = list, case .list(let names) = keys.objects[index] else {
      throw IngotError(.format, "found no list of storages behind the pickle", subject: origin)
    }
    var offset = UInt64(position)
    for key in names {
      guard let text = key.asString, let index = known[text], places[index] == nil else {
        throw IngotError(.format, "found an unknown storage in the list behind the pickle", subject: origin)
      }
      let expected = UInt64(try byteCount(unpickler.storages[index], origin))
      guard offset <= size, size - offset >= 8, size - offset - 8 >= expected else {
        throw IngotError(
          .format, "found \(size) bytes, which end inside the storage \(text)", hint: "the file is cut short: fetch it again",
          subject: origin)
      }
      var reader = ByteReader(try files.read(name, offset: offset, count: 8), origin: origin)
      guard try reader.number(8) == UInt64(unpickler.storages[index].count) else {
        throw IngotError(.format, "the storage \(text) has another size than its tensors expect", subject: origin)
      }
      places[index] = (offset + 8, expected)
      offset += 8 + expected
    }
    guard offset == size else {
      throw IngotError(.format, "found \(size) bytes, expected the file to end with its last storage at \(offset)", subject: origin)
    }
    let complete = places.compactMap { $0 }
    guard complete.count == places.count else {
      throw IngotError(.format, "a storage that a tensor needs is not in the file", subject: origin)
    }
    return Content(root: root, unpickler: unpickler, places: complete, pickle: Array(bytes.prefix(position)))
  }

  private static func byteCount(_ storage: TorchStorage, _ origin: String) throws(IngotError) -> Int {
    let (count, overflow) = storage.count.multipliedReportingOverflow(by: (storage.dtype?.bits ?? 8) / 8)
    guard !overflow else { throw IngotError(.format, "a storage of more bytes than 63 bits can count", subject: origin) }
    return count
  }
}
