import CKernels
package import IngotErrors

/// A set of processor instructions that the kernels were compiled for. Every set gives the same bits; they differ in speed.
package struct InstructionSet: Sendable, Hashable, CustomStringConvertible {
  let ordinal: Int32
  package let name: String

  private init?(ordinal: Int32) {
    // SAFETY: a static, zero-terminated C string.
    let name = unsafe String(cString: ingotk_set_name(ordinal))
    guard !name.isEmpty else { return nil }
    self.ordinal = ordinal
    self.name = name
  }

  package var description: String { name }

  /// The sets of this build, whether they run here or not, best first; the last is `scalar`, the reference.
  package static var compiled: [InstructionSet] { (0..<ingotk_set_count()).compactMap(InstructionSet.init(ordinal:)) }

  /// The sets that run on this processor and operating system, best first; the last is `scalar`.
  package static var available: [InstructionSet] { compiled.filter { ingotk_set_runs_here($0.ordinal) } }

  /// The fastest set that runs here.
  package static var best: InstructionSet {
    // The scalar set is always there, so the list is never empty.
    available.first ?? scalar
  }

  /// The reference set.
  package static var scalar: InstructionSet { InstructionSet(ordinal: ingotk_set_count() - 1, name: "scalar") }

  private init(ordinal: Int32, name: String) {
    self.ordinal = ordinal
    self.name = name
  }

  /// The set of that name. Throws `.invalidArgument` for an unknown name and `.unsupported` for a set this processor lacks.
  package static func named(_ name: String) throws(IngotError) -> InstructionSet {
    let usable = available
    if let found = usable.first(where: { $0.name == name }) { return found }
    let hint = "available here: " + usable.map(\.name).joined(separator: ", ")
    if compiled.contains(where: { $0.name == name }) {
      throw IngotError(.unsupported, "this processor does not run the instruction set \"\(name)\"", hint: hint, subject: name)
    }
    throw IngotError(.invalidArgument, "unknown instruction set \"\(name)\"", hint: hint, subject: name)
  }

  /// How many kernel calls of this process ran with this set.
  package var callCount: UInt64 { ingotk_set_calls(ordinal) }
}
