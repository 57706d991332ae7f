extension MethodDescriptor {
  /// The descriptor as one JSON object on one line, keys in a fixed order; unbounded sides of ranges are null.
  package var json: String {
    var fields = [
      "\"name\": \(jsonText(name))", "\"title\": \(jsonText(title))", "\"summary\": \(jsonText(summary))",
    ]
    fields.append("\"formula\": \(jsonText(formula))")
    fields.append("\"reference\": " + (reference.map { "{\"text\": \(jsonText($0.text)), \"url\": \(jsonText($0.url))}" } ?? "null"))
    fields.append("\"base\": \(jsonText(base.rawValue))")
    fields.append("\"models\": {\"min\": \(models.lowerBound), \"max\": \(jsonCount(models.upperBound))}")
    fields.append("\"scopes\": [" + scopes.map { jsonText($0.rawValue) }.joined(separator: ", ") + "]")
    fields.append("\"stepwise\": \(hasStepwiseNumerics)")
    fields.append("\"parameters\": [" + parameters.map(\.json).joined(separator: ", ") + "]")
    fields.append("\"side_inputs\": [" + sideInputs.map(\.json).joined(separator: ", ") + "]")
    fields.append("\"notes\": [" + notes.map { jsonText($0) }.joined(separator: ", ") + "]")
    return "{" + fields.joined(separator: ", ") + "}"
  }

  /// What `ingot methods NAME` prints, folded at `width` columns, with a newline at its end.
  package func help(width: Int = 80) -> String {
    var lines = folded("\(name): \(title)", width: width, indent: 0)
    lines += [""] + folded(summary, width: width, indent: 2)
    if let formula { lines += [""] + folded(formula, width: width, indent: 4, hanging: 2) }
    if let reference {
      lines +=
        [""]
        + folded("Reference: " + ([reference.text] + (reference.url.map { [$0] } ?? [])).joined(separator: ", "), width: width, indent: 2)
    }
    let base =
      switch self.base {
      case .none: "base_model, where given, is one more input"
      case .optional: "base_model may be given"
      case .required: "base_model is needed"
      }
    lines += [""] + folded("Models: \(modelsExpectation); \(base)", width: width, indent: 2)
    if !scopes.isEmpty { lines += folded("Scope: " + scopes.map(\.rawValue).joined(separator: ", "), width: width, indent: 2) }
    if hasStepwiseNumerics { lines += folded("Numerics: once (default) or stepwise", width: width, indent: 2) }
    lines += ["", parameters.isEmpty ? "  No parameters" : "  Parameters"]
    for parameter in parameters { lines += parameter.help(width: width) }
    if !sideInputs.isEmpty {
      lines += ["", "  Side inputs"]
      for input in sideInputs { lines += input.help(width: width) }
    }
    if !notes.isEmpty {
      lines += ["", "  Notes"]
      for note in notes { lines += folded("- " + note, width: width, indent: 4, hanging: 2) }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}

extension ParameterDescriptor {
  /// The parameter as one JSON object.
  package var json: String {
    var fields = ["\"name\": \(jsonText(name))", "\"summary\": \(jsonText(meaning))"]
    switch kind {
    case .number(let range):
      fields.append("\"type\": \"number\"")
      fields += Self.bounds(range)
    case .integer(let range):
      fields.append("\"type\": \"integer\", \"min\": \(jsonCount(range.lowerBound)), \"max\": \(jsonCount(range.upperBound))")
    case .boolean: fields.append("\"type\": \"boolean\"")
    case .choice(let names):
      fields.append("\"type\": \"choice\", \"choices\": [" + names.map { jsonText($0) }.joined(separator: ", ") + "]")
    }
    fields.append("\"default\": \(jsonValue(`default`))")
    if let paperDefault { fields.append("\"paper_default\": \(jsonValue(paperDefault))") }
    fields.append("\"required\": \(isRequired), \"per_model\": \(isPerModel), \"unit\": \(jsonText(unit))")
    return "{" + fields.joined(separator: ", ") + "}"
  }

  private static func bounds(_ range: NumberRange) -> [String] {
    func fields(_ bound: NumberRange.Bound?, _ name: String) -> [String] {
      switch bound {
      case .closed(let value)?: ["\"\(name)\": \(jsonNumber(value))"]
      case .open(let value)?: ["\"\(name)\": \(jsonNumber(value))", "\"\(name)_excluded\": true"]
      case nil: ["\"\(name)\": null"]
      }
    }
    return fields(range.lower, "min") + fields(range.upper, "max")
  }

  func help(width: Int) -> [String] {
    var traits = [expectation + (unit.map { " (\($0))" } ?? "")]
    if isRequired { traits.append("required") } else if let value = `default` { traits.append("default \(value)") }
    if let paperDefault { traits.append("\(paperDefault) under preset: paper") }
    if isPerModel { traits.append("per model") }
    return folded("\(name): " + traits.joined(separator: "; "), width: width, indent: 4) + folded(meaning, width: width, indent: 8)
  }
}

extension SideInputDescriptor {
  /// The side input as one JSON object.
  package var json: String {
    "{\"name\": \(jsonText(name)), \"summary\": \(jsonText(summary)), \"form\": \(jsonText(form.rawValue)), \"required\": \(isRequired), "
      + "\"per_model\": \(isPerModel), \"list\": \(isList)}"
  }

  func help(width: Int) -> [String] {
    var traits = [form.words]
    traits.append(isRequired ? "required" : "optional")
    if isPerModel { traits.append("per model") }
    if isList { traits.append("one file or a list") }
    return folded("\(name): " + traits.joined(separator: "; "), width: width, indent: 4) + folded(summary, width: width, indent: 8)
  }
}

/// Greedy folding at spaces; words longer than the line stand alone on it.
private func folded(_ text: String, width: Int, indent: Int, hanging: Int = 0) -> [String] {
  var lines: [String] = []
  var line = String(repeating: " ", count: indent)
  var isEmpty = true
  for word in text.split(separator: " ") {
    if !isEmpty, line.count + 1 + word.count > width {
      lines.append(line)
      line = String(repeating: " ", count: indent + hanging)
      isEmpty = true
    }
    line += (isEmpty ? "" : " ") + word
    isEmpty = false
  }
  return isEmpty ? lines : lines + [line]
}

private func jsonValue(_ value: ParameterValue?) -> String {
  switch value {
  case .number(let number)?: jsonNumber(number)
  case .boolean(let flag)?: "\(flag)"
  case .text(let text)?: jsonText(text)
  case nil: "null"
  }
}

private func jsonNumber(_ value: Double) -> String { value.isFinite ? shortest(value) : "null" }

private func jsonCount(_ value: Int) -> String { value == .max || value == .min ? "null" : "\(value)" }

/// A JSON string literal; null for nil.
func jsonText(_ text: String?) -> String {
  guard let text else { return "null" }
  var result = "\""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\"": result += "\\\""
    case "\\": result += "\\\\"
    case "\n": result += "\\n"
    case "\t": result += "\\t"
    case "\r": result += "\\r"
    case _ where scalar.value < 0x20:
      let digits = String(scalar.value, radix: 16)
      result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}
