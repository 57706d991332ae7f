package import IngotErrors
package import IngotJSON

/// The parts of adapter_config.json that decide what merging does.
package struct AdapterSettings: Sendable {
  package let rank: Int
  package let alpha: Double
  package let usesRootRank: Bool
  package let usesDora: Bool
  package let fanInFanOut: Bool
  private let ranks: [(pattern: ModulePattern, value: Int)]
  private let alphas: [(pattern: ModulePattern, value: Double)]

  /// Settings under which merging would need more than the tensors of a plain LoRA.
  private static let refused = [
    "target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
    "arrow_config",
    "kasa_config", "monteclora_config", "velora_config",
  ]
  /// Initialisations that leave the base's weights as they are.
  private static let harmlessStarts: Set<String> = ["gaussian", "eva", "orthogonal"]

  /// `origin` is the path of the config. Throws `.unsupported` for what is not LoRA or cannot be merged, `.format` for what is not a config.
  /// `compile` reads the regular expressions of rank_pattern and alpha_pattern.
  package init(_ config: JSONValue, origin: String, compile: Adapter.PatternCompiler) throws(IngotError) {
    let kind = try (config["peft_type"] ?? .null).requireString("peft_type", in: origin)
    guard kind == "LORA" else {
      throw IngotError(.unsupported, "the adapter is of the type \(kind.prefix(60)), expected LORA", subject: origin)
    }
    for key in Self.refused {
      guard let value = config[key], !value.isNull, value.asBool != false, value.asArray?.isEmpty != true, value.asObject?.count != 0 else {
        continue
      }
      throw IngotError(
        .unsupported, "the adapter uses \(key), which cannot be merged here", hint: "merge it with peft's merge_and_unload", subject: origin
      )
    }
    if let start = config["init_lora_weights"]?.asString, !Self.harmlessStarts.contains(start) {
      throw IngotError(
        .unsupported, "the adapter was initialised by \(start.prefix(60)), which changes the base's weights",
        hint: "convert it with peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)", subject: origin)
    }
    rank = try (config["r"] ?? .null).requireInt("r", in: origin)
    alpha = config["lora_alpha"]?.asDouble ?? 8
    usesRootRank = config["use_rslora"]?.asBool ?? false
    usesDora = config["use_dora"]?.asBool ?? false
    fanInFanOut = config["fan_in_fan_out"]?.asBool ?? false
    var ranks: [(ModulePattern, Int)] = []
    for member in config["rank_pattern"]?.asObject?.members ?? [] {
      let rank = try member.value.requireInt("rank_pattern.\(member.key)", in: origin)
      ranks.append((try ModulePattern(member.key, origin: origin, compile: compile), rank))
    }
    var alphas: [(ModulePattern, Double)] = []
    for member in config["alpha_pattern"]?.asObject?.members ?? [] {
      guard let value = member.value.asDouble else {
        throw IngotError(
          .format, "found \(member.value.kindName), expected a number", subject: "alpha_pattern.\(member.key)",
          position: member.value.position(in: origin))
      }
      alphas.append((try ModulePattern(member.key, origin: origin, compile: compile), value))
    }
    self.ranks = ranks
    self.alphas = alphas
    guard rank > 0, ranks.allSatisfy({ $0.1 > 0 }), alpha.isFinite, alphas.allSatisfy({ $0.1.isFinite }) else {
      throw IngotError(.format, "the adapter has a rank that is not positive, or an alpha that is not finite", subject: origin)
    }
  }

  package func rank(of module: String) -> Int { ranks.first { $0.pattern(module) }?.value ?? rank }

  /// alpha / rank, or alpha / √rank (rsLoRA, arXiv 2312.03732). Throws `.format` for a scale beyond float32.
  package func scale(of module: String) throws(IngotError) -> Double {
    let alpha = alphas.first { $0.pattern(module) }?.value ?? alpha
    let rank = Double(rank(of: module))
    let scale = alpha / (usesRootRank ? rank.squareRoot() : rank)
    guard Float(scale).isFinite else {
      throw IngotError(.format, "the alpha of \(alpha) gives a scale beyond float32, expected a small number", subject: module)
    }
    return scale
  }
}

/// A key of rank_pattern or alpha_pattern: a regular expression for the end of a module's name, from its beginning or from behind a dot.
private struct ModulePattern: Sendable {
  private let matches: @Sendable (String) -> Bool

  init(_ text: String, origin: String, compile: Adapter.PatternCompiler) throws(IngotError) {
    if let literal = LiteralEnding(text) {
      matches = { literal.matches($0) }
      return
    }
    do throws(IngotError) {
      matches = try compile("^(.*\\.)?(\(text))$")
    } catch {
      throw IngotError(
        .unsupported, "the pattern \"\(text.prefix(80))\" cannot be read: \(error.message)", hint: "merge it with peft's merge_and_unload",
        subject: origin)
    }
  }

  func callAsFunction(_ module: String) -> Bool { matches(module) }
}

/// A pattern that is a name, or the end of one, with `.` for any character: most are, and there may be one for every module.
private struct LiteralEnding: Sendable {
  /// nil stands for any byte.
  private var bytes: [UInt8?] = []

  init?(_ text: String) {
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "."): bytes.append(nil)
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
        UInt8(ascii: "_"), UInt8(ascii: "-"):
        bytes.append(byte)
      default: return nil
      }
    }
  }

  func matches(_ module: String) -> Bool {
    let name = Array(module.utf8)
    guard name.count >= bytes.count else { return false }
    let start = name.count - bytes.count
    guard start == 0 || name[start - 1] == UInt8(ascii: ".") else { return false }
    return bytes.indices.allSatisfy { bytes[$0] == nil || bytes[$0] == name[start + $0] }
  }
}
