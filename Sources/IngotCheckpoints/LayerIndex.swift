package import IngotErrors
package import IngotJSON

/// Knows the layers of one model: where their number stands in tensors' names and in the config. Nothing else does.
///
/// A stack of layers is a prefix before the first all-digits component of names. Its layers are 0…n−1 where the config promises n for that part of
/// the model, numbers from n on being extra blocks (multi-token prediction); a prefix that no count of the config fits is a stack when its numbers
/// have no gap and there are at least two.
package struct LayerIndex: Sendable {
  /// The layers of a model: names `PREFIX` + number + `.…`.
  package struct Layers: Sendable, Hashable {
    /// With its dot: `model.layers.`; empty when names begin with the number.
    package let prefix: String
    package let count: Int

    package init(prefix: String, count: Int) {
      self.prefix = prefix
      self.count = count
    }

    /// The layer a tensor belongs to; nil for tensors outside the layers.
    package func layer(of name: String) -> Int? {
      guard name.utf8.starts(with: prefix.utf8), let number = LayerIndex.number(in: name, at: prefix.utf8.count) else { return nil }
      return number.value < count ? number.value : nil
    }

    /// `name` with its layer replaced; `name` itself when it is outside the layers.
    package func renaming(_ name: String, toLayer layer: Int) -> String {
      guard self.layer(of: name) != nil, let number = LayerIndex.number(in: name, at: prefix.utf8.count) else { return name }
      return prefix + String(layer) + name[number.end...]
    }

    /// How far a numbered block lies beyond the layers, from 0: DeepSeek's block 61 of 61 layers is extra block 0. Nil for other tensors.
    package func extraBlock(of name: String) -> Int? {
      guard name.utf8.starts(with: prefix.utf8), let number = LayerIndex.number(in: name, at: prefix.utf8.count) else { return nil }
      return number.value >= count ? number.value - count : nil
    }

    /// `name`, of a numbered block below the prefix, with its number replaced and `other` for the prefix.
    package func moving(_ name: String, to number: Int, under other: String) -> String {
      guard name.utf8.starts(with: prefix.utf8), let found = LayerIndex.number(in: name, at: prefix.utf8.count) else { return name }
      return other + String(number) + name[found.end...]
    }
  }

  /// One stack of layers and what it is in the model.
  package struct Stack: Sendable, Hashable {
    package let layers: Layers
    package let part: ModelPart
    /// Where the config has the count; nil for a stack that the config does not count.
    package let place: CountPlace?
  }

  /// Where a config has a layer count.
  package struct CountPlace: Sendable, Hashable {
    /// Keys of the nested configs around it, outermost first; empty at the top.
    package let sections: [String]
    package let key: String
    package let count: Int

    package var path: String { (sections + [key]).joined(separator: ".") }
  }

  package let countPlace: CountPlace?
  /// By prefix.
  package let stacks: [Stack]
  /// True when encoder and decoder are stacks of one model.
  package let isEncoderDecoder: Bool
  private let counts: [String: Int]
  /// For messages: a prefix that comes closest, with how many numbers it has and the highest.
  private let nearest: (prefix: String, count: Int, highest: Int)?

  package init(names: some Sequence<String>, config: JSONValue?) {
    countPlace = config.flatMap(Self.countPlace(in:))
    var numbers: [String: Set<Int>] = [:]
    for name in names {
      guard let found = Self.firstNumber(in: name) else { continue }
      numbers[String(name[..<found.start]), default: []].insert(found.value)
    }
    let places = config.map(Self.countPlaces(in:)) ?? []
    let sides = numbers.keys.filter { ModelPart.ofTower(named: $0) == nil && !ModelPart.isExtra($0) }.map(ModelPart.side(of:))
    let isEncoderDecoder = sides.contains(.encoder) && sides.contains(.decoder)
    self.isEncoderDecoder = isEncoderDecoder
    var stacks: [Stack] = []
    for (prefix, found) in numbers.sorted(by: { $0.key < $1.key }) where !ModelPart.isExtra(prefix) {
      if let stack = Self.stack(prefix, found, places: places, isEncoderDecoder: isEncoderDecoder) { stacks.append(stack) }
    }
    self.stacks = stacks
    counts = Dictionary(stacks.map { ($0.layers.prefix, $0.layers.count) }, uniquingKeysWith: { first, _ in first })
    let ranked = numbers.map { (prefix: $0.key, count: $0.value.count, highest: $0.value.max() ?? 0) }
    nearest = ranked.max { ($0.count, $1.prefix) < ($1.count, $0.prefix) }
  }

  private static func stack(_ prefix: String, _ numbers: Set<Int>, places: [CountPlace], isEncoderDecoder: Bool) -> Stack? {
    let part = ModelPart(of: prefix, isEncoderDecoder: isEncoderDecoder)
    let fitting = places.compactMap { place -> (place: CountPlace, rank: Int)? in
      guard numbers.count >= place.count, (0..<place.count).allSatisfy(numbers.contains) else { return nil }
      guard let affinity = place.affinity(to: part, prefix: prefix) else { return nil }
      let isExact = numbers.count == place.count
      // Extra blocks follow the layers without a gap, and only where the config counts this very stack.
      if !isExact, affinity > 1 || !(0..<numbers.count).allSatisfy(numbers.contains) { return nil }
      return (place, affinity + (isExact ? 0 : 10))
    }
    if let best = fitting.min(by: { $0.rank < $1.rank }) {
      return Stack(layers: Layers(prefix: prefix, count: best.place.count), part: part, place: best.place)
    }
    guard numbers.count >= 2, (0..<numbers.count).allSatisfy(numbers.contains) else { return nil }
    return Stack(layers: Layers(prefix: prefix, count: numbers.count), part: part, place: nil)
  }

  /// The part of the model that a tensor belongs to.
  package func part(of name: String) -> ModelPart { ModelPart(of: name, isEncoderDecoder: isEncoderDecoder) }

  /// The layer of a tensor in its own stack, and how many that has; nil for tensors outside all stacks.
  package func layer(of name: String) -> (layer: Int, count: Int)? {
    guard let found = Self.firstNumber(in: name), let count = counts[String(name[..<found.start])], found.value < count else { return nil }
    return (found.value, count)
  }

  /// The stack that `slices` and "the layers of the model" mean: the only one, else the only one of text; nil when there is none.
  ///
  /// Throws `.unsupported` naming the prefixes when there are several of equal right: call it only when layers matter.
  package func mainStack(of model: String) throws(IngotError) -> Stack? {
    let counted = stacks.filter { $0.place != nil }
    if counted.count <= 1 { return counted.first }
    let own = counted.filter { $0.part == .text || $0.part == .encoder || $0.part == .decoder }
    if own.count == 1 { return own.first }
    let list = (own.isEmpty ? counted : own).map { "\"\($0.layers.prefix)\" (\($0.part.rawValue))" }.joined(separator: " and ")
    throw IngotError(
      .unsupported, "the model has several stacks of layers, \(list), expected one",
      hint: "write modules: instead of slices:, with layer ranges for each stack", subject: model)
  }

  /// The layers of the main stack, or nil when the model has none that are known (no config, no layer count, no prefix that fits).
  package func layers(of model: String) throws(IngotError) -> Layers? { try mainStack(of: model)?.layers }

  /// The main stack, or an error that says what is missing: for `layer_range`.
  package func requireStack(of model: String) throws(IngotError) -> Stack {
    if let stack = try mainStack(of: model) { return stack }
    throw missingLayers(of: model)
  }

  /// The layers, or an error that says what is missing: for `layer_range`.
  package func requireLayers(of model: String) throws(IngotError) -> Layers { try requireStack(of: model).layers }

  private func missingLayers(of model: String) -> IngotError {
    guard let countPlace else {
      return IngotError(
        .unsupported, "config.json gives no layer count, expected one of \(NameTables.layerCountKeys.joined(separator: ", "))",
        hint: "layer ranges need a model with a config.json", subject: model)
    }
    let found = nearest.map { "the closest, \"\($0.prefix)\", has \($0.count) numbers up to \($0.highest)" } ?? "no name holds a number"
    return IngotError(
      .unsupported,
      "no prefix of tensor names has exactly the layers 0 to \(countPlace.count - 1) that \(countPlace.path) in config.json promises; \(found)",
      subject: model)
  }

  /// Where `config` has its main layer count: at the top, else under `text_config`.
  package static func countPlace(in config: JSONValue) -> CountPlace? {
    for sections in [[], [NameTables.textSection]] {
      guard let block = config.block(sections) else { continue }
      for key in NameTables.layerCountKeys {
        if let count = block[key]?.asInt, count > 0 { return CountPlace(sections: sections, key: key, count: count) }
      }
    }
    return nil
  }

  /// The layer counts of `config`, of nested configs too; every stack is compared with each.
  package static func countPlaces(in config: JSONValue) -> [CountPlace] {
    var places: [CountPlace] = []
    func collect(_ block: JSONValue, _ sections: [String]) {
      for key in NameTables.layerCountKeys + NameTables.partLayerCountKeys where places.count < Limit.layerCounts {
        if let count = block[key]?.asInt, count > 0 { places.append(CountPlace(sections: sections, key: key, count: count)) }
      }
      guard sections.count < 3 else { return }
      for key in block.asObject?.keys ?? [] {
        if let inner = block[key], inner.asObject != nil { collect(inner, sections + [key]) }
      }
    }
    collect(config, [])
    return places
  }

  // MARK: - Numbers in names

  static func firstNumber(in name: String) -> (start: String.Index, value: Int)? {
    let bytes = name.utf8
    var start = bytes.startIndex
    var offset = 0
    while true {
      if let number = number(in: name, at: offset) { return (start, number.value) }
      guard let dot = bytes[start...].firstIndex(of: UInt8(ascii: ".")) else { return nil }
      let next = bytes.index(after: dot)
      offset += bytes.distance(from: start, to: next)
      start = next
    }
  }

  /// The number that is the whole name component at the byte `offset`, and where it ends. Only the usual spelling counts: renaming
  /// `01` would lose its zero.
  private static func number(in name: String, at offset: Int) -> (value: Int, end: String.Index)? {
    let bytes = name.utf8
    guard let start = bytes.index(bytes.startIndex, offsetBy: offset, limitedBy: bytes.endIndex) else { return nil }
    let component = bytes[start...].prefix { $0 != UInt8(ascii: ".") }
    guard !component.isEmpty, component.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }) else { return nil }
    if component.count > 1, component.first == UInt8(ascii: "0") { return nil }
    guard let value = Int(Substring(component)) else { return nil }
    return (value, component.endIndex)
  }
}

extension JSONValue {
  /// The nested object that `sections` lead to; self for none.
  package func block(_ sections: [String]) -> JSONValue? {
    var block = self
    for section in sections {
      guard let inner = block[section], inner.asObject != nil else { return nil }
      block = inner
    }
    return block
  }

  /// Replaces that object.
  package mutating func setBlock(_ sections: some Collection<String>, to value: JSONValue) {
    guard let section = sections.first else {
      self = value
      return
    }
    var inner = self[section] ?? .object([:])
    inner.setBlock(sections.dropFirst(), to: value)
    self[section] = inner
  }
}
