import Glibc
import IngotErrors

extension SystemError {
  /// As an error of something that is read: a model, a recipe. A name that is not there is `.notFound`, all else `.io`.
  func asSource(_ path: String, _ action: String) -> IngotError {
    switch code {
    case ENOENT, ENOTDIR: IngotError(.notFound, "cannot \(action): \(text)", hint: "check the path", subject: path)
    case EACCES, EPERM:
      IngotError(.io, "cannot \(action): \(text)", hint: "check the permissions of the file and its folders", subject: path)
    case EMFILE, ENFILE: IngotError(.io, "cannot \(action): \(text)", hint: Self.descriptorHint, subject: path)
    default: IngotError(.io, "cannot \(action): \(text)", subject: path)
    }
  }

  /// As an error of something that is written. A full medium or quota is `.noSpace`, all else `.output`.
  func asOutput(_ path: String, _ action: String) -> IngotError {
    switch code {
    case ENOSPC, EDQUOT:
      IngotError(.noSpace, "cannot \(action): \(text)", hint: "free some space, then run again with --resume", subject: path)
    case EACCES, EPERM, EROFS:
      IngotError(.output, "cannot \(action): \(text)", hint: "choose a destination that this user may write to", subject: path)
    case EMFILE, ENFILE: IngotError(.output, "cannot \(action): \(text)", hint: Self.descriptorHint, subject: path)
    default: IngotError(.output, "cannot \(action): \(text)", subject: path)
    }
  }

  private static let descriptorHint = "raise the limit of open files (ulimit -n) or close some"
}

/// Runs system calls on something that is written, with their failures as `asOutput` says.
func output<T>(_ path: String, _ action: String, _ body: () throws(SystemError) -> T) throws(IngotError) -> T {
  do throws(SystemError) { return try body() } catch { throw error.asOutput(path, action) }
}

/// A byte count as people read it, with the exact number: "1.50 GiB (1610612736 bytes)".
func describeBytes(_ count: Int) -> String {
  let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
  var unit = -1
  var scale = 1
  while unit + 1 < units.count, count / scale >= 1024 {
    scale *= 1024
    unit += 1
  }
  guard unit >= 0 else { return "\(count) bytes" }
  let whole = count / scale
  let hundredths = (count % scale) / (scale / 1024) * 100 / 1024
  let fraction = hundredths < 10 ? "0\(hundredths)" : "\(hundredths)"
  return "\(whole).\(fraction) \(units[unit]) (\(count) bytes)"
}
