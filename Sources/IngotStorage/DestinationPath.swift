package import IngotErrors

/// Where an output directory goes: its parent and its own name, and the names beside it that a run uses.
///
/// The path may be relative and may end in slashes. Its last component must be a plain name, because the directory is made under
/// another name beside it and renamed. Symbolic links in the parent are followed; a destination that is itself a symbolic
/// link is refused, since a rename would replace the link and leave its target as it was.
package struct DestinationPath: Sendable, Hashable {
  /// As the caller wrote it, without the slashes at the end.
  package let path: String
  /// "." for a bare name.
  package let parent: String
  package let name: String

  package var partialPath: String { path + ".partial" }
  var partialName: String { name + ".partial" }
  /// Where the journal waits while the directory is renamed.
  var journalBesideName: String { name + ".partial.journal" }

  /// Throws `.invalidArgument` for a path without a plain last name.
  package init(_ text: String) throws(IngotError) {
    var bytes = Array(text.utf8)
    while bytes.count > 1, bytes.last == UInt8(ascii: "/") { bytes.removeLast() }
    let last = bytes.lastIndex(of: UInt8(ascii: "/"))
    let ownName = String(decoding: bytes[(last.map { $0 + 1 } ?? 0)...], as: UTF8.self)
    guard !bytes.contains(0), !ownName.isEmpty, ownName != ".", ownName != ".." else {
      throw IngotError(
        .invalidArgument, "found '\(text.replacingZeroBytes)', expected a destination that ends in a directory's name",
        hint: "give the name of a new directory, such as ./merged", subject: text.replacingZeroBytes)
    }
    path = String(decoding: bytes, as: UTF8.self)
    name = ownName
    parent =
      switch last {
      case nil: "."
      case 0?: "/"
      case let slash?: String(decoding: bytes[..<slash], as: UTF8.self)
      }
  }
}

extension String {
  fileprivate var replacingZeroBytes: String { String(map { $0 == "\0" ? "?" : $0 }) }
}

/// Throws `.invalidArgument` unless `name` is a relative path of plain names ("model.safetensors", "1_Pooling/config.json")
/// that stays inside its directory and is none of the names that a run keeps for itself. Returns its components.
func plainComponents(_ name: String) throws(IngotError) -> [String] {
  let parts = name.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
  let plain = parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." && !$0.utf8.contains(0) && $0.utf8.count <= 255 }
  guard plain, parts.count <= 16, parts.first != Journal.fileName else {
    throw IngotError(
      .invalidArgument, "found the file name '\(name)', expected a plain relative path inside the output directory", subject: name)
  }
  return parts
}
