package import IngotErrors

/// The entries of a directory that is read, by name. Symbolic links are followed: the model cache of Hugging Face is made of
/// them.
package struct DirectoryListing: Sendable {
  package struct Entry: Sendable, Hashable {
    package var name: String
    package var status: FileStatus
  }

  package var path: String
  /// Sorted by name; a link whose target is missing has the kind `.link`.
  package var entries: [Entry]
  /// Names that are not UTF-8 are left out; this is how many.
  package var unreadableNames: Int

  /// Throws `.notFound` if there is no such directory and `.io` otherwise.
  package init(_ path: String, system: System = .live) throws(IngotError) {
    do throws(SystemError) {
      let directory = try system.open(path, .directory)
      let (names, unreadable) = try system.list(directory, limit: Limit.directoryNames)
      var entries: [Entry] = []
      entries.reserveCapacity(names.count)
      for name in names {
        var status = try? system.status(name, in: directory, followingLink: true)
        if status == nil { status = try system.status(name, in: directory, followingLink: false) }
        if let status { entries.append(Entry(name: name, status: status)) }
      }
      self.path = path
      self.entries = entries
      unreadableNames = unreadable
    } catch {
      throw error.asSource(path, "list the directory")
    }
  }

  package subscript(name: String) -> Entry? { entries.first { $0.name == name } }
}

/// The status of a path (links followed), nil if there is nothing. Throws `.io` if it cannot be looked at.
package func fileStatus(_ path: String, system: System = .live) throws(IngotError) -> FileStatus? {
  do throws(SystemError) {
    return try system.status(path, followingLink: true)
  } catch {
    throw error.asSource(path, "look at the path")
  }
}
