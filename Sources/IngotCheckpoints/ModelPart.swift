/// A part of a model with layers of its own, or what joins such parts. The raw values are mergekit's module names.
package enum ModelPart: String, Sendable, Hashable, CaseIterable {
  /// The language model, and whatever belongs to no other part; the whole model where there is one stack.
  case text = "text_decoder"
  case vision = "vision_tower"
  case audio = "audio_tower"
  case projector = "multi_modal_projector"
  case encoder, decoder
  /// What encoder and decoder share: embeddings, the head.
  case shared

  /// The part a tensor's name tells, from the components before its first number (all of them when it has none).
  package init(of name: String, isEncoderDecoder: Bool) {
    if let tower = Self.ofTower(named: name) {
      self = tower
    } else if isEncoderDecoder {
      self = Self.side(of: name)
    } else {
      self = .text
    }
  }

  /// Other words for a part in recipes.
  package static func named(_ text: String) -> ModelPart? {
    if let part = ModelPart(rawValue: text) { return part }
    return NameTables.partNames.first { $0.names.contains(text) }?.part
  }

  /// A tower or what joins it to the text; nil for tensors of the model itself.
  static func ofTower(named name: String) -> ModelPart? {
    var found: ModelPart?
    for component in components(of: name) {
      if NameTables.projectorComponents.contains(component) { return .projector }
      if found == nil, let part = tower(component) { found = part }
    }
    return found
  }

  /// The encoder's, the decoder's, or neither's.
  static func side(of name: String) -> ModelPart {
    for component in components(of: name) {
      if component == "encoder" { return .encoder }
      if component == "decoder" { return .decoder }
    }
    return .shared
  }

  /// True below prefixes of extra blocks, which are no layers of the model.
  static func isExtra(_ prefix: String) -> Bool { components(of: prefix).contains { NameTables.extraComponents.contains($0) } }

  private static func tower(_ component: String) -> ModelPart? {
    if NameTables.visionStems.contains(where: component.hasPrefix) { return .vision }
    return NameTables.audioStems.contains(where: component.hasPrefix) ? .audio : nil
  }

  /// The tower or side that a nested config is of, by its key.
  static func ofSection(_ key: String) -> ModelPart? {
    if let part = tower(key) { return part }
    if key.hasPrefix("encoder") { return .encoder }
    if key.hasPrefix("decoder") { return .decoder }
    return NameTables.textSections.contains(key) ? .text : nil
  }

  private static func components(of name: String) -> [String] {
    var found: [String] = []
    for component in name.utf8.split(separator: UInt8(ascii: ".")) {
      if component.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }) { break }
      found.append(String(Substring(component)))
    }
    return found
  }
}

extension LayerIndex.CountPlace {
  /// How well this count fits a stack: 0 is its own, higher is more general, nil is another part's.
  func affinity(to part: ModelPart, prefix: String) -> Int? {
    let section = sections.lazy.compactMap(ModelPart.ofSection).last
    let isMainKey = NameTables.layerCountKeys.contains(key)
    let side: ModelPart? = key.contains("encoder") ? .encoder : key.contains("decoder") ? .decoder : nil
    switch part {
    case .vision, .audio:
      if section == part { return side == .decoder ? 2 : 0 }
      return section == nil && (isMainKey || key == "depth") ? 3 : nil
    case .projector: return nil
    case .encoder, .decoder:
      if section == .vision || section == .audio { return nil }
      if let side { return side == part ? 0 : nil }
      if section == .encoder || section == .decoder { return section == part ? 0 : nil }
      return isMainKey ? 1 : nil
    case .text, .shared:
      if section == .vision || section == .audio { return nil }
      if let side { return prefix.contains(side.rawValue) ? 1 : 4 }
      if !isMainKey { return 5 }
      return section == .text ? 0 : 1
    }
  }
}
