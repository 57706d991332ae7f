package import IngotJSON
package import IngotTensors

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
    let isOfLanguageModel = NameTables.languageModelPrefixes.contains { prefix in
      name.hasPrefix(prefix) && NameTables.embeddings.contains(String(name.dropFirst(prefix.count)))
    }
    // A tower's tokens are not those of the text.
    return isOfLanguageModel || (NameTables.embeddingEndings.contains(where: name.hasSuffix) && ModelPart.ofTower(named: name) == nil)
  }

  /// True for the embeddings of `isEmbedding` that inputs are looked up in: one row per token, and no output head.
  package static func isInputEmbedding(_ name: String) -> Bool {
    isEmbedding(name) && !NameTables.headEndings.contains(where: name.hasSuffix)
  }

  /// The axis along which a tensor has one row or one element for each token of the vocabulary: input embeddings, output heads and their
  /// biases. Nil for others.
  package static func vocabularyAxis(_ name: String, _ shape: Shape) -> Int? {
    func ends(_ names: [String]) -> Bool { names.contains { name == $0 || name.hasSuffix("." + $0) } }
    switch shape.rank {
    case 1: return ends(NameTables.vocabularyBiases) ? 0 : nil
    case 2:
      if ends(NameTables.vocabularyRows) { return shape.dimensions[0] == 1 ? 1 : nil }
      return isEmbedding(name) && !name.hasSuffix("pos_embed.weight") ? 0 : nil
    default: return nil
    }
  }
}
