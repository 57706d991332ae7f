internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

/// One line of the table of differences from mergekit. `find` gives what it is about, or nil when the recipe does not meet it.
struct MergekitCheck: Sendable {
  let name: String
  let kind: MergekitReport.Kind
  let mergekit: String
  let here: String
  let find: @Sendable (MergekitContext) throws(IngotError) -> [String]?

  /// The parameters that each of mergekit's methods reads.
  private static let parameters: [String: Set<String>] = {
    let vectors: Set<String> = ["weight", "density", "normalize", "rescale", "lambda", "int8_mask"]
    var table: [String: Set<String>] = [
      "linear": ["weight", "normalize"], "slerp": ["t"], "nuslerp": ["weight", "nuslerp_row_wise", "nuslerp_flatten"],
      "multislerp": ["weight", "normalize_weights", "eps"], "karcher": ["max_iter", "tol"], "passthrough": ["scale"],
      "model_stock": ["filter_wise"], "arcee_fusion": [], "nearswap": ["t"], "sce": ["int8_mask", "select_topk"], "ram": ["epsilon"],
      "ramplus_tl": ["epsilon", "r", "alpha"],
    ]
    for name in ["task_arithmetic", "ties", "dare_ties", "dare_linear"] { table[name] = vectors }
    for name in ["breadcrumbs", "breadcrumbs_ties"] { table[name] = vectors.union(["gamma"]) }
    for name in ["della", "della_linear"] { table[name] = vectors.union(["epsilon"]) }
    return table
  }()

  static let all: [MergekitCheck] = bugs + differences + methods + inputs

  // MARK: - Bugs

  private static let bugs: [MergekitCheck] = [
    MergekitCheck(
      name: "unknown-keys", kind: .bug, mergekit: "ignores keys that it does not know without a word", here: "they are named",
      find: { context throws(IngotError) in
        present(context.recipe.notices.filter { $0.severity == .warning && $0.message.hasSuffix("it is ignored") }.compactMap(\.subject))
      }),
    MergekitCheck(
      name: "single-condition", kind: .bug, mergekit: "fails while planning on a condition that stands alone instead of in a list",
      here: "it counts as a list of one", find: { context throws(IngotError) in present(loneConditions(context.root)) }),
    MergekitCheck(
      name: "donor-by-chance", kind: .bug,
      mergekit:
        "without base_model takes config and tokenizer from a model that the order of a hash set picks, another one from run to run",
      here: "they come from the first model of the recipe",
      find: { context throws(IngotError) in context.recipe.baseModel == nil && context.recipe.models.count > 1 ? [] : nil }),
    MergekitCheck(
      name: "trimmed-to-nothing", kind: .bug, mergekit: "drops the whole task vector where gamma × elements is below 1",
      here: "no outlier is dropped there, and the rest is kept",
      find: { context throws(IngotError) in
        guard context.method.hasPrefix("breadcrumbs") else { return nil }
        return present(
          try context.tensors { count, _, number in
            let (density, gamma) = (number("density") ?? 1, number("gamma") ?? 0.01)
            guard density < 1 else { return false }
            let kept = Int(density * Double(count))
            return kept > 0 && min(Int(gamma * Double(count)), count - kept) == 0
          })
      }),
    MergekitCheck(
      name: "nothing-kept", kind: .bug, mergekit: "stops with an AssertionError where density × elements is below 1",
      here: "nothing of such a tensor is kept, and the base passes through",
      find: { context throws(IngotError) in
        guard context.method == "ties" else { return nil }
        return present(
          try context.tensors { count, _, number in
            let density = number("density") ?? 1
            return density < 1 && count > 0 && Int(density * Double(count)) == 0
          })
      }),
    MergekitCheck(
      name: "row-of-one", kind: .bug, mergekit: "fails on rows of one element and on scalars: their rank is 0/0",
      here: "such an element stays with probability density",
      find: { context throws(IngotError) in
        guard context.method.hasPrefix("della") else { return nil }
        return present(
          try context.tensors { _, shape, number in
            let density = number("density") ?? 1
            guard density > 0, density < 1 else { return false }
            return shape.rank == 0 || (shape.rank == 1 ? shape.dimensions[0] : shape.dimensions[1]) == 1
          })
      }),
    MergekitCheck(
      name: "embedding-rows", kind: .bug, mergekit: "stops on embeddings of different rows with this method",
      here: "the rows that all have are merged, as with other methods",
      find: { context throws(IngotError) in
        guard ["karcher", "multislerp", "nearswap", "sce", "ram", "ramplus_tl"].contains(context.method) else { return nil }
        return present(context.outputs.filter { Set($0.inputs.map(\.tensor.shape)).count > 1 }.map(\.name))
      }),
    MergekitCheck(
      name: "layer-types", kind: .bug,
      mergekit: "writes all weights and then fails on config.json, whose layer_types has another length than the stack of layers",
      here: "lists with an entry per layer follow the layers",
      find: { context throws(IngotError) in
        guard context.recipe.form == .slices, let config = donor(context)?.checkpoint.config else { return nil }
        let text = config["text_config"] ?? config
        guard let types = (text["layer_types"] ?? config["layer_types"])?.asArray else { return nil }
        let layers = context.recipe.slices.reduce(0) { $0 + ($1.layerCount ?? 0) }
        return layers == types.count ? nil : ["layer_types"]
      }),
    MergekitCheck(
      name: "tied-head", kind: .bug, mergekit: "leaves tie_word_embeddings on beside a merged lm_head, which loaders then ignore",
      here: "the flag is turned off where a head is written",
      find: { context throws(IngotError) in
        guard let donor = donor(context), TensorNames.tiesEmbeddings(donor.checkpoint.config) else { return nil }
        return present(context.outputs.map(\.name).filter { $0.hasSuffix("lm_head.weight") })
      }),
    MergekitCheck(
      name: "bert", kind: .bug, mergekit: "fails on BERT with a type error (its raw mode merges it)",
      here: "BERT is merged like every model",
      find: { context throws(IngotError) in
        present(zip(context.recipe.models, context.models).filter { $1.checkpoint.config?["model_type"]?.asString == "bert" }.map(\.0.name))
      }),
  ]

