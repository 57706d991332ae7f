import IngotEngine
import IngotErrors

/// Runs a long engine call with a progress line on a terminal, and lets signals cancel it.
func withWatcher<Value>(
  _ talk: OutputArguments, drawsProgress: Bool, _ body: (Watcher) throws(IngotError) -> Value
) throws(IngotError) -> Value {
  let terminal = Terminal.standardError
  let line = terminal.isInteractive && drawsProgress && !talk.quiet && !talk.json ? ProgressLine(on: terminal) : nil
  Interruption.handleSignals()
  let listener: Watcher.Listener? = line.map { line in
    { progress in
      line.show(progress)
      return 0
    }
  }
  // SAFETY: the flag lives as long as the process.
  let watcher = unsafe Watcher(listener: listener, unsafe: UnsafePointer(Interruption.shared.flag), intervalMilliseconds: 100)
  defer { line?.clear() }
  return try body(watcher)
}

/// The same for commands whose failures need nothing added.
func watched<Value>(_ talk: OutputArguments, noProgress: Bool, _ body: (Watcher) throws(IngotError) -> Value) throws(Failure) -> Value {
  try caught { () throws(IngotError) in try withWatcher(talk, drawsProgress: !noProgress, body) }
}
