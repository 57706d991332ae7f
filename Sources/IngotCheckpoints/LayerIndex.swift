package import IngotErrors
package import IngotJSON

/// Knows the layers of one model: where their number stands in a tensor's name and in the config. Nothing else does.
///
/// Layers are the first all-digits component of names under a prefix whose distinct numbers are exactly 0…n−1, with n the config's
/// layer count.
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
  }

  /// Where a config has its layer count.
  package struct CountPlace: Sendable, Hashable {
    /// nil at the top, else the key of the nested config.
    package let section: String?
    package let key: String
    package let count: Int

    package var path: String { section.map { "\($0).\(key)" } ?? key }
  }

  package let countPlace: CountPlace?
  private let matches: [String]
  /// For messages: a prefix that comes closest, with how many numbers it has and the highest.
  private let nearest: (prefix: String, count: Int, highest: Int)?

  package init(names: some Sequence<String>, config: JSONValue?) {
    countPlace = config.flatMap(Self.countPlace(in:))
    var numbers: [String: Set<Int>] = [:]
    for name in names {
      guard let found = Self.firstNumber(in: name) else { continue }
      numbers[String(name[..<found.start]), default: []].insert(found.value)
    }
    let count = countPlace?.count
    matches = numbers.filter { $0.value.count == count && $0.value.allSatisfy { $0 < count ?? 0 } }.keys.sorted()
    let ranked = numbers.map { (prefix: $0.key, count: $0.value.count, highest: $0.value.max() ?? 0) }
    nearest = ranked.max { ($0.count, $1.prefix) < ($1.count, $0.prefix) }
  }

  /// The layers, or nil when the model has none that are known (no config, no layer count, no prefix that fits).
  ///
  /// Throws `.unsupported` naming the prefixes when more than one fits: call it only when layers matter.
  package func layers(of model: String) throws(IngotError) -> Layers? {
    guard let countPlace, let prefix = matches.first else { return nil }
    guard matches.count == 1 else {
      let list = matches.map { "\"\($0)\"" }.joined(separator: " and ")
      throw IngotError(
        .unsupported,
        "the prefixes \(list) all have layers 0 to \(countPlace.count - 1), expected one (encoder-decoder and vision models have several)",
        hint: "merge this model without layer ranges and gradients", subject: model)
    }
    return Layers(prefix: prefix, count: countPlace.count)
  }

  /// The layers, or an error that says what is missing: for `layer_range`.
  package func requireLayers(of model: String) throws(IngotError) -> Layers {
    if let layers = try layers(of: model) { return layers }
    guard let countPlace else {
      throw IngotError(
        .unsupported, "config.json gives no layer count, expected one of \(NameTables.layerCountKeys.joined(separator: ", "))",
        hint: "layer ranges need a model with a config.json", subject: model)
    }
    let found = nearest.map { "the closest, \"\($0.prefix)\", has \($0.count) numbers up to \($0.highest)" } ?? "no name holds a number"
    throw IngotError(
      .unsupported,
      "no prefix of tensor names has exactly the layers 0 to \(countPlace.count - 1) that \(countPlace.path) in config.json promises; \(found)",
      subject: model)
  }

  /// Where `config` has its layer count: at the top, else under `text_config`.
  package static func countPlace(in config: JSONValue) -> CountPlace? {
    for section in [nil, NameTables.textSection] {
      guard let block = section.map({ config[$0] }) ?? config else { continue }
      for key in NameTables.layerCountKeys {
        if let count = block[key]?.asInt, count > 0 { return CountPlace(section: section, key: key, count: count) }
      }
    }
    return nil
  }

  // MARK: - Numbers in names

  private static func firstNumber(in name: String) -> (start: String.Index, value: Int)? {
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
