import CYaml
import IngotErrors

/// One event of a YAML stream, with 1-based line and column of its first character.
struct YAMLEvent {
  enum Kind {
    case streamStart, streamEnd, documentStart, documentEnd
    case alias(String)
    case scalar(text: String, isPlain: Bool, tag: String?, anchor: String?)
    case sequenceStart(tag: String?, anchor: String?)
    case sequenceEnd
    case mappingStart(tag: String?, anchor: String?)
    case mappingEnd
  }
  var kind: Kind
  var position: SourcePosition
}

/// libyaml's event parser over a text it owns a copy of. Not for several threads at once.
@safe struct YAMLEventReader: ~Copyable {
  private let parser: UnsafeMutablePointer<yaml_parser_t>
  private let text: UnsafeMutableBufferPointer<UInt8>
  private let origin: String
  /// libyaml must not be asked again after an error or the end of the stream.
  private var isFinished = false

  /// `text` is valid UTF-8; positions name `origin`. Throws `.memory`.
  init(_ text: [UInt8], origin: String) throws(IngotError) {
    self.origin = origin
    // SAFETY: libyaml reads the text until the parser is deleted, so both live in allocations that only deinit frees.
    unsafe self.text = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: text.count)
    // SAFETY: the buffer has exactly text.count elements.
    _ = unsafe self.text.initialize(from: text)
    // SAFETY: freed in deinit.
    unsafe parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
    unsafe parser.initialize(to: yaml_parser_t())
    // SAFETY: parser points to one zeroed yaml_parser_t. A failed initialise leaves it zeroed, which deleting accepts.
    guard unsafe yaml_parser_initialize(parser) == 1 else {
      throw IngotError(.memory, "no memory for reading YAML")
    }
    unsafe yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
    unsafe yaml_parser_set_input_string(parser, self.text.baseAddress, self.text.count)
  }

  deinit {
    // SAFETY: the parser is deleted before the text that it points into; both were allocated in init.
    unsafe yaml_parser_delete(parser)
    unsafe parser.deallocate()
    unsafe text.deallocate()
  }

  /// The next event. Throws `.recipe` where the text is not YAML, `.memory`.
  mutating func next() throws(IngotError) -> YAMLEvent {
    guard !isFinished else { throw IngotError(.internalError, "read past the end of a YAML stream") }
    var event = unsafe yaml_event_t()
    // SAFETY: parser is initialised; the event is deleted below once its strings are copied.
    guard unsafe yaml_parser_parse(parser, &event) == 1 else {
      isFinished = true
      throw failure()
    }
    defer { unsafe yaml_event_delete(&event) }
    let position = unsafe place(event.start_mark)
    guard let kind = unsafe Self.kind(event) else {
      isFinished = true
      throw IngotError(.internalError, "libyaml gave an unknown event", position: position)
    }
    if case .streamEnd = kind { isFinished = true }
    return YAMLEvent(kind: kind, position: position)
  }

  private func place(_ mark: yaml_mark_t) -> SourcePosition {
    SourcePosition(origin: origin, line: Int(clamping: mark.line) &+ 1, column: Int(clamping: mark.column) &+ 1)
  }

  // SAFETY: reads only the union member that event.type names.
  @unsafe private static func kind(_ event: yaml_event_t) -> YAMLEvent.Kind? {
    switch unsafe event.type {
    case YAML_STREAM_START_EVENT: return .streamStart
    case YAML_STREAM_END_EVENT: return .streamEnd
    case YAML_DOCUMENT_START_EVENT: return .documentStart
    case YAML_DOCUMENT_END_EVENT: return .documentEnd
    case YAML_ALIAS_EVENT: return unsafe .alias(string(event.data.alias.anchor) ?? "")
    case YAML_SCALAR_EVENT:
      let scalar = unsafe event.data.scalar
      // SAFETY: value points to length bytes that live until the event is deleted.
      let bytes = unsafe UnsafeBufferPointer(start: scalar.value, count: Int(clamping: scalar.length))
      return unsafe .scalar(
        text: String(decoding: bytes, as: UTF8.self), isPlain: scalar.style == YAML_PLAIN_SCALAR_STYLE, tag: string(scalar.tag),
        anchor: string(scalar.anchor))
    case YAML_SEQUENCE_START_EVENT:
      return unsafe .sequenceStart(tag: string(event.data.sequence_start.tag), anchor: string(event.data.sequence_start.anchor))
    case YAML_SEQUENCE_END_EVENT: return .sequenceEnd
    case YAML_MAPPING_START_EVENT:
      return unsafe .mappingStart(tag: string(event.data.mapping_start.tag), anchor: string(event.data.mapping_start.anchor))
    case YAML_MAPPING_END_EVENT: return .mappingEnd
    default: return nil
    }
  }

  // SAFETY: pointer is nil or a NUL-terminated string that lives as long as its event.
  @unsafe private static func string(_ pointer: UnsafeMutablePointer<yaml_char_t>?) -> String? {
    guard let pointer = unsafe pointer else { return nil }
    return unsafe String(cString: pointer)
  }

  private func failure() -> IngotError {
    // SAFETY: parser is valid until deinit; its messages are static strings.
    let state = unsafe parser.pointee
    if unsafe state.error == YAML_MEMORY_ERROR { return IngotError(.memory, "no memory for reading YAML") }
    let problem = unsafe state.problem.map { unsafe String(cString: $0) } ?? "malformed text"
    var message = "not valid YAML: \(problem)"
    if let context = unsafe state.context.map({ unsafe String(cString: $0) }) {
      message += unsafe " (\(context) that began at line \(place(state.context_mark).line))"
    }
    var hint: String?
    if problem.hasSuffix("cannot start any token") {
      hint = "indent with spaces, not tabs; put a value that begins with @, ` or % in quotes"
    } else if problem.hasPrefix("mapping values are not allowed") {
      hint = "check the indentation of this line; a text that contains ': ' needs quotes"
    }
    guard unsafe state.error == YAML_READER_ERROR else {
      return unsafe IngotError(.recipe, message, hint: hint, position: place(state.problem_mark))
    }
    // The reader knows a byte offset only.
    let offset = unsafe min(Int(clamping: state.problem_offset), text.count)
    if unsafe state.problem_value >= 0 { message += unsafe " (character code \(state.problem_value))" }
    // SAFETY: offset is at most the buffer's count.
    let position = unsafe sourcePosition(of: offset, in: [UInt8](text), origin: origin)
    return IngotError(.recipe, message, hint: "a recipe is UTF-8 text without control characters", position: position)
  }
}

/// Line and column of a byte offset in UTF-8 text.
func sourcePosition(of offset: Int, in text: [UInt8], origin: String) -> SourcePosition {
  var line = 1
  var column = 1
  for byte in text.prefix(offset) {
    if byte == UInt8(ascii: "\n") {
      line += 1
      column = 1
    } else if byte & 0xC0 != 0x80 {
      column += 1
    }
  }
  return SourcePosition(origin: origin, line: line, column: column)
}
