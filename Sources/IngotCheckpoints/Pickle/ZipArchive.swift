import IngotErrors

/// The directory of a zip archive as `torch.save` writes it: stored entries, with or without zip64. Checked whole before use: whoever holds
/// one may read `size` bytes at `dataOffset` of every entry.
///
/// Sizes come from the central directory alone, since local headers leave them to a trailer. https://pkware.cachefly.net/webdocs/APPNOTE/APPNOTE-6.3.9.TXT
struct ZipArchive {
  struct Entry: Sendable, Hashable {
    var name: String
    /// From the start of the file.
    var dataOffset: UInt64
    var size: UInt64
  }

  /// In the order of their bytes.
  let entries: [Entry]
  private let files: any ModelFiles
  private let file: String
  private let origin: String

  static let signature: [UInt8] = [0x50, 0x4B, 0x03, 0x04]
  private static let endBytes = 22
  private static let localBytes = 30

  /// Reads the directory. Throws `.format` for a damaged archive, `.unsupported` for compressed, encrypted or split ones.
  init(_ files: some ModelFiles, _ file: String, size: UInt64) throws(IngotError) {
    self.files = files
    self.file = file
    origin = files.path(of: file)
    let directory = try Self.directory(files, file, size: size, origin: origin)
    var records = ByteReader(directory.bytes, origin: origin)
    var found: [(record: Record, start: UInt64)] = []
    var names: Set<String> = []
    for _ in 0..<directory.count {
      let record = try Record(&records, origin: origin)
      guard names.insert(record.name).inserted else { throw Self.damaged("two entries called \(record.name)", origin) }
      found.append((record, record.headerOffset))
    }
    guard records.isAtEnd else { throw Self.damaged("bytes behind the last entry of the directory", origin) }
    found.sort { $0.start < $1.start }
    var entries: [Entry] = []
    var end: UInt64 = 0
    for (record, start) in found {
      guard start >= end, start <= directory.offset else { throw Self.damaged("entries that overlap at \(record.name)", origin) }
      let entry = try Self.locate(record, files, file, limit: directory.offset, origin: origin)
      end = entry.dataOffset + entry.size
      entries.append(entry)
    }
    self.entries = entries
  }

  /// All bytes of a small entry.
  func read(_ entry: Entry, limit: Int) throws(IngotError) -> [UInt8] {
    guard entry.size <= UInt64(limit) else {
      throw IngotError(.format, "\(entry.name) has \(entry.size) bytes, expected at most \(limit)", subject: origin)
    }
    return try files.read(file, offset: entry.dataOffset, count: Int(entry.size))
  }

  // MARK: Reading

  private static func damaged(_ found: String, _ origin: String) -> IngotError {
    IngotError(
      .format, "found \(found), expected a zip archive that torch.save wrote", hint: "the file is damaged or cut short: fetch it again",
      subject: origin)
  }

  /// Finds the end record, with the zip64 one before it where there is one, and reads the directory that it names.
  private static func directory(
    _ files: some ModelFiles, _ file: String, size: UInt64, origin: String
  ) throws(IngotError) -> (bytes: [UInt8], offset: UInt64, count: UInt64) {
    // A comment may follow the record; the one that ends with the file is the true one.
    let tailCount = Int(min(size, UInt64(endBytes + 20 + 0xFFFF)))
    let tail = try files.read(file, offset: size - UInt64(tailCount), count: tailCount)
    var place = tailCount - endBytes
    while place >= 0 {
      if tail[place..<place + 4].elementsEqual([0x50, 0x4B, 0x05, 0x06]),
        place + endBytes + Int(tail[place + 20]) + Int(tail[place + 21]) << 8 == tailCount
      {
        break
      }
      place -= 1
    }
    guard place >= 0 else { throw damaged("no end of a zip directory", origin) }
    var end = ByteReader(Array(tail[(place + 4)...]), origin: origin)
    let disks = (try end.number(2), try end.number(2))
    var (here, count) = (try end.number(2), try end.number(2))
    var (length, offset) = (try end.number(4), try end.number(4))
    guard disks == (0, 0) || disks == (0xFFFF, 0xFFFF) else {
      throw IngotError(.unsupported, "the zip archive is split over several disks", subject: origin)
    }
    var limit = size - UInt64(tailCount - place)
    if place >= 20, tail[place - 20..<place - 16].elementsEqual([0x50, 0x4B, 0x06, 0x07]) {
      var locator = ByteReader(Array(tail[(place - 12)..<(place - 4)]), origin: origin)
      let start = try locator.number(8)
      guard start <= limit, limit - start >= 76 else { throw damaged("a zip64 record outside of the file", origin) }
      var record = ByteReader(try files.read(file, offset: start, count: 56), origin: origin)
      guard try record.number(4) == 0x0606_4B50 else { throw damaged("no zip64 record where one is announced", origin) }
      _ = try (record.number(8), record.number(2), record.number(2), record.number(4), record.number(4))
      here = try record.number(8)
      count = try record.number(8)
      length = try record.number(8)
      offset = try record.number(8)
      limit = start
    }
    guard here == count, count <= UInt64(Limit.archiveEntries) else { throw damaged("\(count) entries", origin) }
    guard offset <= limit, length == limit - offset, length <= UInt64(Limit.archiveDirectoryBytes) else {
      throw damaged("a directory of \(length) bytes at \(offset) that does not end at \(limit)", origin)
    }
    return (try files.read(file, offset: offset, count: Int(length)), offset, count)
  }

