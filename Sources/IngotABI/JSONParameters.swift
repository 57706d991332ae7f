internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

/// The members of a parameters_json, taken one after the other; what nothing took is an error at the end. null is the same as absent.
struct JSONParameters {
  private static let origin = "parameters_json"
  private let members: JSONObject
  private var taken: [String] = []

  /// Throws `.invalidArgument` for what is no JSON object. NULL has no members.
  init(_ text: String?) throws(IngotError) {
    members = try asArgument([.format]) { () throws(IngotError) in
      try JSON.parse(text ?? "{}", origin: Self.origin).requireObject(Self.origin, in: Self.origin)
    }
  }

  private mutating func take(_ name: String) -> JSONValue? {
    taken.append(name)
    return members[name].flatMap { $0.isNull ? nil : $0 }
  }

  private func mismatch(_ name: String, _ found: JSONValue, _ expected: String) -> IngotError {
    let text = found.asNumberText ?? found.asString.map { "\"\($0.prefix(40))\"" } ?? found.kindName
    return IngotError(.invalidArgument, "\(name) is \(text.prefix(60)), expected \(expected)", subject: name)
  }

  mutating func number(_ name: String) throws(IngotError) -> Double? {
    guard let found = take(name) else { return nil }
    guard let value = found.asDouble, value.isFinite else { throw mismatch(name, found, "a finite number") }
    return value
  }

  mutating func integer(_ name: String) throws(IngotError) -> Int? {
    guard let found = take(name) else { return nil }
    guard let value = found.asInt else { throw mismatch(name, found, "a whole number") }
    return value
  }

  mutating func seed() throws(IngotError) -> UInt64? {
    guard let found = take("seed") else { return nil }
    guard let value = found.asNumberText.flatMap({ UInt64($0) }) else { throw mismatch("seed", found, "a whole number from 0 to 2^64-1") }
    return value
  }

  mutating func flag(_ name: String) throws(IngotError) -> Bool? {
    guard let found = take(name) else { return nil }
    guard let value = found.asBool else { throw mismatch(name, found, "true or false") }
    return value
  }

  mutating func text(_ name: String) throws(IngotError) -> String? {
    guard let found = take(name) else { return nil }
    guard let value = found.asString else { throw mismatch(name, found, "a text") }
    return value
  }

  mutating func choice<Choice: RawRepresentable<String> & CaseIterable>(_ name: String) throws(IngotError) -> Choice? {
    guard let found = take(name) else { return nil }
    guard let value = found.asString.flatMap(Choice.init(rawValue:)) else {
      throw mismatch(name, found, "one of " + Choice.allCases.map(\.rawValue).joined(separator: ", "))
    }
    return value
  }

  /// The element type of an output.
  mutating func outputType() throws(IngotError) -> DType? {
    guard let found = take("dtype") else { return nil }
    guard let name = found.asString, let type = DType.allCases.first(where: { $0.torchName == name }), type.isOutput else {
      throw mismatch("dtype", found, "float32, float16 or bfloat16")
    }
    return type
  }

  /// One number for all, or an array with one for each of `count`.
  mutating func numbers(_ name: String, count: Int) throws(IngotError) -> [Double]? {
    guard let found = take(name) else { return nil }
    let each = found.asArray ?? Array(repeating: found, count: count)
    guard each.count == count else {
      throw IngotError(.invalidArgument, "\(name) has \(each.count) values, expected one for each of \(count)", subject: name)
    }
    var values: [Double] = []
    for entry in each {
      guard let value = entry.asDouble, value.isFinite else { throw mismatch(name, entry, "a finite number") }
      values.append(value)
    }
    return values
  }

  /// An array of globs and regular expressions.
  mutating func patterns(_ name: String) throws(IngotError) -> [TensorPattern] {
    guard let found = take(name) else { return [] }
    guard let entries = found.asArray else { throw mismatch(name, found, "an array of texts") }
    var patterns: [TensorPattern] = []
    for entry in entries {
      guard let text = entry.asString else { throw mismatch(name, entry, "a text") }
      patterns.append(try Self.pattern(text, of: name))
    }
    return patterns
  }

  /// An object from patterns to a rule each, in its order.
  mutating func moduleRules(_ name: String) throws(IngotError) -> [(pattern: TensorPattern, rule: ExtractionRequest.ModuleRule)] {
    guard let found = take(name) else { return [] }
    guard let entries = found.asObject else { throw mismatch(name, found, "an object of patterns and rules") }
    var rules: [(pattern: TensorPattern, rule: ExtractionRequest.ModuleRule)] = []
    for entry in entries.members {
      guard let text = entry.value.asString ?? entry.value.asNumberText else { throw mismatch(name, entry.value, "a rank or a text") }
      rules.append((try Self.pattern(entry.key, of: name), try ExtractionRequest.ModuleRule(text)))
    }
    return rules
  }

  private static func pattern(_ text: String, of name: String) throws(IngotError) -> TensorPattern {
    do throws(TensorPattern.Fault) {
      return try TensorPattern(text)
    } catch {
      throw IngotError(.invalidArgument, "\(name): \(text.prefix(80)): \(error.message)", subject: name)
    }
  }

  /// `rank`, `energy` or `norm_fraction`.
  mutating func rankRule() throws(IngotError) -> RankRule? {
    let (rank, energy, fraction) = (try integer("rank"), try number("energy"), try number("norm_fraction"))
    return try RankRule.chosen(
      rank: rank, energy: energy, normFraction: fraction, names: .init(rank: "rank", energy: "energy", normFraction: "norm_fraction"))
  }

  /// The same where there must be one.
  mutating func requiredRankRule() throws(IngotError) -> RankRule {
    if let rule = try rankRule() { return rule }
    throw IngotError(.invalidArgument, "no rank given, expected rank, energy or norm_fraction", subject: Self.origin)
  }

  /// Throws for a member that nothing took.
  func finish() throws(IngotError) {
    guard let stray = members.members.first(where: { !taken.contains($0.key) })?.key else { return }
    throw IngotError(
      .invalidArgument, "there is no parameter \"\(stray.prefix(60))\"", hint: "there are " + taken.sorted().joined(separator: ", "),
      subject: Self.origin)
  }
}
