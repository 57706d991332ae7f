internal import IngotErrors

/// A pattern of tensor names: `*.mlp.*` (a glob, of the whole name) or `/mlp\.(up|down)_proj/` (a regular expression, anywhere in the name).
///
/// Globs: `*` any characters, dots too, `?` one, `[a-z]` and `[!a-z]` one of a set, `\` before a character takes it as it is. Regular expressions:
/// `.`, `[a-z]`, `[^a-z]`, `\d \w \s \D \W \S`, `* + ? {m,n}`, `|`, `( )`, `(?: )`, `^`, `$`. Names are matched byte by byte in time linear in
/// their length, whatever the pattern.
package struct TensorPattern: Sendable, Hashable {
  /// What is wrong with a pattern, and where: `offset` counts bytes of the text as written.
  package struct Fault: Error, Hashable {
    package var message: String
    package var offset: Int
  }

  package let text: String
  private let program: [PatternProgram.Instruction]

  package init(_ text: String) throws(Fault) {
    let bytes = Array(text.utf8)
    guard !bytes.isEmpty else { throw Fault(message: "the pattern is empty", offset: 0) }
    guard bytes.count <= Limit.patternBytes else {
      throw Fault(message: "the pattern has \(bytes.count) bytes, more than \(Limit.patternBytes)", offset: Limit.patternBytes)
    }
    var compiler = PatternProgram()
    let slash = UInt8(ascii: "/")
    if bytes.count >= 2, bytes.first == slash, bytes.last == slash {
      var parser = RegexParser(bytes: bytes, end: bytes.count - 1)
      let tree = try parser.parse()
      try compiler.emit(.cat([.repeated(.set(.all), 0, nil), tree]))
    } else {
      try compiler.emit(try Self.glob(bytes))
      try compiler.emit(.end)
    }
    try compiler.finish()
    self.text = text
    program = compiler.instructions
  }

  package static func == (a: TensorPattern, b: TensorPattern) -> Bool { a.text == b.text }
  package func hash(into hasher: inout Hasher) { hasher.combine(text) }

  package func matches(_ name: String) -> Bool { PatternProgram.run(program, on: name.utf8.span) }

  private static func glob(_ bytes: [UInt8]) throws(Fault) -> PatternTree {
    var parts: [PatternTree] = []
    var at = 0
    while at < bytes.count {
      switch bytes[at] {
      case UInt8(ascii: "*"): parts.append(.repeated(.set(.all), 0, nil))
      case UInt8(ascii: "?"): parts.append(.set(.all))
      case UInt8(ascii: "["):
        var parser = RegexParser(bytes: bytes, end: bytes.count)
        parser.at = at + 1
        parts.append(.set(try parser.brackets(negation: [UInt8(ascii: "!"), UInt8(ascii: "^")])))
        at = parser.at - 1
      case UInt8(ascii: "\\"):
        guard at + 1 < bytes.count else { throw Fault(message: "the pattern ends after a backslash", offset: at) }
        at += 1
        parts.append(.set(ByteSet(bytes[at])))
      case let byte: parts.append(.set(ByteSet(byte)))
      }
      at += 1
    }
    return .cat(parts)
  }
}

/// A set of bytes.
struct ByteSet: Sendable, Hashable {
  private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

  static let all = ByteSet().inverted

  init() {}
  init(_ byte: UInt8) { insert(byte...byte) }

  mutating func insert(_ range: ClosedRange<UInt8>) {
    for byte in range {
      let bit = UInt64(1) << UInt64(byte & 63)
      switch byte >> 6 {
      case 0: words.0 |= bit
      case 1: words.1 |= bit
      case 2: words.2 |= bit
      default: words.3 |= bit
      }
    }
  }

  mutating func formUnion(_ other: ByteSet) {
    words = (words.0 | other.words.0, words.1 | other.words.1, words.2 | other.words.2, words.3 | other.words.3)
  }

  var inverted: ByteSet {
    var set = self
    set.words = (~words.0, ~words.1, ~words.2, ~words.3)
    return set
  }

  func contains(_ byte: UInt8) -> Bool {
    let word =
      switch byte >> 6 {
      case 0: words.0
      case 1: words.1
      case 2: words.2
      default: words.3
      }
    return word >> UInt64(byte & 63) & 1 == 1
  }

