package import IngotJSON

/// What a tensor's name tells: which other names may stand for it, and whether it is an embedding. Pure functions over `NameTables`.
package enum TensorNames {
  /// True when head and input embedding of a model are one tensor by its config: `tie_word_embeddings` at the top or under
  /// `text_config`, else the default of the model type. False without a config.
  package static func tiesEmbeddings(_ config: JSONValue?) -> Bool {
    guard let config else { return false }
    if let said = config["tie_word_embeddings"]?.asBool { return said }
    let text = config[NameTables.textSection]
    if let said = text?["tie_word_embeddings"]?.asBool { return said }
    let types = [config["model_type"]?.asString, text?["model_type"]?.asString]
    return types.contains { $0.map(NameTables.tiedByDefault.contains) ?? false }
  }

  /// Names that hold the same values as `name` in a model with this config, best first: read one of them when `name` is absent.
  package static func substitutes(for name: String, config: JSONValue?) -> [String] {
    var found: [String] = []
    func add(_ candidate: String) {
      if candidate != name, !found.contains(candidate) { found.append(candidate) }
    }
    for group in NameTables.alwaysTied where group.contains(name) { group.forEach(add) }
    guard tiesEmbeddings(config) else { return found }
    for (head, embeddings) in NameTables.tiedHeads {
      if head == name { embeddings.forEach(add) }
      if embeddings.contains(name) { add(head) }
    }
    return found
  }

  /// True for an output head that a config may tie to the input embedding.
  package static func isTiedHead(_ name: String) -> Bool { NameTables.tiedHeads.contains { $0.head == name } }

  /// True for an output head, on its own or inside a multi-modal model.
  package static func isHead(_ name: String) -> Bool {
    isTiedHead(name)
      || NameTables.languageModelPrefixes.contains { name.hasPrefix($0) && isTiedHead(String(name.dropFirst($0.count))) }
  }

  /// Other spellings of `name` in checkpoints of the same family: with or without the base model's prefix, and the old names of a
  /// LayerNorm's parameters. Best first, without `name` itself.
  package static func aliases(of name: String) -> [String] {
    var spellings = [name]
    for (prefix, stems) in NameTables.optionalPrefixes {
      if name.hasPrefix(prefix) {
        let bare = String(name.dropFirst(prefix.count))
        if stems.contains(where: bare.hasPrefix) { spellings.append(bare) }
      } else if stems.contains(where: name.hasPrefix) {
        spellings.append(prefix + name)
      }
    }
    for (new, old) in NameTables.endings {
      for (from, to) in [(new, old), (old, new)] where name.hasSuffix(from) {
        spellings += spellings.map { $0.dropLast(from.count) + to }
      }
    }
    return Array(spellings.dropFirst())
  }

  /// Where the same tensor stands in other layouts of the same model: a language model on its own or inside a multi-modal one, towers with or
  /// without `model.` before them, a base model with or without the prefix of the full one. Best first, without `name` itself. `leading`
  /// are the first components of names in the checkpoint that is searched: a prefix that nothing there has is not tried.
  package static func respellings(of name: String, leading: [String]) -> [String] {
    var found: [String] = []
    func add(_ candidate: String) {
      if candidate != name, !found.contains(candidate) { found.append(candidate) }
    }
    for group in NameTables.interchangeable {
      for from in group where name.hasPrefix(from) {
        for to in group where to != from { add(to + name.dropFirst(from.count)) }
      }
    }
    if let dot = name.utf8.firstIndex(of: UInt8(ascii: ".")) {
      let first = name[..<dot]
      if first.utf8.contains(where: { !($0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9")) }) {
        let bare = String(name[name.utf8.index(after: dot)...])
        let next = bare.utf8.prefix { $0 != UInt8(ascii: ".") }
        if leading.contains(String(Substring(next))) { add(bare) }
      }
    }
    return found
  }

  /// `name` below the one leading component under which it exists; nil when there is none, or more than one.
  package static func respelledUniquely(_ name: String, leading: [String], has: (String) -> Bool) -> String? {
    let found = leading.lazy.map { $0 + "." + name }.filter(has)
    guard let first = found.first, found.count == 1 else { return nil }
    return first
  }

  /// True for buffers that libraries of different age save or leave out: they hold no weights.
  package static func isBuffer(_ name: String, rank: Int) -> Bool {
    NameTables.buffers.contains { name.hasSuffix($0.ending) && ($0.rank == nil || $0.rank == rank) }
  }

  /// True for tensors of a first layer that all layers use, such as T5's table of relative positions.
  package static func isOfFirstLayer(_ name: String) -> Bool { NameTables.firstLayerEndings.contains(where: name.hasSuffix) }

  /// True for names of 2-D tensors with one row per token: input embeddings and output heads. Their row counts may differ between
  /// models that can be merged. The caller checks the rank.
  package static func isEmbedding(_ name: String) -> Bool {
    if NameTables.embeddings.contains(name) { return true }
    return NameTables.languageModelPrefixes.contains { prefix in
      name.hasPrefix(prefix) && NameTables.embeddings.contains(String(name.dropFirst(prefix.count)))
    }
  }

  /// True for tensors with one row (or one element) per token of the vocabulary: input embeddings, output heads and the biases of heads.
  package static func isVocabulary(_ name: String, rank: Int) -> Bool {
    if rank == 1 { return NameTables.vocabularyBiases.contains { name == $0 || name.hasSuffix("." + $0) } }
    return rank == 2 && isEmbedding(name) && !name.hasSuffix("pos_embed.weight")
  }
}
