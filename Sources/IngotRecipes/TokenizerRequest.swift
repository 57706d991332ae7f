package import IngotErrors

/// Which tokenizer the output has and where the rows of new tokens come from: mergekit's `tokenizer_source` and `tokenizer`.
package struct TokenizerRequest: Sendable {
  package enum Source: Sendable, Hashable {
    /// The base model's vocabulary (the first model's, without one), followed by what the others have besides.
    case union
    /// The base model's; the first model's without one.
    case base
    /// Index into the recipe's models.
    case model(Int)
  }

  /// What the recipe says about one token.
  package struct Token: Sendable {
    /// Where the row for models that lack the token comes from. Models are indices into the recipe's.
    package enum Embedding: Sendable, Hashable {
      case zero
      /// The row of the same token there.
      case model(Int)
      case modelToken(model: Int, token: String)
      /// The row of this number there.
      case modelRow(model: Int, row: Int)
    }
    package var text: String
    /// Nil: found by the rules for tokens that the recipe does not name.
    package var embedding: Embedding?
    /// Models that have the token get the row as well.
    package var isForced: Bool
    package var position: SourcePosition
  }

  package var source: Source
  /// In the recipe's order, each text once.
  package var tokens: [Token]
  /// The rows of embeddings are a multiple of it; 1 or more.
  package var rowMultiple: Int
  package var position: SourcePosition
}

/// mergekit's `chat_template`.
package struct ChatTemplateRequest: Sendable {
  package enum Choice: Sendable, Hashable {
    /// The one that most models have.
    case automatic
    /// Jinja text.
    case text(String)
  }
  package var choice: Choice
  package var position: SourcePosition
}
