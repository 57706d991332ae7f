/// One node of a JSON text: what it is, and the line and column where it began.
///
/// Nodes made in code have line 0. Numbers keep their text, so a rewritten file keeps `1e-05` and integers of any length as they
/// were written. Two values are equal when their content is; where they stood does not count.
package struct JSONValue: Sendable {
  package enum Kind: Sendable {
    case null
    case bool(Bool)
    /// The number as written, valid by the JSON grammar (or NaN, Infinity, -Infinity where the parser was told to take them).
    case number(String)
    case string(String)
    case array([JSONValue])
    case object(JSONObject)
  }

  package var kind: Kind
  /// 1-based line of the first character; 0 for a node that no text stands behind.
  package var line: Int32
  /// 1-based column of the first character in Unicode scalars; 0 for a node that no text stands behind.
  package var column: Int32

  package init(_ kind: Kind, line: Int32 = 0, column: Int32 = 0) {
    self.kind = kind
    self.line = line
    self.column = column
  }

  package static var null: JSONValue { JSONValue(.null) }
  package static func bool(_ value: Bool) -> JSONValue { JSONValue(.bool(value)) }
  package static func int(_ value: some BinaryInteger) -> JSONValue { JSONValue(.number(String(value))) }
  package static func string(_ value: String) -> JSONValue { JSONValue(.string(value)) }
  package static func array(_ elements: [JSONValue]) -> JSONValue { JSONValue(.array(elements)) }

  /// The shortest text that reads back as `value`; JSON has no NaN and no infinity, so those become null.
  package static func double(_ value: Double) -> JSONValue {
    value.isFinite ? JSONValue(.number("\(value)")) : .null
  }

  /// An object with these members in this order; of equal keys the last one wins.
  package static func object(_ members: KeyValuePairs<String, JSONValue>) -> JSONValue {
    var object = JSONObject()
    for (key, value) in members { object[key] = value }
    return JSONValue(.object(object))
  }

  package static func object(_ object: JSONObject) -> JSONValue { JSONValue(.object(object)) }
}

extension JSONValue: Equatable {
  package static func == (a: JSONValue, b: JSONValue) -> Bool {
    switch (a.kind, b.kind) {
    case (.null, .null): true
    case (.bool(let x), .bool(let y)): x == y
    case (.number(let x), .number(let y)): x == y
    case (.string(let x), .string(let y)): x.utf8.elementsEqual(y.utf8)
    case (.array(let x), .array(let y)): x == y
    case (.object(let x), .object(let y)): x == y
    default: false
    }
  }
}

/// One `"key": value` of an object, with the place of the key.
package struct JSONMember: Sendable, Equatable {
  package var key: String
  package var value: JSONValue
  package var line: Int32
  package var column: Int32

  package init(key: String, value: JSONValue, line: Int32 = 0, column: Int32 = 0) {
    self.key = key
    self.value = value
    self.line = line
    self.column = column
  }

  package static func == (a: JSONMember, b: JSONMember) -> Bool {
    a.key.utf8.elementsEqual(b.key.utf8) && a.value == b.value
  }
}

/// The members of a JSON object in the order of the text. Keys are compared byte by byte. Lookup is by hash in large objects, by comparison in small ones.
package struct JSONObject: Sendable, Equatable {
  /// Objects up to this size are searched member by member: cheaper than a table, and most objects are small.
  private static let scanLimit = 8

  package private(set) var members: [JSONMember] = []
  private var places: [ExactText: Int] = [:]

  package init() {}

  package var keys: [String] { members.map(\.key) }
  package var count: Int { members.count }

  package static func == (a: JSONObject, b: JSONObject) -> Bool { a.members == b.members }

  package func index(of key: String) -> Int? {
    if places.isEmpty { return members.firstIndex { $0.key.utf8.elementsEqual(key.utf8) } }
    return places[ExactText(key)]
  }

  /// The value of `key`. Setting replaces in place or appends; setting nil removes.
  package subscript(key: String) -> JSONValue? {
    get { index(of: key).map { members[$0].value } }
    set {
      guard let place = index(of: key) else {
        if let newValue { _ = append(JSONMember(key: key, value: newValue)) }
        return
      }
      if let newValue {
        members[place].value = newValue
      } else {
        members.remove(at: place)
        rebuildPlaces()
      }
    }
  }

  /// Adds a member at the end, or returns false and changes nothing when the key is there already.
  package mutating func append(_ member: JSONMember) -> Bool {
    if members.count < Self.scanLimit {
      if members.contains(where: { $0.key.utf8.elementsEqual(member.key.utf8) }) { return false }
      members.append(member)
      return true
    }
    if places.isEmpty { rebuildPlaces(evenIfSmall: true) }
    let place = members.count
    let key = ExactText(member.key)
    let taken = places.updateValue(place, forKey: key)
    if let taken {
      places[key] = taken
      return false
    }
    members.append(member)
    return true
  }

  private mutating func rebuildPlaces(evenIfSmall: Bool = false) {
    places.removeAll(keepingCapacity: true)
    guard evenIfSmall || members.count > Self.scanLimit else { return }
    for (place, member) in members.enumerated() { places[ExactText(member.key)] = place }
  }
}
