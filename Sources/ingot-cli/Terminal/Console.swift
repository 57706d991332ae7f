import Glibc
import IngotErrors

/// Standard output could not be written.
enum OutputFailure: Error {
  /// The reader went away (`ingot methods | head -1`): no reason to complain.
  case brokenPipe
  case system(code: Int32)
}

/// Results go to standard output, everything else to standard error.
enum Console {
  /// Writes a result. Standard output is not buffered, so an error is seen here and not at exit.
  static func result(_ text: String) throws(OutputFailure) {
    let code = write(Array(text.utf8), to: STDOUT_FILENO)
    if code == EPIPE { throw .brokenPipe }
    if code != 0 { throw .system(code: code) }
  }

  /// Writes a result that comes in pieces.
  static func result(_ body: (@escaping ([UInt8]) -> Void) -> Void) throws(OutputFailure) {
    let state = Pieces()
    body { bytes in if state.code == 0 { state.code = write(bytes, to: STDOUT_FILENO) } }
    if state.code == EPIPE { throw .brokenPipe }
    if state.code != 0 { throw .system(code: state.code) }
  }

  private final class Pieces { var code: Int32 = 0 }

  /// Writes to standard error; there is nobody to tell if that fails.
  static func talk(_ text: String) {
    _ = write(Array(text.utf8), to: STDERR_FILENO)
  }

  /// Fills descriptors 0 to 2 where the caller closed them: otherwise the first file that a merge opens would get their place, and
  /// messages would be written into it. What fills them cannot be used, so the loss of a result is noticed.
  static func requireStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
      // SAFETY: the string lives for the call; the lowest free descriptor is this one.
      _ = unsafe open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
    }
  }

  /// 0 or an errno.
  private static func write(_ bytes: [UInt8], to descriptor: Int32) -> Int32 {
    var done = 0
    while done < bytes.count {
      let start = done
      // SAFETY: start < bytes.count, and the array's storage lives for the closure.
      let moved = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.write(descriptor, buffer.baseAddress.map { unsafe $0 + start }, buffer.count - start)
      }
      if moved < 0 {
        if errno == EINTR { continue }
        if errno == EAGAIN {
          // A terminal or pipe that its other owner made non-blocking.
          var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          // SAFETY: one pollfd that lives for the call.
          _ = unsafe poll(&waiting, 1, 1000)
          continue
        }
        return errno
      }
      done += moved
    }
    return 0
  }
}

/// What is known of the terminal behind standard error or output.
struct Terminal {
  /// Somebody looks at it, and it understands cursor movement.
  var isInteractive: Bool
  var hasColour: Bool

  static let standardError = Terminal(of: STDERR_FILENO)

  private init(of descriptor: Int32) {
    let kind = environmentVariable("TERM") ?? ""
    isInteractive = isatty(descriptor) == 1 && kind != "dumb"
    hasColour = isInteractive && !kind.isEmpty && (environmentVariable("NO_COLOR") ?? "").isEmpty
  }

  /// Columns of the terminal, else of COLUMNS, else 80. Never less than 40.
  static func width(of descriptor: Int32) -> Int {
    var size = winsize()
    // SAFETY: TIOCGWINSZ fills the struct, which lives for the call.
    let known = unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0
    let columns = known ? Int(size.ws_col) : environmentVariable("COLUMNS").flatMap { Int($0) } ?? 80
    return max(40, min(columns, 1000))
  }

  enum Style: String {
    case error = "1;31"
    case warning = "1;33"
    case note = "1;36"
    case strong = "1"
  }

  func styled(_ text: String, _ style: Style) -> String { hasColour ? "\u{1B}[\(style.rawValue)m\(text)\u{1B}[0m" : text }
}

/// The value of an environment variable.
func environmentVariable(_ name: String) -> String? {
  // SAFETY: getenv gives null or a zero-terminated string; this process changes its environment nowhere.
  guard let value = unsafe getenv(name) else { return nil }
  return unsafe String(validatingCString: value)
}

/// Text of a file or a recipe as it may be shown: control characters and direction overrides are spelled out, so that a tensor's name
/// cannot move the cursor or hide what follows.
func printable(_ text: String) -> String {
  if text.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) { return text }
  var result = ""
  for scalar in text.unicodeScalars {
    switch scalar.value {
    case 0..<0x20, 0x7F..<0xA0, 0x200E, 0x200F, 0x2028...0x202E, 0x2066...0x2069: result += "\\u{\(String(scalar.value, radix: 16))}"
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result
}

/// The same for several lines, whose ends stay.
func printableLines(_ text: String) -> String {
  if text.utf8.allSatisfy({ ($0 >= 0x20 && $0 < 0x7F) || $0 == 0x0A }) { return text }
  return text.utf8.split(separator: 0x0A, omittingEmptySubsequences: false).map { printable(String(Substring($0))) }.joined(separator: "\n")
}
