internal import IngotCheckpoints
internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

/// Decides for every tensor of a fine-tuned model what becomes of its difference from the base: factors, stored whole, or left out.
///
/// Reads headers, and bytes up to the first that differs: what is equal is left out.
struct DifferenceSorter {
  struct Module {
    /// Without `.weight`.
    var name: String
    var base: CheckpointTensor
    var tuned: CheckpointTensor
    var isEmbedding: Bool
    /// The weight is [in, out].
    var isTurned: Bool
    var rule: RankRule
  }

  private(set) var modules: [Module] = []
  private(set) var wholes: [CheckpointTensor] = []
  private(set) var notices: [Notice] = []
  private let request: ExtractionRequest
  private let base: ProvidedModel
  private let tuned: ProvidedModel
  private let isTurned: Bool
  private var equal = 0
  private var skipped = 0

  init(_ request: ExtractionRequest, base: ProvidedModel, tuned: ProvidedModel, isTurned: Bool) {
    self.request = request
    self.base = base
    self.tuned = tuned
    self.isTurned = isTurned
  }

  mutating func sort() throws(IngotError) {
    notices = base.checkpoint.notices + tuned.checkpoint.notices
    for tensor in tuned.checkpoint.tensors { try sort(tensor) }
    for tensor in base.checkpoint.tensors where tuned.checkpoint[tensor.name] == nil && other(of: tensor.name, in: tuned) == nil {
      guard !TensorNames.isBuffer(tensor.name, rank: tensor.shape.rank) else { continue }
      let tie = TensorNames.substitutes(for: tensor.name, config: tuned.checkpoint.config).first { tuned.checkpoint[$0] != nil }
      guard tie == nil, chosenRule(of: tensor.name) != .skip else { continue }
      throw IngotError(
        .shape, "the fine-tuned model does not have it, and the base does", hint: "leave it out with --skip '\(tensor.name)'",
        subject: tensor.name)
    }
    if equal > 0 { notices.append(Notice(.info, "\(equal) tensors are equal in both models and are left out")) }
    if skipped > 0 { notices.append(Notice(.info, "\(skipped) tensors that differ are left out, as asked for")) }
  }

  private static func moduleName(_ name: String) -> String { name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name }

  /// Patterns are matched with the module's name.
  private func chosenRule(of name: String) -> ExtractionRequest.ModuleRule? {
    let module = Self.moduleName(name)
    return request.rules.first { $0.pattern.matches(module) || $0.pattern.matches(name) }?.rule
  }

  /// The same tensor under another spelling.
  private func other(of name: String, in model: ProvidedModel) -> CheckpointTensor? {
    TensorNames.aliases(of: name).lazy.compactMap { model.checkpoint[$0] }.first
  }

  private mutating func sort(_ tensor: CheckpointTensor) throws(IngotError) {
    guard !TensorNames.isBuffer(tensor.name, rank: tensor.shape.rank) else { return }
    let rule = chosenRule(of: tensor.name)
    if rule == .skip {
      skipped += 1
      return
    }
    let isEmbedding = tensor.shape.rank == 2 && TensorNames.isEmbedding(tensor.name)
    guard let stored = base.checkpoint[tensor.name] ?? other(of: tensor.name, in: base) else {
      if let twin = TensorNames.substitutes(for: tensor.name, config: base.checkpoint.config).first(where: { base.checkpoint[$0] != nil }) {
        throw IngotError(
          .unsupported, "the base ties it to \(twin), and the fine-tuned model has it for itself: an adapter cannot untie them",
          hint: "leave it out with --skip '\(Self.moduleName(tensor.name))'", subject: tensor.name)
      }
      throw IngotError(
        .shape, "the base does not have it", hint: "leave it out with --skip '\(Self.moduleName(tensor.name))'", subject: tensor.name)
    }
    if stored.shape != tensor.shape {
      guard isEmbedding, request.embeddings != .skip else {
        throw IngotError(
          .shape, "it is \(tensor.shape) in the fine-tuned model and \(stored.shape) in the base",
          hint: "leave it out with --skip '\(Self.moduleName(tensor.name))'", subject: tensor.name)
      }
      notices.append(
        Notice(
          .warning,
          "it is \(tensor.shape) and \(stored.shape) in the base, and is stored whole: resize the base's embeddings before loading the adapter",
          subject: tensor.name))
      wholes.append(tensor)
      return
    }
    guard try differs(tensor, stored) else {
      equal += 1
      return
    }
    switch kind(of: tensor, rule, isEmbedding: isEmbedding) {
    case .factors(let rank): try add(tensor, stored, isEmbedding: isEmbedding, rank)
    case .whole: wholes.append(tensor)
    case .skip: skipped += 1
    }
  }

  private mutating func add(
    _ tensor: CheckpointTensor, _ stored: CheckpointTensor, isEmbedding: Bool, _ rank: RankRule
  ) throws(IngotError) {
    let shape = tensor.shape.dimensions
    guard tensor.dtype.hasArithmetic, stored.dtype.hasArithmetic, shape[0] > 0, shape[1] > 0 else {
      throw IngotError(
        .dtype, "a weight \(tensor.shape) of \(tensor.dtype.safetensorsName) cannot be factored", hint: "leave it out with --skip",
        subject: tensor.name)
    }
    // Heads are linear layers; embeddings keep their rows by token.
    let isTable = isEmbedding && !TensorNames.isTiedHead(tensor.name)
    modules.append(
      Module(
        name: Self.moduleName(tensor.name), base: stored, tuned: tensor, isEmbedding: isTable,
        isTurned: isTable || (isTurned && !isEmbedding), rule: rank))
  }

  private enum Kind {
    case factors(RankRule)
    case whole
    case skip
  }

  private func kind(of tensor: CheckpointTensor, _ rule: ExtractionRequest.ModuleRule?, isEmbedding: Bool) -> Kind {
    if rule == .whole { return .whole }
    let isMatrix = tensor.shape.rank == 2 && tensor.name.hasSuffix(".weight")
    if case .rank(let own)? = rule, isMatrix { return .factors(own) }
    if isEmbedding {
      switch request.embeddings {
      case .whole: return .whole
      case .lora: return .factors(request.rule)
      case .skip: return .skip
      }
    }
    if isMatrix { return .factors(request.rule) }
    return request.others == .whole ? .whole : .skip
  }

  // MARK: Bytes

  private static let pieceBytes = 1 << 20

  /// True unless both have one type and the same bytes.
  private func differs(_ a: CheckpointTensor, _ b: CheckpointTensor) throws(IngotError) -> Bool {
    guard a.dtype == b.dtype, a.byteCount == b.byteCount else { return true }
    let (first, second) = (try StoredBytes(a, of: tuned), try StoredBytes(b, of: base))
    return try !StoredBytes.areEqual(first, second, ReadScratch(2 * Self.pieceBytes))
  }
}
