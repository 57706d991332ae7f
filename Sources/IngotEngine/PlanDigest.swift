internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// The digests that identify a plan and its sources.
enum PlanDigest {
  /// Over method, seed, and for each tensor its name, type, shape, inputs, place and parameters; not over paths.
  static func plan(
    recipe: Recipe, tensors: [PlannedTensor], jobs: [PlannedJob], files: [WeightFile], seed: UInt64, numerics: Recipe.Numerics,
    cache: ParameterCache, sources: [any ByteSource]
  ) throws(IngotError) -> Digest128 {
    var digest = try StreamingDigest()
    digest.add(Array("ingot-plan-1\n\(recipe.method.name)\n\(seed)\n\(recipe.preset.rawValue)\n".utf8))
    if numerics != .once { digest.add(Array("\(numerics.rawValue)\n".utf8)) }
    for file in files { digest.add(Array("\(file.name) \(file.byteCount)\n".utf8)) }
    for tensor in tensors {
      var line = "\(tensor.name)\n\(tensor.dtype.rawValue) \(tensor.shape) \(tensor.file) \(tensor.offset)"
      for input in tensor.inputs {
        line += "\n\(input.model) \(input.name) \(input.dtype.rawValue) \(input.shape)"
        if sources.indices.contains(input.source), let derivation = sources[input.source].derivation { line += "\n= " + derivation }
      }
      for side in tensor.sides {
        let (part, source) = (side.tensor, side.source)
        line +=
          "\n+ \(part.input) \(part.model ?? -1) \(part.item) \(part.part.rawValue) \(source.name) \(source.dtype.rawValue) \(source.shape)"
        if sources.indices.contains(source.source), let derivation = sources[source.source].derivation { line += "\n= " + derivation }
      }
      if let scaling = tensor.scaling { line += "\n* \(scaling.omega) \(scaling.base) \(scaling.norms)" }
      digest.add(Array((line + "\n").utf8))
    }
    for job in jobs {
      switch job.work {
      case .copy: digest.add([0])
      case .merge: digest.add([1])
      }
    }
    digest.add(Array(settings(recipe).utf8))
    return digest.value
  }

  /// Every setting of the recipe in a fixed order.
  private static func settings(_ recipe: Recipe) -> String {
    func render(_ settings: Settings, of method: MethodDescriptor? = nil) -> String {
      let method = method ?? recipe.method
      return method.parameters.indices.compactMap { index in
        settings[index].map { "\(method.parameters[index].name)=\($0.setting)" }
      }.joined(separator: ";")
    }
    var text = render(recipe.settings)
    for module in recipe.modules where module.name != nil {
      text += "#\(module.name ?? "") \(module.slices) " + render(module.settings)
    }
    for slice in recipe.slices {
      text += "|" + render(slice.settings)
      for source in slice.sources {
        text += "/\(source.model) \(source.isBase) \(String(describing: source.layers)) " + render(source.settings)
      }
    }
    for rule in recipe.rules {
      let layers = String(describing: rule.layers)
      let from = String(describing: rule.from)
      let dtype = rule.dtype?.torchName ?? ""
      text += "~\(rule.pattern.text) \(layers) \(from) \(rule.method?.name ?? "") \(dtype) " + render(rule.settings, of: rule.method)
    }
    return text
  }

  static func sources(_ models: [PlannedModel]) throws(IngotError) -> Digest128 {
    var digest = try StreamingDigest()
    for model in models {
      for shard in model.shards {
        digest.add(Array("\(shard.name) \(shard.size) \(shard.modified) \(shard.headerDigest)\n".utf8))
      }
      digest.add([10])
    }
    return digest.value
  }
}
