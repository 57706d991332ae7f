import Glibc

/// Turns Ctrl-C and the request to end into a flag that the engine looks at; a second one ends the process at once.
@safe
struct Interruption: @unchecked Sendable {
  // SENDABLE: one 32-bit word for the life of the process, written by the handler and read through an atomic load.
  /// Not 0 once the process was told to stop.
  let flag: UnsafeMutablePointer<Int32>

  /// Made before any handler is installed, so a handler never runs its initialiser.
  static let shared = Interruption()

  private init() {
    // SAFETY: fresh memory that is never freed.
    unsafe flag = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    unsafe flag.initialize(to: 0)
  }

  /// SIGINT, SIGTERM and SIGHUP set the flag from now on. A signal that was ignored when the process began (`nohup`) stays so.
  static func handleSignals() {
    _ = shared
    for number in [SIGINT, SIGTERM, SIGHUP] {
      var old = sigaction()
      // SAFETY: reads the disposition into a struct that lives for the call.
      guard unsafe sigaction(number, nil, &old) == 0 else { continue }
      // SAFETY: SIG_IGN is the address 1 in the union's first member.
      if unsafe unsafeBitCast(old.__sigaction_handler.sa_handler, to: Int.self) == 1 { continue }
      var action = sigaction()
      unsafe action.__sigaction_handler.sa_handler = { _ in Interruption.receive() }
      action.sa_flags = SA_RESTART
      // SAFETY: the struct lives for the call; the handler does only what signal handlers may.
      _ = unsafe sigaction(number, &action, nil)
    }
  }

  /// Writes to a pipe whose reader went away fail instead of ending the process.
  static func ignoreBrokenPipes() {
    var action = sigaction()
    unsafe action.__sigaction_handler.sa_handler = SIG_IGN
    // SAFETY: the struct lives for the call.
    _ = unsafe sigaction(SIGPIPE, &action, nil)
  }

  private static func receive() {
    // SAFETY: `shared` was made before the handler was installed; an aligned word is stored whole.
    if unsafe shared.flag.pointee != 0 { _exit(130) }
    unsafe shared.flag.pointee = 1
  }
}
