import IngotJSON

/// The README.md of a merged model.
///
/// It follows from the recipe alone: no time, host, path or version. Of local paths only the last component is shown, also inside
/// the recipe. Comments of a recipe are not looked into: give a recipe without them where they may hold paths.
package struct ModelCard: Sendable {
  /// One model of the recipe.
  package struct Source: Sendable {
    package var reference: ModelReference
    /// True when the model was found on disk by its path, although the path may have the form of a hub name.
    package var isLocal: Bool
    /// The same of each adapter.
    package var adaptersAreLocal: [Bool]
    package var isBase: Bool
    package var licence: ModelLicence?

    package init(
      reference: ModelReference, isLocal: Bool, adaptersAreLocal: [Bool] = [], isBase: Bool = false, licence: ModelLicence? = nil
    ) {
      self.reference = reference
      self.isLocal = isLocal
      self.adaptersAreLocal = adaptersAreLocal
      self.isBase = isBase
      self.licence = licence
    }

    /// Model and adapters, each with whether it is a path of this machine.
    fileprivate var parts: [(part: ModelReference.Part, isLocal: Bool)] {
      let model = (part: reference.model, isLocal: isLocal || !reference.model.isHubName)
      return [model]
        + reference.adapters.enumerated().map { index, adapter in
          (part: adapter, isLocal: (adaptersAreLocal.indices.contains(index) && adaptersAreLocal[index]) || !adapter.isHubName)
        }
    }
  }

  /// The method's name as recipes write it, and its paper or page where there is one.
  package var method: String
  package var methodLink: String?
  /// In the recipe's order, without repetition.
  package var sources: [Source]
  /// The recipe's text.
  package var recipe: String

  package init(method: String, methodLink: String? = nil, sources: [Source], recipe: String) {
    self.method = method
    self.methodLink = methodLink
    self.sources = sources
    self.recipe = recipe
  }

  /// The text, Markdown with YAML front matter. Equal cards give equal text.
  package func render() -> String {
    (frontMatter() + body() + recipeSection()).joined(separator: "\n") + "\n"
  }

  // MARK: - Front matter

  private func frontMatter() -> [String] {
    var lines = ["---"]
    if !sources.isEmpty {
      lines.append("base_model:")
      var seen: Set<String> = []
      for source in sources {
        for (part, isLocal) in source.parts {
          let name = part.publicName(isLocal: isLocal)
          guard seen.insert(name).inserted else { continue }
          lines.append("- \(Self.yaml(name))" + (isLocal ? "  # a local directory" : ""))
        }
      }
      lines.append("base_model_relation: merge")
    }
    lines.append("library_name: transformers")
    lines += licenceLines()
    lines += ["tags:", "- merge", "- ingot", "- mergekit", "---"]
    return lines
  }

  /// One licence is stated with its name and link; several are listed, and the body says which model has which.
  private func licenceLines() -> [String] {
    let identifiers = distinct(sources.compactMap(\.licence).flatMap(\.identifiers))
    guard let first = identifiers.first else { return [] }
    guard identifiers.count == 1 else { return ["license:"] + identifiers.map { "- \(Self.yaml($0))" } }
    var lines = ["license: \(Self.yaml(first))"]
    let licences = distinct(sources.compactMap(\.licence))
    if licences.count == 1, let licence = licences.first {
      if let name = licence.name { lines.append("license_name: \(Self.yaml(name))") }
      if let link = licence.link { lines.append("license_link: \(Self.yaml(link))") }
    }
    return lines
  }

  // MARK: - Body

  private func body() -> [String] {
    let names = distinct(sources.map(publicName))
    var lines = ["", "# Merge of \(Self.enumeration(names.map(Self.markdown)))", ""]
    let linked = methodLink.map { "[\(method)](\($0))" } ?? "`\(method)`"
    var sentence = "Merged with Ingot by the method \(linked)"
    if let base = sources.first(where: \.isBase) { sentence += ", with \(link(base)) as the base" }
    lines += [sentence + ".", ""]
    lines += ["## Models", ""]
    for source in sources {
      let role = source.isBase ? " (base)" : ""
      let licence = source.licence.map { ": licence \(Self.markdown($0.label))" } ?? ": no licence stated"
      lines.append("* \(link(source))\(role)\(licence)")
    }
    if distinct(sources.map { $0.licence?.identifiers ?? [] }).count > 1 {
      lines += ["", "The models' licences differ; the merged weights are subject to all of them."]
    }
    return lines
  }

  private func link(_ source: Source) -> String {
    source.parts.map { part, isLocal in
      let name = Self.markdown(part.publicName(isLocal: isLocal))
      return isLocal ? name : "[\(name)](https://huggingface.co/\(part.path))"
    }.joined(separator: " + ")
  }

  private func publicName(_ source: Source) -> String {
    source.parts.map { $0.part.publicName(isLocal: $0.isLocal) }.joined(separator: " + ")
  }

  // MARK: - Recipe

  private func recipeSection() -> [String] {
    var text = publicRecipe
    while text.last?.isNewline == true { text.removeLast() }
    // A fence must be longer than any run of backticks inside it.
    var longest = 0
    var run = 0
    for byte in text.utf8 {
      run = byte == UInt8(ascii: "`") ? run + 1 : 0
      longest = max(longest, run)
    }
    let fence = String(repeating: "`", count: max(3, longest + 1))
    return ["", "## Recipe", "", "\(fence)yaml", text, fence]
  }

  /// The recipe with each local path cut to its last component, where the path stands on its own.
  package var publicRecipe: String {
    let local = sources.flatMap(\.parts).filter { $0.isLocal && $0.part.path.utf8.contains(UInt8(ascii: "/")) }
    return Set(local.map(\.part)).sorted { $0.path < $1.path }.reduce(recipe) { text, part in
      Self.replacing(part.path, by: part.publicName(isLocal: true), in: text)
    }
  }

  private static func replacing(_ path: String, by name: String, in text: String) -> String {
    let bytes = Array(text.utf8)
    let wanted = Array(path.utf8)
    var result: [UInt8] = []
    var place = 0
    while place < bytes.count {
      let end = place + wanted.count
      let begins = place == 0 || !isPathByte(bytes[place - 1])
      if begins, bytes[place...].starts(with: wanted), end == bytes.count || !isPathByte(bytes[end]) {
        result += Array(name.utf8)
        place = end
      } else {
        result.append(bytes[place])
        place += 1
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// Bytes that would make a path beside them a longer path.
  private static func isPathByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"), 0x80...: true
    case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "/"), UInt8(ascii: "~"): true
    default: false
    }
  }

  // MARK: - Text

  private func distinct<T: Hashable>(_ items: [T]) -> [T] {
    var seen: Set<T> = []
    return items.filter { seen.insert($0).inserted }
  }

  private static func enumeration(_ names: [String]) -> String {
    guard let last = names.last else { return "models" }
    return names.count == 1 ? last : names.dropLast().joined(separator: ", ") + " and " + last
  }

  /// A scalar that YAML reads back as this string: plain where that is safe, else in double quotes (JSON's are YAML's).
  static func yaml(_ text: String) -> String {
    let words: Set<String> = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
    let plain =
      text.unicodeScalars.allSatisfy { scalar in
        scalar.isASCII && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || "-_./".unicodeScalars.contains(scalar))
      } && text.unicodeScalars.first.map { $0.properties.isAlphabetic } == true && !words.contains(text.lowercased())
    return plain ? text : JSON.text(.string(text))
  }

  /// `text` as literal Markdown on one line.
  private static func markdown(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      if "\\`*_[]<>#|".unicodeScalars.contains(scalar) { result += "\\" }
      result.unicodeScalars.append(scalar.value < 0x20 ? " " : scalar)
    }
    return result
  }
}
