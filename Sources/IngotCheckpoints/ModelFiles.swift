package import IngotErrors

/// The files of one model, as the engine hands them to this module: this module turns bytes into descriptions and opens nothing.
///
/// Names are relative to the model's directory, with `/` between the parts of a name in a subdirectory. Calls may come from any
/// thread, one at a time for one value.
package protocol ModelFiles: Sendable {
  /// The model as a person knows it: the directory's or file's path as given.
  var displayPath: String { get }

  /// Names of the regular files, in any order; files of subdirectories may be among them. Throws `.notFound` or `.io`.
  func fileNames() throws(IngotError) -> [String]

  /// Size in bytes; nil when there is no such file.
  func size(of name: String) throws(IngotError) -> UInt64?

  /// Exactly `count` bytes from `offset`; throws `.io` when the file is shorter.
  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8]

  /// Time of the last change in nanoseconds since 1970; 0 when it is not known. Part of a source's identity.
  func modificationTime(of name: String) -> Int64
}

extension ModelFiles {
  /// A path for messages.
  func path(of name: String) -> String { displayPath.hasSuffix("/") ? displayPath + name : displayPath + "/" + name }

  /// A whole text file, or nil when it is absent. Throws `.format` beyond `limit` bytes: side files are small, and memory is bounded.
  package func readWhole(_ name: String, limit: some BinaryInteger) throws(IngotError) -> [UInt8]? {
    guard let size = try size(of: name) else { return nil }
    guard size <= limit, let count = Int(exactly: size) else {
      throw IngotError(.format, "found \(size) bytes, expected at most \(limit)", subject: path(of: name))
    }
    return try read(name, offset: 0, count: count)
  }
}
