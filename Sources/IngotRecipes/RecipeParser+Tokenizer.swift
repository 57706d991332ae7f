import IngotErrors

extension RecipeParser {
  /// `tokenizer_source` and `tokenizer`: at most one of them.
  mutating func tokenizer(_ top: Node.Mapping) throws(IngotError) -> TokenizerRequest? {
    let short = optional("tokenizer_source", of: top).flatMap { $0.scalar?.text == "" ? nil : $0 }
    let long = optional("tokenizer", of: top).flatMap { $0.scalar?.text == "" ? nil : $0 }
    if let short, long != nil {
      throw IngotError(
        .recipe, "found tokenizer_source and tokenizer, expected one of them", hint: "write the source under tokenizer, as 'source: …'",
        subject: "tokenizer_source", position: top["tokenizer_source"]?.keyPosition ?? short.position)
    }
    if let short {
      return TokenizerRequest(
        source: try tokenizerSource(short, subject: "tokenizer_source"), tokens: [], rowMultiple: 1, position: short.position)
    }
    guard let long else { return nil }
    let fields = try fields(
      of: long, subject: "tokenizer", hint: "write 'tokenizer_source: \(long.scalar?.text ?? "union")' for a source alone")
    try check(fields, at: "tokenizer", valid: ["source", "tokens", "pad_to_multiple_of"])
    var request = TokenizerRequest(source: .union, tokens: [], rowMultiple: 1, position: long.position)
    if let node = optional("source", of: fields) { request.source = try tokenizerSource(node, subject: "tokenizer.source") }
    if let node = optional("pad_to_multiple_of", of: fields) {
      guard case .integer(let value)? = node.scalar?.value, value >= 1, value <= Limit.paddingRows else {
        throw IngotError(
          .recipe, "pad_to_multiple_of is \(node.found), expected a whole number from 1 to \(Limit.paddingRows)",
          hint: "64 and 128 are usual",
          subject: "tokenizer.pad_to_multiple_of", position: node.position)
      }
      request.rowMultiple = value
    }
    if let node = optional("tokens", of: fields) {
      let subject = "tokenizer.tokens"
      let tokens = try self.fields(of: node, subject: subject, hint: "write 'TOKEN: {source: MODEL}'")
      try noteSuperseded(tokens, at: subject)
      for entry in tokens.entries {
        request.tokens.append(try token(entry, at: path(subject, entry.key)))
      }
    }
    return request
  }

  private mutating func tokenizerSource(_ node: Node, subject: String) throws(IngotError) -> TokenizerRequest.Source {
    switch node.scalar?.text {
    case "union": return .union
    case "base": return .base
    default: break
    }
    var source = try reference(node, subject: subject)
    // The form of mergekit 0.0.4, which recipes of its time still have.
    if case .text(let text) = source.location, text.hasPrefix("model:"), text.utf8.count > 6 {
      source.location = .text(String(text.dropFirst(6)))
      notices.append(
        Notice(
          .info, "\(excerpt(text)) is read as the model \(excerpt(source.name)), as early versions of mergekit did", subject: subject,
          position: node.position))
    }
    return .model(ordinal(of: source))
  }

  private mutating func token(_ entry: Node.Mapping.Entry, at place: String) throws(IngotError) -> TokenizerRequest.Token {
    guard !entry.key.isEmpty else {
      throw IngotError(.recipe, "the token is an empty text", subject: "tokenizer.tokens", position: entry.keyPosition)
    }
    var token = TokenizerRequest.Token(text: entry.key, embedding: nil, isForced: false, position: entry.keyPosition)
    if entry.value.isNull { return token }
    let fields = try fields(of: entry.value, subject: place, hint: "write '{source: MODEL}'")
    try check(fields, at: place, valid: ["source", "force"])
    if let node = optional("force", of: fields) {
      switch node.scalar?.value {
      case .boolean(let value): token.isForced = value
      case .integer(0): token.isForced = false
      case .integer(1): token.isForced = true
      default:
        throw IngotError(.recipe, "force is \(node.found), expected true or false", subject: path(place, "force"), position: node.position)
      }
    }
    if let node = optional("source", of: fields) { token.embedding = try embedding(node, at: path(place, "source")) }
    return token
  }

  /// A model, `{kind: zero}`, or `{kind: model_token, model, token or token_id}`.
  private mutating func embedding(_ node: Node, at place: String) throws(IngotError) -> TokenizerRequest.Token.Embedding {
    let keys = ["kind", "token", "token_id"]
    guard let fields = node.mapping, keys.contains(where: { fields[$0] != nil }) else {
      return .model(ordinal(of: try reference(node, subject: place)))
    }
    try check(fields, at: place, valid: ["kind", "model", "token", "token_id"])
    let kindNode = optional("kind", of: fields)
    let kind = try kindNode.map { (node) throws(IngotError) in
      try text(of: node, subject: path(place, "kind"), expected: "zero or model_token")
    }
    if kind == "zero" { return .zero }
    guard kind == nil || kind == "model_token" else {
      throw IngotError(
        .recipe, "kind is \"\(excerpt(kind ?? ""))\", expected zero or model_token", subject: path(place, "kind"),
        position: kindNode?.position ?? node.position)
    }
    let model = ordinal(of: try reference(try required("model", of: fields, at: place, in: node.position), subject: path(place, "model")))
    let token = optional("token", of: fields)
    let row = optional("token_id", of: fields)
    switch (token, row) {
    case (let token?, nil):
      return .modelToken(model: model, token: try text(of: token, subject: path(place, "token"), expected: "a token"))
    case (nil, let row?):
      guard case .integer(let number)? = row.scalar?.value, number >= 0, number <= Int(Int32.max) else {
        throw IngotError(
          .recipe, "token_id is \(row.found), expected a whole number from 0", subject: path(place, "token_id"), position: row.position)
      }
      return .modelRow(model: model, row: number)
    default:
      throw IngotError(
        .recipe, "a model_token has \(token == nil ? "neither token nor token_id" : "token and token_id"), expected one of them",
        hint: "for the row of the same token write 'source: MODEL'", subject: place, position: node.position)
    }
  }

  func chatTemplate(_ top: Node.Mapping) throws(IngotError) -> ChatTemplateRequest? {
    guard let node = optional("chat_template", of: top), node.scalar?.text != "" else { return nil }
    let text = try text(of: node, subject: "chat_template", expected: "auto, the name of a template or Jinja text")
    if text == "auto" { return ChatTemplateRequest(choice: .automatic, position: node.position) }
    if let builtin = ChatTemplates.named(text) { return ChatTemplateRequest(choice: .text(builtin), position: node.position) }
    guard text.unicodeScalars.count >= 20, text.utf8.contains(UInt8(ascii: "{")) else {
      let names = ChatTemplates.names
      throw IngotError(
        .recipe, "chat_template is \"\(excerpt(text))\", expected auto, \(names.joined(separator: ", ")) or Jinja text",
        hint: nearestName(to: text, among: names + ["auto"]).map { "did you mean \($0)?" }
          ?? "Jinja text has 20 characters or more and a { in it", subject: "chat_template", position: node.position)
    }
    return ChatTemplateRequest(choice: .text(text), position: node.position)
  }
}
