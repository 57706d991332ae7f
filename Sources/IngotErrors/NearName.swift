/// The Damerau-Levenshtein distance (optimal string alignment) between two names, counted in Unicode scalars.
package func editDistance(_ a: String, _ b: String) -> Int {
  let x = Array(a.unicodeScalars)
  let y = Array(b.unicodeScalars)
  if x.isEmpty || y.isEmpty { return max(x.count, y.count) }
  var beforeLast = [Int](repeating: 0, count: y.count + 1)
  var last = Array(0...y.count)
  var row = last
  for i in 1...x.count {
    row[0] = i
    for j in 1...y.count {
      let substitution = last[j - 1] + (x[i - 1] == y[j - 1] ? 0 : 1)
      var best = min(substitution, last[j] + 1, row[j - 1] + 1)
      if i > 1, j > 1, x[i - 1] == y[j - 2], x[i - 2] == y[j - 1] { best = min(best, beforeLast[j - 2] + 1) }
      row[j] = best
    }
    beforeLast = last
    last = row
  }
  return last[y.count]
}

/// The valid name that `found` is most likely a slip of: distance 1, or up to 2 when `found` has at least 8 letters.
package func nearestName(to found: String, among valid: some Sequence<String>) -> String? {
  let allowed = found.unicodeScalars.count >= 8 ? 2 : 1
  var best: (name: String, distance: Int)?
  for name in valid where name != found {
    if abs(name.unicodeScalars.count - found.unicodeScalars.count) > allowed { continue }
    let distance = editDistance(found, name)
    if distance <= allowed, distance < (best?.distance ?? Int.max) { best = (name, distance) }
  }
  return best?.name
}
