internal import IngotJSON

/// How one tensor holds the rows of queries, keys and values: groups of heads, in each the queries' heads, then one of keys and one of values.
///
/// GPT-NeoX and BLOOM have a group for every head, Falcon and InternLM2 one for every key-value head; one group is queries, keys and values one
/// below the other. As the models' code in transformers takes them apart.
struct HeadGroups: Hashable, Sendable {
  var groups: Int
  /// Heads of queries in one group.
  var queries: Int
  /// Rows of one head.
  var rows: Int

  /// Rows of one part in one group: queries, keys or values.
  func rows(of part: Int) -> Int { part == 0 ? queries * rows : rows }

  /// Where a part begins in its group.
  func start(of part: Int) -> Int { part == 0 ? 0 : (queries + part - 1) * rows }

  /// Rows of one group, and of all.
  var groupRows: Int { (queries + 2) * rows }
  var totalRows: Int { groups * groupRows }

  /// The groups in a tensor `fused` of a model with this config; nil for families whose arrangement is not known, and for numbers that do not
  /// go together.
  init?(_ fused: String, config: JSONValue?) {
    guard let config, let type = config["model_type"]?.asString else { return nil }
    func number(_ keys: String...) -> Int? { keys.lazy.compactMap { config[$0]?.asInt }.first }
    guard let heads = number("num_attention_heads", "n_head"), let width = number("hidden_size", "n_embed", "n_embd"), heads > 0,
      heads <= 1 << 16, width > 0,
      width <= 1 << 30, width % heads == 0
    else { return nil }
    var groups = heads
    switch (fused, type) {
    case ("query_key_value", "gpt_neox"), ("query_key_value", "gpt_neox_japanese"), ("query_key_value", "bloom"): break
    case ("query_key_value", "falcon"), ("query_key_value", "RefinedWeb"), ("query_key_value", "RefinedWebModel"):
      let isNew = config["new_decoder_architecture"]?.asBool ?? (type == "RefinedWeb")
      if isNew {
        groups = number("num_kv_heads", "n_head_kv") ?? heads
      } else if config["multi_query"]?.asBool ?? true {
        groups = 1
      }
    case ("wqkv", "internlm2"): groups = number("num_key_value_heads") ?? heads
    default: return nil
    }
    guard groups > 0, heads % groups == 0 else { return nil }
    self.groups = groups
    queries = heads / groups
    rows = width / heads
  }
}
