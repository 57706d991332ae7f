package import IngotJSON

/// A quantisation scheme found in a checkpoint: such weights are decoded (see `Decoding`) or refused, never merged or copied as plain numbers.
package struct Quantisation: Sendable, Hashable {
  package var scheme: String
  /// What gave it away.
  package var evidence: String

  /// Looks at the config first, then at the tensors' names. nil for plain weights. Linear in the number of names.
  package static func detect(config: JSONValue?, names: some Sequence<String>) -> Quantisation? {
    if let config, let found = detect(config: config) { return found }
    return detect(names: names)
  }

  /// Where a config tells the scheme.
  static let configPaths = ["quantization_config", "compression_config", "text_config.quantization_config"]

  /// The config without what tells the scheme.
  package static func removed(from config: JSONValue) -> JSONValue {
    var config = config
    for path in configPaths {
      let keys = path.split(separator: ".").map(String.init)
      if keys.count == 1, config[keys[0]] != nil { config[keys[0]] = nil }
      if keys.count == 2, config[keys[0]]?[keys[1]] != nil { config[keys[0]]?[keys[1]] = nil }
    }
    return config
  }

  private static func detect(config: JSONValue) -> Quantisation? {
    for path in configPaths {
      guard let block = config[path: path]?.asObject, block.count > 0 else { continue }
      let method = block["quant_method"]?.asString ?? block["quantization_type"]?.asString
      let fallback = path == "compression_config" ? "compressed-tensors" : "an unnamed scheme"
      return Quantisation(scheme: method ?? fallback, evidence: "\(path) in config.json")
    }
    return nil
  }

  /// Last components of names that only one scheme writes.
  private static let marks: [String: String] = [
    "weight_scale_inv": "fp8 with block scales",
    "weight_scale": "fp8 or compressed-tensors",
    "weight_packed": "compressed-tensors",
    "qweight": "gptq or awq",
    "qzeros": "gptq or awq",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "SCB": "bitsandbytes",
  ]

  private static func detect(names: some Sequence<String>) -> Quantisation? {
    var blocks: Set<Substring> = []
    var scales: Set<Substring> = []
    for name in names {
      let last = name.utf8.lastIndex(of: UInt8(ascii: ".")).map { name[name.index(after: $0)...] } ?? name[...]
      if let scheme = marks[String(last)] { return Quantisation(scheme: scheme, evidence: "tensor \"\(name)\"") }
      if last.hasPrefix("bitsandbytes__"), name.contains(".quant_state.") {
        return Quantisation(scheme: "bitsandbytes", evidence: "tensor \"\(name)\"")
      }
      if last.hasSuffix("_blocks") { blocks.insert(name.dropLast("_blocks".count)) }
      if last.hasSuffix("_scales") { scales.insert(name.dropLast("_scales".count)) }
    }
    guard let stem = blocks.intersection(scales).min() else { return nil }
    return Quantisation(scheme: "mxfp4", evidence: "tensors \"\(stem)_blocks\" and \"\(stem)_scales\"")
  }
}
