internal import IngotErrors
internal import IngotJSON
internal import IngotTensors

/// The experts of one layer of one model.
struct ExpertStack {
  /// The matrices of one expert, as [features, hidden], [features, hidden] and [hidden, features].
  struct Matrices {
    var gate: TensorAssembly.Matrix
    var up: TensorAssembly.Matrix
    var down: TensorAssembly.Matrix
  }

  /// What comes before `.experts`.
  let stem: String
  /// Last component of the stem.
  let container: String
  let key: String
  /// Tensors by what follows `.experts.`, in the order of the checkpoint.
  private var members: [String] = []

  private init(_ components: ArraySlice<Substring>) {
    stem = components.joined(separator: ".")
    container = components.last.map(String.init) ?? ""
    key = LayoutKey.key(components)
  }

  /// Every stack of a checkpoint, in the order of its tensors.
  static func all(of checkpoint: Checkpoint) -> [ExpertStack] {
    var stacks: [ExpertStack] = []
    var places: [String: Int] = [:]
    for tensor in checkpoint.tensors where tensor.name.utf8.count < 4096 {
      let components = tensor.name.split(separator: ".", omittingEmptySubsequences: false)
      guard let index = components.lastIndex(of: "experts"), index > 0, index + 1 < components.count else { continue }
      let stack = ExpertStack(components[..<index])
      let place = places[stack.stem] ?? stacks.count
      if place == stacks.count {
        places[stack.stem] = place
        stacks.append(stack)
      }
      stacks[place].members.append(components[(index + 1)...].joined(separator: "."))
    }
    return stacks
  }

  private func name(_ member: String) -> String { stem + ".experts." + member }

  /// How the stack is stored; nil when it is stored in no way that is known.
  func form(in checkpoint: Checkpoint) -> DonorLayout.ExpertForm? {
    func made(_ arrangement: DonorLayout.Arrangement) -> DonorLayout.ExpertForm { .init(container: container, arrangement: arrangement) }
    if let both = batched(in: checkpoint) {
      guard members.count == 2, let isTransposed = both.isTransposed else { return nil }
      return made(.batched(isTransposed: isTransposed))
    }
    for names in NameLayouts.separateExperts {
      let endings = [names.gate, names.up, names.down].map { "." + $0 + ".weight" }
      let isWhole = members.allSatisfy { member in
        endings.contains { member.hasSuffix($0) && Self.number(member.dropLast($0.utf8.count)) != nil }
      }
      if isWhole { return made(.separate(names)) }
    }
    return nil
  }

