internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// What the inputs of one output tensor have in common, before a method sees them: a type that can be combined, and a shape.
struct InputAgreement {
  let name: String
  let inputs: [PlannedInput]
  private let modelNames: [String]

  init(name: String, inputs: [PlannedInput], recipe: Recipe) {
    self.name = name
    self.inputs = inputs
    modelNames = inputs.map { recipe.models[$0.model].name }
  }

  // MARK: Types

  /// The input that a tensor without arithmetic comes from: the base, else the first model. Nil for tensors that can be merged. `sources` are the
  /// plan's.
  func carried(
    by method: MethodDescriptor, _ sources: [any ByteSource]
  ) throws(IngotError) -> (input: PlannedInput, notice: Notice?)? {
    guard let first = inputs.first, let other = inputs.first(where: { !$0.dtype.hasArithmetic }) else { return nil }
    if inputs.count == 1 { return method.name == "passthrough" || !first.dtype.hasArithmetic ? (first, nil) : nil }
    guard first.dtype == other.dtype, inputs.allSatisfy({ $0.dtype == first.dtype && $0.shape == first.shape }) else {
      let found = zip(inputs, modelNames).map { "\($0.dtype.safetensorsName) \($0.shape) in \($1)" }.joined(separator: ", ")
      throw IngotError(
        .dtype, "tensor \(name) has types that cannot be combined: \(found)", hint: "the models must agree on it", subject: name)
    }
    switch other.dtype {
    case .i64, .i32, .i16, .i8, .u64, .u32, .u16, .u8, .bool: break
    default:
      throw IngotError(
        .dtype, "tensor \(name) is \(other.dtype.safetensorsName), which has no arithmetic here",
        hint: "it can only be copied: use passthrough", subject: name)
    }
    guard try differ(sources) else { return (first, nil) }
    return (
      first,
      Notice(
        .warning, "\(name) holds integers that differ between the models; it is taken from \(modelNames[0])", subject: name)
    )
  }

  /// Compares small integer tensors byte by byte; large ones are left unread while planning.
  private func differ(_ sources: [any ByteSource]) throws(IngotError) -> Bool {
    guard let first = inputs.first else { return false }
    let count = try first.shape.byteCount(first.dtype)
    guard count <= 1 << 20 else { return false }
    let expected = try bytes(first, count, sources)
    for input in inputs.dropFirst() where try bytes(input, count, sources) != expected { return true }
    return false
  }

  private func bytes(_ input: PlannedInput, _ count: Int, _ sources: [any ByteSource]) throws(IngotError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    guard sources.indices.contains(input.source) else { return bytes }
    let source = sources[input.source]
    var failure: IngotError?
    // SAFETY: the array's storage lives for the closure.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(IngotError) { try unsafe source.read(buffer, at: input.offset) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  // MARK: Shapes

  /// The shape of the result. Embeddings may differ in rows, and then there is a notice; anything else must agree.
  func shape(cropsToBase: Bool) throws(IngotError) -> (shape: Shape, cropping: Notice?) {
    guard let first = inputs.first else { return (Shape([]), nil) }
    guard let other = inputs.indices.first(where: { inputs[$0].shape != first.shape }) else { return (first.shape, nil) }
    let isCroppable =
      TensorNames.isEmbedding(name) && inputs.allSatisfy { $0.shape.rank == 2 && $0.shape.rowLength == first.shape.rowLength }
    let rows = inputs.compactMap { $0.shape.dimensions.first }
    let wanted = cropsToBase ? first.shape.dimensions.first : rows.min()
    guard isCroppable, let wanted, rows.allSatisfy({ $0 >= wanted }) else {
      throw IngotError(
        .shape,
        "tensor \(name) has shape \(inputs[other].shape) in model \(modelNames[other]) and \(first.shape) in model \(modelNames[0])",
        hint: isCroppable
          ? "the base has more rows than a model: extend the model's vocabulary" : "the models must have the same architecture",
        subject: name)
    }
    return (
      Shape([wanted] + first.shape.dimensions.dropFirst()),
      Notice(.warning, "\(name) has \(rows.min() ?? 0) to \(rows.max() ?? 0) rows; the first \(wanted) are merged", subject: name)
    )
  }
}
