internal import IngotErrors
internal import IngotJSON

/// A tensor of a merged directory that is not what it should be.
package struct TensorDifference: Sendable, Hashable {
  package var tensor: String
  /// The weight file it is in, where that is known.
  package var file: String?
  /// One clause: what was found and what was expected.
  package var problem: String

  package init(tensor: String, file: String? = nil, problem: String) {
    self.tensor = tensor
    self.file = file
    self.problem = problem
  }
}

extension [TensorDifference] {
  mutating func sortByTensor() { sort { ($0.tensor, $0.problem) < ($1.tensor, $1.problem) } }

  /// Throws the first difference, and how many more there are, as an error; nothing where there is none.
  func requireNone(_ status: Status, hint: String) throws(IngotError) {
    guard let first else { return }
    let place = first.file.map { "in \($0) " } ?? ""
    throw IngotError(
      status, place + first.problem + (count > 1 ? " (and \(count - 1) more)" : ""), hint: hint, subject: first.tensor)
  }

  /// The members that the reports of all checks share.
  func write(to document: inout JSONDocument, directory: String, verdict: String, tensors: Int, bytes: Int) {
    document.field("schema", 1)
    document.field("directory", directory)
    document.field(verdict, isEmpty)
    document.field("tensors", tensors)
    document.field("bytes", bytes)
    document.list("differences") { list in
      for difference in self {
        list.object { entry in
          entry.field("tensor", difference.tensor)
          if let file = difference.file { entry.field("file", file) }
          entry.field("problem", difference.problem)
        }
      }
    }
  }
}
