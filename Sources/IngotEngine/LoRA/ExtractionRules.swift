package import IngotErrors
internal import IngotMethods
package import IngotRecipes

extension ExtractionRequest.ModuleRule {
  /// A rule as a person writes it: a rank, `energy:SHARE`, `fraction:SHARE`, `skip` or `whole`. Throws `.invalidArgument` for anything else.
  package init(_ text: String) throws(IngotError) {
    let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
    if text == "skip" {
      self = .skip
    } else if text == "whole" {
      self = .whole
    } else if let rank = Int(text), (1...Limit.adapterRank).contains(rank) {
      self = .rank(.fixed(rank))
    } else if parts.count == 2, parts[0] == "energy", let share = Double(parts[1]), share > 0, share <= 1 {
      self = .rank(.energy(share))
    } else if parts.count == 2, parts[0] == "fraction", let share = Double(parts[1]), share >= 0, share < 1 {
      self = .rank(.spectral(share))
    } else {
      throw IngotError(
        .invalidArgument, "found the rule \"\(text.prefix(60))\", expected a rank, energy:SHARE, fraction:SHARE, skip or whole",
        subject: "rules")
    }
  }
}

extension ExtractionRequest {
  /// The rules of these patterns: what is left out comes first, then those of single modules; where `only` names some, everything else is left out.
  package static func rules(
    leavingOut skip: [TensorPattern], single: [(pattern: TensorPattern, rule: ModuleRule)], only: [TensorPattern]
  ) -> [(pattern: TensorPattern, rule: ModuleRule)] {
    var rules = skip.map { (pattern: $0, rule: ModuleRule.skip) } + single
    if !only.isEmpty {
      rules += only.map { ($0, .usual) }
      if let everything = try? TensorPattern("*") { rules.append((everything, .skip)) }
    }
    return rules
  }
}
