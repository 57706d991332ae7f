package import IngotCheckpoints
package import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// One tensor that is packed: where its values are in the base and in each model.
struct PackedTensorPlan: Sendable {
  let name: String
  let shape: Shape
  let form: DeltaPack.Form
  let count: Int
  /// The base's first.
  let inputs: [InputAccess]
  /// Index of the first element among those of all tensors, each beginning at a multiple of 65,536: the order of ties.
  let jobBase: UInt64
  /// What its values are stored as, where they are.
  let dtype: DType

  var blockCount: Int { (count + Blocking.blockElements - 1) / Blocking.blockElements }
  var bytesPerElement: Int { inputs.reduce(0) { $0 + $1.width } }
}

/// What a packing will do: which tensors, how, and from where. Made from headers and parameters alone, and of the base the first bytes of every tensor.
package struct PackPlan: Sendable {
  package let method: DeltaPack.Method
  let settings: PackSettings
  let tensors: [PackedTensorPlan]
  /// The merge of the same models, which has found what belongs together.
  let merge: Plan
  let baseDigest: String
  let baseName: String
  package let tasks: [String]
  package let notices: [Notice]

  /// Plans the pack of `models` against `base`; references are as in recipes, parameters are names and texts.
  ///
  /// Throws `.invalidArgument` for an unknown method, a parameter or a number of models that it does not take, and what planning a merge of the
  /// models throws: absent models, tensors that do not fit.
  package static func make(
    method name: String, base: String, models: [String], parameters: [(name: String, value: String)], provider: some ModelProvider
  ) throws(IngotError) -> PackPlan {
    guard let method = DeltaPack.Method(rawValue: name) else {
      let names = DeltaPack.Method.allCases.map(\.rawValue)
      throw IngotError(
        .invalidArgument, "unknown pack method \"\(name.prefix(60))\"",
        hint: nearestName(to: name, among: names).map { "did you mean \($0)?" } ?? "the methods are \(names.joined(separator: ", "))")
    }
    guard method.descriptor.models.contains(models.count) else {
      throw IngotError(
        .invalidArgument, "found \(models.count) models, expected \(method.descriptor.modelsExpectation) for \(name)",
        hint: models.count > 1 ? "make one pack of each" : nil)
    }
    var seen: Set<String> = [base]
    for model in models where !seen.insert(model).inserted {
      throw IngotError(
        .invalidArgument, model == base ? "the base is among the models" : "the model is named twice", hint: "name every model once",
        subject: model)
    }
    let settings = try PackSettings(method, parameters, models: models.count)
    // The same tensors belong together as in a merge of differences to the base.
    let recipe = try Recipe.quick(
      QuickMerge(method: TaskArithmetic.descriptor.name, base: base, models: models.map { .init($0) }), catalog: MethodRegistry.catalog)
    var options = PlanOptions()
    options.carriesTokenizer = false
    options.writesModelCard = false
    let plan = try Plan.make(recipe, options: options, models: provider)
    let opened = try provider.open(named: base).readable()
    let tensors = try packed(plan, method, settings)
    guard !tensors.isEmpty else {
      throw IngotError(.shape, "base and models share no tensor of numbers", hint: "are the models fine-tuned from this base?")
    }
    let kept = plan.tensors.count - tensors.count
    var notices = plan.notices
    if kept > 0 {
      notices.append(Notice(.info, "\(kept) tensors are not packed: a model that is unpacked has them from its base"))
    }
    return PackPlan(
      method: method, settings: settings, tensors: tensors, merge: plan, baseDigest: try opened.packIdentity(of: tensors.map(\.name)),
      baseName: publicName(of: opened, base),
      tasks: taskNames(try models.map { (name) throws(IngotError) in (name, try provider.open(named: name)) }),
      notices: notices)
  }

  /// The tensors that are merged, in the order of the output.
  private static func packed(_ plan: Plan, _ method: DeltaPack.Method, _ settings: PackSettings) throws(IngotError) -> [PackedTensorPlan] {
    var tensors: [PackedTensorPlan] = []
    var jobBase: UInt64 = 0
    var merged: [Int] = []
    for job in plan.jobs { if case .merge = job.work { merged += job.tensors } }
    for tensor in merged.sorted().map({ plan.tensors[$0] }) {
      guard tensor.inputs.count == plan.models.count else {
        throw IngotError(
          .shape, "\(tensor.inputs.count) of base and \(plan.models.count - 1) models have this tensor, expected all", subject: tensor.name)
      }
      let form: DeltaPack.Form =
        switch method {
        case .compeft: .ternary
        case .tall, .emr: .masked
        case .bitdelta: isSigned(tensor, layers: settings["layers"]?.text ?? "blocks") ? .signs : .whole
        }
      let count = try tensor.shape.elementCount()
      tensors.append(
        PackedTensorPlan(
          name: tensor.name, shape: tensor.shape, form: form, count: count, inputs: tensor.inputs.map(InputAccess.init), jobBase: jobBase,
          dtype: form == .whole ? tensor.inputs.last?.dtype ?? .f32 : settings.vectorType))
      let unit = UInt64(Blocking.blockElements)
      jobBase += (UInt64(count) + unit - 1) / unit * unit
    }
    return tensors
  }

  private static let attentionNames = ["attn", "attention"]
  private static let mlpNames = ["mlp", "ffn", "feed_forward", "feedforward", "dense", "moe", "expert"]

  /// A weight of two or more axes, of the blocks that `layers` names as its own name tells. What attention calls dense is attention's.
  private static func isSigned(_ tensor: PlannedTensor, layers: String) -> Bool {
    guard tensor.shape.rank >= 2 else { return false }
    let name = tensor.name.lowercased()
    let isAttention = attentionNames.contains(where: name.contains)
    let isMLP = !isAttention && mlpNames.contains(where: name.contains)
    return switch layers {
    case "all": true
    case "attention": isAttention
    case "mlp": isMLP
    default: isAttention || isMLP
    }
  }

  /// A name that says nothing of this machine.
  private static func publicName(of model: ProvidedModel, _ reference: String) -> String {
    let parsed = try? IngotCheckpoints.ModelReference(parsing: reference)
    let parts = parsed.map { [$0.model] + $0.adapters } ?? []
    return parts.map { $0.publicName(isLocal: model.isLocal || !$0.isHubName) }.joined(separator: "+")
  }

  /// The models' names, numbered where two are the same.
  private static func taskNames(_ models: [(String, ProvidedModel)]) -> [String] {
    var names: [String] = []
    for (reference, model) in models {
      let name = publicName(of: model, reference)
      var own = name
      var number = 2
      while names.contains(own) {
        own = "\(name)-\(number)"
        number += 1
      }
      names.append(own)
    }
    return names
  }

  /// The statistics of ComPEFT as one job over all packed tensors.
  func statistics() throws(IngotError) -> (plan: Plan, method: ComPEFT) {
    var parameters: [String: ParameterValue] = [:]
    for name in ["density", "alpha"] { parameters[name] = settings[name] }
    let inputs = [
      MethodRequest.Input(model: baseName, ordinal: 0, isBase: true), MethodRequest.Input(model: tasks[0], ordinal: 1, isBase: false),
    ]
    let segments = tensors.map { tensor in
      MethodRequest.Segment(
        name: tensor.name, shape: tensor.shape, parameters: parameters, modelParameters: [[:], [:]], streams: [0, 0])
    }
    let method = try ComPEFT(MethodRequest(inputs: inputs, segments: segments, seed: 0))
    let names = Set(tensors.map(\.name))
    let planned = merge.tensors.filter { names.contains($0.name) }
    let plan = try Plan(
      recipe: merge.recipe, models: merge.models, sources: merge.sources, files: [], sideFiles: [], tensors: planned,
      jobs: [PlannedJob(tensors: Array(planned.indices), work: .merge(method))], seed: 0, numerics: .once, missing: merge.missing,
      notices: [],
      digest: merge.digest, sourceDigest: merge.sourceDigest)
    return (plan, method)
  }

  /// Rows of the header.
  func layoutTensors(codeBytes: [Int]) -> [DeltaPackLayout.Tensor] {
    tensors.enumerated().map { index, tensor in
      DeltaPackLayout.Tensor(
        name: tensor.name, shape: tensor.shape, form: tensor.form, dtype: tensor.dtype,
        codeBytes: codeBytes.indices.contains(index) ? codeBytes[index] : 0)
    }
  }
}

