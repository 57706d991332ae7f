import Glibc
import IngotErrors
import IngotJSON

/// The version of the JSON documents that `--json` prints; it grows when a field changes its meaning or goes away.
let documentSchema = 1

/// A JSON document of the command: its schema first.
func document(_ fields: [(String, JSONValue)]) -> JSONValue { jsonObject([("schema", .int(documentSchema))] + fields) }

func jsonObject(_ fields: [(String, JSONValue)]) -> JSONValue {
  var object = JSONObject()
  for (name, value) in fields { object[name] = value }
  return .object(object)
}

/// `1234567` as `1,234,567`.
func grouped(_ number: Int) -> String {
  var digits = String(number.magnitude)
  var groups: [Substring] = []
  while digits.utf8.count > 3 {
    groups.append(digits.suffix(3))
    digits = String(digits.dropLast(3))
  }
  return (number < 0 ? "-" : "") + ([digits[...]] + groups.reversed()).joined(separator: ",")
}

/// `count` of something: `1 tensor`, `201 tensors`.
func counted(_ count: Int, _ noun: String) -> String { "\(grouped(count)) \(noun)\(count == 1 ? "" : "s")" }

/// A number with so many significant digits: `0.00312`, `1.2e-09`.
func figure(_ number: Double, digits: Int = 3) -> String {
  guard number.isFinite else { return "?" }
  var text = [CChar](repeating: 0, count: 40)
  // SAFETY: at most as many bytes as there are are written, with a zero at the end; the format takes an int and a double.
  _ = unsafe text.withUnsafeMutableBufferPointer { buffer in
    unsafe withVaList([Int32(digits), number]) { unsafe vsnprintf(buffer.baseAddress, buffer.count, "%.*g", $0) }
  }
  return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// Seconds as a person reads a wait: `42 ms`, `3.2 s`, `1:42`, `1:02:03`.
func duration(_ seconds: Double) -> String {
  guard seconds.isFinite, seconds >= 0, seconds < 3.6e6 else { return "?" }
  if seconds < 1 { return "\(Int(seconds * 1000)) ms" }
  if seconds < 60 {
    let tenths = Int(seconds * 10)
    return "\(tenths / 10).\(tenths % 10) s"
  }
  return clock(Int(seconds))
}

/// `0:07`, `1:42`, `1:02:03`.
func clock(_ seconds: Int) -> String {
  func padded(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
  let (hours, minutes) = (seconds / 3600, seconds / 60 % 60)
  return hours > 0 ? "\(hours):\(padded(minutes)):\(padded(seconds % 60))" : "\(minutes):\(padded(seconds % 60))"
}

/// Rows with aligned columns, two spaces between them; the columns in `right` are flush right.
func table(_ rows: [[String]], right: Set<Int> = [], indent: Int = 0) -> String {
  var widths: [Int] = []
  for row in rows {
    for (column, cell) in row.enumerated() {
      if column == widths.count { widths.append(0) }
      widths[column] = max(widths[column], cell.unicodeScalars.count)
    }
  }
  var text = ""
  for row in rows {
    var line = String(repeating: " ", count: indent)
    for (column, cell) in row.enumerated() {
      let padding = String(repeating: " ", count: widths[column] - cell.unicodeScalars.count)
      let isLast = column == row.count - 1
      line += (right.contains(column) ? padding + cell : isLast ? cell : cell + padding) + (isLast ? "" : "  ")
    }
    text += line + "\n"
  }
  return text
}
