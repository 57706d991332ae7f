internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes

/// The output's tokenizer files and chat template: edits of the list of side files that the donor's directory gave.
struct TokenizerSideFiles {
  let recipe: Recipe
  let models: [ProvidedModel]
  /// Nil: the donor's tokenizer files are there and stay.
  let plan: TokenizerPlan?
  /// The model whose directory the side files are from.
  let donor: Int

  func apply(to files: inout [SideFile], notices: inout [Notice]) throws(IngotError) {
    if let plan { try replaceTokenizer(plan, in: &files, notices: &notices) }
    guard let request = recipe.chatTemplate else { return }
    switch request.choice {
    case .text(let text): try setTemplate(text, in: &files)
    case .automatic:
      if let text = try commonTemplate() {
        try setTemplate(text, in: &files)
      } else {
        notices.append(
          Notice(
            .warning, "no model has a chat template; none is written", subject: "chat_template", position: request.position))
      }
    }
  }

  // MARK: - Tokenizer

  private func replaceTokenizer(_ plan: TokenizerPlan, in files: inout [SideFile], notices: inout [Notice]) throws(IngotError) {
    let place = files.firstIndex { TokenizerConfig.files.contains($0.name) } ?? files.count
    let known = Set(TokenizerConfig.files)
    let kept = files.prefix(place) + files[place...].filter { !known.contains($0.name) }
    files = Array(kept)
    guard let directory = models[plan.donor].files else { return }
    var made: [SideFile] = []
    let removed = Set(plan.removed.map { ExactText($0.text) })
    for name in TokenizerConfig.files {
      if plan.file != nil, TokenizerConfig.vocabularies.contains(name) { continue }
      if name == "tokenizer.json", let file = plan.file {
        made.append(SideFile(name: name, content: .bytes(file.bytes)))
      } else if plan.file != nil, name == "tokenizer_config.json" || name == "special_tokens_map.json" {
        guard var config = try Self.json(name, in: directory) else { continue }
        TokenizerConfig.edit(&config, adding: plan.vocabulary.definitions, removing: removed)
        made.append(SideFile(name: name, content: .bytes(JSON.bytes(config, style: .pretty) + [0x0A])))
      } else if let file = try SideFilePlanner.carried(name, from: directory) {
        made.append(file)
      }
    }
    files.insert(contentsOf: made, at: min(place, files.count))
    try renumberTokens(plan, in: &files, &notices)
  }

  /// The files that name tokens by number get the numbers of the output's vocabulary.
  private func renumberTokens(_ plan: TokenizerPlan, in files: inout [SideFile], _ notices: inout [Notice]) throws(IngotError) {
    let own = plan.vocabularies[donor].tokens + (plan.donor == donor ? plan.removed : [])
    for place in files.indices where ["config.json", "generation_config.json"].contains(files[place].name) {
      let name = files[place].name
      guard var config = try json(of: files[place], in: donor) else { continue }
      let other =
        plan.donor == donor ? nil : try models[plan.donor].files.flatMap { (files) throws(IngotError) in try Self.json(name, in: files) }
      var numbers = TokenNumbers(of: own, to: plan.vocabulary, other: other)
      let before = config
      numbers.renumber(&config, file: name)
      notices += numbers.notices
      if config != before { files[place].content = .bytes(JSON.bytes(config, style: .pretty) + [0x0A]) }
    }
  }

  private static func json(_ name: String, in directory: any ModelFiles) throws(IngotError) -> JSONValue? {
    guard let bytes = try directory.readWhole(name, limit: Limit.tokenizerConfigBytes) else { return nil }
    let origin = directory.displayPath + "/" + name
    let value = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try value.requireObject(origin, in: origin)
    return value
  }

  // MARK: - Chat template

  /// A model's template without the white space around it; nil when it has none.
  private static func template(of model: ProvidedModel) throws(IngotError) -> String? {
    guard let files = model.files else { return nil }
    var text: String?
    if let bytes = try files.readWhole("chat_template.jinja", limit: Limit.tokenizerConfigBytes) {
      text = String(decoding: bytes, as: UTF8.self)
    }
    for name in ["tokenizer_config.json", "chat_template.json"] where text == nil {
      if let config = try json(name, in: files) { text = TokenizerConfig.chatTemplate(in: config) }
    }
    let trimmed = text?.trimmingWhitespace() ?? ""
    return trimmed.isEmpty ? nil : trimmed
  }

  /// The template that most models have; of equally many the first.
  private func commonTemplate() throws(IngotError) -> String? {
    var found: [(text: String, count: Int)] = []
    for model in models {
      guard let text = try Self.template(of: model) else { continue }
      if let place = found.firstIndex(where: { $0.text == text }) { found[place].count += 1 } else { found.append((text, 1)) }
    }
    let most = found.map(\.count).max()
    return found.first { $0.count == most }?.text
  }

  /// Writes the template where the files have one; else into tokenizer_config.json, which every reader knows; else into a file of its own.
  private func setTemplate(_ text: String, in files: inout [SideFile]) throws(IngotError) {
    var isWritten = false
    for place in files.indices where files[place].name == "chat_template.jinja" {
      files[place].content = .bytes(Array(text.utf8))
      isWritten = true
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
      guard let place = files.firstIndex(where: { $0.name == name }), var config = try json(of: files[place], in: plan?.donor ?? donor)
      else { continue }
      guard config["chat_template"] != nil || (!isWritten && name == "tokenizer_config.json") else { continue }
      config["chat_template"] = .string(text)
      files[place].content = .bytes(JSON.bytes(config, style: .pretty) + [0x0A])
      isWritten = true
    }
    if !isWritten { files.append(SideFile(name: "chat_template.jinja", content: .bytes(Array(text.utf8)))) }
  }

  /// The content of a planned file: its bytes, or those that the model it is copied from has.
  private func json(of file: SideFile, in model: Int) throws(IngotError) -> JSONValue? {
    switch file.content {
    case .bytes(let bytes): return try JSON.parse(bytes, origin: file.name, options: .python)
    case .copy:
      guard let directory = models[model].files else { return nil }
      return try Self.json(file.name, in: directory)
    }
  }
}

extension String {
  fileprivate func trimmingWhitespace() -> String {
    let scalars = unicodeScalars.drop { $0.properties.isWhitespace }
    var end = scalars.endIndex
    while end > scalars.startIndex {
      let before = scalars.index(before: end)
      guard scalars[before].properties.isWhitespace else { break }
      end = before
    }
    return String(scalars[..<end])
  }
}
