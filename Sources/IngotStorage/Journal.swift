package import IngotErrors

/// What a partial output was made from. A run may only resume one of the same identity.
package struct RunIdentity: Hashable, Sendable {
  /// The plan: recipe, parameters, seed, layout of the output.
  package var plan: Digest128
  /// The sources: size, time of change and header of each.
  package var sources: Digest128

  package init(plan: Digest128, sources: Digest128) {
    self.plan = plan
    self.sources = sources
  }
}

/// The journal of a partial output, as text:
///
///     ingot-journal 1 plan 0123…cdef sources 0123…cdef
///     writer 4711 hostname
///     tensor 17 0123…cdef
///
/// One line per event, each added with a single write, so that a run that was killed leaves at most one torn line at the end.
/// A `tensor` line says that all bytes of that tensor were written and what their digest is; nothing is synced per line, so
/// a reader hashes those bytes again before it believes them. Lines that do not parse are skipped: their tensors are redone.
package struct Journal: Sendable {
  static let fileName = ".ingot-journal"

  package var identity: RunIdentity?
  /// Process and host of the last run that wrote here.
  package var writer: String?
  /// The last digest noted for each tensor.
  package var finished: [Int: Digest128] = [:]
  /// Where the last complete line ends; what follows is torn.
  package var completeBytes = 0
  /// Complete lines that mean nothing.
  package var skippedLines = 0

  package init(parsing bytes: [UInt8]) {
    var start = 0
    while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) {
      let line = bytes[start..<end]
      let isFirst = start == 0
      start = end + 1
      completeBytes = start
      guard let text = String(validating: line, as: UTF8.self), take(text, isFirst: isFirst) else {
        skippedLines += 1
        continue
      }
    }
  }

  private mutating func take(_ line: String, isFirst: Bool) -> Bool {
    let words = line.split(separator: " ", omittingEmptySubsequences: false)
    if isFirst {
      guard words.count == 6, words[0] == "ingot-journal", words[1] == "1", words[2] == "plan", words[4] == "sources",
        let plan = Digest128(hex: words[3]), let sources = Digest128(hex: words[5])
      else { return false }
      identity = RunIdentity(plan: plan, sources: sources)
      return true
    }
    if words.count == 3, words[0] == "writer" {
      writer = "process \(words[1]) on \(words[2])"
      return true
    }
    guard words.count == 3, words[0] == "tensor", let index = Int(words[1]), index >= 0, let digest = Digest128(hex: words[2])
    else { return false }
    finished[index] = digest
    return true
  }

  package static func header(_ identity: RunIdentity) -> String { "ingot-journal 1 plan \(identity.plan) sources \(identity.sources)\n" }
  package static func writerLine() -> String { "writer \(System.writerName())\n" }
  package static func tensorLine(_ index: Int, _ digest: Digest128) -> String { "tensor \(index) \(digest)\n" }

  /// Throws `.stale` if the journal is of another run, saying what changed.
  package func check(_ expected: RunIdentity, subject: String) throws(IngotError) {
    guard let identity else {
      throw IngotError(
        .stale, "the journal's first line is not readable, expected a journal of an interrupted merge",
        hint: "--force discards the partial output and starts again", subject: subject)
    }
    let plan = identity.plan != expected.plan
    let sources = identity.sources != expected.sources
    guard plan || sources else { return }
    let what =
      switch (plan, sources) {
      case (true, true): "the plan and the source files changed"
      case (true, false): "the plan changed (recipe, parameters, seed or output layout)"
      default: "the source files changed (size, time of change or header)"
      }
    throw IngotError(
      .stale,
      "\(what) since the interrupted run: found plan \(identity.plan) and sources \(identity.sources), expected plan \(expected.plan) and sources \(expected.sources)",
      hint: "--force discards the partial output and starts again", subject: subject)
  }
}
