internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

/// The vocabulary of the output: how large it is, and what the models have of it.
package struct PlannedVocabulary: Sendable {
  package struct Part: Sendable {
    /// Index into the plan's models.
    package var model: Int
    /// Tokens of the output that the model has a row for.
    package var shared: Int
  }
  /// `union`, `base`, or the name of a model.
  package var source: String
  package var tokens: Int
  /// Tokens that the base tokenizer lacks.
  package var added: Int
  /// Tokens of the base tokenizer that were left out: its embeddings have no row for them.
  package var removed: Int
  /// Rows of embeddings: tokens and padding.
  package var rows: Int
  package var models: [Part]
}

/// A recipe's tokenizer worked out: the output's vocabulary, each model's numbers for its tokens, and the tokenizer's files.
struct TokenizerPlan {
  let vocabulary: MergedVocabulary
  let planned: PlannedVocabulary
  /// Rows of the output's embeddings.
  let rows: Int
  /// By model: for each number of the output the number of the token there, −1 where it has none.
  let numbers: [[Int32]]
  /// By model.
  let vocabularies: [Vocabulary]
  /// What the recipe says about tokens, by number.
  let requests: [Int: TokenizerRequest.Token]
  /// The model whose tokenizer files the output gets.
  let donor: Int
  /// The edited tokenizer; nil when the donor's files can stay as they are.
  let file: TokenizerFile?
  /// Tokens of the donor that are no longer there.
  let removed: [Vocabulary.Token]
  /// True when the donor has a SentencePiece model and no tokenizer.json.
  let isOfSentencePiece: Bool
}

extension TokenizerPlan {
  /// Throws `.unsupported` when tokens change their numbers and no tensor of the output is known to have rows for them: what the config and the
  /// tokenizer then say would be wrong.
  func requireRows(in tensors: [PlannedTensor], at position: SourcePosition) throws(IngotError) {
    let isKnown = tensors.contains { TensorNames.vocabularyAxis($0.name, $0.shape) != nil }
    if isKnown || numbers.allSatisfy({ $0.enumerated().allSatisfy { $0.offset == Int($0.element) } }) { return }
    throw IngotError(
      .unsupported, "no tensor of the output is known to be an embedding of tokens, whose rows the tokenizer's numbers would name",
      hint: "leave the tokenizer settings out: embeddings are then merged row by row as they are", subject: "tokenizer", position: position)
  }
}

/// Reads the models' tokenizers and merges them as the recipe says.
struct TokenizerPlanner {
  let recipe: Recipe
  let request: TokenizerRequest
  let models: [ProvidedModel]
  private(set) var notices: [Notice] = []

  init(recipe: Recipe, request: TokenizerRequest, models: [ProvidedModel]) {
    self.recipe = recipe
    self.request = request
    self.models = models
  }

  /// The model that `base` names: `base_model`, else the first.
  private var base: Int { recipe.baseModel ?? recipe.slices.first?.sources.first?.model ?? 0 }

  private func name(_ model: Int) -> String { recipe.models[model].name }

  /// Throws `.notFound` for a tokenizer that is not there, `.format` for one that is damaged, `.unsupported` for tokenizers that have no union,
  /// `.recipe` for a source of a row that does not exist.
  mutating func plan() throws(IngotError) -> TokenizerPlan {
    var donor = base
    if case .model(let model) = request.source { donor = model }
    let limits = models.map(Self.rowLimit)
    var cache = TokenizerCache()
    guard let found = try cache.read(models[donor], name: name(donor)) else { throw absent(donor) }
    notices += found.vocabulary.notices
    var kept = found.vocabulary
    var removed: [Vocabulary.Token] = []
    // The tokenizer of a model that is named is taken as it is.
    if request.source == .union || request.source == .base, kept.extent > limits[donor] {
      removed = kept.tokens.filter { $0.id >= limits[donor] }
      kept = try kept.limited(to: limits[donor], origin: name(donor))
      noteRemoved(removed, from: donor, rows: limits[donor])
    }
    var vocabularies: [Vocabulary] = []
    for model in models.indices { vocabularies.append(try vocabulary(of: model, donor: donor, kept, &cache)) }
    var merged = MergedVocabulary(kept)
    if request.source == .union {
      var others: [(name: String, vocabulary: Vocabulary)] = []
      for model in models.indices where model != donor {
        others.append((name(model), try vocabularies[model].limited(to: limits[model], origin: name(model))))
      }
      try merged.unite(others)
      notices += merged.notices
    }
    var requests: [Int: TokenizerRequest.Token] = [:]
    for token in request.tokens {
      merged.add(token.text)
      if let id = merged[token.text] { requests[id] = token }
    }
    let numbers = zip(vocabularies, limits).map { merged.numbers(in: $0, rows: $1) }
    noteRowless(vocabularies, limits, merged, donor: donor)
    let file = try edited(found, merged, removed: removed, limit: limits[donor], donor: donor)
    let multiple = request.rowMultiple
    let rows = (merged.extent + multiple - 1) / multiple * multiple
    let planned = PlannedVocabulary(
      source: sourceName, tokens: merged.tokens.count, added: merged.newCount, removed: removed.count, rows: rows,
      models: numbers.enumerated().map { .init(model: $0.offset, shared: $0.element.count { $0 >= 0 }) })
    return TokenizerPlan(
      vocabulary: merged, planned: planned, rows: rows, numbers: numbers, vocabularies: vocabularies, requests: requests, donor: donor,
      file: file,
      removed: removed, isOfSentencePiece: found.isOfSentencePiece)
  }

