package import IngotErrors

/// What a recipe says about one parameter in one place: a value, values that change over the layers, or either under a name filter.
package enum Setting: Sendable, Hashable {
  case constant(ParameterValue)
  /// Values at equal distances over the layers of a slice, at least one.
  case gradient([Double])
  case conditional([Condition])

  /// One entry of a conditional list.
  package struct Condition: Sendable, Hashable {
    package enum Value: Sendable, Hashable {
      case constant(ParameterValue)
      case gradient([Double])
    }
    package var value: Value
    /// A part of a tensor name, case sensitive, no patterns; nil or `*` means every tensor.
    package var filter: String?

    package init(_ value: Value, filter: String? = nil) {
      self.value = value
      self.filter = filter
    }

    func applies(to tensorName: String) -> Bool {
      guard let filter, filter != "*" else { return true }
      return contains(filter, in: tensorName)
    }
  }

  /// The value for a tensor at layer position `t` (0 first layer, 1 last); nil when no condition applies.
  package func value(for tensorName: String, at t: Double) -> ParameterValue? {
    switch self {
    case .constant(let value): return value
    case .gradient(let values): return .number(interpolated(values, at: t))
    case .conditional(let conditions):
      guard let condition = conditions.first(where: { $0.applies(to: tensorName) }) else { return nil }
      switch condition.value {
      case .constant(let value): return value
      case .gradient(let values): return .number(interpolated(values, at: t))
      }
    }
  }
}

/// Linear interpolation in double precision as mergekit does it: x = t·(L−1), i = trunc x, f = x − i, (1−f)·s[i] + f·s[min(L−1, i+1)].
/// `t` outside 0…1 counts as the nearer end; an empty list gives NaN (the parser refuses it).
package func interpolated(_ values: [Double], at t: Double) -> Double {
  guard let first = values.first, values.count > 1 else { return values.first ?? .nan }
  guard t > 0 else { return first }
  let last = values.count - 1
  let x = min(t, 1) * Double(last)
  let below = Int(x)
  let fraction = x - Double(below)
  return (1 - fraction) * values[below] + fraction * values[min(last, below + 1)]
}

/// True when `name` contains the bytes of `part`: the same as Python's `in` for valid UTF-8.
private func contains(_ part: String, in name: String) -> Bool {
  let (needle, hay) = (part.utf8.span, name.utf8.span)
  if needle.count > hay.count { return false }
  var start = 0
  while start <= hay.count - needle.count {
    var matched = 0
    while matched < needle.count, hay[start + matched] == needle[matched] { matched += 1 }
    if matched == needle.count { return true }
    start += 1
  }
  return false
}

/// The parameters written in one place of a recipe, checked against the method, in the order of its descriptor.
package struct Settings: Sendable, Hashable {
  package struct Entry: Sendable, Hashable {
    package var setting: Setting
    package var position: SourcePosition
  }
  private var entries: [Entry?]

  init(parameterCount: Int) { entries = Array(repeating: nil, count: parameterCount) }

  /// The setting of the method's parameter at `index`.
  package subscript(index: Int) -> Entry? {
    get { entries.indices.contains(index) ? entries[index] : nil }
    set { if entries.indices.contains(index) { entries[index] = newValue } }
  }

  /// Every setting there is.
  package var all: [Setting] { entries.compactMap { $0?.setting } }

  package var isEmpty: Bool { entries.allSatisfy { $0 == nil } }
}
