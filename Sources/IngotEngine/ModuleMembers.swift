internal import IngotCheckpoints

/// Which module of a recipe a tensor belongs to.
struct ModuleMembers {
  enum Name {
    case whole
    case part(ModelPart)
    /// The beginning of tensors' names, with its dot.
    case prefix(String)
  }

  let names: [Name]

  /// By the modules' names; nil is the whole model.
  init(_ modules: [String?]) {
    names = modules.map { text in
      guard let text else { return .whole }
      if let part = ModelPart.named(text) { return .part(part) }
      return .prefix(text.hasSuffix(".") ? text : text + ".")
    }
  }

  /// The module of a tensor: the longest beginning of its name, else its part; nil when the recipe names neither.
  func module(of name: String, _ layout: ModelLayout) -> Int? {
    var best: (module: Int, length: Int)?
    var hasParts = false
    for (module, entry) in names.enumerated() {
      switch entry {
      case .whole: return module
      case .part: hasParts = true
      case .prefix(let prefix):
        if name.hasPrefix(prefix), prefix.utf8.count > best?.length ?? 0 { best = (module, prefix.utf8.count) }
      }
    }
    if let best { return best.module }
    guard hasParts else { return nil }
    let part = layout.part(of: name)
    return names.firstIndex { entry in
      if case .part(part) = entry { return true }
      return false
    }
  }
}
