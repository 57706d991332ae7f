package import IngotErrors

/// How a recipe names a model: `PATH[@REVISION][+ADAPTER[@REVISION]]…`, or the same in parts. Adapters are applied in their order. In the place of one may
/// stand a delta pack, with `#TASK` behind it where it has several.
///
/// PATH is a directory, a weight file, or `org/name` of the Hugging Face hub, which is looked up in the local cache only.
/// Two references are equal when they are written alike: `./m` and `m` are two models.
package struct ModelReference: Sendable, Hashable, CustomStringConvertible {
  package struct Part: Sendable, Hashable, CustomStringConvertible {
    package var path: String
    package var revision: String?
    /// The task of a pack.
    package var task: String?

    package init(path: String, revision: String? = nil, task: String? = nil) {
      self.path = path
      self.revision = revision
      self.task = task
    }

    package var description: String { place + (task.map { "#\($0)" } ?? "") }
    /// The description without the task: what is looked for.
    fileprivate var place: String { revision.map { "\(path)@\($0)" } ?? path }
  }

  package var model: Part
  package var adapters: [Part]
  /// Takes the place of the config's `architectures`.
  package var architecture: String?

  package init(model: Part, adapters: [Part] = [], architecture: String? = nil) {
    self.model = model
    self.adapters = adapters
    self.architecture = architecture
  }

  /// The string form. Throws `.recipe` for an empty path, revision or task, or two `@` in one part.
  package init(parsing text: String, position: SourcePosition? = nil) throws(IngotError) {
    let parts = text.split(separator: "+", omittingEmptySubsequences: false)
    guard let first = parts.first else { throw Self.malformed("an empty path", text, position) }
    self.init(model: try Self.part(first, of: text, position))
    for part in parts.dropFirst() { adapters.append(try Self.adapter(part, of: text, position)) }
  }

  /// What stands behind a `+`, alone.
  package static func adapter(parsing text: String, position: SourcePosition? = nil) throws(IngotError) -> Part {
    try adapter(text[...], of: text, position)
  }

  private static func adapter(_ text: Substring, of whole: String, _ position: SourcePosition?) throws(IngotError) -> Part {
    guard let mark = text.lastIndex(of: "#") else { return try part(text, of: whole, position) }
    let task = text[text.index(after: mark)...]
    guard !task.isEmpty else { throw malformed("an empty task after #", whole, position) }
    var found = try part(text[..<mark], of: whole, position)
    found.task = String(task)
    return found
  }

  /// What stands before or behind a `+`, without a task.
  private static func part(_ text: Substring, of whole: String, _ position: SourcePosition?) throws(IngotError) -> Part {
    let pieces = text.split(separator: "@", omittingEmptySubsequences: false)
    guard pieces.count <= 2 else { throw malformed("\(pieces.count - 1) @ signs in one part, expected at most one", whole, position) }
    guard let path = pieces.first, !path.isEmpty else { throw malformed("an empty path", whole, position) }
    guard !whole.utf8.contains(0) else { throw malformed("a NUL character", "", position) }
    guard pieces.count == 2 else { return Part(path: String(path)) }
    guard !pieces[1].isEmpty else { throw malformed("an empty revision after @", whole, position) }
    return Part(path: String(path), revision: String(pieces[1]))
  }

  private static func malformed(_ found: String, _ text: String, _ position: SourcePosition?) -> IngotError {
    IngotError(
      .recipe, "found \(found) in a model reference of the form PATH[@REVISION][+ADAPTER[@REVISION]]…",
      hint: "a path that contains + or @ is written {model: {path: \"…\"}}", subject: text, position: position)
  }

  package var description: String {
    ([model] + adapters).map(\.description).joined(separator: "+")
  }
}

