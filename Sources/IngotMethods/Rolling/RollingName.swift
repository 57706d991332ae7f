/// Names of a rolling merge with several running objects: NAME of the first, NAME#OBJECT of the others.
package enum RollingName {
  package static let separator: Character = "#"

  /// The name of running object `object` of a tensor; the empty name is the first one's.
  package static func name(_ tensor: String, object: String) -> String { object.isEmpty ? tensor : "\(tensor)\(separator)\(object)" }

  /// The tensor whose running object has this name.
  package static func tensor(_ name: String) -> String { String(name.prefix { $0 != separator }) }

  /// True for the first running object of a tensor.
  package static func isFirst(_ name: String) -> Bool { !name.contains(separator) }
}
