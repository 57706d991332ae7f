package import IngotErrors
internal import IngotJSON
internal import IngotTensors

/// A model's tensors under the names, and in the layout, of another model of the same architecture (the donor): experts apart or batched, projections
/// fused or split. Prefixes and spellings that `TensorNames` knows are left as they are.
package struct LayoutMatch {
  /// A tensor of the matched model.
  package struct Tensor: Sendable {
    /// Name, type and shape; the place in a file only where `assembly` is nil.
    package var description: CheckpointTensor
    package var assembly: TensorAssembly?
  }

  let model: Checkpoint
  /// By the name of the stored tensor after which they stand.
  private var added: [String: [Tensor]] = [:]
  private var removed: Set<String> = []
  private var renamed: [String: String] = [:]

  /// The tensors of `model` as `donor` would hold them; nil when both have one layout already.
  ///
  /// Throws `.shape` naming an expert or part that is missing, or a tensor whose shape does not fit its layout; `.dtype` for parts of several types.
  package static func tensors(of model: Checkpoint, as donor: DonorLayout) throws(IngotError) -> [Tensor]? {
    var match = LayoutMatch(model: model)
    try match.matchExperts(donor)
    try match.matchFused(donor)
    guard !match.removed.isEmpty || !match.renamed.isEmpty else { return nil }
    var result: [Tensor] = []
    for tensor in model.tensors {
      if !match.removed.contains(tensor.name) {
        var kept = tensor
        kept.name = match.renamed[tensor.name] ?? tensor.name
        result.append(Tensor(description: kept, assembly: nil))
      }
      result += match.added[tensor.name] ?? []
    }
    return result
  }

  private init(model: Checkpoint) { self.model = model }

  /// Puts a new tensor where `place` stands.
  private mutating func add(_ name: String, _ shape: [Int], _ assembly: TensorAssembly, after place: String) throws(IngotError) {
    guard let first = assembly.parts.first else { return }
    let shape = Shape(shape)
    let tensor = CheckpointTensor(
      name: name, dtype: first.dtype, shape: shape, shard: first.shard, fileOffset: 0, byteCount: try shape.byteCount(first.dtype),
      nominalDType: first.nominalDType)
    added[place, default: []].append(Tensor(description: tensor, assembly: assembly))
  }

  // MARK: Experts

  private mutating func matchExperts(_ donor: DonorLayout) throws(IngotError) {
    for stack in ExpertStack.all(of: model) {
      guard let wanted = donor.experts[stack.key], let form = stack.form(in: model), form != wanted else { continue }
      let matrices = try stack.matrices(in: model, form: form)
      let stem = stack.stem.dropLast(stack.container.count) + wanted.container
      let old = stack.names(in: model)
      removed.formUnion(old)
      guard let place = old.first else { continue }
      try write(matrices, form: wanted, stem: String(stem), place: place)
      try renameBeside(stack, stem: String(stem), donor: donor)
    }
  }

  private mutating func write(
    _ experts: [ExpertStack.Matrices], form: DonorLayout.ExpertForm, stem: String, place: String
  ) throws(IngotError) {
    guard let first = experts.first else { return }
    let features = first.gate.rows
    let hidden = first.gate.columns
    // Checked once, so that sums and products below fit.
    _ = try Shape([2, experts.count, features, hidden]).byteCount(first.gate.tensor.dtype)
    let base = stem + ".experts."
    switch form.arrangement {
    case .separate(let names):
      for (number, expert) in experts.enumerated() {
        for (name, matrix) in [(names.gate, expert.gate), (names.up, expert.up), (names.down, expert.down)] {
          var assembly = TensorAssembly()
          try assembly.append([matrix])
          try add("\(base)\(number).\(name).weight", [matrix.rows, matrix.columns], assembly, after: place)
        }
      }
    case .batched(let isTransposed):
      var gateUp = TensorAssembly()
      var down = TensorAssembly()
      for expert in experts {
        if isTransposed {
          try gateUp.append([expert.gate.transposed, expert.up.transposed])
          try down.append([expert.down.transposed])
        } else {
          try gateUp.append([expert.gate])
          try gateUp.append([expert.up])
          try down.append([expert.down])
        }
      }
      let count = experts.count
      try add(
        base + NameLayouts.batchedGateUp, isTransposed ? [count, hidden, 2 * features] : [count, 2 * features, hidden], gateUp, after: place
      )
      try add(base + NameLayouts.batchedDown, isTransposed ? [count, features, hidden] : [count, hidden, features], down, after: place)
    }
  }

  /// What else lies in the container takes its new name: the router, its correction.
  private mutating func renameBeside(_ stack: ExpertStack, stem: String, donor: DonorLayout) throws(IngotError) {
    let router = donor.routers[stack.key]
    let present = NameLayouts.routers.filter { model[stack.stem + "." + $0] != nil }
    for tensor in model.tensors where tensor.name.hasPrefix(stack.stem + ".") && !removed.contains(tensor.name) {
      var rest = String(tensor.name.dropFirst(stack.stem.count + 1))
      if let router, present == [rest] { rest = router }
      let name = stem + "." + rest
      if name != tensor.name { renamed[tensor.name] = name }
    }
  }

  // MARK: Fused projections

  private mutating func matchFused(_ donor: DonorLayout) throws(IngotError) {
    let modelType = model.config?["model_type"]?.asString
    if let modelType, NameLayouts.otherwiseFused.contains(modelType) { return }
    for tensor in model.tensors where !removed.contains(tensor.name) {
      for found in ProjectionName.all(tensor.name) {
        guard let wanted = donor.projections[found.key], wanted.isFused != found.isFused else { continue }
        if found.isFused { try split(tensor, found, wanted) } else { try fuse(tensor, found, wanted) }
        break
      }
    }
  }

  private mutating func fuse(_ tensor: CheckpointTensor, _ name: ProjectionName, _ donor: DonorLayout.Projection) throws(IngotError) {
    // Once for each group: at its first part.
    let names = name.rule.parts.map { name.stem + $0 + name.ending }
    guard !names.contains(where: removed.contains) else { return }
    var parts: [TensorAssembly.Matrix] = []
    var rows = 0
    for part in names {
      guard let found = model[part] else {
        throw IngotError(
          .shape,
          "\(model.displayPath) has \(tensor.name) but not \(part), and the base holds both as \(name.stem + name.rule.fused + name.ending)",
          hint: "the models must have the same architecture", subject: part)
      }
      let matrix = try Self.matrix(found)
      guard found.shape.dimensions.dropFirst() == tensor.shape.dimensions.dropFirst() else {
        throw IngotError(
          .shape, "\(found.name) has shape \(found.shape) and \(tensor.name) \(tensor.shape), expected equally long rows",
          subject: found.name)
      }
      let (sum, overflow) = rows.addingReportingOverflow(matrix.rows)
      guard !overflow else { throw IngotError(.shape, "tensor \(part) has \(matrix.rows) rows, more than can be joined", subject: part) }
      rows = sum
      parts.append(matrix)
    }
    var assembly = TensorAssembly()
    if name.rule.isGrouped {
      let groups = try grouped(tensor, name, donor.groups, rows: parts.map(\.rows))
      for group in 0..<groups.groups {
        for (part, matrix) in parts.enumerated() {
          try assembly.append([matrix.rows(groups.rows(of: part), from: group * groups.rows(of: part))])
        }
      }
    } else {
      for matrix in parts { try assembly.append([matrix]) }
    }
    removed.formUnion(names)
    let shape = [rows] + tensor.shape.dimensions.dropFirst()
    try add(outputStem(tensor, name) + name.rule.fused + name.ending, shape, assembly, after: tensor.name)
  }

  private mutating func split(_ tensor: CheckpointTensor, _ name: ProjectionName, _ donor: DonorLayout.Projection) throws(IngotError) {
    let whole = try Self.matrix(tensor)
    var groups: HeadGroups?
    if name.rule.isGrouped {
      let known = HeadGroups(name.rule.fused, config: model.config)
      groups = try grouped(tensor, name, known, rows: known.map { known in (0..<3).map { known.groups * known.rows(of: $0) } } ?? [])
      if groups?.totalRows != whole.rows { throw uncut(tensor, name, whole.rows) }
    }
    let heights =
      groups.map { groups in (0..<3).map { groups.groups * groups.rows(of: $0) } }
      ?? (name.rule.parts.count == 2
        ? halves(whole.rows) : headRows(whole.rows) ?? donor.rows.flatMap { $0.reduce(0, +) == whole.rows ? $0 : nil })
    guard let heights, heights.count == name.rule.parts.count else { throw uncut(tensor, name, whole.rows) }
    removed.insert(tensor.name)
    var row = 0
    for (part, height) in heights.enumerated() {
      var assembly = TensorAssembly()
      if let groups {
        for group in 0..<groups.groups {
          try assembly.append([whole.rows(groups.rows(of: part), from: group * groups.groupRows + groups.start(of: part))])
        }
      } else {
        try assembly.append([whole.rows(height, from: row)])
      }
      row += height
      try add(
        outputStem(tensor, name) + name.rule.parts[part] + name.ending, [height] + tensor.shape.dimensions.dropFirst(), assembly,
        after: tensor.name)
    }
  }

  private func uncut(_ tensor: CheckpointTensor, _ name: ProjectionName, _ rows: Int) -> IngotError {
    IngotError(
      .shape,
      "\(tensor.name) has \(rows) rows, which cannot be cut into \(name.rule.parts.joined(separator: ", ")) as the base has them",
      hint: "config.json must give num_attention_heads, num_key_value_heads and head_dim or hidden_size", subject: tensor.name)
  }

  /// The groups of heads of a fused tensor, if they have parts of `rows` rows. Throws `.shape` otherwise, and where they are not known.
  private func grouped(
    _ tensor: CheckpointTensor, _ name: ProjectionName, _ known: HeadGroups?, rows: [Int]
  ) throws(IngotError) -> HeadGroups {
    if let known, rows == (0..<3).map({ known.groups * known.rows(of: $0) }) { return known }
    let type = model.config?["model_type"]?.asString ?? "of no known type"
    throw IngotError(
      .shape,
      "\(tensor.name) of a model \(type) and the base's layout differ (\(name.rule.fused) and \(name.rule.parts.joined(separator: ", "))), and config.json does not tell how heads are arranged",
      hint: "known are gpt_neox, bloom, falcon and internlm2, with num_attention_heads and hidden_size in config.json", subject: tensor.name
    )
  }

  /// The stem of a projection, whose container may have another name in the donor.
  private func outputStem(_ tensor: CheckpointTensor, _ name: ProjectionName) -> String {
    guard let renamed = renamed[tensor.name] else { return name.stem }
    return String(renamed.dropLast(tensor.name.count - name.stem.count))
  }

  private func halves(_ rows: Int) -> [Int]? { rows.isMultiple(of: 2) ? [rows / 2, rows / 2] : nil }

  /// Rows of queries, keys and values by the model's own config, if they add up to `rows`.
  private func headRows(_ rows: Int) -> [Int]? {
    guard let config = model.config else { return nil }
    for section in [config, config[NameTables.textSection]].compactMap({ $0 }) {
      guard let heads = section["num_attention_heads"]?.asInt, heads > 0 else { continue }
      let pairs = section["num_key_value_heads"]?.asInt ?? heads
      guard pairs > 0, pairs <= heads, let length = section["head_dim"]?.asInt ?? section["hidden_size"]?.asInt.map({ $0 / heads }),
        length > 0
      else { continue }
      let (queries, overflow) = heads.multipliedReportingOverflow(by: length)
      guard !overflow, queries <= rows else { continue }
      let found = [queries, pairs * length, pairs * length]
      if found[1] <= rows, queries + 2 * found[1] == rows { return found }
    }
    return nil
  }

  /// A weight [rows, columns] or a bias [rows].
  private static func matrix(_ tensor: CheckpointTensor) throws(IngotError) -> TensorAssembly.Matrix {
    let shape = tensor.shape.dimensions
    guard let rows = shape.first, shape.count <= 2 else {
      throw IngotError(.shape, "tensor \(tensor.name) has shape \(tensor.shape), expected one or two axes", subject: tensor.name)
    }
    return TensorAssembly.Matrix(tensor, rows: rows, columns: shape.count == 2 ? shape[1] : 1)
  }
}
