package import IngotErrors

// SAFETY: shapes are checked before each call, a matrix holds (rows − 1) · stride + columns elements, and workspaces have at least the
// sizes that LAPACK's documentation names.

extension LinearAlgebra {
  /// All eigenvalues of a symmetric matrix, ascending, into `values`, and its eigenvectors: row j of `s` becomes that of eigenvalue j,
  /// so that S = Vᵀ diag(values) V. Reads the lower triangle.
  package func eigen<Element: MatrixElement>(
    _ s: Matrix<Element>, values: Matrix<Element>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let n = s.rows
    try require(n == s.columns && values.count == n, "\(n) eigenvalues of a \(n) × \(s.columns) matrix were asked for in \(values.count)")
    try workspace.scope { () throws(IngotError) in
      let count = 1 + 6 * n + 2 * n * n + 64 * n
      let work: Matrix<Element> = try workspace.matrix(1, count)
      let whole = unsafe try workspace.integers(3 + 5 * n)
      guard let base = unsafe s.base, let w = unsafe values.base, let scratch = unsafe work.base, let whole = unsafe whole, n > 0 else {
        return
      }
      try check(
        unsafe Element.syevd(
          Letter.v, try int32(n), base, try int32(s.stride), w, scratch, try int32(count), whole, try int32(3 + 5 * n)), "syevd")
    }
  }

  /// The `count` largest eigenvalues of a symmetric matrix, ascending, into `values`, and their eigenvectors as the rows of `vectors`
  /// (count × n). Reads the lower triangle of `s` and destroys it.
  package func topEigen<Element: MatrixElement>(
    _ s: Matrix<Element>, values: Matrix<Element>, vectors: Matrix<Element>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let n = s.rows
    let count = vectors.rows
    try require(
      n == s.columns && vectors.columns == n && count <= n && values.count >= count,
      "\(count) eigenvectors of a \(n) × \(s.columns) matrix were asked for in \(vectors.rows) × \(vectors.columns)")
    try workspace.scope { () throws(IngotError) in
      let work: Matrix<Element> = try workspace.matrix(1, 70 * n + 64)
      let all: Matrix<Element> = try workspace.matrix(1, n)
      let whole = unsafe try workspace.integers(10 * n + 64)
      let support = unsafe try workspace.integers(2 * n + 2)
      guard let base = unsafe s.base, let w = unsafe all.base, let z = unsafe vectors.base, let scratch = unsafe work.base,
        let whole = unsafe whole, let support = unsafe support, count > 0
      else { return }
      var found: Int32 = 0
      let info = unsafe Element.syevr(
        try int32(n), base, try int32(s.stride), try int32(n - count + 1), try int32(n), &found, w, z, try int32(vectors.stride), support,
        scratch, try int32(work.count), whole, try int32(10 * n + 64))
      try check(info == 0 && Int(found) != count ? 1 : info, "syevr")
      values.copy(all)
    }
  }

  /// Thin QR of an m × n matrix with m ≥ n: `a` becomes Q with orthonormal columns, `r` (n × n) the upper triangular factor.
  package func qr<Element: MatrixElement>(_ a: Matrix<Element>, r: Matrix<Element>, _ workspace: MatrixWorkspace) throws(IngotError) {
    let (m, n) = (a.rows, a.columns)
    try require(m >= n && r.rows == n && r.columns == n, "a thin QR of \(m) × \(n) was asked for with a factor of \(r.rows) × \(r.columns)")
    try workspace.scope { () throws(IngotError) in
      let tau: Matrix<Element> = try workspace.matrix(1, n)
      let work: Matrix<Element> = try workspace.matrix(1, 64 * n + 64)
      guard let base = unsafe a.base, let t = unsafe tau.base, let scratch = unsafe work.base, n > 0 else { return }
      let (rows, columns, lead) = (try int32(n), try int32(m), try int32(a.stride))
      try check(unsafe Element.gelqf(rows, columns, base, lead, t, scratch, try int32(work.count)), "gelqf")
      r.fill(0)
      // By columns the factor is lower triangular: by rows it is the upper triangle of the first n rows.
      for i in 0..<n { for j in i..<n { r[i, j] = a[i, j] } }
      try check(unsafe Element.orglq(rows, columns, rows, base, lead, t, scratch, try int32(work.count)), "orglq")
    }
  }

  /// Thin SVD A = U diag(values) V with r = min(m, n): `u` m × r, `values` r descending, `v` r × n (its rows are the right vectors).
  /// Destroys A.
  package func svd<Element: MatrixElement>(
    _ a: Matrix<Element>, u: Matrix<Element>, values: Matrix<Element>, v: Matrix<Element>, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let (m, n, r) = (a.rows, a.columns, a.rank)
    try require(
      u.rows == m && u.columns == r && values.count == r && v.rows == r && v.columns == n,
      "an SVD of \(m) × \(n) was asked for with factors of \(u.rows) × \(u.columns) and \(v.rows) × \(v.columns)")
    try workspace.scope { () throws(IngotError) in
      let count = 5 * r * r + 80 * (m + n) + 64
      let work: Matrix<Element> = try workspace.matrix(1, count)
      let whole = unsafe try workspace.integers(8 * r)
      guard let base = unsafe a.base, let s = unsafe values.base, let left = unsafe u.base, let right = unsafe v.base,
        let scratch = unsafe work.base, let whole = unsafe whole, r > 0
      else { return }
      // By columns Aᵀ = Vᵀ diag Uᵀ: the two factors change places.
      try check(
        unsafe Element.gesdd(
          try int32(n), try int32(m), base, try int32(a.stride), s, right, try int32(v.stride), left, try int32(u.stride), scratch,
          try int32(count), whole), "gesdd")
    }
  }
}