extension ModelReference.Part {
  /// True when the path has the form of a hub name: `org/name` or `name`, of letters, digits, `-`, `_` and `.`.
  package var isHubName: Bool {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count <= 2, path.utf8.count <= 200 else { return false }
    return parts.allSatisfy { part in
      guard let first = part.utf8.first, let last = part.utf8.last, Self.isLetterOrDigit(first) || first == UInt8(ascii: "_") else {
        return false
      }
      let plain = part.utf8.allSatisfy {
        Self.isLetterOrDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".")
      }
      return plain && last != UInt8(ascii: ".") && last != UInt8(ascii: "-") && !part.contains("..") && !part.contains("--")
    }
  }

  private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
    (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5A) || (byte >= 0x61 && byte <= 0x7A)
  }

  /// What may be shown of the path to people elsewhere: a hub name as it is, of a local path the last component.
  package func publicName(isLocal: Bool) -> String {
    if !isLocal, isHubName { return path }
    let last = path.split(separator: "/").last.map(String.init) ?? ""
    return ["", ".", "..", "~"].contains(last) ? "model" : last
  }

  /// A place where the model may be, in the order to look.
  package struct Candidate: Sendable, Hashable {
    package enum Origin: Sendable { case local, hubCache }
    package let path: String
    package let origin: Origin
  }

  /// Paths to try. `environment` gives a variable's value, `readText` a small file's content or nil; nothing else is touched.
  ///
  /// A local path comes first; a path with a revision can only be local when its name contains the `@`. A hub name is then looked up
  /// in the cache of huggingface_hub: `refs/REVISION` names the snapshot, or the revision is a commit.
  package func candidates(environment: (String) -> String?, readText: (String) -> String?) -> [Candidate] {
    var found: [Candidate] = []
    if revision == nil || !isHubName {
      found.append(Candidate(path: Self.expandingHome(place, environment), origin: .local))
    }
    guard isHubName, let root = hubDirectory(environment) else { return found }
    let wanted = revision ?? "main"
    guard Self.isSafeRevision(wanted) else { return found }
    if let text = readText("\(root)/refs/\(wanted)") {
      let commit = text.filter { !$0.isWhitespace }
      if Self.isSnapshotName(commit) { found.append(Candidate(path: "\(root)/snapshots/\(commit)", origin: .hubCache)) }
    }
    if Self.isSnapshotName(wanted) {
      let direct = Candidate(path: "\(root)/snapshots/\(wanted)", origin: .hubCache)
      if !found.contains(direct) { found.append(direct) }
    }
    return found
  }

  /// The directory of this model in the hub cache, whether it exists or not; nil when no variable tells where the cache is.
  package func hubDirectory(_ environment: (String) -> String?) -> String? {
    func value(_ name: String) -> String? {
      environment(name).flatMap { $0.isEmpty ? nil : Self.expandingHome($0, environment) }
    }
    let hub =
      value("HF_HUB_CACHE") ?? value("HUGGINGFACE_HUB_CACHE") ?? value("HF_HOME").map { $0 + "/hub" }
      ?? value("XDG_CACHE_HOME").map { $0 + "/huggingface/hub" } ?? value("HOME").map { $0 + "/.cache/huggingface/hub" }
    return hub.map { root in
      let name = path.split(separator: "/").joined(separator: "--")
      return (root.hasSuffix("/") ? String(root.dropLast()) : root) + "/models--" + name
    }
  }

  /// The error when no candidate exists; for a hub name its hint is the command that fetches the model.
  package func notFound(environment: (String) -> String?, position: SourcePosition? = nil) -> IngotError {
    if isHubName {
      let command = "hf download \(path)" + (revision.map { " --revision \(Self.shellQuoted($0))" } ?? "")
      let cache = hubDirectory(environment).map { " and in \($0)" } ?? ""
      let local = revision == nil ? "no such directory or file" : "looked up as a hub name because of its revision"
      return IngotError(
        .notFound, "model not found: \(local)\(cache); expected a model of the revision \(revision ?? "main")",
        hint: "fetch it with: \(command)",
        subject: place, position: position)
    }
    return IngotError(
      .notFound, "model not found: no such directory or file, and not of the form org/name",
      hint: "check the path; a path that contains + or @ is written {model: {path: \"…\"}}", subject: place, position: position)
  }

  private static func expandingHome(_ path: String, _ environment: (String) -> String?) -> String {
    guard path == "~" || path.hasPrefix("~/"), let home = environment("HOME"), !home.isEmpty else { return path }
    return home + path.dropFirst()
  }

  /// A revision becomes part of a path under `refs`: nothing in it may lead elsewhere.
  private static func isSafeRevision(_ text: String) -> Bool {
    text.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
      && !text.utf8.contains { $0 < 0x20 }
  }

  /// Snapshots are named by commit.
  private static func isSnapshotName(_ text: String) -> Bool {
    text.utf8.count >= 7 && text.utf8.count <= 64
      && text.utf8.allSatisfy { ($0 >= 0x30 && $0 <= 0x39) || ($0 >= 0x61 && $0 <= 0x66) || ($0 >= 0x41 && $0 <= 0x46) }
  }

  private static func shellQuoted(_ text: String) -> String {
    let plain = text.utf8.allSatisfy {
      isLetterOrDigit($0) || [UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "/")].contains($0)
    }
    return plain ? text : "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
  }
}