  /// A record of the central directory.
  private struct Record {
    var name: String
    var size: UInt64
    var headerOffset: UInt64

    init(_ reader: inout ByteReader, origin: String) throws(IngotError) {
      guard try reader.number(4) == 0x0201_4B50 else { throw ZipArchive.damaged("no entry where the directory has one", origin) }
      _ = try (reader.number(2), reader.number(2))
      let flags = try reader.number(2)
      let method = try reader.number(2)
      _ = try (reader.number(4), reader.number(4))
      var stored = try reader.number(4)
      size = try reader.number(4)
      let lengths = (name: try reader.number(2), extra: try reader.number(2), comment: try reader.number(2))
      var disk = try reader.number(2)
      _ = try (reader.number(2), reader.number(4))
      headerOffset = try reader.number(4)
      name = try reader.text(Int(lengths.name))
      var extra = ByteReader(try reader.bytes(Int(lengths.extra)), origin: origin)
      _ = try reader.bytes(Int(lengths.comment))
      while extra.remaining >= 4 {
        let (tag, count) = (try extra.number(2), try extra.number(2))
        var field = ByteReader(try extra.bytes(Int(count)), origin: origin)
        guard tag == 1 else { continue }
        if size == 0xFFFF_FFFF { size = try field.number(8) }
        if stored == 0xFFFF_FFFF { stored = try field.number(8) }
        if headerOffset == 0xFFFF_FFFF { headerOffset = try field.number(8) }
        if disk == 0xFFFF { disk = try field.number(4) }
      }
      let parts = name.split(separator: "/", omittingEmptySubsequences: false)
      guard !name.utf8.contains(where: { $0 < 0x20 || $0 == UInt8(ascii: "\\") }),
        !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." })
      else { throw ZipArchive.damaged("an entry whose name is no plain relative path", origin) }
      guard flags & 0x41 == 0 else { throw IngotError(.unsupported, "the entry \(name) is encrypted, expected stored", subject: origin) }
      guard method == 0, stored == size else {
        throw IngotError(
          .unsupported, "the entry \(name) is compressed (method \(method)), expected stored, as torch.save does",
          hint: "load the file with torch and save it again", subject: origin)
      }
      guard disk == 0 else { throw ZipArchive.damaged("an entry on another disk", origin) }
    }
  }

  /// Where the data of an entry begin: behind its local header, whose name must be the directory's.
  private static func locate(
    _ record: Record, _ files: some ModelFiles, _ file: String, limit: UInt64, origin: String
  ) throws(IngotError) -> Entry {
    let name = Array(record.name.utf8)
    let count = localBytes + name.count
    guard limit - record.headerOffset >= UInt64(count) else { throw damaged("the entry \(record.name) outside of the data", origin) }
    var header = ByteReader(try files.read(file, offset: record.headerOffset, count: count), origin: origin)
    guard try header.number(4) == 0x0403_4B50 else { throw damaged("no header of the entry \(record.name)", origin) }
    _ = try header.bytes(22)
    let lengths = (name: try header.number(2), extra: try header.number(2))
    guard Int(lengths.name) == name.count, try header.bytes(name.count) == name else {
      throw damaged("an entry \(record.name) whose header has another name", origin)
    }
    let start = record.headerOffset + UInt64(count) + lengths.extra
    guard start <= limit, record.size <= limit - start else { throw damaged("the entry \(record.name) outside of the data", origin) }
    return Entry(name: record.name, dataOffset: start, size: record.size)
  }
}

/// Little-endian numbers and texts from bytes, each read checked.
struct ByteReader {
  private let data: [UInt8]
  private let origin: String
  private var position = 0

  init(_ data: [UInt8], origin: String) {
    self.data = data
    self.origin = origin
  }

  var remaining: Int { data.count - position }
  var isAtEnd: Bool { remaining == 0 }

  mutating func bytes(_ count: Int) throws(IngotError) -> [UInt8] {
    guard count >= 0, count <= remaining else {
      throw IngotError(
        .format, "found \(remaining) bytes, expected \(count)", hint: "the file is damaged or cut short: fetch it again", subject: origin)
    }
    defer { position += count }
    return Array(data[position..<position + count])
  }

  mutating func number(_ width: Int) throws(IngotError) -> UInt64 {
    try bytes(width).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
  }

  mutating func text(_ count: Int) throws(IngotError) -> String {
    guard let text = String(validating: try bytes(count), as: UTF8.self) else {
      throw IngotError(.format, "found a name that is not UTF-8", subject: origin)
    }
    return text
  }
}
