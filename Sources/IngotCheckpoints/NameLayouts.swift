/// The layouts in which model families store one and the same weights: data only, read through `LayoutMatch`. The tables follow the published
/// checkpoints and the conversions that the transformers library documents for them.
enum NameLayouts {
  /// The three matrices of one expert. `gate` and `up` are [features, hidden], `down` is [hidden, features].
  struct ExpertNames: Hashable, Sendable {
    var gate: String
    var up: String
    var down: String
  }

  /// `CONTAINER.experts.N.NAME.weight`, one tensor for each matrix of each expert.
  static let separateExperts = [
    ExpertNames(gate: "gate_proj", up: "up_proj", down: "down_proj"),
    // Mixtral, Phi-MoE, MiniMax, LFM2-MoE.
    ExpertNames(gate: "w1", up: "w3", down: "w2"),
  ]

  /// `CONTAINER.experts.gate_up_proj` and `CONTAINER.experts.down_proj`, one tensor for all experts. Two forms exist, told apart by their shapes:
  /// [experts, 2·features, hidden] with [experts, hidden, features], and both with the last two axes exchanged. Gate comes before up.
  static let batchedGateUp = "gate_up_proj"
  static let batchedDown = "down_proj"
  /// Beside these, gate and up are interleaved, which the shapes do not tell.
  static let interleavingMark = "gate_up_proj_bias"

  /// Modules that are one by two names.
  static let expertContainers: [[String]] = [["mlp", "block_sparse_moe"]]

  /// Names of the tensor that routes tokens, in a container of experts.
  static let routers = ["gate.weight", "router.weight"]

  /// Config keys of the number of experts.
  static let expertCountKeys = ["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"]

  /// Projections that share an input, stored as one tensor or apart.
  struct FusedNames: Sendable {
    var fused: String
    var parts: [String]
    /// True where rows do not follow part by part but head by head, in groups that the family's config tells. GPT-2's `c_attn` is not here: no
    /// model has its parts.
    var isGrouped = false
  }

  static let fusedProjections = [
    FusedNames(fused: "qkv_proj", parts: ["q_proj", "k_proj", "v_proj"]),
    FusedNames(fused: "gate_up_proj", parts: ["gate_proj", "up_proj"]),
    FusedNames(fused: "query_key_value", parts: ["q_proj", "k_proj", "v_proj"], isGrouped: true),
    FusedNames(fused: "query_key_value", parts: ["query", "key", "value"], isGrouped: true),
    FusedNames(fused: "wqkv", parts: ["wq", "wk", "wv"], isGrouped: true),
    FusedNames(fused: "wqkv", parts: ["q_proj", "k_proj", "v_proj"], isGrouped: true),
  ]

  /// Model types whose tensor of such a name is arranged otherwise.
  static let otherwiseFused: Set<String> = ["codegen", "inkling_mm_model"]

  /// Name components that only say how deep inside the file a model lies.
  static let wrappers: Set<String> = ["model", "language_model", "transformer", "base_model", "thinker", "text_model"]
}