  static func == (a: ByteSet, b: ByteSet) -> Bool { a.words == b.words }
  func hash(into hasher: inout Hasher) { hasher.combine([words.0, words.1, words.2, words.3]) }
}

/// What a pattern says.
indirect enum PatternTree: Sendable {
  case set(ByteSet)
  case start, end
  case cat([PatternTree])
  case either([PatternTree])
  /// At least, at most; nil: any number.
  case repeated(PatternTree, Int, Int?)
}

/// A pattern as steps of a machine that is in many places at once.
struct PatternProgram {
  enum Instruction: Sendable, Hashable {
    case set(ByteSet)
    case split(Int, Int)
    case jump(Int)
    case start, end, match
  }

  private(set) var instructions: [Instruction] = []
  private var work = 0

  private mutating func add(_ instruction: Instruction) throws(TensorPattern.Fault) {
    guard instructions.count < Limit.patternSteps else {
      throw TensorPattern.Fault(message: "the pattern unfolds to more than \(Limit.patternSteps) steps", offset: 0)
    }
    instructions.append(instruction)
  }

  mutating func finish() throws(TensorPattern.Fault) { try add(.match) }

  mutating func emit(_ tree: PatternTree) throws(TensorPattern.Fault) {
    work += 1
    guard work <= 4 * Limit.patternSteps else {
      throw TensorPattern.Fault(message: "the pattern unfolds to more than \(Limit.patternSteps) steps", offset: 0)
    }
    switch tree {
    case .set(let set): try add(.set(set))
    case .start: try add(.start)
    case .end: try add(.end)
    case .cat(let parts): for part in parts { try emit(part) }
    case .either(let parts):
      var exits: [Int] = []
      for (number, part) in parts.enumerated() {
        let fork = instructions.count
        if number < parts.count - 1 { try add(.split(fork + 1, fork)) }
        try emit(part)
        if number < parts.count - 1 {
          exits.append(instructions.count)
          try add(.jump(0))
          instructions[fork] = .split(fork + 1, instructions.count)
        }
      }
      for exit in exits { instructions[exit] = .jump(instructions.count) }
    case .repeated(let part, let least, let most):
      for _ in 0..<least { try emit(part) }
      guard let most else {
        let fork = instructions.count
        try add(.split(fork + 1, fork))
        try emit(part)
        try add(.jump(fork))
        instructions[fork] = .split(fork + 1, instructions.count)
        return
      }
      var forks: [Int] = []
      for _ in least..<max(least, most) {
        forks.append(instructions.count)
        try add(.split(0, 0))
        try emit(part)
      }
      for fork in forks { instructions[fork] = .split(fork + 1, instructions.count) }
    }
  }

  /// True when some path through the program matches. Every step is entered at most once for each byte.
  static func run(_ program: [Instruction], on bytes: Span<UInt8>) -> Bool {
    var seen = [Int](repeating: -1, count: program.count)
    var current: [Int] = []
    var next: [Int] = []
    var pending: [Int] = []
    /// Adds the steps that `step` leads to without a byte; true at the end of the program.
    func enter(_ step: Int, at position: Int, _ list: inout [Int]) -> Bool {
      pending.append(step)
      while let step = pending.popLast() {
        guard program.indices.contains(step), seen[step] != position else { continue }
        seen[step] = position
        switch program[step] {
        case .match:
          pending.removeAll()
          return true
        case .jump(let to): pending.append(to)
        case .split(let one, let other):
          pending.append(other)
          pending.append(one)
        case .start: if position == 0 { pending.append(step + 1) }
        case .end: if position == bytes.count { pending.append(step + 1) }
        case .set: list.append(step)
        }
      }
      return false
    }
    if enter(0, at: 0, &current) { return true }
    for position in 0..<bytes.count {
      next.removeAll(keepingCapacity: true)
      for step in current {
        if case .set(let set) = program[step], set.contains(bytes[position]), enter(step + 1, at: position + 1, &next) { return true }
      }
      swap(&current, &next)
      if current.isEmpty { return false }
    }
    return false
  }
}
