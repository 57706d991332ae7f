/// The value of a method's parameter.
package enum ParameterValue: Sendable, Hashable, CustomStringConvertible {
  case number(Double)
  case boolean(Bool)
  /// One of a parameter's named choices.
  case text(String)

  package var number: Double? {
    if case .number(let value) = self { return value }
    return nil
  }

  package var boolean: Bool? {
    if case .boolean(let value) = self { return value }
    return nil
  }

  package var text: String? {
    if case .text(let value) = self { return value }
    return nil
  }

  package var description: String {
    switch self {
    case .number(let value): shortest(value)
    case .boolean(let value): "\(value)"
    case .text(let value): value
    }
  }
}

/// A number as a person writes it: `1` rather than `1.0`, otherwise the shortest text that reads back the same.
func shortest(_ value: Double) -> String {
  if let whole = Int(exactly: value), whole.magnitude < 1 << 53, !(whole == 0 && value.sign == .minus) { return String(whole) }
  return String(value)
}

/// An interval of numbers.
package struct NumberRange: Sendable, Hashable, CustomStringConvertible {
  package enum Bound: Sendable, Hashable {
    case closed(Double)
    case open(Double)
  }
  /// nil: no bound on that side.
  package var lower: Bound?
  package var upper: Bound?

  package init(from lower: Bound? = nil, to upper: Bound? = nil) {
    self.lower = lower
    self.upper = upper
  }

  /// Every finite number.
  package static let any = NumberRange()
  package static let fraction = NumberRange(from: .closed(0), to: .closed(1))

  /// False for NaN and the infinities.
  package func contains(_ value: Double) -> Bool {
    guard value.isFinite else { return false }
    switch lower {
    case .closed(let bound)? where value < bound: return false
    case .open(let bound)? where value <= bound: return false
    default: break
    }
    switch upper {
    case .closed(let bound)? where value > bound: return false
    case .open(let bound)? where value >= bound: return false
    default: return true
    }
  }

  /// `from 0 to 1`, `above 0 and at most 1`, `any`.
  package var description: String {
    if case .closed(let low)? = lower, case .closed(let high)? = upper { return "from \(shortest(low)) to \(shortest(high))" }
    var parts: [String] = []
    switch lower {
    case .closed(let bound)?: parts.append("at least \(shortest(bound))")
    case .open(let bound)?: parts.append("above \(shortest(bound))")
    case nil: break
    }
    switch upper {
    case .closed(let bound)?: parts.append("at most \(shortest(bound))")
    case .open(let bound)?: parts.append("below \(shortest(bound))")
    case nil: break
    }
    return parts.isEmpty ? "any" : parts.joined(separator: " and ")
  }
}
