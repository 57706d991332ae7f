internal import IngotRecipes

/// The parameter `panels`: which matrices a method reads and writes in panels of rows (`MatrixMethod.streams`).
struct PanelRule: Sendable {
  private let choice: String
  private let ratio: Int

  /// - Parameters: `ratio` is how many times as long as wide a matrix is from which on `auto` streams.
  init(_ segment: MethodRequest.Segment, ratio: Int = 4) {
    choice = segment.text("panels") ?? "auto"
    self.ratio = ratio
  }

  /// True where the person asked for panels.
  var isForced: Bool { choice == "always" }

  func streams(rows: Int, columns: Int) -> Bool {
    switch choice {
    case "always": rows >= columns
    case "never": false
    default: rows / ratio >= columns && rows * columns >= 1 << 25
    }
  }
}

extension ParameterDescriptor {
  static let panels = ParameterDescriptor(
    "panels", .choice(["auto", "always", "never"]),
    "whether a tall matrix is read and written in panels of rows, with memory for its shorter side alone; auto: long ones from 2^25 elements on",
    default: .text("auto"))
}
