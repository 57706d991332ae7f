package import IngotErrors

/// How many bits the singular vectors of a module's change get, in groups by descending singular value: `8:20,4:180,2` gives the first 20 columns of both
/// factors 8 bits, the next 180 four, and all others two. Without a group for the others they are left out.
///
/// Source: GraftLLM's SkillPack, arXiv 2505.18502 (the groups); rounding to nearest, one scale for each column, is the form that needs no data.
package struct ColumnBits: Sendable, Hashable, CustomStringConvertible {
  package struct Group: Sendable, Hashable {
    /// 1 to 8.
    package var bits: Int
    /// Nil: all that are left.
    package var columns: Int?
  }

  package let groups: [Group]

  /// Throws `.invalidArgument` for anything but BITS:COLUMNS, ..., the last one with or without :COLUMNS.
  package init(_ text: String) throws(IngotError) {
    var groups: [Group] = []
    let parts = text.split(separator: ",", omittingEmptySubsequences: false)
    for (place, part) in parts.enumerated() {
      let fields = part.split(separator: ":", omittingEmptySubsequences: false)
      let bits = fields.first.flatMap { Int($0) }
      let columns = fields.count == 2 ? Int(fields[1]) : nil
      let isWhole = fields.count == 1 && place == parts.count - 1
      guard let bits, (1...8).contains(bits), isWhole || columns.map({ (1...1 << 20).contains($0) }) == true else {
        throw IngotError(
          .invalidArgument, "found the bits \"\(text.prefix(60))\", expected groups such as 8:20,4:180,2",
          hint: "1 to 8 bits, a colon and a number of columns; the last group may do without it", subject: "bits")
      }
      groups.append(Group(bits: bits, columns: columns))
    }
    self.groups = groups
  }

  package var description: String {
    groups.map { group in group.columns.map { "\(group.bits):\($0)" } ?? "\(group.bits)" }.joined(separator: ",")
  }

  /// The bits of each column of a module of this rank: fewer where the groups leave some out, and at least one.
  package func bits(rank: Int) -> [Int] {
    var all: [Int] = []
    for group in groups {
      let count = min(group.columns ?? rank, rank - all.count)
      all += [Int](repeating: group.bits, count: max(count, 0))
    }
    return all
  }
}

/// One column of numbers as codes of some bits and a scale.
///
/// Of b ≥ 2 bits the codes are whole numbers from −(2ᵇ⁻¹ − 1) to 2ᵇ⁻¹ − 1, stored with 2ᵇ⁻¹ − 1 added, times max |x| over the largest; of one bit the signs,
/// times the mean of |x|. Codes follow each other from the lowest bit on; a column begins with a byte of its own.
package enum QuantizedColumn {
  package static func byteCount(_ count: Int, bits: Int) -> Int { (count * bits + 7) / 8 }

  /// Values that are not all finite give zeros.
  package static func encode(_ values: [Double], bits: Int) -> (codes: [UInt8], scale: Float) {
    var codes = [UInt8](repeating: 0, count: byteCount(values.count, bits: bits))
    let level = bits == 1 ? 0 : (1 << (bits - 1)) - 1
    let size =
      bits == 1 ? values.reduce(0) { $0 + abs($1) } / Double(max(values.count, 1)) : values.reduce(0) { max($0, abs($1)) } / Double(level)
    let scale = Float(size)
    guard scale > 0, scale.isFinite, values.allSatisfy(\.isFinite) else { return (codes, 0) }
    for (index, value) in values.enumerated() {
      let code: Int
      if bits == 1 {
        code = value < 0 ? 0 : 1
      } else {
        let rounded = (value / Double(scale)).rounded(.toNearestOrEven)
        code = Int(min(max(rounded, -Double(level)), Double(level))) + level
      }
      let first = index * bits
      codes[first / 8] |= UInt8(truncatingIfNeeded: code << (first % 8))
      if first % 8 + bits > 8 { codes[first / 8 + 1] |= UInt8(truncatingIfNeeded: code >> (8 - first % 8)) }
    }
    return (codes, scale)
  }

  /// The values of a column's bytes; zeros where there are too few.
  package static func decode(_ codes: ArraySlice<UInt8>, bits: Int, scale: Float, count: Int) -> [Double] {
    guard (1...8).contains(bits), codes.count >= byteCount(count, bits: bits), scale != 0 else {
      return [Double](repeating: 0, count: count)
    }
    let level = bits == 1 ? 0 : (1 << (bits - 1)) - 1
    return (0..<count).map { index in
      let first = index * bits
      let place = codes.startIndex + first / 8
      var code = Int(codes[place]) >> (first % 8)
      if first % 8 + bits > 8 { code |= Int(codes[place + 1]) << (8 - first % 8) }
      code &= (1 << bits) - 1
      return bits == 1 ? (code == 0 ? -Double(scale) : Double(scale)) : Double(code - level) * Double(scale)
    }
  }
}
