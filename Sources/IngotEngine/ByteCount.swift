package import IngotErrors

/// A number of bytes as people write and read it: `64MiB`, `1.5 GiB`, `5GB`, `1048576`.
///
/// KiB, MiB, GiB, TiB are powers of 1024, KB, MB, GB, TB of 1000, in any case; without a unit the number counts bytes. A lone K, M, G, T
/// or B is refused: mergekit's `--out-shard-size 5B` means 5·10⁹ bytes, which nobody would guess. `init(mergekit:)` reads those.
package struct ByteCount: Sendable, Hashable, CustomStringConvertible {
  package var bytes: Int

  package init(_ bytes: Int) { self.bytes = bytes }

  private static let units: [(name: String, scale: Int)] = [
    ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("TB", 1_000_000_000_000), ("GB", 1_000_000_000),
    ("MB", 1_000_000), ("KB", 1_000), ("bytes", 1), ("byte", 1),
  ]

  /// Throws `.invalidArgument` for anything else. A fraction of a byte is dropped.
  package init(parsing text: String) throws(IngotError) {
    let bytes = Array(text.utf8)
    let isNumeral = { (byte: UInt8) in (byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9")) || byte == UInt8(ascii: ".") }
    let number = bytes.prefix(while: isNumeral)
    let rest = bytes.dropFirst(number.count).drop { $0 == UInt8(ascii: " ") }
    let unit = String(decoding: rest, as: UTF8.self)
    let scale: Int
    if unit.isEmpty {
      scale = 1
    } else if let known = Self.units.first(where: { $0.name.lowercased() == unit.lowercased() }) {
      scale = known.scale
    } else {
      throw Self.malformed(text, unit: unit)
    }
    let parts = number.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard parts.count <= 2, let whole = parts.first, !whole.isEmpty, parts.last?.isEmpty == false else {
      throw Self.malformed(text, unit: "")
    }
    self.bytes = try Self.scaled(whole: whole, fraction: parts.count == 2 ? parts[1] : [], by: scale, text)
  }

  /// mergekit's sizes: digits, and K, M or B for 10³, 10⁶ or 10⁹ bytes (its help says parameters); numbers up to 0 mean no limit, 0 here.
  /// Sizes with the units of `init(parsing:)` are taken too.
  package init(mergekit text: String) throws(IngotError) {
    let scales: [Character: Int] = ["K": 1_000, "M": 1_000_000, "B": 1_000_000_000]
    let scale = text.last.flatMap { $0.uppercased().first }.flatMap { scales[$0] }
    let digits = scale == nil ? text[...] : text.dropLast()
    guard let number = Int(digits), !digits.hasPrefix("+") else {
      try self.init(parsing: text)
      return
    }
    let (product, overflow) = max(number, 0).multipliedReportingOverflow(by: scale ?? 1)
    guard !overflow else { throw Self.tooLarge(text) }
    self.init(product)
  }

  /// `whole`.`fraction` times `scale`, in integers.
  private static func scaled(
    whole: ArraySlice<UInt8>, fraction: ArraySlice<UInt8>, by scale: Int, _ text: String
  ) throws(IngotError) -> Int {
    // Digits beyond the twelfth of a fraction are less than a byte of a TiB.
    let kept = fraction.prefix(12)
    guard let integer = Int(String(decoding: whole, as: UTF8.self)) else { throw tooLarge(text) }
    let (product, overflow) = integer.multipliedReportingOverflow(by: scale)
    guard !overflow else { throw tooLarge(text) }
    var part = 0
    if let digits = Int(String(decoding: kept, as: UTF8.self)) {
      let divisor = kept.reduce(1) { power, _ in power * 10 }
      let wide = digits.multipliedFullWidth(by: scale)
      part = divisor.dividingFullWidth(wide).quotient
    }
    let (sum, overflow2) = product.addingReportingOverflow(part)
    guard !overflow2 else { throw tooLarge(text) }
    return sum
  }

  private static func malformed(_ text: String, unit: String) -> IngotError {
    var hint = "examples: 64MiB, 1.5GiB, 5GB, 1048576"
    if let letter = unit.uppercased().first, unit.count == 1, "KMGTP".contains(letter) {
      hint = "write \(letter)iB (powers of 1024) or \(letter)B (powers of 1000)"
    } else if unit.uppercased() == "B" {
      hint = "sizes are in bytes, not in parameters: write 5GB for 5,000,000,000 bytes"
    }
    return IngotError(.invalidArgument, "found \"\(text.prefix(60))\", expected a size such as 256MiB", hint: hint)
  }

  private static func tooLarge(_ text: String) -> IngotError {
    IngotError(.invalidArgument, "found \"\(text.prefix(60))\", expected at most \(Int.max) bytes")
  }

  /// `1.50 GiB`: three digits, or none after the point where the number is whole. Reads back as what it says.
  package var description: String {
    let magnitude = bytes.magnitude
    let sign = bytes < 0 ? "-" : ""
    guard let unit = Self.units.prefix(4).first(where: { magnitude >= $0.scale.magnitude }) else {
      return "\(bytes) byte\(magnitude == 1 ? "" : "s")"
    }
    let scale = unit.scale.magnitude
    let whole = magnitude / scale
    let rest = magnitude % scale
    if rest == 0 || whole >= 100 { return "\(sign)\(whole) \(unit.name)" }
    // rest < scale <= 2^40, so the product fits.
    if whole >= 10 { return "\(sign)\(whole).\(rest * 10 / scale) \(unit.name)" }
    let hundredths = rest * 100 / scale
    return "\(sign)\(whole).\(hundredths < 10 ? "0" : "")\(hundredths) \(unit.name)"
  }
}