  private var sourceName: String {
    switch request.source {
    case .union: "union"
    case .base: "base"
    case .model(let model): name(model)
    }
  }

  /// The number of tokens that a model has rows for: by its config, and by its embeddings.
  static func rowLimit(_ model: ProvidedModel) -> Int {
    let config = model.checkpoint.config
    var limit = (config?["vocab_size"] ?? config?[path: "text_config.vocab_size"])?.asInt ?? .max
    for tensor in model.checkpoint.tensors where tensor.shape.rank == 2 {
      if let axis = TensorNames.vocabularyAxis(tensor.name, tensor.shape) { limit = min(limit, tensor.shape.dimensions[axis]) }
    }
    return max(limit, 0)
  }

  private mutating func vocabulary(
    of model: Int, donor: Int, _ kept: Vocabulary, _ cache: inout TokenizerCache
  ) throws(IngotError) -> Vocabulary {
    if model == donor { return kept }
    guard let found = try cache.read(models[model], name: name(model)) else {
      notices.append(
        Notice(.warning, "the model has no tokenizer; its tokens are taken to be those of \(name(donor))", subject: name(model)))
      return kept
    }
    notices += found.vocabulary.notices
    if found.vocabulary.model != kept.model, request.source != .union {
      notices.append(
        Notice(
          .warning,
          "the tokenizer is a \(found.vocabulary.model.rawValue) tokenizer, that of \(name(donor)) a \(kept.model.rawValue) tokenizer: few of their tokens are the same",
          subject: name(model)))
    }
    return found.vocabulary
  }

  private func edited(
    _ found: TokenizerCache.Found, _ merged: MergedVocabulary, removed: [Vocabulary.Token], limit: Int, donor: Int
  ) throws(IngotError) -> TokenizerFile? {
    let definitions = merged.definitions
    if definitions.isEmpty, removed.isEmpty { return nil }
    guard var file = found.file else {
      throw IngotError(
        .unsupported, "the tokenizer is \(found.fileName), expected tokenizer.json: only that can be written with other tokens",
        hint: Vocabulary.conversionHint, subject: name(donor))
    }
    if !removed.isEmpty { file.remove(from: limit) }
    if merged.newCount > 0 {
      do throws(IngotError) {
        try file.fillGaps(below: merged.base.extent) { merged[$0] != nil }
      } catch {
        var named = error
        named.subject = name(donor)
        throw named
      }
    }
    file.add(definitions)
    return file
  }

  private func absent(_ model: Int) -> IngotError {
    IngotError(
      .notFound, "the model has no tokenizer that can be read, expected tokenizer.json",
      hint: Vocabulary.conversionHint, subject: name(model),
      position: request.position)
  }

  private mutating func noteRemoved(_ removed: [Vocabulary.Token], from model: Int, rows: Int) {
    guard let first = removed.first else { return }
    notices.append(
      Notice(
        .warning, "\(removed.count) tokens are left out (the first is \(quoted(first.text)), \(first.id)): the model has \(rows) rows",
        subject: name(model)))
  }

  /// Tokens that a tokenizer has and its embeddings do not.
  private mutating func noteRowless(_ vocabularies: [Vocabulary], _ limits: [Int], _ merged: MergedVocabulary, donor: Int) {
    for (model, vocabulary) in vocabularies.enumerated() where vocabulary.extent > limits[model] {
      let beyond = vocabulary.tokens.filter { $0.id >= limits[model] && merged[$0.text] != nil }
      guard let first = beyond.first else { continue }
      notices.append(
        Notice(
          .warning,
          "the model has \(limits[model]) rows and no row for \(beyond.count) tokens of its tokenizer (the first is \(quoted(first.text)), \(first.id)); they are taken as absent there",
          subject: name(model)))
    }
  }
}
