package import IngotErrors

/// Bytes that a new directory at `destination` may take: what its parent's file system has free for this user. Nil where that is not known.
/// Throws `.output` when the parent cannot be opened.
package func freeSpace(for destination: DestinationPath, system: System = .live) throws(IngotError) -> Int? {
  try output(destination.parent, "find out the free space") { () throws(SystemError) in
    try system.space(try system.open(destination.parent, .directory))
  }
}
