extension MethodCatalog {
  /// The page of all methods, `docs/methods.md` but for its measured figures: a table, then a section for each, from the descriptors alone.
  package var markdown: String {
    var lines = [
      "# Merge methods", "",
      "Written by `ingot methods --markdown` from the descriptors of the methods, which recipe checking, `ingot methods NAME`, the JSON schema and",
      "the Python signatures follow too. θ₀ is the base model, θᵢ the i-th of N models, τᵢ = θᵢ − θ₀ its task vector, wᵢ its `weight`, λ `lambda`;",
      "products are taken element by element. Every example is a file of `examples/recipes`, and a test runs it.",
      "What a method keeps of four experts on real data stands under it: see [digits.md](digits.md), which `scripts/digits --update` measures anew.",
      "",
      "| method | what it does | base model | models |", "|---|---|---|---|",
    ]
    for method in methods {
      lines.append("| [`\(method.name)`](#\(method.anchor)) | \(cell(method.summary)) | \(method.base.words) | \(method.models.words) |")
    }
    for method in methods { lines += [""] + method.section }
    return lines.joined(separator: "\n") + "\n"
  }
}

extension MethodDescriptor {
  /// What GitHub and most renderers make of the section's title.
  fileprivate var anchor: String {
    let kept = "\(title) `\(name)`".lowercased().unicodeScalars.filter {
      $0 == " " || $0 == "-" || $0 == "_" || $0.properties.isAlphabetic || $0.properties.numericType != nil
    }
    return String(String.UnicodeScalarView(kept.map { $0 == " " ? "-" : $0 }))
  }

  fileprivate var section: [String] {
    var lines = ["## \(title) `\(name)`", "", summary]
    if let formula { lines += ["", "> \(formula)"] }
    var facts: [String] = []
    if let reference {
      facts.append("Source: " + (reference.url.map { "[\(reference.text)](\($0))" } ?? reference.text))
    }
    facts.append("Models: \(modelsExpectation)" + (baseIsInput ? "; a base model, where given, is one more" : ""))
    if !scopes.isEmpty { facts.append("Statistics over: \(scopes.map(\.rawValue).joined(separator: ", "))") }
    if hasStepwiseNumerics { facts.append("Numerics: `once` (default) or `stepwise`") }
    lines += [""] + facts.map { "* \($0)" }
    if !parameters.isEmpty {
      lines += ["", "| parameter | value | default | by model | meaning |", "|---|---|---|---|---|"]
      lines += parameters.map(\.row)
    }
    if !sideInputs.isEmpty {
      lines += ["", "| [side input](side-inputs.md) | what it looks like | | by model | meaning |", "|---|---|---|---|---|"]
      lines += sideInputs.map(\.row)
    }
    if !notes.isEmpty { lines += [""] + notes.map { "* \(sentence($0))" } }
    return lines + ["", "```yaml", String(exampleRecipe.dropLast()), "```"]
  }
}

extension ParameterDescriptor {
  fileprivate var row: String {
    var standard = isRequired ? "required" : `default`.map { "`\($0)`" } ?? "none"
    if let paperDefault { standard += ", `\(paperDefault)` under `preset: paper`" }
    let value = expectation + (unit.map { " (\($0))" } ?? "")
    return "| `\(name)` | \(cell(value)) | \(standard) | \(isPerModel ? "yes" : "no") | \(cell(meaning)) |"
  }
}

extension SideInputDescriptor {
  fileprivate var row: String {
    let need = (isRequired ? "required" : "optional") + (isList ? ", a list" : "")
    return "| `\(name)` | \(form.words) | \(need) | \(isPerModel ? "yes" : "no") | \(cell(summary)) |"
  }
}

extension MethodDescriptor.BaseRole {
  fileprivate var words: String {
    switch self {
    case .none: "one more input"
    case .optional: "optional"
    case .required: "needed"
    }
  }
}

extension ClosedRange<Int> {
  /// How many models: `2`, `1 or more`, `2 to 4`.
  fileprivate var words: String {
    if lowerBound == upperBound { return "\(lowerBound)" }
    return upperBound == .max ? "\(lowerBound) or more" : "\(lowerBound) to \(upperBound)"
  }
}

/// Text that may stand in a cell of a table.
private func cell(_ text: String) -> String { String(text.flatMap { $0 == "|" ? "\\|" : String($0) }) }

/// A note as a sentence.
private func sentence(_ note: String) -> String { note.prefix(1).uppercased() + note.dropFirst() + "." }
