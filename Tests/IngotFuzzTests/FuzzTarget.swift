import IngotErrors

/// A parser that reads what strangers write: any bytes must end in a value or in an `IngotError`.
///
/// `scripts/fuzz` feeds it from libFuzzer, `CorpusTests` from Tests/Corpora. The raw value names both.
enum FuzzTarget: String, CaseIterable, Sendable {
  /// A file model.safetensors.
  case safetensors
  /// A file model.safetensors.index.json beside two shards.
  case index
  /// A JSON text; what is read must be written and read again as the same.
  case json
  /// A recipe, YAML or JSON.
  case recipe
  /// A tensor pattern of a recipe, a line feed, and names to match.
  case pattern
  /// The pickle in a PyTorch archive.
  case pickle
  /// A whole PyTorch file: zip archive or run of pickles.
  case torch
  /// adapter_config.json, a NUL byte, and the adapter's tensors, one per line.
  case adapter
  /// A file delta_pack.safetensors, applied and unpacked.
  case pack
  /// A file tokenizer.json.
  case tokenizer
  /// tokenizer_config.json, a NUL byte, added_tokens.json, a NUL byte, and a file tokenizer.model.
  case sentencepiece
  /// The metadata of a delta pack, one KEY=VALUE on a line, a NUL byte, and its tensors, one per line.
  case packheader
  /// Three numbers, and the Rice code of a block.
  case rice
  /// The files of a model and of its adapter or pack behind a C program's functions; planned and merged.
  case model
  /// A file ingot.json, which says what a merge wrote.
  case record
  /// The journal of an interrupted merge.
  case journal
  /// A file rolling.json, adapter_pack.json or adapter_basis.json.
  case state
  /// Option structs, sources and sinks that a C program fills.
  case options
  /// A parameters_json of merges of adapters, extractions, rolling merges and packings; the first byte says of which.
  case parameters
  /// A DLPack tensor.
  case dlpack

  /// Something that the parser promised and did not hold.
  struct Violation: Error { var words: String }

  /// True when the input was read, false when it was refused. Throws nothing but `Violation`.
  @discardableResult
  func run(_ bytes: [UInt8]) throws -> Bool {
    do {
      switch self {
      case .safetensors: try readSafetensors(bytes)
      case .index: try readIndex(bytes)
      case .json: try readJSON(bytes)
      case .recipe: try readRecipe(bytes)
      case .pattern: try readPattern(bytes)
      case .pickle: try readTorch(torchArchive(pickle: bytes))
      case .torch: try readTorch(bytes)
      case .adapter: try readAdapter(bytes)
      case .pack: try readPack(bytes)
      case .tokenizer: try readTokenizer(bytes)
      case .sentencepiece: try readSentencePiece(bytes)
      case .packheader: try readPackHeader(bytes)
      case .rice: try readRice(bytes)
      case .model: try mergeFiles(bytes)
      case .record: try readRecord(bytes)
      case .journal: try readJournal(bytes)
      case .state: try readState(bytes)
      case .options: try fillOptions(bytes)
      case .parameters: try readParameters(bytes)
      case .dlpack: try importDLPack(bytes)
      }
      return true
    } catch let error as IngotError {
      if error.status == .internalError || error.status == .ok { throw Violation(words: "\(error)") }
      if error.message.isEmpty { throw Violation(words: "an error without words: \(error)") }
      return false
    }
  }
}

func require(_ condition: Bool, _ words: @autoclosure () -> String) throws {
  if !condition { throw FuzzTarget.Violation(words: words()) }
}
