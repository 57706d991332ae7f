import Glibc
import IngotEngine

/// One line on a terminal that says how far a run is. Draws at most ten times a second; the caller calls it no more often than that.
final class ProgressLine {
  private let terminal: Terminal
  private var start: Double?
  private var resumedBytes = 0
  /// The rate over the last seconds, so that a run which waits for a disk says so.
  private var smoothed: Double?
  private var last: (time: Double, bytes: Int)?
  private var isDrawn = false

  init(on terminal: Terminal) { self.terminal = terminal }

  /// Draws the state of a run.
  func show(_ progress: Progress) {
    let now = Self.now()
    if start == nil {
      start = now
      resumedBytes = progress.bytesDone
    }
    update(now, progress.bytesDone)
    let total = max(progress.bytesTotal, 1)
    let percent = min(100, Int(Double(progress.bytesDone) / Double(total) * 100))
    var parts = ["\(percent)%", "\(ByteCount(progress.bytesDone)) of \(ByteCount(progress.bytesTotal))"]
    if let rate = smoothed, rate > 0 {
      parts.append("\(ByteCount(Int(rate)))/s")
      let left = Double(max(0, progress.bytesTotal - progress.bytesDone)) / rate
      if left < 3.6e6 { parts.append("\(clock(Int(left.rounded(.up)))) left") }
    }
    // SAFETY: loads one word that is never freed.
    if unsafe Interruption.shared.flag.pointee != 0 {
      parts.append("stopping (Ctrl-C again: at once)")
    } else if let tensor = progress.tensor {
      parts.append(printable(tensor))
    }
    draw(parts.joined(separator: "  "))
  }

  /// Removes the line.
  func clear() {
    if isDrawn { Console.talk("\r\u{1B}[K") }
    isDrawn = false
  }

  private func update(_ now: Double, _ bytes: Int) {
    if let last, now > last.time {
      let rate = Double(max(0, bytes - last.bytes)) / (now - last.time)
      // The weight of the newest interval: about a third of it stays after three seconds.
      let weight = min(1, (now - last.time) / 3)
      smoothed = smoothed.map { $0 + (rate - $0) * weight } ?? rate
    }
    last = (now, bytes)
  }

  private func draw(_ text: String) {
    let width = Terminal.width(of: STDERR_FILENO) - 1
    let scalars = text.unicodeScalars
    let shown = scalars.count <= width ? text : String(scalars.prefix(width - 3)) + "..."
    Console.talk("\r" + shown + "\u{1B}[K")
    isDrawn = true
  }

  private static func now() -> Double {
    var time = timespec()
    // SAFETY: the struct lives for the call.
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}