extension ProvidedModel {
  /// Bytes of each tensor that are part of a base's identity, at most.
  private static let identifyingBytes = 4096

  /// What identifies the model as the base of a pack: XXH3-128 over a line for each of these tensors, in the order of their names' bytes: name, type,
  /// shape and XXH3-128 of its first 4096 bytes. Not over files or their names: a model keeps its identity when it is cut into other shards.
  ///
  /// Throws `.shape` for a tensor that the model does not have.
  func packIdentity(of names: [String]) throws(IngotError) -> String {
    var digest = try StreamingDigest()
    for name in names.sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) {
      guard let tensor = checkpoint[name] else { throw Self.notTheBase("the base \(path) has no tensor of this name", name) }
      let bytes = try StoredBytes(tensor, of: self)
      let scratch = ReadScratch(min(bytes.byteCount, Self.identifyingBytes))
      let first = unsafe scratch.bytes(0, scratch.count)
      // SAFETY: the scratch lives to the end of the loop's body.
      try unsafe bytes.read(first, at: 0)
      let line =
        "\(name)\u{0}\(tensor.dtype.safetensorsName)\u{0}\(tensor.shape)\u{0}\(unsafe Digest128(of: UnsafeRawBufferPointer(first)))\n"
      digest.add(Array(line.utf8))
      withExtendedLifetime(scratch) {}
    }
    return digest.value.description
  }

  static func notTheBase(_ message: String, _ tensor: String) -> IngotError {
    IngotError(.shape, message, hint: "is this the base that the pack was made with?", subject: tensor)
  }
}