  private static func number(_ text: Substring) -> Int? {
    guard !text.isEmpty, text.utf8.count <= 6, text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }), text.utf8.count == 1 || text.first != "0"
    else {
      return nil
    }
    return Int(text)
  }

  private func batched(in checkpoint: Checkpoint) -> (gateUp: CheckpointTensor, down: CheckpointTensor, isTransposed: Bool?)? {
    guard !members.contains(NameLayouts.interleavingMark), let gateUp = checkpoint[name(NameLayouts.batchedGateUp)],
      let down = checkpoint[name(NameLayouts.batchedDown)]
    else { return nil }
    let (wide, narrow) = (gateUp.shape.dimensions, down.shape.dimensions)
    guard wide.count == 3, narrow.count == 3, wide[0] == narrow[0], wide[0] <= Limit.experts, narrow.allSatisfy({ $0 > 0 }) else {
      return (gateUp, down, nil)
    }
    // Both can hold only for matrices without elements.
    if wide[2] == narrow[1], wide[1] % 2 == 0, wide[1] / 2 == narrow[2] { return (gateUp, down, false) }
    if wide[1] == narrow[2], wide[2] % 2 == 0, wide[2] / 2 == narrow[1] { return (gateUp, down, true) }
    return (gateUp, down, nil)
  }

  /// The names of all its tensors in the checkpoint.
  func names(in checkpoint: Checkpoint) -> [String] { members.map(name) }

  /// The experts in the order of their numbers. Throws `.shape` naming a tensor that is missing or has another shape than its siblings.
  func matrices(in checkpoint: Checkpoint, form: DonorLayout.ExpertForm) throws(IngotError) -> [Matrices] {
    switch form.arrangement {
    case .batched: return batchedMatrices(in: checkpoint)
    case .separate(let names): return try separateMatrices(in: checkpoint, names)
    }
  }

  private func batchedMatrices(in checkpoint: Checkpoint) -> [Matrices] {
    guard let (gateUp, down, isTransposed) = batched(in: checkpoint), let isTransposed else { return [] }
    let shape = down.shape.dimensions
    let (features, hidden) = isTransposed ? (shape[1], shape[2]) : (shape[2], shape[1])
    return (0..<shape[0]).map { expert in
      let wide = expert * 2 * features * hidden
      let narrow = expert * features * hidden
      if isTransposed {
        return Matrices(
          gate: .init(gateUp, rows: features, columns: hidden, offset: wide, rowStep: 1, columnStep: 2 * features),
          up: .init(gateUp, rows: features, columns: hidden, offset: wide + features, rowStep: 1, columnStep: 2 * features),
          down: .init(down, rows: hidden, columns: features, offset: narrow, rowStep: 1, columnStep: hidden))
      }
      return Matrices(
        gate: .init(gateUp, rows: features, columns: hidden, offset: wide),
        up: .init(gateUp, rows: features, columns: hidden, offset: wide + features * hidden),
        down: .init(down, rows: hidden, columns: features, offset: narrow))
    }
  }

  private func separateMatrices(in checkpoint: Checkpoint, _ names: NameLayouts.ExpertNames) throws(IngotError) -> [Matrices] {
    let numbers = Set(members.compactMap { member in member.firstIndex(of: ".").flatMap { Self.number(member[..<$0]) } })
    let promised = [checkpoint.config, checkpoint.config?[NameTables.textSection]].compactMap { section in
      NameLayouts.expertCountKeys.lazy.compactMap { section?[$0]?.asInt }.first
    }.first
    // A hostile count or number must not make a list of millions.
    let count = max((numbers.max() ?? -1) + 1, min(promised ?? 0, numbers.count + 1))
    guard count <= 2 * numbers.count + 1 else { throw missing(numbers, names) }
    var found: [Matrices] = []
    for number in 0..<count {
      func tensor(_ part: String) throws(IngotError) -> TensorAssembly.Matrix {
        let name = name("\(number).\(part).weight")
        guard let tensor = checkpoint[name] else { throw missing(name, in: checkpoint) }
        let shape = tensor.shape.dimensions
        guard shape.count == 2 else {
          throw IngotError(.shape, "tensor \(name) has shape \(tensor.shape), expected two axes", subject: name)
        }
        return TensorAssembly.Matrix(tensor, rows: shape[0], columns: shape[1])
      }
      let made = Matrices(gate: try tensor(names.gate), up: try tensor(names.up), down: try tensor(names.down))
      let first = found.first ?? made
      let features = first.gate.rows
      let hidden = first.gate.columns
      for (matrix, rows, columns) in [(made.gate, features, hidden), (made.up, features, hidden), (made.down, hidden, features)]
      where matrix.rows != rows || matrix.columns != columns {
        throw IngotError(
          .shape, "tensor \(matrix.tensor.name) has shape \(matrix.tensor.shape), expected \(Shape([rows, columns])) as its siblings need",
          subject: matrix.tensor.name)
      }
      found.append(made)
    }
    return found
  }

  private func missing(_ numbers: Set<Int>, _ names: NameLayouts.ExpertNames) -> IngotError {
    let first = (0...numbers.count).first { !numbers.contains($0) } ?? 0
    return missing(name("\(first).\(names.gate).weight"), in: nil)
  }

  private func missing(_ name: String, in checkpoint: Checkpoint?) -> IngotError {
    IngotError(
      .shape, "the expert tensor \(name) is missing\(checkpoint.map { " in \($0.displayPath)" } ?? "")",
      hint: "the experts of a layer are numbered from 0 without a gap, each with all its matrices", subject: name)
  }
}
