/// A text as a YAML scalar that every YAML 1.1 reader takes for that text: plain where that is safe, else in double quotes.
package func yamlScalar(_ text: String) -> String {
  let plain = text.utf8.allSatisfy { byte in
    (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || "_./+@~-".utf8.contains(byte)
  }
  let startsPlain = text.utf8.first.map { !"@-~+".utf8.contains($0) } ?? false
  if plain, startsPlain, case .string = ScalarValue.resolving(plain: text), !looksLikeDate(text) { return text }
  var result = "\""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\"": result += "\\\""
    case "\\": result += "\\\\"
    case "\n": result += "\\n"
    case "\t": result += "\\t"
    default:
      switch scalar.properties.generalCategory {
      // Escaped: what YAML forbids or folds, and what would not be seen.
      case .control, .format, .lineSeparator, .paragraphSeparator, .unassigned, .privateUse, .surrogate:
        let digits = String(scalar.value, radix: 16)
        result += "\\U" + String(repeating: "0", count: max(0, 8 - digits.utf8.count)) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
  }
  return result + "\""
}

/// PyYAML makes dates of such texts.
private func looksLikeDate(_ text: String) -> Bool {
  let bytes = Array(text.utf8)
  return bytes.count >= 8 && bytes[4] == UInt8(ascii: "-") && bytes.prefix(4).allSatisfy { (0x30...0x39).contains($0) }
}

/// A tree in flow style on one line. Plain scalars stay as written, so that numbers remain numbers.
package func yamlFlow(_ node: Node) -> String {
  switch node.content {
  case .scalar(let scalar):
    if scalar.style == .plain, case .string = scalar.value { return yamlScalar(scalar.text) }
    if scalar.value == .null { return "null" }
    return scalar.style == .plain ? scalar.text : yamlScalar(scalar.text)
  case .sequence(let nodes): return "[" + nodes.map(yamlFlow).joined(separator: ", ") + "]"
  case .mapping(let mapping):
    return "{" + mapping.entries.map { yamlScalar($0.key) + ": " + yamlFlow($0.value) }.joined(separator: ", ") + "}"
  }
}
