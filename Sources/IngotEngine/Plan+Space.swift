package import IngotErrors
package import IngotStorage

extension Plan {
  /// Bytes on disk while the plan runs into a directory: the output, and results of documents that are stored first.
  package var bytesOnDisk: Int { behind.stored.reduce(outputBytes) { $0 + $1.plan.outputBytes } }

  /// A warning when the disk of `destination` has no room for the plan's output, or cannot be asked; nil when it has. Nothing is written.
  /// Throws `.invalidArgument` for a destination without a plain last name.
  package func spaceNotice(destination: String, system: System = .live) throws(IngotError) -> Notice? {
    let place = try DestinationPath(destination)
    do throws(IngotError) {
      guard let free = try freeSpace(for: place, system: system), free < bytesOnDisk else { return nil }
      return Notice(
        .warning, "the output needs \(byteText(bytesOnDisk)), and \(byteText(free)) are free on the disk of \(place.parent)",
        subject: destination)
    } catch {
      return Notice(.warning, error.message, subject: place.parent)
    }
  }
}
