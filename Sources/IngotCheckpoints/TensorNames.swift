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

  /// True for names of 2-D tensors with one row per token: input embeddings and output heads. Their row counts may differ between
  /// models that can be merged. The caller checks the rank.
  package static func isEmbedding(_ name: String) -> Bool {
    if NameTables.embeddings.contains(name) { return true }
    return NameTables.languageModelPrefixes.contains { prefix in
      name.hasPrefix(prefix) && NameTables.embeddings.contains(String(name.dropFirst(prefix.count)))
    }
  }
}