  // MARK: - Deliberate differences

  private static let differences: [MergekitCheck] = [
    MergekitCheck(
      name: "own-methods", kind: .difference, mergekit: "has no such method", here: "it is merged",
      find: { context throws(IngotError) in parameters[context.method] == nil ? [context.method] : nil }),
    MergekitCheck(
      name: "own-parameters", kind: .difference, mergekit: "does not read these keys, and merges by its own rule",
      here: "they are read",
      find: { context throws(IngotError) in
        var found = ["seed", "preset", "numerics", "missing", "tensors", "side", "aim"].filter {
          context.root.mapping?[$0]?.value.isNull == false
        }
        guard let known = parameters[context.method] else { return present(found) }
        let recipe = context.recipe
        for (index, parameter) in recipe.method.parameters.enumerated() where !known.contains(parameter.name) {
          let places = [recipe.settings] + recipe.slices.flatMap { [$0.settings] + $0.sources.map(\.settings) }
          if places.contains(where: { $0[index] != nil }) { found.append(parameter.name) }
        }
        return present(found)
      }),
    MergekitCheck(
      name: "dtype-names", kind: .difference, mergekit: "refuses short names of element types", here: "they are read",
      find: { context throws(IngotError) in
        present(
          ["dtype", "out_dtype"].filter { key in
            guard let text = context.root.mapping?[key]?.value.scalar?.text, !text.isEmpty, text != "null", text != "~" else {
              return false
            }
            return !DType.allCases.contains { $0.torchName == (text.hasPrefix("torch.") ? String(text.dropFirst(6)) : text) }
          })
      }),
    MergekitCheck(
      name: "16-bit-rounding", kind: .difference,
      mergekit: "rounds inputs to dtype and every step of the arithmetic to 16 bits",
      here: "arithmetic is float32, rounded once at the end",
      find: { context throws(IngotError) in
        guard context.method != "passthrough", context.recipe.numerics == .once else { return nil }
        if let dtype = context.recipe.dtype { return dtype == .f32 ? nil : [] }
        return context.outputs.contains { $0.inputs.contains { [.bf16, .f16].contains($0.tensor.dtype) } } ? [] : nil
      }),
    MergekitCheck(
      name: "random-masks", kind: .difference,
      mergekit: "draws from torch's generator, other masks in every run without a seed and for every order of tensors",
      here: "masks follow from the seed, the tensor's name and the model's place: the same always, and not mergekit's",
      find: { context throws(IngotError) in
        let isRandom = context.method.hasPrefix("dare_") || context.method.hasPrefix("della")
        return isRandom && context.dropsElements ? [] : nil
      }),
    MergekitCheck(
      name: "equal-magnitudes", kind: .difference,
      mergekit: "lets an unstable sort decide which of equal magnitudes stay, and they are the percent in 16-bit models",
      here: "a fixed hash of the element's place decides, which favours no row",
      find: { context throws(IngotError) in
        let sorts = ["ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"].contains(context.method)
        return sorts && context.dropsElements ? [] : nil
      }),
    MergekitCheck(
      name: "rows-of-della", kind: .difference, mergekit: "ranks along axis 1 of tensors with three or more axes",
      here: "a row is the last axis, as in two dimensions",
      find: { context throws(IngotError) in
        guard context.method.hasPrefix("della"), context.dropsElements else { return nil }
        return present(try context.tensors { _, shape, _ in shape.rank > 2 })
      }),
    MergekitCheck(
      name: "integers", kind: .difference, mergekit: "merges integer tensors in integer arithmetic",
      here: "they come from the base, else from the first model",
      find: { context throws(IngotError) in
        present(
          context.outputs.filter { output in
            output.inputs.count > 1 && output.inputs.allSatisfy { !$0.tensor.dtype.hasArithmetic }
          }.map(\.name))
      }),
    MergekitCheck(
      name: "float64", kind: .difference, mergekit: "computes and writes float64 where models have it and no dtype is given",
      here: "such tensors are merged into float32",
      find: { context throws(IngotError) in
        guard context.recipe.outputDType == nil, context.method != "passthrough" else { return nil }
        return present(context.outputs.filter { $0.inputs.contains { $0.tensor.dtype == .f64 } }.map(\.name))
      }),
  ]

  // MARK: - Parts

  static func present(_ subjects: [String]) -> [String]? { subjects.isEmpty ? nil : subjects }

  /// The model whose config the output gets.
  private static func donor(_ context: MergekitContext) -> ProvidedModel? {
    let index = context.donorIndex
    return context.models.indices.contains(index) ? context.models[index] : nil
  }

  /// Parameters whose value is a mapping, wherever `parameters` stands.
  private static func loneConditions(_ node: Node) -> [String] {
    var found: [String] = []
    switch node.content {
    case .scalar: break
    case .sequence(let nodes): found = nodes.flatMap(loneConditions)
    case .mapping(let mapping):
      for entry in mapping.entries {
        if entry.key == "parameters", let settings = entry.value.mapping {
          found += settings.entries.filter { $0.value.mapping != nil }.map(\.key)
        } else {
          found += loneConditions(entry.value)
        }
      }
    }
    return found
  }
}
