internal import IngotErrors
internal import IngotJSON
internal import IngotStorage

/// A small file beside weights that says what they are: ingot.json, rolling.json and their kind.
struct RecordFile {
  let path: String
  let bytes: [UInt8]

  /// Where a file of `directory` is.
  static func path(of name: String, in directory: String) -> String {
    directory.hasSuffix("/") ? directory + name : "\(directory)/\(name)"
  }

  /// Reads the file `name` of `directory`, which is one; nil where it has no such file. Throws `.io`, also for one of more than `limit` bytes.
  init?(_ name: String, in directory: String, limit: Int) throws(IngotError) {
    path = Self.path(of: name, in: directory)
    guard try fileStatus(path) != nil else { return nil }
    let file = try StoredFile(path)
    bytes = try file.readBytes(at: 0, count: file.size, limit: limit)
  }

  /// The same; throws `.notFound` where there is no such directory or file.
  /// - Parameter writer: what makes such directories: "a merge".
  init(_ name: String, in directory: String, limit: Int, from writer: String) throws(IngotError) {
    guard let status = try fileStatus(directory) else {
      throw IngotError(.notFound, "there is no such directory", hint: "check the path", subject: directory)
    }
    guard status.kind == .directory else {
      throw IngotError(.notFound, "found a file, expected a directory that \(writer) wrote", subject: directory)
    }
    guard let file = try RecordFile(name, in: directory, limit: limit) else {
      throw IngotError(
        .notFound, "the directory has no \(name)", hint: "only directories that \(writer) wrote have one", subject: directory)
    }
    self = file
  }
}

extension JSONValue {
  /// The members of a record, which is said to come from `path`. Throws `.format` (with the place), `.unsupported` (of a later version).
  static func record(_ bytes: [UInt8], path: String) throws(IngotError) -> JSONValue {
    let root = try JSON.parse(bytes, origin: path)
    let schema = try (root["schema"] ?? .null).requireInt("schema", in: path)
    guard schema == 1 else {
      throw IngotError(
        .unsupported, "the record has schema \(schema), expected 1", hint: "use the version of ingot that wrote it", subject: path)
    }
    return root
  }
}
